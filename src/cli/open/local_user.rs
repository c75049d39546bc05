//! Whose process has opened a connection on the loopback interface.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// The tables of TCP connections (proc_pid_net(5)), of IPv4 and of IPv6. A program may reach 127.0.0.1 by either.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// An open connection. The kernel no longer knows the user of one that its process has closed, and names root.
const ESTABLISHED: &str = "01";

/// Whether the process at the other end of a connection to `ours` belongs to another user. False where the kernel does not tell.
pub fn is_another_users(peer: SocketAddr, ours: SocketAddr) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let tables: Vec<String> = TABLES.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    if tables.is_empty() {
        return false;
    }
    // A connection that is not in the tables has been closed already.
    tables.iter().find_map(|table| owner(table, peer, ours)) != Some(own)
}

/// The user of the open connection between these addresses: the same port may also be that of another one. A line has the
/// number, the local and the remote address, the state, three columns of queues and timers, and the user.
fn owner(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let pairs: Vec<(String, String)> = in_table(local).into_iter().zip(in_table(remote)).collect();
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, from, to, state, _, _, _, user, ..] = columns[..] else { return None };
        let is_it = state == ESTABLISHED && pairs.iter().any(|(local, remote)| from == local && to == remote);
        if is_it { user.parse().ok() } else { None }
    })
}

/// An address as the tables write it: words in the byte order of the machine.
fn in_table(address: SocketAddr) -> Vec<String> {
    let IpAddr::V4(ip) = address.ip() else { return Vec::new() };
    let word = u32::from_ne_bytes(ip.octets());
    let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let port = address.port();
    vec![format!("{word:08X}:{port:04X}"), format!("{:016X}{mapped:08X}{word:08X}:{port:04X}", 0)]
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_process_is_not_another_users() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert!(!is_another_users(peer, listener.local_addr().unwrap()));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_owner_is_read_from_the_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
             1: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1\n";
        let peer = |text: &str| text.parse().unwrap();
        let ours = peer("127.0.0.1:8080");
        assert_eq!(owner(table, peer("127.0.0.1:49153"), ours), Some(1001));
        assert_eq!(owner(table, peer("127.0.0.1:49154"), ours), None);
        // The same port of the peer, to another port of ours or closed.
        assert_eq!(owner(table, peer("127.0.0.1:49153"), peer("127.0.0.1:8081")), None);
        assert_eq!(owner(&table.replace(" 01 ", " 06 "), peer("127.0.0.1:49153"), ours), None);
        let table6 = "  sl  local_address                         remote_address                        st\n   \
             0: 0000000000000000FFFF00000100007F:C001 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0  1002        0 2\n";
        assert_eq!(owner(table6, peer("127.0.0.1:49153"), ours), Some(1002));
    }
}

//! TCP connections: the host is resolved, the guard filters its addresses, and the address of the connection is checked
//! again.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    error::NetError,
    guard::{AddressGuard, RefusedAddress},
};

/// The most concurrent DNS lookups. Each occupies a thread until the system answers, even if its caller gave up.
const MAX_LOOKUPS: usize = 64;
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// The delay before the next address is tried concurrently (RFC 8305 section 5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Makes TCP connections to the addresses that its [`AddressGuard`] allows.
#[derive(Debug, Clone)]
pub struct Connector {
    guard: Arc<AddressGuard>,
    lookups: Arc<Semaphore>,
}

impl Connector {
    /// A connector with this guard.
    pub fn new(guard: AddressGuard) -> Self {
        Self { guard: Arc::new(guard), lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    /// A connector with another guard, which shares the limit of concurrent lookups.
    pub(super) fn with_guard(&self, guard: AddressGuard) -> Self {
        Self { guard: Arc::new(guard), lookups: self.lookups.clone() }
    }

    /// Returns the guard that filters the addresses.
    pub fn guard(&self) -> &AddressGuard {
        &self.guard
    }

    /// Connects to a host, which is a name or an IP address, within `limit`.
    ///
    /// The addresses of a name that the guard allows are tried in the system's order. Each attempt starts 250 ms after
    /// the previous attempt. A name without any allowed address is refused.
    ///
    /// # Errors
    /// [`NetError::Resolve`] if the name has no address; [`NetError::Refused`] if the guard refuses every address, or
    /// the address of the connection; [`NetError::Connect`] if no address accepts the connection; [`NetError::Timeout`]
    /// after `limit`.
    pub async fn connect(&self, host: &str, port: u16, limit: Duration) -> Result<TcpStream, NetError> {
        let connected = timeout(limit, async {
            let addresses = self.addresses(host, port).await?;
            race(host, addresses).await
        });
        let stream = connected.await.map_err(|_| NetError::timeout(host, limit))??;
        let unusable = |source: io::Error| NetError::Connect { host: host.to_owned(), source: Arc::new(source) };
        // The system may connect to an address other than the given one: for 0.0.0.0 it connects to this machine.
        let peer = stream.peer_addr().map_err(unusable)?;
        self.guard.check_socket(peer).map_err(|source| refused(host, source))?;
        stream.set_nodelay(true).map_err(unusable)?;
        Ok(stream)
    }

    /// Returns the addresses of a host that the guard allows, at least one.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
        let (mut allowed, mut first_refused) = (Vec::new(), None);
        for address in self.lookup(host, port).await? {
            match self.guard.check_socket(address) {
                Ok(()) => allowed.push(address),
                Err(error) => first_refused = first_refused.or(Some(error)),
            }
        }
        match (allowed.is_empty(), first_refused) {
            (false, _) => Ok(allowed),
            (true, Some(source)) => Err(refused(host, source)),
            (true, None) => Err(unresolved(host, io::Error::other("the name has no address"))),
        }
    }

    /// Resolves a host with the system's resolver. IP addresses are resolved too: the system reads `2130706433` and
    /// `0x7f.1` as 127.0.0.1.
    async fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
        let Ok(permit) = self.lookups.clone().acquire_owned().await else {
            return Err(unresolved(host, io::Error::other("the agent is shutting down")));
        };
        let name = (host.to_owned(), port);
        let found = spawn_blocking(move || {
            // The thread is occupied until the system answers, whether or not a caller still waits.
            let _permit = permit;
            name.to_socket_addrs().map(|addresses| addresses.take(4 * MAX_ADDRESSES).collect())
        });
        let found = found.await.map_err(io::Error::other).and_then(|found| found);
        found.map_err(|source| unresolved(host, source))
    }
}

/// Connects to the first address that answers. The addresses are tried in the system's order (RFC 6724). Each attempt
/// starts [`ATTEMPT_DELAY`] after the previous attempt, or at once if that failed.
async fn race(host: &str, addresses: Vec<SocketAddr>) -> Result<TcpStream, NetError> {
    let mut waiting: VecDeque<_> = addresses.into_iter().take(MAX_ADDRESSES).collect();
    let mut trying = JoinSet::new();
    let mut last = io::Error::other("the name has no address");
    loop {
        if let Some(address) = waiting.pop_front() {
            trying.spawn(TcpStream::connect(address));
        }
        let tried = tokio::select! {
            tried = trying.join_next() => tried,
            () = sleep(ATTEMPT_DELAY), if !waiting.is_empty() => continue,
        };
        match tried {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last = error,
            Some(Err(error)) => last = io::Error::other(error),
            None => return Err(NetError::Connect { host: host.to_owned(), source: Arc::new(last) }),
        }
    }
}

fn refused(host: &str, source: RefusedAddress) -> NetError {
    NetError::Refused { host: host.to_owned(), source }
}

fn unresolved(host: &str, source: io::Error) -> NetError {
    NetError::Resolve { host: host.to_owned(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_failed_address_is_followed_by_the_next_at_once() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open_at, closed_at) = (open.local_addr().unwrap(), closed.local_addr().unwrap());
        drop(closed);
        for before in 0..MAX_ADDRESSES {
            let addresses = [vec![closed_at; before], vec![open_at]].concat();
            assert_eq!(race("a", addresses).await.unwrap().peer_addr().unwrap(), open_at);
        }
        // The number of addresses is limited.
        let addresses = [vec![closed_at; MAX_ADDRESSES], vec![open_at]].concat();
        assert!(matches!(race("a", addresses).await, Err(NetError::Connect { .. })));
        assert!(matches!(race("a", Vec::new()).await, Err(NetError::Connect { .. })));
    }

    #[tokio::test]
    async fn lookups_are_bounded_in_number_and_time() {
        let connector = Connector::new(AddressGuard::default());
        let all = connector.lookups.clone().acquire_many_owned(MAX_LOOKUPS as u32).await.unwrap();
        let short = Duration::from_millis(50);
        assert!(matches!(connector.connect("localhost", 1, short).await, Err(NetError::Timeout { .. })));
        drop(all);
        let found = connector.connect("localhost", 1, Duration::from_secs(10)).await;
        assert!(matches!(found, Err(NetError::Refused { .. })), "{found:?}");
        assert_eq!(connector.lookups.available_permits(), MAX_LOOKUPS);
    }

    #[tokio::test]
    async fn connections_have_tcp_nodelay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = Connector::new(AddressGuard::new(vec!["127.0.0.1/32".parse().unwrap()]));
        let port = listener.local_addr().unwrap().port();
        assert!(connector.connect("127.0.0.1", port, Duration::from_secs(10)).await.unwrap().nodelay().unwrap());
    }
}

//! The one way out: a name is resolved, the guard picks, a connection is made and looked at again.

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

use super::{Guard, NetError, RefusedAddress};

/// How many names are resolved at once. Each takes a thread, also after whoever asked gave up.
const LOOKUPS: usize = 64;
/// How many addresses of one name are tried.
const ADDRESSES: usize = 8;
/// How long an address is waited for until the next is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Makes TCP connections to where its [`Guard`] lets it.
#[derive(Debug, Clone)]
pub struct Connector {
    guard: Arc<Guard>,
    lookups: Arc<Semaphore>,
}

impl Connector {
    /// One with this guard.
    pub fn new(guard: Guard) -> Self {
        Self { guard: Arc::new(guard), lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// A connection with a host, which is a name or an address.
    ///
    /// Of the addresses of a name the public ones are tried, one after the other and without waiting long for any; a name
    /// that leads to none that the guard lets through is refused.
    ///
    /// # Errors
    /// [`NetError::Resolve`], [`NetError::Refused`], [`NetError::Connect`] and [`NetError::Timeout`].
    pub async fn connect(&self, host: &str, port: u16, within: Duration) -> Result<TcpStream, NetError> {
        let connected = timeout(within, async {
            let addresses = self.addresses(host, port).await?;
            race(host, addresses).await
        });
        let stream = connected.await.map_err(|_| NetError::timeout(host, within))??;
        let unusable = |source: io::Error| NetError::Connect { host: host.to_owned(), source: Arc::new(source) };
        // Systems connect some addresses elsewhere than they say, as 0.0.0.0 to the machine itself.
        let peer = stream.peer_addr().map_err(unusable)?;
        self.guard.check(peer.ip()).map_err(|source| refused(host, source))?;
        stream.set_nodelay(true).map_err(unusable)?;
        Ok(stream)
    }

    /// The addresses of a host that the guard lets through: at least one.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
        let (mut open, mut closed) = (Vec::new(), None);
        for address in self.lookup(host, port).await? {
            match self.guard.check(address.ip()) {
                Ok(()) => open.push(address),
                Err(error) => closed = closed.or(Some(error)),
            }
        }
        match (open.is_empty(), closed) {
            (false, _) => Ok(open),
            (true, Some(source)) => Err(refused(host, source)),
            (true, None) => Err(unresolved(host, io::Error::other("it has no address"))),
        }
    }

    /// What the system says of a name. Numbers pass here as well: the system reads `2130706433` and `0x7f.1` as 127.0.0.1.
    async fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
        let Ok(permit) = self.lookups.clone().acquire_owned().await else {
            return Err(unresolved(host, io::Error::other("the agent is closing")));
        };
        let asked = (host.to_owned(), port);
        let found = spawn_blocking(move || {
            // The thread is taken until the system answers, whoever still waits for it.
            let _permit = permit;
            asked.to_socket_addrs().map(|addresses| addresses.take(4 * ADDRESSES).collect())
        });
        let found = found.await.map_err(io::Error::other).and_then(|found| found);
        found.map_err(|source| unresolved(host, source))
    }
}

/// The first address that answers, in the system's order (RFC 6724), each a little later than the one before.
async fn race(host: &str, addresses: Vec<SocketAddr>) -> Result<TcpStream, NetError> {
    let mut waiting: VecDeque<_> = addresses.into_iter().take(ADDRESSES).collect();
    let mut trying = JoinSet::new();
    let mut last = io::Error::other("it has no address");
    loop {
        if let Some(address) = waiting.pop_front() {
            trying.spawn(TcpStream::connect(address));
        }
        let tried = tokio::select! {
            tried = trying.join_next() => tried,
            () = sleep(STAGGER), if !waiting.is_empty() => continue,
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
    async fn the_next_address_is_tried_at_once_if_one_fails() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open_at, closed_at) = (open.local_addr().unwrap(), closed.local_addr().unwrap());
        drop(closed);
        for before in 0..ADDRESSES {
            let addresses = [vec![closed_at; before], vec![open_at]].concat();
            assert_eq!(race("a", addresses).await.unwrap().peer_addr().unwrap(), open_at);
        }
        // Not for ever.
        let addresses = [vec![closed_at; ADDRESSES], vec![open_at]].concat();
        assert!(matches!(race("a", addresses).await, Err(NetError::Connect { .. })));
        assert!(matches!(race("a", Vec::new()).await, Err(NetError::Connect { .. })));
    }

    #[tokio::test]
    async fn lookups_are_bounded_in_number_and_waited_for_no_longer_than_said() {
        let connector = Connector::new(Guard::default());
        let all = connector.lookups.clone().acquire_many_owned(LOOKUPS as u32).await.unwrap();
        let short = Duration::from_millis(50);
        assert!(matches!(connector.connect("localhost", 1, short).await, Err(NetError::Timeout { .. })));
        drop(all);
        let found = connector.connect("localhost", 1, Duration::from_secs(10)).await;
        assert!(matches!(found, Err(NetError::Refused { .. })), "{found:?}");
        assert_eq!(connector.lookups.available_permits(), LOOKUPS);
    }

    #[tokio::test]
    async fn small_messages_are_not_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = Connector::new(Guard::new(vec!["127.0.0.1/32".parse().unwrap()]));
        let port = listener.local_addr().unwrap().port();
        assert!(connector.connect("127.0.0.1", port, Duration::from_secs(10)).await.unwrap().nodelay().unwrap());
    }
}

//! A load balancer in the test's process: it gives each connection to the next host that takes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::timeout,
};

use super::network::HERE;
use crate::peer::block_on;

/// How long a host may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// The load balancer. It accepts no connections once it is dropped.
pub struct RoundRobin(JoinHandle<()>);

impl RoundRobin {
    /// Listens on this port, and spreads connections over these addresses with a port.
    pub fn start(port: u16, hosts: Vec<String>) -> Self {
        let listener = block_on(TcpListener::bind((HERE, port))).expect("the port is free");
        let (hosts, next) = (Arc::new(hosts), Arc::new(AtomicUsize::new(0)));
        let serving = async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (hosts, next) = (hosts.clone(), next.clone());
                tokio::spawn(async move {
                    if let Some(host) = connect(&hosts, next.fetch_add(1, Ordering::Relaxed)).await {
                        forward(client, host).await;
                    }
                });
            }
        };
        block_on(async { Self(tokio::spawn(serving)) })
    }
}

impl Drop for RoundRobin {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to the first of the hosts that takes the connection, beginning with this number.
async fn connect(hosts: &[String], first: usize) -> Option<TcpStream> {
    for number in 0..hosts.len() {
        let host = &hosts[(first + number) % hosts.len()];
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(host)).await {
            return Some(stream);
        }
    }
    None
}

/// Passes bytes on in both directions until either side closes the connection.
async fn forward(client: TcpStream, host: TcpStream) {
    let (from_client, to_client) = client.into_split();
    let (from_host, to_host) = host.into_split();
    // A client that has sent its request keeps the connection open until it has the response. So none of them is half closed.
    tokio::select! {
        () = pass_on(from_client, to_host) => {}
        () = pass_on(from_host, to_client) => {}
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

//! What an agent does in normal operation, within the sandbox.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::ToSocketAddrs,
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use claviger::didcomm::{Message, UnpackOptions};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
};

use super::Stage;

/// Does everything that an agent needs. `enter` enters the sandbox. It is called after the sockets were opened that
/// cannot be opened inside the sandbox.
pub fn all(stage: &Stage, enter: impl FnOnce()) {
    let admin = UnixListener::bind(stage.own_socket()).expect("a socket of its own");
    let caller = UnixStream::connect(stage.own_socket()).expect("a client connects");
    let (mut agent_end, mut keeper_end) = UnixStream::pair().expect("a connection to the keeper");
    enter();

    // What was open before still works.
    drop(admin.accept().expect("the client is accepted"));
    drop(caller);
    agent_end.write_all(b"request").expect("the agent writes");
    keeper_end.read_exact(&mut [0; 7]).expect("the keeper reads");

    store(stage);
    assert_eq!(std::thread::spawn(|| 7).join().expect("a thread runs"), 7);
    let names: Vec<_> = ("localhost", 80).to_socket_addrs().expect("names are resolved").collect();
    assert!(!names.is_empty());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::spawn_blocking(|| ()).await.expect("a blocking task runs");
        let _listening = signal(SignalKind::terminate()).expect("SIGTERM can be waited for");
        tcp().await;
        udp().await;
        messages().await;
    });
    println!("works");
}

/// Uses a folder as a database does.
fn store(stage: &Stage) {
    let (file, renamed) = (stage.allowed().join("store.db-wal"), stage.allowed().join("folder/store.db"));
    let mut open = File::options().read(true).write(true).create_new(true).open(&file).expect("a file is made");
    open.lock().expect("a file is locked");
    open.write_all(b"page").expect("a file is written");
    open.sync_all().expect("a file is synced");
    open.set_len(2).expect("a file is cut");
    drop(open);
    fs::create_dir(stage.allowed().join("folder")).expect("a folder is made");
    fs::rename(&file, &renamed).expect("a file is renamed");
    assert_eq!(fs::read(&renamed).expect("a file is read"), b"pa");
    fs::remove_file(renamed).expect("a file is deleted");
    fs::read(stage.readable().join("claviger.toml")).expect("the configuration is read");
}

async fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is bound");
    let address = listener.local_addr().expect("it has an address");
    let server = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a peer is accepted");
        peer.write_all(b"202").await.expect("it is answered");
    });
    let mut answer = [0; 3];
    TcpStream::connect(address).await.expect("a peer is reached").read_exact(&mut answer).await.expect("it answers");
    server.await.expect("the server ends");
    assert_eq!(&answer, b"202");
}

async fn udp() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is bound");
    let address = socket.local_addr().expect("it has an address");
    socket.send_to(b"query", address).await.expect("it is sent");
    assert_eq!(socket.recv(&mut [0; 16]).await.expect("it arrives"), 5);
}

async fn messages() {
    let (alice, bob) = (claviger_testkit::identity("alice").await, claviger_testkit::identity("bob").await);
    let did = |me: &claviger::didcomm::Identities| me.documents().next().expect("one").id().to_owned();
    let message = Message::build(Message::new_id(), "https://example.org/lunch/1.0/proposal", json!({"at": "noon"}))
        .from(did(&alice))
        .to(did(&bob))
        .finalize();
    let resolver = claviger::did::local();
    let packed = message.encrypt_to(&did(&bob)).from(&did(&alice)).pack(&resolver, &alice).await;
    let (packed, _) = packed.expect("a message is packed");
    let (read, _) =
        Message::unpack(&packed, &resolver, &bob, &UnpackOptions::default()).await.expect("a message is unpacked");
    assert_eq!(read.id, message.id);
}

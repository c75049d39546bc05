//! Peers in the test's process: some send messages and pings and have an endpoint, some hold WebSockets.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use claviger::{agent::protocol::trust_ping::PING, didcomm::Message};
use serde_json::json;

use super::{
    applications::Recipient,
    cluster::{PUBLIC_PORT, RESPONSE_TIMEOUT},
    network::HERE,
    record::{Item, Messages, Record},
};
use crate::{
    daemon::status_of,
    endpoint::{Endpoint, accepted},
    peer::Peer,
    websocket_client::WebSocketClient,
};

const PAUSE: Duration = Duration::from_millis(20);
/// The threads in which each peer writes.
const THREADS: usize = 4;
/// How long a WebSocket may be silent before the peer opens another.
const LONGEST_SILENCE: Duration = Duration::from_secs(3);
const PAUSE_BETWEEN_PINGS: Duration = Duration::from_millis(250);

/// A peer that runs until it is stopped.
pub struct RunningPeer {
    pub recipient: Recipient,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    _endpoint: Option<Endpoint>,
}

impl RunningPeer {
    /// A peer that writes and pings, and gets messages at an endpoint. `greet` is called before it begins: it makes the peer
    /// known to the agent.
    pub fn writing(name: &str, to: &str, record: &Arc<Record>, greet: impl FnOnce(&Recipient)) -> Self {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let peer = Arc::new(Peer::with_endpoint(name, &uri));
        let endpoint = Endpoint::with_listener(listener, {
            let (peer, record) = (peer.clone(), record.clone());
            move |request| {
                // A connection may be cut within a message.
                match peer.try_open(&request.body) {
                    Some((message, _)) => note_arrival(&message, &mut record.sent(), &mut record.pings(), &record),
                    None => record.fault(format!("a peer cannot open {}", request.body)),
                }
                accepted()
            }
        });
        let recipient = Recipient { name: name.to_owned(), did: peer.did().to_owned(), holds_socket: false };
        greet(&recipient);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (name, to, stop, record) = (name.to_owned(), to.to_owned(), stop.clone(), record.clone());
            move || write(&peer, &name, &to, &stop, &record)
        });
        Self { recipient, stop, thread, _endpoint: Some(endpoint) }
    }

    /// A peer that holds a WebSocket, and opens another when it hears nothing.
    pub fn holding_socket(name: &str, to: &str, record: &Arc<Record>, greet: impl FnOnce(&Recipient)) -> Self {
        let peer = Peer::new(name);
        let recipient = Recipient { name: name.to_owned(), did: peer.did().to_owned(), holds_socket: true };
        greet(&recipient);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (name, to) = (name.to_owned(), to.to_owned());
            let (stop, record) = (stop.clone(), record.clone());
            move || hold_sockets(&peer, &name, &to, &stop, &record)
        });
        Self { recipient, stop, thread, _endpoint: None }
    }

    /// Has the peer send nothing more. Its endpoint stays.
    pub fn stop_sending(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn stop(self) {
        self.stop_sending();
        self.thread.join().expect("the peer has not panicked");
    }
}

fn note_arrival(message: &Message, sent: &mut Messages, pings: &mut Messages, record: &Record) {
    let content = message.body["content"].as_str().and_then(Item::parse);
    match (content, message.thid.as_deref().and_then(Item::parse)) {
        (Some(item), _) => sent.arrive(item, &message.id),
        (None, Some(ping)) => pings.arrive(ping, &message.id),
        (None, None) => record.fault(format!("a peer got {message:?}")),
    }
}

/// Writes messages and pings in turn. Each is repeated until it is accepted, before the next.
fn write(peer: &Peer, name: &str, to: &str, stop: &AtomicBool, record: &Record) {
    for number in 0.. {
        let is_ping = number % 3 == 2;
        let thread = if is_ping { format!("{name}-ping") } else { format!("{name}-{}", number % THREADS) };
        let item = Item::new(&thread, number);
        let of_record = || if is_ping { record.pings() } else { record.received() };
        let message = if is_ping { ping(peer, to, &item) } else { text(peer, to, &item) };
        of_record().unconfirmed.insert(item.clone());
        let mut packed = peer.pack(&message);
        // Alternately with the same bytes and packed again.
        for attempt in 1.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            if post(&packed) == 202 {
                break;
            }
            thread::sleep(PAUSE);
            if attempt % 2 == 0 {
                packed = peer.pack(&message);
            }
        }
        of_record().accept(&item);
        record.answers().note();
        thread::sleep(PAUSE);
    }
}

fn text(peer: &Peer, to: &str, item: &Item) -> Message {
    let mut message = peer.message(to, &item.content()).finalize();
    message.thid = Some(item.thread.clone());
    message
}

fn ping(peer: &Peer, to: &str, item: &Item) -> Message {
    let mut ping = peer.message(to, "").finalize();
    ping.id = item.content();
    ping.type_ = PING.to_owned();
    ping.body = json!({"response_requested": true});
    ping
}

/// Posts a message to the round robin. Returns the status, or 0 without a whole response.
fn post(packed: &str) -> u16 {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        packed.len()
    );
    let Ok(mut stream) = TcpStream::connect((HERE, PUBLIC_PORT)) else { return 0 };
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).unwrap();
    let mut response = Vec::new();
    let _ = stream.write_all((head + packed).as_bytes());
    let _ = stream.read_to_end(&mut response);
    let response = String::from_utf8_lossy(&response);
    if response.contains("\r\n\r\n") { status_of(&response) } else { 0 }
}

fn hold_sockets(peer: &Peer, name: &str, to: &str, stop: &AtomicBool, record: &Record) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let Some(mut socket) = WebSocketClient::try_open((HERE, PUBLIC_PORT), RESPONSE_TIMEOUT) else {
            thread::sleep(PAUSE);
            continue;
        };
        let (mut heard, mut pinged) = (Instant::now(), None::<Instant>);
        while heard.elapsed() < LONGEST_SILENCE && !stop.load(Ordering::SeqCst) {
            if pinged.is_none_or(|pinged| pinged.elapsed() > PAUSE_BETWEEN_PINGS) {
                let item = Item::new(&format!("{name}-ping"), number);
                let mut ping = ping(peer, to, &item);
                ping.return_route = Some("all".to_owned());
                record.socket_pings().unconfirmed.insert(item);
                if socket.send(&peer.pack(&ping)).is_err() {
                    break;
                }
                (pinged, number) = (Some(Instant::now()), number + 1);
            }
            let Some(packed) = socket.next(Duration::from_millis(50)) else { continue };
            heard = Instant::now();
            match peer.try_open(&packed) {
                Some((message, _)) => {
                    note_arrival(&message, &mut record.on_sockets(), &mut record.socket_pings(), record)
                }
                None => record.fault(format!("a peer cannot open {packed}")),
            }
        }
    }
}

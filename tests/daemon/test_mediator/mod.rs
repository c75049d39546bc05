//! A small mediator in memory. It behaves as its options say.

mod answers;
mod options;

pub use options::*;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    agent::protocol::report_message::PROBLEM_REPORT,
    did::{LocalResolver, Relationship, Resolver, Service},
    didcomm::{Forward, FromPrior, Message, UnpackOptions},
    jose::Limits,
    keys::Curve,
};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, runtime::Runtime, sync::mpsc};
use tokio_tungstenite::{accept_async, tungstenite::Message as Frame};

use crate::{
    daemon::TIMEOUT,
    peer::{AGREE, Peer, seconds},
    support::forge::{Jwe, b64},
};

pub struct Mediator {
    pub did: String,
    state: Arc<State>,
    /// `None` only in `drop`, which ends the runtime without waiting for its tasks.
    runtime: Option<Runtime>,
}

struct State {
    /// The mediator's DID, and the DID from which it answers if it has another for that.
    peers: [Peer; 2],
    options: MediatorOptions,
    /// The DIDs that were granted mediation.
    clients: Mutex<HashSet<String>>,
    /// The DIDs that have got an answer, which said from which DID it is.
    answered: Mutex<HashSet<String>>,
    queues: Mutex<HashMap<String, VecDeque<Waiting>>>,
    /// The ids of the messages that were acknowledged.
    acknowledged: Mutex<HashSet<String>>,
    /// For each registered DID, the DID that registered it.
    owners: Mutex<HashMap<String, String>>,
    /// The WebSockets in live mode, by DID.
    live: Mutex<HashMap<String, LiveSender>>,
    /// Every change of this counter closes all connections.
    cut: tokio::sync::watch::Sender<usize>,
    closed: AtomicBool,
    next: AtomicUsize,
    /// How often messages were delivered.
    delivered: AtomicUsize,
}

/// Sends to a WebSocket in live mode: the DID that the reply is encrypted to, and the reply.
type LiveSender = mpsc::UnboundedSender<(String, Reply)>;

#[derive(Clone)]
struct Waiting {
    id: String,
    packed: String,
}

/// A message of the mediator that is not packed yet, or a packed message of a sender.
enum Reply {
    Message { type_: String, thid: Option<String>, pthid: Option<String>, body: Value, attachments: Vec<Value> },
    Packed(String),
}

/// What a request leads to: replies, each with the DID of its recipient, or an HTTP status and a body.
type Outcome = Result<Vec<(String, Reply)>, (u16, &'static str)>;

impl Mediator {
    pub fn new(options: MediatorOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let schemes: &[&str] = if options.socket { &["http", "ws"] } else { &["http"] };
        let services: Vec<Service> =
            schemes.iter().map(|scheme| Service::didcomm(format!("{scheme}://{address}/"), [])).collect();
        let peers = ["mediator", "mediator for you"].map(|name| Peer::with_services(name, &services));
        let did = peers[0].did().to_owned();
        let state = Arc::new(State {
            peers,
            options,
            clients: Mutex::default(),
            answered: Mutex::default(),
            queues: Mutex::default(),
            acknowledged: Mutex::default(),
            owners: Mutex::default(),
            live: Mutex::default(),
            cut: tokio::sync::watch::Sender::new(0),
            closed: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            delivered: AtomicUsize::new(0),
        });
        listener.set_nonblocking(true).unwrap();
        let shared = state.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                if !shared.closed.load(Ordering::SeqCst) {
                    tokio::spawn(shared.clone().serve(stream));
                }
            }
        });
        Self { did, state, runtime: Some(runtime) }
    }

    /// Closes all connections at once.
    pub fn cut(&self) {
        self.state.live.lock().unwrap().clear();
        self.state.cut.send_modify(|count| *count += 1);
    }

    /// Refuses connections from now on, or accepts them again.
    pub fn set_closed(&self, closed: bool) {
        self.state.closed.store(closed, Ordering::SeqCst);
        if closed {
            self.cut();
        }
    }

    /// The DIDs that are registered.
    pub fn registered(&self) -> Vec<String> {
        self.state.owners.lock().unwrap().keys().cloned().collect()
    }

    /// Queues a message for `owner`, whoever it is encrypted to.
    pub fn enqueue(&self, owner: &str, packed: String) {
        let id = self.state.next.fetch_add(1, Ordering::SeqCst).to_string();
        let waiting = Waiting { id, packed };
        self.state.queues.lock().unwrap().entry(owner.to_owned()).or_default().push_back(waiting);
    }

    /// Delivers a message on the WebSocket of `owner`, encrypted to `to`, and forgets it. Returns its id.
    pub fn deliver_live(&self, owner: &str, to: &str, packed: String) -> String {
        let waiting = Waiting { id: self.state.next_id(), packed };
        let delivery = self.state.delivery(std::slice::from_ref(&waiting), None);
        let live = self.state.live.lock().unwrap()[owner].clone();
        assert!(live.send((to.to_owned(), delivery)).is_ok());
        waiting.id
    }

    /// Whether the message with this id was acknowledged.
    pub fn is_acknowledged(&self, id: &str) -> bool {
        self.state.acknowledged.lock().unwrap().contains(id)
    }

    /// Closes all connections. Once `owner` has asked for live mode again, sends these messages as they are, and forgets them.
    pub fn cut_and_send_raw(&self, owner: &str, packed: Vec<String>) {
        self.cut();
        let until = Instant::now() + TIMEOUT;
        let live = loop {
            // The lock is not held during the pause: the mediator needs it.
            let live = self.state.live.lock().unwrap().get(owner).cloned();
            match live {
                Some(live) => break live,
                None => assert!(Instant::now() < until, "the agent does not ask for live mode"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        packed.into_iter().for_each(|packed| assert!(live.send((owner.to_owned(), Reply::Packed(packed))).is_ok()));
    }

    /// Forgets all grants and registered DIDs, and closes all connections.
    pub fn forget(&self) {
        self.state.clients.lock().unwrap().clear();
        self.state.owners.lock().unwrap().clear();
        self.cut();
    }

    /// How many messages are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.state.queues.lock().unwrap().values().map(VecDeque::len).sum()
    }

    /// How many deliveries there were. A message that is delivered again counts again.
    pub fn delivered(&self) -> usize {
        self.state.delivered.load(Ordering::SeqCst)
    }
}

impl Drop for Mediator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let mut cut = self.cut.subscribe();
        cut.borrow_and_update();
        let mut head = [0; 2048];
        let Ok(length) = stream.peek(&mut head).await else { return };
        let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
        let serve = async {
            match head.contains("upgrade: websocket") && !self.has(Quirk::WantsLogin) {
                true => self.clone().socket(stream).await,
                false => self.clone().http(stream).await,
            }
        };
        tokio::select! {
            () = serve => {}
            _ = cut.changed() => {}
        }
    }

    async fn http(self: Arc<Self>, stream: TcpStream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let state = self.clone();
            async move {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let outcome = match state.has(Quirk::WantsLogin) {
                    true => Err((401, r#"{"httpCode":401,"message":"Missing credentials"}"#)),
                    false => state.receive(&body, None).await,
                };
                let (status, packed) = match outcome.map(|mut replies| replies.pop()) {
                    Ok(Some((to, reply))) => (200, state.pack(&to, reply).await),
                    Ok(None) if state.has(Quirk::NullResponse) => (202, "null".to_owned()),
                    Ok(None) => (202, String::new()),
                    Err((status, body)) => (status, body.to_owned()),
                };
                let response = Response::builder().status(status).body(Full::new(Bytes::from(packed))).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn socket(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut socket) = accept_async(stream).await else { return };
        let (sender, mut live) = mpsc::unbounded_channel();
        loop {
            let outcome = tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(_)) if self.has(Quirk::ClosesSocket) => return,
                    Some(Ok(Frame::Text(text))) => self.receive(text.as_bytes(), Some(&sender)).await,
                    Some(Ok(Frame::Binary(bytes))) => self.receive(&bytes, Some(&sender)).await,
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
                    _ => return,
                },
                Some(live) = live.recv() => Ok(vec![live]),
            };
            for (to, reply) in outcome.unwrap_or_default() {
                if socket.send(Frame::text(self.pack(&to, reply).await)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.options.quirks.contains(&quirk)
    }

    fn did(&self) -> &str {
        self.peers[0].did()
    }

    /// Handles a message.
    async fn receive(self: &Arc<Self>, packed: &[u8], socket: Option<&LiveSender>) -> Outcome {
        let Ok(text) = std::str::from_utf8(packed) else { return Ok(Vec::new()) };
        let limits = Limits { bytes: 10_000_000, ..Limits::default() };
        let options = UnpackOptions { unwrap_forward: false, limits, ..UnpackOptions::default() };
        let mut opened = None;
        for peer in &self.peers {
            let unpacked = Message::unpack(text, &LocalResolver::new(), &peer.person.identities, &options).await;
            opened = opened.or(unpacked.ok());
        }
        let Some((message, provenance)) = opened else { return Ok(Vec::new()) };
        if let Some(Ok(forward)) = Forward::from_message(&message) {
            self.forward(&message.id, &forward);
            return Ok(Vec::new());
        }
        let Some(from) = message.from.clone().filter(|_| provenance.authenticated) else { return Ok(Vec::new()) };
        if message.type_ == PROBLEM_REPORT {
            return Ok(Vec::new());
        }
        assert_eq!(message.return_route.as_deref(), Some("all"), "{}", message.type_);
        let reply = self.answer(&from, &message, socket)?;
        Ok(reply.into_iter().map(|reply| (from.clone(), reply)).collect())
    }

    fn forward(&self, forward_id: &str, forward: &Forward) {
        let owner = self.owners.lock().unwrap().get(&forward.next).cloned();
        let Some(owner) = owner else { return };
        let live = self.live.lock().unwrap().get(&owner).cloned().filter(|_| !self.has(Quirk::NeverLive));
        for packed in &forward.forwarded {
            let waiting = Waiting { id: self.next_id(), packed: packed.clone() };
            if let (Some(live), true) = (&live, self.options.raw) {
                self.delivered.fetch_add(1, Ordering::SeqCst);
                if live.send((owner.clone(), Reply::Packed(packed.clone()))).is_ok() {
                    continue;
                }
            }
            self.queues.lock().unwrap().entry(owner.clone()).or_default().push_back(waiting.clone());
            if let Some(live) = &live {
                let _ = match self.has(Quirk::LiveToNext) {
                    true => live.send((forward.next.clone(), self.delivery(&[waiting], Some(forward_id)))),
                    false => live.send((owner.clone(), self.delivery(&[waiting], None))),
                };
            }
        }
    }

    fn next_id(&self) -> String {
        self.next.fetch_add(1, Ordering::SeqCst).to_string()
    }

    fn delivery(&self, waiting: &[Waiting], thid: Option<&str>) -> Reply {
        self.delivered.fetch_add(waiting.len(), Ordering::SeqCst);
        let attachments = waiting.iter().map(|it| {
            let id = if self.has(Quirk::NewIds) { self.next_id() } else { it.id.clone() };
            let data = match (self.has(Quirk::TextInJson), self.has(Quirk::Json)) {
                (true, _) => json!({ "json": b64(&it.packed) }),
                (_, true) => json!({ "json": serde_json::from_str::<Value>(&it.packed).unwrap() }),
                _ => json!({ "base64": b64(&it.packed) }),
            };
            json!({ "id": id, "data": data })
        });
        let type_ = format!("https://didcomm.org/{}/delivery", self.options.pickup);
        let attachments = attachments.collect();
        Reply::Message { type_, thid: thid.map(str::to_owned), pthid: None, body: json!({}), attachments }
    }

    async fn pack(&self, to: &str, reply: Reply) -> String {
        let (type_, thid, pthid, body, attachments) = match reply {
            Reply::Packed(packed) => return packed,
            Reply::Message { type_, thid, pthid, body, attachments } => (type_, thid, pthid, body, attachments),
        };
        let id = Message::new_id();
        let own = |name: Option<String>| name.map(|name| if self.has(Quirk::OwnThread) { id.clone() } else { name });
        let sender = &self.peers[usize::from(self.has(Quirk::OtherDid))];
        let mut message = json!({
            "id": id,
            "typ": "application/didcomm-plain+json",
            "type": type_,
            "from": sender.did(),
            "to": [to],
            "body": body,
        });
        // Only a delivery and a refusal have a thread of their own.
        let thid = if attachments.is_empty() { thid } else { own(thid) };
        for (name, value) in [("thid", thid), ("pthid", own(pthid))] {
            if let Some(value) = value {
                message[name] = value.into();
            }
        }
        if !attachments.is_empty() {
            message["attachments"] = attachments.into();
        }
        if self.has(Quirk::OtherDid) && self.answered.lock().unwrap().insert(to.to_owned()) {
            let time = i64::try_from(seconds()).unwrap();
            let claims = FromPrior::rotation(self.did(), sender.did(), time);
            message["from_prior"] = claims.pack(None, &self.peers[0].person.identities).await.unwrap().0.into();
        }
        if self.has(Quirk::NoSender) {
            for name in ["from", "to"] {
                message.as_object_mut().unwrap().remove(name);
            }
        }
        let document = LocalResolver::new().resolve(to).await.unwrap();
        let methods: Vec<_> = document.methods(Relationship::KeyAgreement).collect();
        let keys_on = |curve: Curve| {
            let keys = methods.iter().map(|method| (method.id.clone(), method.key.clone().unwrap()));
            keys.filter(|(_, key)| key.curve() == curve).collect::<Vec<_>>()
        };
        let (number, keys) = match keys_on(Curve::X25519) {
            keys if keys.is_empty() => (1, keys_on(Curve::P256)),
            keys => (0, keys),
        };
        let skid = sender.kid(AGREE[number]);
        Jwe::authcrypt_as(&sender.person, &skid, &sender.person.agree[number], &keys)
            .seal(message.to_string())
            .to_string()
    }
}

//! A small mediator in memory, with options to leave out or misread parts of the protocols.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use claviger::{
    did::{LocalResolver, Relationship, Service, peer},
    didcomm::{Attachment, Forward, Identities, Message, UnpackOptions},
    jose::Limits,
    keys::Curve,
    secrets::Keyring,
};
use claviger_testkit::SoftToken;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, runtime::Runtime, sync::mpsc};
use tokio_tungstenite::{accept_async, tungstenite::Message as Frame};

/// The protocols that a mediator speaks, and its limits.
#[derive(Debug, Clone, Copy)]
pub struct MediatorOptions {
    /// The version of coordinate-mediation.
    pub coordination: &'static str,
    /// The name and version of the pickup protocol.
    pub pickup: &'static str,
    /// Whether the mediator's DID has a WebSocket endpoint.
    pub socket: bool,
    /// Whether the mediator supports live mode.
    pub live: bool,
    /// Whether the mediator answers discover-features queries.
    pub discloses: bool,
    /// Whether live mode sends the bare message and forgets it. messagepickup 3.0 can be read that way.
    pub raw: bool,
    /// Whether the mediator grants mediation.
    pub grants: bool,
}

pub const CURRENT: MediatorOptions = MediatorOptions {
    coordination: "3.0",
    pickup: "message-pickup/4.0",
    socket: true,
    live: true,
    discloses: true,
    raw: false,
    grants: true,
};

pub struct Mediator {
    pub did: String,
    state: Arc<State>,
    /// `None` only in `drop`, which ends the runtime without waiting for its tasks.
    runtime: Option<Runtime>,
}

struct State {
    did: String,
    me: Identities,
    options: MediatorOptions,
    queues: Mutex<HashMap<String, VecDeque<Waiting>>>,
    /// For each registered DID, the DID that registered it.
    owners: Mutex<HashMap<String, String>>,
    /// The WebSockets in live mode, by DID.
    live: Mutex<HashMap<String, mpsc::UnboundedSender<Reply>>>,
    /// Every change of this counter closes all connections.
    cut: tokio::sync::watch::Sender<usize>,
    closed: AtomicBool,
    next: AtomicUsize,
    /// How often messages were delivered.
    delivered: AtomicUsize,
}

#[derive(Clone)]
struct Waiting {
    id: String,
    packed: String,
}

/// A message of the mediator that is not packed yet, or a packed message of a sender.
enum Reply {
    Message { type_: String, thid: Option<String>, pthid: Option<String>, body: Value, attachments: Vec<Attachment> },
    Packed(String),
}

impl Mediator {
    pub fn new(options: MediatorOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let token = SoftToken::new("mediator");
        let keys = [
            (Relationship::KeyAgreement, token.make(Curve::X25519)),
            (Relationship::KeyAgreement, token.make(Curve::P256)),
            (Relationship::Authentication, token.make(Curve::Ed25519)),
        ];
        let schemes: &[&str] = if options.socket { &["http", "ws"] } else { &["http"] };
        let services: Vec<Service> =
            schemes.iter().map(|scheme| Service::didcomm(format!("{scheme}://{address}/"), [])).collect();
        let document = peer::create_2(&keys, &services).unwrap();
        let did = document.id().to_owned();
        let me = runtime.block_on(async {
            let keyring = Keyring::start([token]).await.unwrap();
            Identities::new(keyring, [document]).await.unwrap()
        });
        let state = Arc::new(State {
            did: did.clone(),
            me,
            options,
            queues: Mutex::default(),
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
            match head.contains("upgrade: websocket") {
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
                let mut replies = state.receive(&body, None).await;
                let packed = match replies.pop() {
                    Some((to, reply)) => state.pack(&to, reply).await,
                    None => String::new(),
                };
                let status = if packed.is_empty() { 202 } else { 200 };
                let response = Response::builder().status(status).body(Full::new(Bytes::from(packed))).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn socket(self: Arc<Self>, stream: TcpStream) {
        let Ok(mut socket) = accept_async(stream).await else { return };
        let (sender, mut live) = mpsc::unbounded_channel();
        let mut client = String::new();
        loop {
            let replies = tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(Frame::Text(text))) => self.receive(text.as_bytes(), Some(&sender)).await,
                    Some(Ok(Frame::Binary(bytes))) => self.receive(&bytes, Some(&sender)).await,
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
                    _ => return,
                },
                Some(reply) = live.recv() => vec![(client.clone(), reply)],
            };
            for (to, reply) in replies {
                client.clone_from(&to);
                if socket.send(Frame::text(self.pack(&to, reply).await)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Handles a message. Returns the replies, each with the DID of its recipient.
    async fn receive(&self, packed: &[u8], socket: Option<&mpsc::UnboundedSender<Reply>>) -> Vec<(String, Reply)> {
        let Ok(text) = std::str::from_utf8(packed) else { return Vec::new() };
        let limits = Limits { bytes: 10_000_000, ..Limits::default() };
        let options = UnpackOptions { unwrap_forward: false, limits, ..UnpackOptions::default() };
        let Ok((message, provenance)) = Message::unpack(text, &LocalResolver::new(), &self.me, &options).await else {
            return Vec::new();
        };
        if let Some(Ok(forward)) = Forward::from_message(&message) {
            self.forward(&forward);
            return Vec::new();
        }
        let Some(from) = message.from.clone().filter(|_| provenance.authenticated) else { return Vec::new() };
        assert_eq!(message.return_route.as_deref(), Some("all"), "{}", message.type_);
        self.answer(&from, &message, socket).into_iter().map(|reply| (from.clone(), reply)).collect()
    }

    fn forward(&self, forward: &Forward) {
        let owner = self.owners.lock().unwrap().get(&forward.next).cloned();
        let Some(owner) = owner else { return };
        let live = self.live.lock().unwrap().get(&owner).cloned();
        for packed in &forward.forwarded {
            let id = self.next.fetch_add(1, Ordering::SeqCst).to_string();
            let waiting = Waiting { id, packed: packed.clone() };
            if let (Some(live), true) = (&live, self.options.raw) {
                self.delivered.fetch_add(1, Ordering::SeqCst);
                if live.send(Reply::Packed(packed.clone())).is_ok() {
                    continue;
                }
            }
            self.queues.lock().unwrap().entry(owner.clone()).or_default().push_back(waiting.clone());
            if let Some(live) = &live {
                let _ = live.send(self.delivery(&[waiting], None));
            }
        }
    }

    fn delivery(&self, waiting: &[Waiting], thid: Option<&str>) -> Reply {
        self.delivered.fetch_add(waiting.len(), Ordering::SeqCst);
        let attachments = waiting.iter().map(|it| Attachment::base64(&it.packed).id(&it.id).finalize()).collect();
        let type_ = format!("https://didcomm.org/{}/delivery", self.options.pickup);
        Reply::Message { type_, thid: thid.map(str::to_owned), pthid: None, body: json!({}), attachments }
    }

    fn answer(&self, from: &str, message: &Message, socket: Option<&mpsc::UnboundedSender<Reply>>) -> Option<Reply> {
        let reply = |type_: String, body: Value| {
            Some(Reply::Message { type_, thid: Some(message.id.clone()), pthid: None, body, attachments: Vec::new() })
        };
        let problem = |code: &str| {
            let type_ = "https://didcomm.org/report-problem/2.0/problem-report".to_owned();
            let (pthid, body) = (Some(message.id.clone()), json!({ "code": code, "comment": "no" }));
            Some(Reply::Message { type_, thid: None, pthid, body, attachments: Vec::new() })
        };
        let coordination = format!("https://didcomm.org/coordinate-mediation/{}", self.options.coordination);
        let pickup = format!("https://didcomm.org/{}", self.options.pickup);
        let (base, name) = message.type_.rsplit_once('/').unwrap();
        if message.type_ == "https://didcomm.org/discover-features/2.0/queries" {
            let disclosed = [&coordination, &pickup].map(|id| json!({ "feature-type": "protocol", "id": id }));
            let type_ = "https://didcomm.org/discover-features/2.0/disclose".to_owned();
            return if self.options.discloses { reply(type_, json!({ "disclosures": disclosed })) } else { None };
        }
        if base == coordination {
            match name {
                "mediate-request" if self.options.grants => {
                    let one = json!(self.did);
                    let routing = if self.options.coordination == "2.0" { one } else { json!([one]) };
                    return reply(format!("{base}/mediate-grant"), json!({ "routing_did": routing }));
                }
                "mediate-request" => return reply(format!("{base}/mediate-deny"), json!({})),
                "keylist-update" | "recipient-update" => {
                    assert_eq!(name == "keylist-update", self.options.coordination == "2.0");
                    return reply(format!("{base}/{name}-response"), json!({ "updated": self.update(from, message) }));
                }
                _ => panic!("{}", message.type_),
            }
        }
        if base != pickup {
            return problem("e.m.msg.unsupported-version");
        }
        match name {
            "live-delivery-change" => match socket.filter(|_| self.options.live) {
                Some(socket) => {
                    self.live.lock().unwrap().insert(from.to_owned(), socket.clone());
                    reply(format!("{base}/status"), self.status(from))
                }
                None => problem("e.m.live-mode-not-supported"),
            },
            "delivery-request" => {
                let name = if self.options.pickup.ends_with("4.0") { "message_count_limit" } else { "limit" };
                let limit = usize::try_from(message.body[name].as_u64().expect("it is required")).unwrap();
                let queues = self.queues.lock().unwrap();
                let waiting: Vec<Waiting> = queues.get(from).into_iter().flatten().take(limit).cloned().collect();
                drop(queues);
                if waiting.is_empty() && self.options.pickup.ends_with("3.0") {
                    return reply(format!("{base}/status"), self.status(from));
                }
                Some(self.delivery(&waiting, Some(&message.id)))
            }
            "messages-received" => {
                let received: Vec<&str> =
                    message.body["message_id_list"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                if let Some(queue) = self.queues.lock().unwrap().get_mut(from) {
                    queue.retain(|waiting| !received.contains(&waiting.id.as_str()));
                }
                reply(format!("{base}/status"), self.status(from))
            }
            _ => panic!("{}", message.type_),
        }
    }

    fn status(&self, from: &str) -> Value {
        json!({ "message_count": self.queues.lock().unwrap().get(from).map_or(0, VecDeque::len) })
    }

    fn update(&self, from: &str, message: &Message) -> Vec<Value> {
        let updates = message.body["updates"].as_array().unwrap();
        let each = updates.iter().map(|update| {
            let (did, action) = (update["recipient_did"].as_str().unwrap(), update["action"].as_str().unwrap());
            let mut owners = self.owners.lock().unwrap();
            let before = match action {
                "add" => owners.insert(did.to_owned(), from.to_owned()),
                "remove" => owners.remove(did),
                _ => panic!("{action}"),
            };
            let result = if before.is_some() == (action == "add") { "no_change" } else { "success" };
            json!({ "recipient_did": did, "action": action, "result": result })
        });
        each.collect()
    }

    async fn pack(&self, to: &str, reply: Reply) -> String {
        let (type_, thid, pthid, body, attachments) = match reply {
            Reply::Packed(packed) => return packed,
            Reply::Message { type_, thid, pthid, body, attachments } => (type_, thid, pthid, body, attachments),
        };
        let mut message = Message::build(Message::new_id(), type_, body).from(&self.did).to(to).finalize();
        (message.thid, message.pthid) = (thid, pthid);
        message.attachments = Some(attachments).filter(|all| !all.is_empty());
        let resolver = LocalResolver::new();
        message.encrypt_to(to).from(&self.did).forward(false).pack(&resolver, &self.me).await.unwrap().0
    }
}

//! The webhook: each message is posted at least once and in order, whichever side fails.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;

use crate::{
    api::no_panic,
    api_client::{ApiClient, SETTLE_TIME, text},
    daemon::{Daemon, free_port, write_with_mode},
};

pub const SECRET: &str = "the-secret-of-this-hook-0123456789abcdef";

/// A request to the webhook, and its response.
#[derive(Debug, Clone)]
pub struct WebhookRequest {
    /// The head in lower case.
    pub head: String,
    /// The head as it was sent.
    raw_head: String,
    body: String,
    status: u16,
}

/// The server of an application.
pub struct WebhookServer {
    port: u16,
    requests: Arc<Mutex<Vec<WebhookRequest>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebhookServer {
    /// A server that answers with each of `statuses` in turn, and then with 204.
    pub fn listen(port: u16, statuses: &[u16]) -> Self {
        let mut statuses = VecDeque::from_iter(statuses.iter().copied());
        Self::answering(port, move |_| (statuses.pop_front().unwrap_or(204), ""))
    }

    /// A server that answers a body with a status and further headers, each ended by CR LF.
    pub fn answering(port: u16, mut answer: impl FnMut(&str) -> (u16, &'static str) + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (requests, ends) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, end) = (requests.clone(), ends.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let mut reader = BufReader::new(stream.unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap() == 0 {
                        break;
                    }
                }
                let (raw_head, head) = (head.clone(), head.to_lowercase());
                let Some(length) = header(&head, "content-length") else { continue };
                let mut body = vec![0; length.parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                let (status, headers) = answer(&body);
                kept.lock().unwrap().push(WebhookRequest { head, raw_head, body, status });
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\n{headers}connection: close\r\n\
                     content-length: 0\r\n\r\n"
                );
                // The agent may have been killed meanwhile.
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        });
        Self { port, requests, ends, thread: Some(thread) }
    }

    pub fn requests(&self) -> Vec<WebhookRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bodies of all requests, in order.
    pub fn bodies(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.body).collect()
    }

    /// The texts of the requests with a 2xx response, in order.
    pub fn accepted_texts(&self) -> Vec<String> {
        let taken = self.requests().into_iter().filter(|it| (200..300).contains(&it.status));
        taken.map(|it| text(&serde_json::from_str(&it.body).unwrap())).collect()
    }
}

impl Drop for WebhookServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim().to_owned()))
}

/// A daemon with its webhook at this port. Does not start it.
pub fn daemon_with_webhook(port: u16, more: &str) -> Option<Daemon> {
    let url = format!("http://127.0.0.1:{port}/hook");
    let config = format!("[api.webhook]\nurl = \"{url}\"\nsecret_file = \"hook.secret\"\n{more}");
    let daemon = Daemon::new(&config)?;
    write_with_mode(&daemon.home, "hook.secret", &format!("{SECRET}\n"), 0o600);
    Some(daemon)
}

/// Alice, running, with her webhook at this port, and Bob, who writes to her.
fn alice_and_bob(port: u16, more: &str) -> Option<(Daemon, Daemon)> {
    let (mut alice, bob) = (daemon_with_webhook(port, more)?, Daemon::running("")?);
    alice.start();
    Some((alice, bob))
}

/// Bob sends these texts to Alice, each after she has received the previous one.
pub fn send_texts(bob: &Daemon, alice: &Daemon, texts: &[&str]) {
    let api = ApiClient::new(alice);
    let count = || api.get("/v1/inbox?acknowledged=true&limit=1000").json(200)["messages"].as_array().unwrap().len();
    for text in texts {
        let before = count();
        bob.json(&["send", "--to", &alice.did, text, "--within", "30"]);
        alice.wait_until("the message arrived", |_| count() > before);
    }
}

/// Verifies the signatures of a request with a message.
pub fn verify(request: &WebhookRequest) {
    let message: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(message["id"], verify_signatures(request));
}

/// Verifies the signature of Standard Webhooks, with the library of its authors and as docs/api.md describes it, and the
/// deprecated signature. The key is the bytes of the secret, since the secret does not begin with `whsec_`. Returns the
/// `webhook-id`.
pub fn verify_signatures(request: &WebhookRequest) -> String {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let [id, timestamp, standard] = names.map(|name| header(&request.raw_head, name).unwrap());
    let headers = names.into_iter().zip([&id, &timestamp, &standard]);
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let library = standardwebhooks::Webhook::from_bytes(SECRET.as_bytes().to_vec()).unwrap();
    library.verify(request.body.as_bytes(), &headers).unwrap();
    let expected = hmac_sha256(&format!("{id}.{timestamp}.{}", request.body));
    assert_eq!(standard, format!("v1,{}", STANDARD.encode(expected)));
    let signature = header(&request.head, "claviger-signature").unwrap();
    let (time, mac) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let seconds: u64 = time.parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(seconds) < 120, "{signature}");
    assert_eq!(timestamp, time);
    let expected: String =
        hmac_sha256(&format!("{time}.{}", request.body)).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac, expected);
    id
}

fn hmac_sha256(text: &str) -> [u8; 32] {
    let mut mac = <Hmac<sha2::Sha256> as KeyInit>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[test]
fn the_webhook_is_signed_and_retried_until_accepted() {
    let port = free_port();
    // A redirect counts as a failure. It is not followed: only the operator's URL may get the content.
    let webhook = WebhookServer::listen(port, &[500, 200, 307, 404, 200]);
    let Some((alice, bob)) = alice_and_bob(port, "") else { return };
    // A refused message of a stranger would not be retried.
    alice.json(&["send", "--to", &bob.did, "hello", "--within", "30"]);
    send_texts(&bob, &alice, &["0", "1", "2"]);
    alice.wait_until("all messages were posted", |_| webhook.accepted_texts().len() >= 3);
    assert_eq!(webhook.accepted_texts(), ["0", "1", "2"]);
    let requests = webhook.requests();
    let statuses: Vec<u16> = requests.iter().map(|it| it.status).collect();
    assert_eq!(statuses, [500, 200, 307, 404, 200, 204]);
    for request in &requests {
        verify(request);
        assert!(request.head.starts_with("post /hook http/1.1\r\n"), "{}", request.head);
        assert_eq!(header(&request.head, "content-type").as_deref(), Some("application/json"));
    }

    // An accepted message is acknowledged: it stays in the list without its content.
    let api = ApiClient::new(&alice);
    alice
        .wait_until("all messages are acknowledged", |_| api.get("/v1/status").json(200)["waiting"]["deliveries"] == 0);
    let first: Value = serde_json::from_str(&requests[0].body).unwrap();
    assert_eq!((&first["sender"], &first["provenance"]["authenticated"]), (&bob.did.clone().into(), &true.into()));
    let known = api.get("/v1/inbox?acknowledged=true").json(200)["messages"][0].clone();
    assert_eq!((&known["id"], &known["cursor"], &known["message"]), (&first["id"], &first["cursor"], &Value::Null));
    assert!(!alice.log().contains(SECRET) && alice.log().contains("webhook accepts messages again"), "{}", alice.log());
    no_panic(&[&alice, &bob]);
}

#[test]
fn no_message_is_lost_while_the_agent_or_the_webhook_is_down() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(port, "") else { return };
    send_texts(&bob, &alice, &["0", "1"]);
    alice.wait_until("the webhook is reported as failing", |alice| {
        alice.log().contains("webhook did not accept a message, and is retried")
    });
    // The webhook accepts one message, then fails, then is stopped.
    let webhook = WebhookServer::listen(port, &[503, 200, 503, 503, 503, 503, 503, 503, 503, 503, 503]);
    alice.wait_until("the first message was posted", |_| webhook.requests().len() >= 3);
    assert_eq!(webhook.accepted_texts(), ["0"]);
    alice.kill();
    drop(webhook);

    alice.start();
    send_texts(&bob, &alice, &["2"]);
    alice.stop();
    let webhook = WebhookServer::listen(port, &[]);
    alice.start();
    alice.wait_until("the rest was posted", |_| webhook.accepted_texts().len() >= 2);
    thread::sleep(SETTLE_TIME);
    assert_eq!(webhook.accepted_texts(), ["1", "2"]);
}

#[test]
fn the_webhook_gets_only_its_types_and_no_acknowledged_messages() {
    let port = free_port();
    let types = "types = [\"https://didcomm.org/basicmessage/2.0/message\"]\n";
    let Some((alice, bob)) = alice_and_bob(port, types) else { return };
    let api = ApiClient::new(&alice);
    let other = ["send", "--to", &alice.did, "--type", "https://example.org/offers/1.0/offer", "{}", "--within", "30"];
    bob.json(&other);
    alice.wait_until("the message arrived", |_| api.get("/v1/status").json(200)["waiting"]["deliveries"] == 1);
    send_texts(&bob, &alice, &["0", "1"]);
    // The application acknowledges the first message by the API, so the webhook does not get it.
    let inbox = api.get("/v1/inbox").json(200);
    let read = inbox["messages"].as_array().unwrap().iter().find(|it| it["message"]["body"]["content"] == "0").unwrap();
    api.post("/v1/inbox/acknowledge", &serde_json::json!({ "ids": [read["id"]] })).json(200);
    // An attempt to post the first message may be under way. It fails before the webhook listens.
    thread::sleep(SETTLE_TIME);
    let webhook = WebhookServer::listen(port, &[]);
    alice.wait_until_within(Duration::from_secs(60), "a message was posted", |_| !webhook.accepted_texts().is_empty());
    thread::sleep(SETTLE_TIME);
    assert_eq!(webhook.accepted_texts(), ["1"]);
    let left = api.get("/v1/inbox").json(200);
    assert_eq!(left["messages"][0]["type"], "https://example.org/offers/1.0/offer");
    assert_eq!(left["messages"].as_array().unwrap().len(), 1);
}

/// While no token has opened the store, messages cannot be read. The log does not blame the webhook, and the messages are
/// posted once the token is there.
#[test]
fn a_sealed_store_is_no_fault_of_the_webhook() {
    let Some(mut alice) = Daemon::running("") else { return };
    alice.json(&["send", "--to", &alice.did, "hello", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["hello"]);
    alice.stop();
    let port = free_port();
    let server = WebhookServer::listen(port, &[]);
    add_webhook(&alice, port);
    alice.disconnect_token();
    alice.start_without_token();
    thread::sleep(SETTLE_TIME);
    assert!(!alice.log().contains("webhook did not accept"), "{}", alice.log());
    alice.reconnect_token();
    alice.wait_until("the message is posted", |_| server.accepted_texts() == ["hello"]);
}

/// Appends the webhook to the configuration.
fn add_webhook(daemon: &Daemon, port: u16) {
    let file = daemon.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let webhook = format!("[api.webhook]\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"hook.secret\"\n");
    fs::write(&file, format!("{text}{webhook}")).unwrap();
    write_with_mode(&daemon.home, "hook.secret", &format!("{SECRET}\n"), 0o600);
}

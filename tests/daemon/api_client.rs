//! A client of an agent's API that writes HTTP by hand, so that it can send invalid requests.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};

use crate::daemon::{Daemon, TIMEOUT};

/// The type of most test messages. No protocol handles it, so they go to the application.
pub const SAY: &str = "https://example.org/chat/1.0/say";

const JSON: &str = "content-type: application/json\r\n";

/// Where the API listens.
#[derive(Debug, Clone)]
pub enum ApiClient {
    Unix(PathBuf),
    /// A socket whose agent must answer within this time.
    UnixWithin(PathBuf, Duration),
    Loopback(u16),
}

/// A response of the API.
#[derive(Debug)]
pub struct ApiResponse {
    pub status: u16,
    /// The status line and the headers, in lower case.
    head: String,
    pub body: String,
}

/// A stream of server-sent events.
pub struct Events(BufReader<Box<dyn Read>>);

/// A server-sent event.
#[derive(Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl ApiClient {
    /// Uses the socket in the daemon's state folder.
    pub fn new(daemon: &Daemon) -> Self {
        Self::Unix(daemon.home.path().join("state/api.sock"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> ApiResponse {
        self.request("GET", path, "", "")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> ApiResponse {
        self.try_post(path, body).expect("the agent answers")
    }

    /// Sends a request with these headers, each ended by CR LF.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> ApiResponse {
        self.try_request(method, path, headers, body).expect("the agent answers")
    }

    /// Like `request`. Returns none if nobody listens, or the response is incomplete.
    pub fn try_request(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<ApiResponse> {
        let host = if headers.contains("host:") { "" } else { "host: localhost\r\n" };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        let mut text = String::new();
        self.send(&head)?.read_to_string(&mut text).ok()?;
        ApiResponse::read(&text)
    }

    pub fn try_post(&self, path: &str, body: &Value) -> Option<ApiResponse> {
        self.try_request("POST", path, JSON, &body.to_string())
    }

    /// Opens a stream of events. The request is HTTP/1.0, so that the response is not chunked.
    pub fn events(&self, path: &str, headers: &str) -> Events {
        let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n{headers}\r\n");
        let mut reader = BufReader::new(self.send(&request).expect("the agent listens"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.contains(" 200 ") && head.contains("content-type: text/event-stream"), "{head}");
        Events(reader)
    }

    fn send(&self, request: &str) -> Option<Box<dyn Read>> {
        fn write<S: Read + Write + 'static>(mut stream: S, request: &str) -> Box<dyn Read> {
            // A request that is too large may be refused before it is read.
            let _ = stream.write_all(request.as_bytes());
            Box::new(stream)
        }
        let unix = |path: &PathBuf, time: Duration| {
            let stream = UnixStream::connect(path).ok()?;
            stream.set_read_timeout(Some(time)).unwrap();
            Some(write(stream, request))
        };
        match self {
            Self::Unix(path) => unix(path, TIMEOUT),
            Self::UnixWithin(path, time) => unix(path, *time),
            Self::Loopback(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).ok()?;
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                Some(write(stream, request))
            }
        }
    }
}

impl ApiResponse {
    pub fn read(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let response = Self { status, head: head.to_lowercase(), body: body.to_owned() };
        let whole = response.header("content-length").is_none_or(|length| length == body.len().to_string());
        whole.then_some(response)
    }

    /// Asserts the status, and returns the body.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type").as_deref(), Some("application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    /// Asserts the status and the documented form of an error, and returns its code.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        let value = self.json(status);
        let error = value["error"].as_object().unwrap_or_else(|| panic!("{}", self.body));
        assert_eq!((value.as_object().unwrap().len(), error.len()), (1, 2), "{}", self.body);
        assert!(!error["message"].as_str().unwrap().is_empty());
        error["code"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    }
}

impl Events {
    /// The next event, or none at the end of the stream.
    pub fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: String::new(), kind: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some(("id", id)) => event.id = id.trim().to_owned(),
                Some(("event", kind)) => event.kind = kind.trim().to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                // A comment that keeps the connection alive.
                Some(("", _)) => {}
                _ if event.data.is_null() => {}
                _ => return Some(event),
            }
        }
    }

    /// The texts of the next `count` events.
    #[track_caller]
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| text(&self.next().unwrap().data)).collect()
    }
}

/// The text of a basic message.
#[track_caller]
pub fn text(delivered: &Value) -> String {
    delivered["message"]["body"]["content"].as_str().unwrap_or_else(|| panic!("{delivered}")).to_owned()
}

/// How long a test waits to see that something does not happen.
pub const SETTLE_TIME: Duration = Duration::from_millis(500);

impl Daemon {
    /// Puts a message into the outbox. Returns its id there, or none if it was refused.
    pub fn send_text(&self, to: &str, content: &str) -> Option<String> {
        let mut message = json!({ "to": to, "from": self.did, "type": SAY, "body": { "content": content } });
        let mut response = ApiClient::new(self).post("/v1/messages", &message);
        // Test peers without an endpoint fetch their messages later.
        if response.status == 400 && response.error(400) == "no-endpoint" {
            message["hold"] = true.into();
            response = ApiClient::new(self).post("/v1/messages", &message);
        }
        (response.status == 202).then(|| response.json(202)["id"].as_str().unwrap().to_owned())
    }

    /// The API's description of a message in the outbox.
    #[track_caller]
    pub fn outbox_message(&self, id: &str) -> Value {
        ApiClient::new(self).get(&format!("/v1/messages/{id}")).json(200)
    }

    /// All deliveries that are not acknowledged, in the order of their arrival.
    #[track_caller]
    pub fn unread(&self) -> Vec<Value> {
        let (application, mut all, mut after) = (ApiClient::new(self), Vec::new(), 0);
        loop {
            let page = application.get(&format!("/v1/inbox?limit=1000&after={after}")).json(200);
            let messages = page["messages"].as_array().unwrap();
            if messages.is_empty() {
                return all;
            }
            all.extend(messages.iter().cloned());
            after = page["cursor"].as_i64().unwrap();
        }
    }

    /// The texts of `unread`.
    #[track_caller]
    pub fn unread_texts(&self) -> Vec<String> {
        let content = |it: &Value| it["message"]["body"]["content"].as_str().map(str::to_owned);
        self.unread().iter().filter_map(content).collect()
    }

    /// The unacknowledged delivery with this text.
    #[track_caller]
    pub fn delivery(&self, text: &str) -> Value {
        let mut all = self.unread().into_iter();
        all.find(|it| it["message"]["body"]["content"] == text).unwrap_or_else(|| panic!("{text} did not arrive"))
    }

    /// Waits until each accepted message is opened or refused.
    #[track_caller]
    pub fn wait_until_all_opened(&self) {
        self.wait_until("no message waits to be opened", |daemon| {
            daemon.metric("claviger_waiting{queue=\"inbox\"}") == 0.0
        });
    }
}

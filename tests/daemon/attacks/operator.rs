//! The operator's side: the configuration, an application that reads its messages, and a webhook that never answers.

use std::{
    io::Read,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, write_with_mode},
    home::{Home, softhsm_module},
};

/// The webhook's address. Peers' endpoints may be in 127.0.0.0/9 only.
const WEBHOOK_ADDRESS: &str = "127.128.0.1";

pub struct Operator {
    pub webhook_port: u16,
    /// What came to the webhook and is no event of the agent.
    foreign: Arc<Mutex<Vec<String>>>,
}

impl Operator {
    /// Returns none if SoftHSM is not installed.
    pub fn new() -> Option<Self> {
        softhsm_module()?;
        let listener = TcpListener::bind((WEBHOOK_ADDRESS, 0)).unwrap();
        let webhook_port = listener.local_addr().unwrap().port();
        let foreign: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = foreign.clone();
        thread::spawn(move || serve_webhook(&listener, &seen));
        Some(Self { webhook_port, foreign })
    }

    pub fn http_and_net(&self) -> &'static str {
        "[net]\nallow_private = [\"127.0.0.0/9\"]\n"
    }

    pub fn api(&self) -> String {
        format!(
            "[api.webhook]\nurl = \"http://{WEBHOOK_ADDRESS}:{}/hook\"\nsecret_file = \"webhook.secret\"\n",
            self.webhook_port
        )
    }

    pub fn write_secret(&self, home: &Home) {
        write_with_mode(home, "webhook.secret", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n", 0o600);
    }

    /// The URI of a stranger's endpoint that is the webhook.
    pub fn webhook_uri(port: u16) -> String {
        format!("http://{WEBHOOK_ADDRESS}:{port}/hook")
    }

    /// Acknowledges what is delivered, in a thread that ends when the returned value is dropped.
    pub fn acknowledge_everything(&self, daemon: &Daemon) -> Application {
        let (client, ended) = (ApiClient::new(daemon), Arc::new(AtomicBool::new(false)));
        let ended_here = ended.clone();
        let thread = thread::spawn(move || {
            while !ended_here.load(Ordering::SeqCst) {
                acknowledge_page(&client);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Application { ended, thread: Some(thread) }
    }

    /// Asserts that no stranger's message was posted to the webhook.
    pub fn assert_untouched(&self) {
        assert_eq!(*self.foreign.lock().unwrap(), Vec::<String>::new());
    }
}

/// The application. It stops when it is dropped.
pub struct Application {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

fn acknowledge_page(client: &ApiClient) -> Option<()> {
    let page: Value = serde_json::from_str(&client.try_request("GET", "/v1/inbox?limit=20", "", "")?.body).ok()?;
    let ids: Vec<&Value> = page["messages"].as_array()?.iter().map(|message| &message["id"]).collect();
    if !ids.is_empty() {
        client.try_post("/v1/inbox/acknowledge", &json!({"ids": ids}))?;
    }
    Some(())
}

/// Accepts connections, reads the start of the request, and never answers.
fn serve_webhook(listener: &TcpListener, foreign: &Mutex<Vec<String>>) {
    let mut open = Vec::new();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut start = vec![0; 4096];
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let read = stream.read(&mut start).unwrap_or(0);
        let start = String::from_utf8_lossy(&start[..read]).to_lowercase();
        if start.contains("didcomm-encrypted") {
            foreign.lock().unwrap().push(start);
        }
        open.push(stream);
        if open.len() > 100 {
            open.remove(0);
        }
    }
}

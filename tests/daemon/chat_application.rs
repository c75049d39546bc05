//! An application that sends numbered messages, and reads and acknowledges what arrives, while its daemon is killed
//! and started.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;

use crate::{
    api_client::{ApiClient, SAY},
    daemon::Daemon,
};

const PAUSE_BETWEEN_MESSAGES: Duration = Duration::from_millis(20);

pub struct ChatApplication {
    stop_sending: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    record: Arc<Mutex<MessageRecord>>,
    threads: Vec<JoinHandle<()>>,
}

/// The messages that the application sent and received.
#[derive(Default)]
pub struct MessageRecord {
    /// Contents that the daemon accepted.
    pub sent: HashSet<String>,
    /// Contents whose request got no response, because the daemon was killed.
    pub unconfirmed: HashSet<String>,
    /// Contents that were read, with the delivery ids under which each was read.
    pub received: HashMap<String, HashSet<String>>,
}

impl ChatApplication {
    /// Starts an application of `daemon` that writes to the DID `to`. Its contents begin with `name`.
    pub fn start(name: &'static str, daemon: &Daemon, to: &str) -> Self {
        let (stop_sending, stop_reading) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let record = Arc::<Mutex<MessageRecord>>::default();
        let sender = thread::spawn({
            let (api, from, to) = (ApiClient::new(daemon), daemon.did.clone(), to.to_owned());
            let (stop, record) = (stop_sending.clone(), record.clone());
            move || send(name, &api, &from, &to, &stop, &record)
        });
        let reader = thread::spawn({
            let (api, stop, record) = (ApiClient::new(daemon), stop_reading.clone(), record.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    if read_page(&api, &record).is_none() {
                        thread::sleep(PAUSE_BETWEEN_MESSAGES);
                    }
                }
            }
        });
        Self { stop_sending, stop_reading, record, threads: vec![sender, reader] }
    }

    /// Stops the sender. The reader continues.
    pub fn stop_sending(&self) {
        self.stop_sending.store(true, Ordering::SeqCst);
    }

    pub fn record(&self) -> std::sync::MutexGuard<'_, MessageRecord> {
        self.record.lock().unwrap()
    }

    pub fn stop(self) -> MessageRecord {
        self.stop_sending();
        self.stop_reading.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

fn send(name: &str, api: &ApiClient, from: &str, to: &str, stop: &AtomicBool, record: &Mutex<MessageRecord>) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let content = format!("{name} {number}");
        let body = json!({"to": to, "from": from, "type": SAY, "body": {"content": content}});
        let is_accepted = api.try_post("/v1/messages", &body).is_some_and(|response| response.status == 202);
        let mut record = record.lock().unwrap();
        if is_accepted {
            record.sent.insert(content)
        } else {
            record.unconfirmed.insert(content)
        };
        drop(record);
        thread::sleep(PAUSE_BETWEEN_MESSAGES);
    }
}

/// Reads a page of the inbox. Records the messages before acknowledging them, so that none is lost if the daemon is
/// killed between. Returns none if there was nothing to read.
fn read_page(api: &ApiClient, record: &Mutex<MessageRecord>) -> Option<()> {
    let response = api.try_request("GET", "/v1/inbox?limit=200", "", "").filter(|response| response.status == 200)?;
    let page = response.json(200);
    let messages = page["messages"].as_array().filter(|messages| !messages.is_empty())?;
    let mut ids = Vec::new();
    for message in messages {
        let id = message["id"].as_str()?.to_owned();
        let content = message["message"]["body"]["content"].as_str()?.to_owned();
        record.lock().unwrap().received.entry(content).or_default().insert(id.clone());
        ids.push(id);
    }
    api.try_post("/v1/inbox/acknowledge", &json!({"ids": ids})).map(drop)
}

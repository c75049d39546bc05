//! Applications: each reads all messages with a cursor of its own and writes to the peers, each time at any node's API.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use super::record::{Item, Record};
use crate::{
    api_client::{ApiClient, SAY},
    random::Random,
};

const PAUSE: Duration = Duration::from_millis(50);
/// The threads in which an application writes to each peer.
const THREADS: u64 = 2;
/// The most messages that an application writes at once.
const MOST_AT_ONCE: u64 = 8;

/// A peer to write to.
#[derive(Clone)]
pub struct Recipient {
    pub name: String,
    pub did: String,
    pub holds_socket: bool,
}

/// The applications, which run until they are stopped.
pub struct Applications {
    stop_writing: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What the applications share.
struct Shared {
    /// The APIs of the nodes: those that have joined and not left.
    nodes: Nodes,
    from: String,
    record: Arc<Record>,
    inbox: Mutex<Inbox>,
    stop_writing: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
}

/// The APIs of the nodes that have joined and not left.
pub type Nodes = Arc<Mutex<Vec<ApiClient>>>;

/// The deliveries that were read.
struct Inbox {
    applications: usize,
    /// The cursor of each delivery, and how many applications have read it.
    read: HashMap<String, (i64, usize)>,
}

impl Applications {
    /// Starts this many applications, which write from this DID.
    pub fn start(
        count: usize,
        nodes: &Nodes,
        from: &str,
        recipients: &[Recipient],
        record: &Arc<Record>,
        random: &mut Random,
    ) -> Self {
        let (stop_writing, stop_reading) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let shared = Arc::new(Shared {
            nodes: nodes.clone(),
            from: from.to_owned(),
            record: record.clone(),
            inbox: Mutex::new(Inbox { applications: count, read: HashMap::new() }),
            stop_writing: stop_writing.clone(),
            stop_reading: stop_reading.clone(),
        });
        let start = |number: usize| {
            let (writer, mut of_writer) = (shared.clone(), random.another());
            let (reader, mut of_reader) = (shared.clone(), random.another());
            let recipients = recipients.to_vec();
            [
                thread::spawn(move || writer.write(number, &recipients, &mut of_writer)),
                thread::spawn(move || reader.read(&mut of_reader)),
            ]
        };
        let threads = (0..count).flat_map(start).collect();
        Self { stop_writing, stop_reading, threads }
    }

    /// Has the applications write nothing more. They continue to read.
    pub fn stop_writing(&self) {
        self.stop_writing.store(true, Ordering::SeqCst);
    }

    pub fn stop(self) {
        self.stop_writing();
        self.stop_reading.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("the application has not panicked"));
    }
}

impl Shared {
    fn any_node(&self, random: &mut Random) -> ApiClient {
        let nodes = self.nodes.lock().unwrap();
        nodes[random.index(nodes.len())].clone()
    }

    /// Writes some messages in one thread at once, again and again.
    fn write(&self, application: usize, recipients: &[Recipient], random: &mut Random) {
        let mut next: HashMap<String, usize> = HashMap::new();
        loop {
            let to = &recipients[random.index(recipients.len())];
            let thread = format!("{application}-{}-{}", to.name, random.below(THREADS));
            let number = next.entry(thread.clone()).or_default();
            for _ in 0..=random.below(MOST_AT_ONCE) {
                if !self.write_one(to, &Item::new(&thread, *number), random) {
                    return;
                }
                *number += 1;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Writes a message with an id of its own. It is repeated until it is accepted. Returns false if this is to end.
    fn write_one(&self, to: &Recipient, item: &Item, random: &mut Random) -> bool {
        let of_record = || if to.holds_socket { self.record.on_sockets() } else { self.record.sent() };
        of_record().unconfirmed.insert(item.clone());
        let message = json!({
            "id": item.content(), "to": to.did, "from": self.from, "type": SAY, "hold": to.holds_socket,
            "headers": {"thid": item.thread}, "body": {"content": item.content()},
        });
        while !self.stop_writing.load(Ordering::SeqCst) {
            match self.any_node(random).try_post("/v1/messages", &message) {
                Some(answer) if answer.status == 202 => {
                    of_record().accept(item);
                    return true;
                }
                Some(answer) if answer.status < 500 && answer.status != 429 => {
                    self.record.fault(format!("{}: {} {}", item.content(), answer.status, answer.body));
                }
                _ => {}
            }
            thread::sleep(PAUSE);
        }
        false
    }

    /// Reads the inbox behind a cursor that only moves forward. Acknowledges what all applications have read.
    fn read(&self, random: &mut Random) {
        let (mut cursor, mut read, mut to_acknowledge) = (0, HashSet::new(), Vec::new());
        while !self.stop_reading.load(Ordering::SeqCst) {
            if !to_acknowledge.is_empty() {
                let ids = json!({"ids": to_acknowledge});
                let answer = self.any_node(random).try_post("/v1/inbox/acknowledge", &ids);
                if answer.is_some_and(|answer| answer.status == 200) {
                    to_acknowledge.clear();
                }
            }
            let page = self.any_node(random).try_request("GET", &format!("/v1/inbox?limit=100&after={cursor}"), "", "");
            match page {
                Some(page) if page.status == 200 => {
                    let page = page.json(200);
                    let messages = page["messages"].as_array().unwrap();
                    let mut inbox = self.inbox.lock().unwrap();
                    for message in messages {
                        self.note(message, &mut cursor, &mut read, &mut inbox, &mut to_acknowledge);
                    }
                    if !messages.is_empty() {
                        continue;
                    }
                }
                Some(page) if page.status < 500 => self.record.fault(format!("inbox: {} {}", page.status, page.body)),
                _ => {}
            }
            thread::sleep(PAUSE);
        }
    }

    fn note(
        &self,
        message: &Value,
        cursor: &mut i64,
        read: &mut HashSet<String>,
        inbox: &mut Inbox,
        to_acknowledge: &mut Vec<String>,
    ) {
        let id = message["id"].as_str().unwrap().to_owned();
        let at = message["cursor"].as_i64().unwrap();
        if at <= *cursor {
            self.record.fault(format!("delivery {id} is at {at}, and was read behind {cursor}"));
        }
        *cursor = at;
        if !read.insert(id.clone()) {
            return self.record.fault(format!("delivery {id} was read before"));
        }
        let (of_others, count) = inbox.read.entry(id.clone()).or_insert((at, 0));
        *count += 1;
        if *of_others != at {
            self.record.fault(format!("delivery {id} is at {at}, and was at {of_others}"));
        }
        if *count == 1 {
            let item = message["message"]["body"]["content"].as_str().and_then(Item::parse);
            match item {
                Some(item) => self.record.received().arrive(item, &id),
                None => self.record.fault(format!("an application got {message}")),
            }
        }
        if *count == inbox.applications {
            to_acknowledge.push(id);
        }
    }
}

//! What was accepted, handed over and sent, and the check that it agrees.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A message in a sequence: its thread, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    pub thread: String,
    pub number: usize,
}

impl Item {
    pub fn new(thread: &str, number: usize) -> Self {
        Self { thread: thread.to_owned(), number }
    }

    /// The content of the message, which may be its id as well.
    pub fn content(&self) -> String {
        format!("{}.{}", self.thread, self.number)
    }

    pub fn parse(content: &str) -> Option<Self> {
        let (thread, number) = content.rsplit_once('.')?;
        Some(Self::new(thread, number.parse().ok()?))
    }
}

/// What happened to the messages of one direction.
#[derive(Default)]
pub struct Messages {
    /// Those that the daemons have accepted.
    pub accepted: HashSet<Item>,
    /// Those whose sender has got no answer yet.
    pub unconfirmed: HashSet<Item>,
    /// Those that arrived, with the ids under which each did.
    pub arrived: HashMap<Item, HashSet<String>>,
    /// How many arrived again under the same id.
    pub repeated: usize,
    /// The highest number of each thread that has arrived.
    highest: BTreeMap<String, usize>,
    /// Those that arrived after a later one of their thread.
    pub overtaken: Vec<Item>,
    gap: Gap,
}

/// The longest time between two events.
#[derive(Default)]
pub struct Gap {
    last: Option<Instant>,
    pub longest: Duration,
}

impl Gap {
    pub fn note(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }

    /// Ends the measurement with this event.
    pub fn end(&mut self) {
        self.note();
        self.last = None;
    }
}

impl Messages {
    /// Notes that a message arrived under this id.
    pub fn arrive(&mut self, item: Item, id: &str) {
        self.gap.note();
        let ids = self.arrived.entry(item.clone()).or_default();
        let is_first = ids.is_empty();
        if !ids.insert(id.to_owned()) {
            self.repeated += 1;
        }
        if is_first {
            let highest = self.highest.entry(item.thread.clone()).or_default();
            if item.number < *highest {
                self.overtaken.push(item);
            } else {
                *highest = item.number;
            }
        }
    }

    pub fn accept(&mut self, item: &Item) {
        self.unconfirmed.remove(item);
        self.accepted.insert(item.clone());
    }

    pub fn missing(&self) -> impl Iterator<Item = &Item> {
        self.accepted.iter().filter(|item| !self.arrived.contains_key(item))
    }

    /// Those that arrived under several ids.
    pub fn with_two_ids(&self) -> Vec<(&Item, &HashSet<String>)> {
        self.arrived.iter().filter(|(_, ids)| ids.len() > 1).collect()
    }

    /// Those that arrived and that nobody sent.
    pub fn not_sent(&self) -> Vec<&Item> {
        self.arrived.keys().filter(|item| !self.accepted.contains(item) && !self.unconfirmed.contains(item)).collect()
    }

    /// The longest time in which nothing arrived.
    pub fn longest_gap(&self) -> Duration {
        self.gap.longest
    }

    /// Measures no longer how long nothing arrives.
    pub fn end_measurement(&mut self) {
        self.gap.end();
    }

    /// Asserts what holds of each direction.
    #[track_caller]
    pub fn assert_right(&self, what: &str) {
        let twice = self.with_two_ids();
        assert!(twice.is_empty(), "{what} under two ids: {twice:?}");
        let not_sent = self.not_sent();
        assert!(not_sent.is_empty(), "{what} that nobody sent: {not_sent:?}");
    }
}

/// The directions.
#[derive(Default)]
pub struct Record {
    /// From peers to the applications.
    received: Mutex<Messages>,
    /// Pings of peers, and the responses to them.
    pings: Mutex<Messages>,
    /// Pings on WebSockets, and the responses to them. A response is lost with its WebSocket.
    socket_pings: Mutex<Messages>,
    /// From applications to peers with an endpoint.
    sent: Mutex<Messages>,
    /// From applications to peers that hold a WebSocket.
    on_sockets: Mutex<Messages>,
    /// The answers of 202 to peers.
    answers: Mutex<Gap>,
    /// What is wrong, as it is seen.
    faults: Mutex<Vec<String>>,
}

impl Record {
    pub fn received(&self) -> MutexGuard<'_, Messages> {
        self.received.lock().unwrap()
    }

    pub fn pings(&self) -> MutexGuard<'_, Messages> {
        self.pings.lock().unwrap()
    }

    pub fn socket_pings(&self) -> MutexGuard<'_, Messages> {
        self.socket_pings.lock().unwrap()
    }

    pub fn sent(&self) -> MutexGuard<'_, Messages> {
        self.sent.lock().unwrap()
    }

    pub fn on_sockets(&self) -> MutexGuard<'_, Messages> {
        self.on_sockets.lock().unwrap()
    }

    pub fn answers(&self) -> MutexGuard<'_, Gap> {
        self.answers.lock().unwrap()
    }

    pub fn fault(&self, fault: String) {
        println!("fault: {fault}");
        self.faults.lock().unwrap().push(fault);
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }
}

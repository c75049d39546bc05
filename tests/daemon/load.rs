//! Peers that send messages without a pause, and the check that each was delivered once.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    daemon::{Daemon, http, status_of},
    peer::Peer,
};

/// Threads that send to a daemon, each as another peer.
pub struct LoadGenerator {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<SentMessages>>,
}

/// The contents of the messages that were sent.
#[derive(Default)]
pub struct SentMessages {
    /// The contents of messages that were answered with 202.
    pub accepted: HashSet<String>,
    /// The contents of messages without a response when the load ended. The daemon may have accepted them.
    pub unconfirmed: HashSet<String>,
}

impl LoadGenerator {
    pub fn start(daemon: &Daemon, threads: usize) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = |name: usize| {
            let (did, port, stop, accepted) = (daemon.did.clone(), daemon.port, stop.clone(), accepted.clone());
            thread::spawn(move || send(&format!("{name}"), &did, port, &stop, &accepted))
        };
        let threads = (0..threads).map(one).collect();
        Self { stop, accepted, threads }
    }

    /// How many messages were answered with 202 until now.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn stop(self) -> SentMessages {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = SentMessages::default();
        for thread in self.threads {
            let sent = thread.join().unwrap();
            all.accepted.extend(sent.accepted);
            all.unconfirmed.extend(sent.unconfirmed);
        }
        all
    }
}

fn send(name: &str, did: &str, port: u16, stop: &AtomicBool, count: &AtomicUsize) -> SentMessages {
    let peer = Peer::new(name);
    let mut sent = SentMessages::default();
    for number in 0.. {
        let content = format!("{name}/{number}");
        let message = peer.message(did, &content).finalize();
        let mut packed = peer.pack(&message);
        // The peer tries again until the message is accepted, alternately with the same bytes and packed again.
        for attempt in 1.. {
            if stop.load(Ordering::SeqCst) {
                sent.unconfirmed.insert(content);
                return sent;
            }
            if post_status(port, &packed) == 202 {
                break;
            }
            thread::sleep(Duration::from_millis(20));
            if attempt % 2 == 0 {
                packed = peer.pack(&message);
            }
        }
        sent.accepted.insert(content);
        count.fetch_add(1, Ordering::SeqCst);
    }
    sent
}

/// Posts a message. Returns the status, or 0 without a response.
pub fn post_status(port: u16, packed: &str) -> u16 {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        packed.len()
    );
    status_of(&http(port, &head, packed.as_bytes()))
}

impl SentMessages {
    /// Asserts that the application has each accepted message once, and none that was not sent.
    #[track_caller]
    pub fn assert_each_delivered_once(&self, daemon: &Daemon, timeout: Duration) {
        daemon.wait_until_within(timeout, "all messages arrived", |daemon| {
            let here: HashSet<String> = daemon.unread_texts().into_iter().collect();
            self.accepted.iter().all(|content| here.contains(content))
        });
        daemon.wait_until_all_opened();
        let mut times: HashMap<String, usize> = HashMap::new();
        daemon.unread_texts().into_iter().for_each(|content| *times.entry(content).or_default() += 1);
        let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "delivered twice: {twice:?}");
        let not_sent: Vec<_> =
            times.keys().filter(|it| !self.accepted.contains(*it) && !self.unconfirmed.contains(*it)).collect();
        assert!(not_sent.is_empty(), "delivered, but not sent: {not_sent:?}");
    }
}

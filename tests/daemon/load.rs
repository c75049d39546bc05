//! Peers that send without a pause, and what must have come of it.

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
    daemon::{Daemon, http},
    peer::Peer,
};

/// Threads that send to a daemon, each as a peer of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Sent>>,
}

/// What was sent.
#[derive(Default)]
pub struct Sent {
    /// Answered with 202.
    pub accepted: HashSet<String>,
    /// Given up when the load ended: nobody knows whether they were taken.
    pub open: HashSet<String>,
}

impl Load {
    pub fn on(daemon: &Daemon, threads: usize) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = |name: usize| {
            let (did, port, stop, accepted) = (daemon.did.clone(), daemon.port, stop.clone(), accepted.clone());
            thread::spawn(move || send(&format!("{name}"), &did, port, &stop, &accepted))
        };
        let threads = (0..threads).map(one).collect();
        Self { stop, accepted, threads }
    }

    /// How many were answered with 202 by now.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Sent::default();
        for thread in self.threads {
            let sent = thread.join().unwrap();
            all.accepted.extend(sent.accepted);
            all.open.extend(sent.open);
        }
        all
    }
}

fn send(name: &str, did: &str, port: u16, stop: &AtomicBool, count: &AtomicUsize) -> Sent {
    let peer = Peer::new(name);
    let mut sent = Sent::default();
    for number in 0.. {
        let content = format!("{name}/{number}");
        let message = peer.message(did, &content).finalize();
        let mut packed = peer.pack(&message);
        // As a real peer does it: again until it is taken, now the same bytes and then packed anew.
        for attempt in 1.. {
            if stop.load(Ordering::SeqCst) {
                sent.open.insert(content);
                return sent;
            }
            if post(port, &packed) == 202 {
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

/// The status of the answer; 0 if there is none.
pub fn post(port: u16, packed: &str) -> u16 {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        packed.len()
    );
    http(port, &head, packed.as_bytes()).get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

impl Sent {
    /// The application has each that was taken, once, and nothing that was not sent.
    #[track_caller]
    pub fn all_came_once(&self, daemon: &Daemon, patience: Duration) {
        daemon.until_within(patience, "all came", |daemon| {
            let here: HashSet<String> = daemon.texts().into_iter().collect();
            self.accepted.iter().all(|content| here.contains(content))
        });
        daemon.settles();
        let mut times: HashMap<String, usize> = HashMap::new();
        daemon.texts().into_iter().for_each(|content| *times.entry(content).or_default() += 1);
        let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "handed over twice: {twice:?}");
        let strange: Vec<_> =
            times.keys().filter(|it| !self.accepted.contains(*it) && !self.open.contains(*it)).collect();
        assert!(strange.is_empty(), "from nowhere: {strange:?}");
    }
}

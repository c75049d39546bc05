//! Packs messages by the thousand, posts them as peers, and sends requests as the application.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Instant, SystemTime},
};

use claviger::{
    did::{Document, LocalResolver, Relationship, peer},
    didcomm::{Identities, Message},
    keys::Curve,
    secrets::{Custodian, KeyUse, Keyring},
};
use claviger_interop::{
    daemon::Daemon,
    http::{Connection, ENCRYPTED},
};
use claviger_testkit::{PrivateKey, SoftToken};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The number of connections that are kept open. Each has one message in progress.
pub const LANES: usize = 32;
/// The number of connections of the application.
const APPLICATION: usize = 8;
/// A message type of no protocol that the daemon knows. The daemon delivers such messages to the application.
pub const LETTER: &str = "https://example.org/letters/1.0/letter";

/// A message body of 1 KB.
pub fn body() -> Value {
    json!({ "text": "All that is gold does not glitter. ".chars().cycle().take(1000).collect::<String>() })
}

/// Peers that write to DIDs of the daemon. Each has one key.
pub struct Senders {
    to: Vec<String>,
    all: Vec<(Identities, String)>,
}

impl Senders {
    /// Makes `count` peers with keys on this curve. They write to each of the DIDs `to` in turn.
    pub fn new(runtime: &Runtime, to: Vec<String>, curve: Curve, count: usize) -> Self {
        // One token for every hundred senders, because a token searches all its keys.
        const FEW: usize = 100;
        let mut all = Vec::new();
        while all.len() < count {
            let token = SoftToken::new("senders");
            let documents: Vec<Document> = (0..FEW.min(count - all.len()))
                .map(|_| {
                    let key = PrivateKey::generate(curve);
                    token.import(key.to_import(KeyUse::Agreement, None)).expect("a fresh key");
                    peer::create_2(&[(Relationship::KeyAgreement, key.public().clone())], &[]).expect("a DID")
                })
                .collect();
            let dids: Vec<String> = documents.iter().map(|document| document.id().to_owned()).collect();
            let keyring = runtime.block_on(Keyring::start([token])).expect("a token in memory");
            let me = runtime.block_on(Identities::new(keyring, documents)).expect("its keys");
            all.extend(dids.into_iter().map(|did| (me.clone(), did)));
        }
        Self { to, all }
    }

    /// Packs messages, from one sender after the other.
    pub fn pack(&self, runtime: &Runtime, messages: usize) -> Vec<String> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs();
        let resolver = LocalResolver::new();
        let each = (0..messages).map(|number| {
            let (me, from) = &self.all[number % self.all.len()];
            let to = &self.to[number % self.to.len()];
            let message = Message::build(Message::new_id(), LETTER, body()).from(from).to(to);
            let message = message.created_time(time).finalize();
            let packed = message.encrypt_to(to).from(from).pack(&resolver, me);
            runtime.block_on(packed).expect("it packs").0
        });
        each.collect()
    }
}

/// The result of posting messages.
pub struct Load {
    /// Messages a second.
    pub rate: f64,
    /// How long each POST took, in milliseconds, the shortest first.
    pub latencies: Vec<f64>,
}

impl Load {
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * part).round() as usize]
    }
}

/// POSTs messages on `lanes` connections at once. Returns how long each POST took, in milliseconds, the shortest first.
pub fn post(port: u16, mail: Vec<String>, lanes: usize) -> Vec<f64> {
    let (next, took) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut connection = Connection::open(port).expect("the daemon is there");
                let mut own = Vec::new();
                while let Some(packed) = mail.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let answer = connection.post("/", ENCRYPTED, packed).expect("it answers");
                    own.push(begun.elapsed().as_secs_f64() * 1e3);
                    assert_eq!(answer.status, 202, "{answer:?}");
                }
                took.lock().expect("no panic").extend(own);
            });
        }
    });
    let mut took = took.into_inner().expect("no panic");
    took.sort_by(f64::total_cmp);
    took
}

/// POSTs these requests to the daemon's API, as its application.
pub fn ask(daemon: &Daemon, requests: Vec<String>) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..APPLICATION {
            scope.spawn(|| {
                let mut application = daemon.application();
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = application.post("/v1/messages", "application/json", request).expect("it answers");
                    assert_eq!(answer.status, 202, "{answer:?}");
                }
            });
        }
    });
}

//! An honest peer: it has an endpoint, and a connection with the agent. It pings, and measures the round trips.

use std::{
    fmt,
    sync::{
        Mutex,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

use claviger::didcomm::{Message, MessageBuilder};
use serde_json::json;

use crate::{
    daemon::{Daemon, TIMEOUT},
    endpoint::{Endpoint, accepted},
    peer::{Peer, seconds},
};

const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
const PAUSE: Duration = Duration::from_millis(50);

pub struct HonestPeer {
    peer: Peer,
    answers: Mutex<Receiver<String>>,
    foreign: Mutex<Vec<String>>,
    _endpoint: Endpoint,
}

/// The round trips of one period.
#[derive(Debug)]
pub struct RoundTrips {
    pub count: usize,
    pub unanswered: usize,
    pub median: Duration,
    pub p99: Duration,
}

impl fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, unanswered, median, p99 } = self;
        write!(f, "{count} pings, {unanswered} unanswered, median {median:.1?}, p99 {p99:.1?}")
    }
}

impl HonestPeer {
    pub fn new() -> Self {
        let (sender, answers): (Sender<String>, _) = mpsc::channel();
        let sender = Mutex::new(sender);
        let endpoint = Endpoint::new(move |request| {
            let _ = sender.lock().unwrap().send(request.body.clone());
            accepted()
        });
        let peer = Peer::with_endpoint("honest", &endpoint.uri());
        Self { peer, answers: Mutex::new(answers), foreign: Mutex::default(), _endpoint: endpoint }
    }

    /// Exchanges messages, so that the agent knows the peer: the application writes to it.
    pub fn connect(&self, daemon: &Daemon) {
        assert!(daemon.send_text(self.peer.did(), "good morning").is_some());
        let packed = self.answers.lock().unwrap().recv_timeout(TIMEOUT).expect("the application's message");
        self.peer.open(&packed);
        assert_eq!(daemon.post_status(self.peer.pack_text(&daemon.did, "good morning")), 202);
    }

    fn ping(&self, daemon: &Daemon) -> MessageBuilder {
        Message::build(Message::new_id(), PING, json!({"response_requested": true}))
            .from(self.peer.did())
            .to(&daemon.did)
            .created_time(seconds())
    }

    /// A message to the agent as an attacker may capture it on its way: it asks for replies on its connection.
    pub fn captured_with_return_route(&self, daemon: &Daemon) -> String {
        let message = self.ping(daemon).return_route("all").finalize();
        let packed = self.peer.pack(&message);
        // The reply comes in the response.
        assert_eq!(daemon.post_status(&packed), 200);
        packed
    }

    /// Pings, each time after the answer to the last ping, for this time.
    pub fn ping_for(&self, daemon: &Daemon, time: Duration) -> RoundTrips {
        let (until, mut times, mut unanswered) = (Instant::now() + time, Vec::new(), 0);
        while Instant::now() < until {
            let ping = self.ping(daemon).finalize();
            let packed = self.peer.pack(&ping);
            let begun = Instant::now();
            assert_eq!(daemon.post_status(&packed), 202, "{}", daemon.log());
            match self.answer(&ping.id) {
                true => times.push(begun.elapsed()),
                false => unanswered += 1,
            }
            std::thread::sleep(PAUSE);
        }
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(TIMEOUT);
        RoundTrips { count: times.len() + unanswered, unanswered, median: at(50), p99: at(99) }
    }

    /// Whether the ping with this id is answered in time.
    fn answer(&self, id: &str) -> bool {
        let answers = self.answers.lock().unwrap();
        let until = Instant::now() + TIMEOUT;
        while let Ok(packed) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if !packed.starts_with('{') {
                self.foreign.lock().unwrap().push(packed);
                continue;
            }
            let (message, _) = self.peer.open(&packed);
            if message.thid.as_deref() == Some(id) {
                return true;
            }
        }
        false
    }

    /// Asserts that its endpoint got nothing but messages for it.
    pub fn assert_only_answers_to_itself(&self) {
        assert_eq!(*self.foreign.lock().unwrap(), Vec::<String>::new());
    }
}

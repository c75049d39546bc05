//! What the next conversation with a mediator is tried with, and when it is asked again.

use std::time::Duration;

use tokio::time::Instant;

use super::{channel::Transport, error::MediationError, service::MAX_DELIVERY};

/// How many WebSockets in a row may open and then be of no use, before HTTP is used for a while.
const MAX_DEAD_SOCKETS: usize = 2;
/// The pause after a first fetch that has brought nothing although messages were announced.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How far a conversation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Nothing,
    /// The WebSocket is open.
    Socket,
    /// Our DIDs are registered, and the queue is fetched.
    Queue,
}

/// What a conversation is tried with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub transport: Transport,
    /// The most messages in one delivery. 0 if even one delivery is too large: then only live messages are accepted.
    pub max_delivery: usize,
    dead_sockets: usize,
}

impl Plan {
    pub fn new(transport: Transport) -> Self {
        Self { transport, max_delivery: MAX_DELIVERY, dead_sockets: 0 }
    }

    /// The plan after a conversation by this one, which has ended with `error` or without. `preferred` is the transport
    /// that the settings prefer.
    pub fn after(self, error: Option<&MediationError>, reached: Reached, preferred: Transport) -> Self {
        let max_delivery = match error {
            Some(MediationError::TooLarge(_)) => usize::from(self.max_delivery > 1),
            // Messages that were too large for one delivery have been fetched one by one.
            _ if reached == Reached::Queue => MAX_DELIVERY,
            _ => self.max_delivery,
        };
        if self.transport != preferred {
            return Self { transport: preferred, max_delivery, dead_sockets: MAX_DEAD_SOCKETS - 1 };
        }
        let dead_sockets = match (error, reached) {
            (Some(MediationError::Unreachable(_)), Reached::Socket) => self.dead_sockets + 1,
            (_, Reached::Nothing) => self.dead_sockets,
            _ => 0,
        };
        let is_dead = dead_sockets >= MAX_DEAD_SOCKETS && preferred == Transport::PreferWebSocket;
        let transport = if is_dead { Transport::PreferHttp } else { preferred };
        Self { transport, max_delivery, dead_sockets }
    }

    /// Whether a conversation by this plan should be replaced by a better one after a while.
    pub fn is_makeshift(self, preferred: Transport, is_websocket: bool) -> bool {
        self.max_delivery == 0 || (preferred == Transport::PreferWebSocket && !is_websocket)
    }
}

/// The pause between fetches of messages that the mediator announces. It grows while they bring nothing: a mediator may
/// announce messages for ever.
#[derive(Debug)]
pub(super) struct Pause {
    end: Instant,
    length: Duration,
    max: Duration,
}

impl Pause {
    pub fn new(max: Duration) -> Self {
        Self { end: Instant::now(), length: FIRST_PAUSE.min(max), max }
    }

    /// When the pause ends.
    pub fn end(&self) -> Instant {
        self.end
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Begins the pause after a fetch. `is_useful` says whether the fetch has brought anything new.
    pub fn begin(&mut self, is_useful: bool) {
        let now = Instant::now();
        if is_useful {
            *self = Self::new(self.max);
        } else {
            self.end = now + self.length;
            self.length = (2 * self.length).min(self.max);
        }
    }
}

/// What a mediator has registered.
#[derive(Debug, Default)]
pub(super) struct Registration {
    /// How many DIDs of ours name the mediator.
    pub wanted: usize,
    /// How many of those the mediator did not register.
    pub missing: usize,
    /// The mediator's result for the first of those.
    pub result: Option<String>,
}

impl Registration {
    /// Why DIDs are missing, for people.
    pub fn reason(&self) -> &str {
        self.result.as_deref().unwrap_or("its answer does not name them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFERRED: Transport = Transport::PreferWebSocket;

    fn silent() -> MediationError {
        MediationError::Unreachable("it does not answer".to_owned())
    }

    #[test]
    fn http_is_used_for_one_conversation_after_two_dead_sockets() {
        let first = Plan::new(PREFERRED);
        let second = first.after(Some(&silent()), Reached::Socket, PREFERRED);
        assert_eq!(second.transport, PREFERRED);
        let third = second.after(Some(&silent()), Reached::Socket, PREFERRED);
        assert_eq!(third.transport, Transport::PreferHttp);
        let fourth = third.after(None, Reached::Queue, PREFERRED);
        assert_eq!(fourth.transport, PREFERRED);
        assert_eq!(fourth.after(Some(&silent()), Reached::Socket, PREFERRED).transport, Transport::PreferHttp);
        // A socket that worked, and a server that is away, count for nothing.
        assert_eq!(fourth.after(Some(&silent()), Reached::Queue, PREFERRED), first);
        assert_eq!(second.after(Some(&silent()), Reached::Nothing, PREFERRED), second);
        let http = Plan::new(Transport::Http);
        assert_eq!(http.after(Some(&silent()), Reached::Nothing, Transport::Http), http);
    }

    #[test]
    fn large_deliveries_are_asked_for_one_by_one_and_then_not_at_all() {
        let too_large = MediationError::TooLarge(9);
        let mut plan = Plan::new(PREFERRED);
        for expected in [1, 0, 0] {
            plan = plan.after(Some(&too_large), Reached::Socket, PREFERRED);
            assert_eq!(plan.max_delivery, expected);
        }
        assert!(plan.is_makeshift(PREFERRED, true));
        plan = plan.after(None, Reached::Queue, PREFERRED);
        assert_eq!(plan.max_delivery, MAX_DELIVERY);
        assert!(!plan.is_makeshift(PREFERRED, true) && plan.is_makeshift(PREFERRED, false));
    }

    #[test]
    fn the_pause_grows_while_fetches_bring_nothing() {
        let mut pause = Pause::new(Duration::from_secs(5));
        assert!(pause.is_over());
        for seconds in [2, 4, 5, 5] {
            let length = pause.length;
            pause.begin(false);
            assert!(!pause.is_over() && pause.end() <= Instant::now() + length);
            assert_eq!(pause.length, Duration::from_secs(seconds));
        }
        pause.begin(true);
        assert!(pause.is_over());
        assert_eq!(pause.length, FIRST_PAUSE);
    }
}

//! What a message in the outbox waits for, and until when.

use std::time::Duration;

use crate::agent::{
    clock::{Millis, now},
    store::types::OutboxEntry,
};

/// What a waiting message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What the message waits for.
    pub reason: WaitReason,
    /// What is wrong, for people. `None` if nothing is.
    pub problem: Option<String>,
    /// When the agent tries again, at the earliest, in milliseconds since 1970. `None` if an event decides.
    pub next_try: Option<Millis>,
}

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// A token with a key of the sender, or the first token that opens the store.
    Token,
    /// The peer, its mediator or its DID document cannot be reached, or does not accept messages now.
    Peer,
    /// Nothing: the message is being sent, or is sent after those before it.
    Turn,
    /// Another node of the store, which sends the message. That node knows what it waits for.
    OtherNode,
}

/// What the messages of one peer wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits {
    /// The last pause of the peer, and why. The messages wait for the peer until it gets messages again.
    pub peer: Option<Pause>,
    /// Our DIDs whose token is away.
    pub senders: Vec<(String, Pause)>,
    /// The messages that wait by themselves: a token has refused one, or a record could not be read.
    pub postponed: Vec<String>,
}

/// A pause, and its reason.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub until: Millis,
    pub problem: String,
}

impl Pause {
    /// A pause that begins now.
    pub fn new(pause: Duration, problem: String) -> Self {
        Self { until: now().saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX)), problem }
    }
}

impl Wait {
    /// The store is sealed, so no message is sent.
    pub(super) fn for_first_token() -> Self {
        let problem = Some("no token has opened the store since the agent started".to_owned());
        Self { reason: WaitReason::Token, problem, next_try: None }
    }

    /// Another node sends the message. The store has what became of the last attempt.
    pub(super) fn for_other_node(entry: &OutboxEntry) -> Self {
        let next_try = entry.problem.is_some().then_some(entry.time);
        Self { reason: WaitReason::OtherNode, problem: entry.problem.clone(), next_try }
    }
}

/// What a message waits for, if the messages of its peer wait for `waits`.
pub(super) fn wait(entry: &OutboxEntry, waits: &Waits, now: Millis) -> Wait {
    if let Some((_, pause)) = waits.senders.iter().find(|(sender, _)| *sender == entry.sender) {
        let problem = Some(pause.problem.clone());
        return Wait { reason: WaitReason::Token, problem, next_try: Some(pause.until) };
    }
    if waits.postponed.contains(&entry.id) {
        return Wait { reason: WaitReason::Token, problem: entry.problem.clone(), next_try: Some(entry.time) };
    }
    if let Some(pause) = &waits.peer {
        let behind = || format!("it waits with another message to the same peer: {}", pause.problem);
        let problem = Some(entry.problem.clone().unwrap_or_else(behind));
        return Wait { reason: WaitReason::Peer, problem, next_try: Some(pause.until.max(now)) };
    }
    Wait { reason: WaitReason::Turn, problem: entry.problem.clone(), next_try: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::types::SendState;

    fn entry(sender: &str, tries: u32, time: Millis, problem: Option<&str>) -> OutboxEntry {
        OutboxEntry {
            id: "id".to_owned(),
            message: "message".to_owned(),
            thread: "thread".to_owned(),
            kind: "kind".to_owned(),
            sender: sender.to_owned(),
            peer: "did:example:peer".to_owned(),
            created: 1,
            expires: 1000,
            state: SendState::Waiting,
            tries,
            time,
            problem: problem.map(str::to_owned),
            to_stranger: false,
            by_application: false,
            sealed: None,
        }
    }

    #[test]
    fn each_message_tells_why_it_waits() {
        let pause = |until, problem: &str| Pause { until, problem: problem.to_owned() };
        let waits = Waits {
            peer: Some(pause(70, "no answer")),
            senders: vec![("a".to_owned(), pause(60, "no token"))],
            ..Waits::default()
        };
        let of = |entry: &OutboxEntry, waits: &Waits| {
            let Wait { reason, problem, next_try } = wait(entry, waits, 50);
            (reason, problem.unwrap_or_default(), next_try)
        };
        assert_eq!(of(&entry("a", 0, 1, None), &waits), (WaitReason::Token, "no token".to_owned(), Some(60)));
        let (reason, problem, next_try) = of(&entry("b", 0, 1, None), &waits);
        assert_eq!((reason, next_try), (WaitReason::Peer, Some(70)));
        assert!(problem.contains("another message") && problem.ends_with("no answer"), "{problem}");
        let tried = entry("b", 1, 65, Some("status 500"));
        assert_eq!(of(&tried, &waits), (WaitReason::Peer, "status 500".to_owned(), Some(70)));
        // The peer is tried again: the messages behind the one that is tried still wait for the peer.
        let over = Waits { peer: Some(pause(40, "no answer")), ..Waits::default() };
        assert_eq!(of(&tried, &over), (WaitReason::Peer, "status 500".to_owned(), Some(50)));
        // The agent was started again, or the peer is back: no token is to blame for what the peer has answered.
        let none = Waits::default();
        assert_eq!(of(&tried, &none), (WaitReason::Turn, "status 500".to_owned(), None));
        let refused = entry("b", 1, 65, Some("the token refused it"));
        let postponed = Waits { postponed: vec![refused.id.clone()], ..waits };
        assert_eq!(of(&refused, &postponed), (WaitReason::Token, "the token refused it".to_owned(), Some(65)));
        assert_eq!(of(&entry("b", 0, 1, None), &none), (WaitReason::Turn, String::new(), None));
        let Wait { reason, problem, next_try } = Wait::for_other_node(&tried);
        assert_eq!((reason, problem.as_deref(), next_try), (WaitReason::OtherNode, Some("status 500"), Some(65)));
        assert_eq!(Wait::for_other_node(&entry("b", 0, 1, None)).next_try, None);
    }
}

//! Which kinds of events are recorded, and what is written of an event.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::{
    clock::now,
    event::EventKind,
    protocol::text::truncate_to,
    store::{Change, NewEvent},
};

/// The longest text in the data of an event, in bytes: a peer may choose a long DID.
const MAX_TEXT: usize = 2048;

/// The kinds of events that are recorded. They may change while the agent runs.
#[derive(Debug, Default)]
pub struct RecordedEvents(AtomicU32);

impl RecordedEvents {
    /// Replaces the kinds.
    pub fn set(&self, kinds: impl IntoIterator<Item = EventKind>) {
        self.0.store(kinds.into_iter().fold(0, |all, kind| all | bit(kind)), Ordering::Relaxed);
    }

    pub fn contains(&self, kind: EventKind) -> bool {
        self.0.load(Ordering::Relaxed) & bit(kind) != 0
    }

    /// Returns the event to write, if its kind is recorded. `data` is an object of names and reasons.
    pub fn event(&self, kind: EventKind, data: impl FnOnce() -> Value) -> Option<NewEvent> {
        self.contains(kind).then(|| new_event(kind, data()))
    }

    /// Like [`event`](Self::event), as a change to commit with what it tells of.
    pub fn change(&self, kind: EventKind, data: impl FnOnce() -> Value) -> Option<Change> {
        self.event(kind, data).map(Change::Event)
    }
}

/// Makes an event of this moment. Longer texts than 2,048 bytes are cut off.
pub fn new_event(kind: EventKind, mut data: Value) -> NewEvent {
    for value in data.as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
        if let Value::String(text) = value
            && text.len() > MAX_TEXT
        {
            *text = format!("{}…", truncate_to(text, MAX_TEXT - '…'.len_utf8()));
        }
    }
    NewEvent { time: now(), kind: kind.name().to_owned(), data: data.to_string() }
}

fn bit(kind: EventKind) -> u32 {
    1 << kind as u32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_recorded_kinds_are_written() {
        let recorded = RecordedEvents::default();
        assert!(EventKind::ALL.iter().all(|kind| !recorded.contains(*kind)));
        recorded.set([EventKind::MessageSent, EventKind::TokenChanged]);
        let of = |kind| recorded.event(kind, || json!({ "a": null, "n": 1 })).map(|event| (event.kind, event.data));
        let data = "{\"a\":null,\"n\":1}".to_owned();
        assert_eq!(of(EventKind::TokenChanged), Some(("token.changed".to_owned(), data)));
        assert_eq!(of(EventKind::MessageFailed), None);
        recorded.set(EventKind::ALL);
        assert!(EventKind::ALL.iter().all(|kind| recorded.contains(*kind)));
    }

    #[test]
    fn long_texts_are_cut_off() {
        let long =
            new_event(EventKind::InvitationUsed, json!({ "theirs": "ü".repeat(5000), "ours": "x".repeat(2048) }));
        let data: Value = serde_json::from_str(&long.data).unwrap();
        assert_eq!(data["ours"].as_str().unwrap().len(), 2048);
        let cut = data["theirs"].as_str().unwrap();
        assert!(cut.len() <= 2048 && cut.starts_with("üü") && cut.ends_with("ü…"), "{cut}");
    }
}

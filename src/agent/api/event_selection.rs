//! Which events a reader wants, and where it is in their order.

use std::fmt;

use super::{error::ApiError, page};
use crate::agent::{agent::Agent, event::EventKind};

/// The name of received messages among the kinds of events. They are in the inbox, and not recorded.
pub(super) const MESSAGE: &str = "message";

/// The events that a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    /// Whether received messages are among them.
    pub messages: bool,
    /// The names of the kinds of recorded events.
    pub kinds: Vec<&'static str>,
}

impl Selection {
    /// Received messages alone.
    pub fn messages() -> Self {
        Self { messages: true, kinds: Vec::new() }
    }

    /// Reads a list of kinds: their names, joined by commas, or `all`.
    ///
    /// # Errors
    /// Status 400 if there is no such kind, or its events are not recorded.
    pub fn parse(text: &str, agent: &Agent) -> Result<Self, ApiError> {
        let recorded = agent.recorded_events();
        if text == "all" {
            return Ok(Self { messages: true, kinds: recorded.into_iter().map(EventKind::name).collect() });
        }
        let invalid = |reason: String| ApiError::invalid("bad-request", reason);
        let mut selection = Self { messages: false, kinds: Vec::new() };
        for name in text.split(',') {
            if name == MESSAGE {
                selection.messages = true;
                continue;
            }
            let kind: EventKind = name.parse().map_err(|error| invalid(format!("{error}, {MESSAGE} and all")))?;
            if !recorded.contains(&kind) {
                return Err(invalid(format!(
                    "{kind} is not recorded: add it to `events` of [api], and restart the agent"
                )));
            }
            if !selection.kinds.contains(&kind.name()) {
                selection.kinds.push(kind.name());
            }
        }
        Ok(selection)
    }

    /// The selection, if it has no messages.
    ///
    /// # Errors
    /// Status 400 otherwise.
    pub fn without_messages(self) -> Result<Self, ApiError> {
        match self.messages {
            true => Err(ApiError::invalid("bad-request", "received messages are not recorded: read /v1/inbox")),
            false => Ok(self),
        }
    }
}

/// A position in the order of events: the cursor of the last message, and that of the last recorded event. Of a reader of
/// messages alone it is the cursor of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EventPosition {
    pub message: i64,
    pub event: i64,
}

impl EventPosition {
    /// Reads a position: `41.7`, or `41` for one before all recorded events. The empty text is the beginning.
    ///
    /// # Errors
    /// Status 400 if the text is no position.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let (message, event) = match text.contains('.') {
            true => page::numbers::<2>(text).map(|[message, event]| (message, event))?,
            false => page::numbers::<1>(text).map(|[message]| (message, 0))?,
        };
        Ok(Self { message, event })
    }

    /// The `id` of an event for a reader of this selection.
    pub fn id(self, selection: &Selection) -> String {
        if selection.kinds.is_empty() { self.message.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_strictly() {
        let read = |text: &str| EventPosition::parse(text).map(|it| (it.message, it.event)).ok();
        assert_eq!(["", "41", "41.7", "-1"].map(read), [Some((0, 0)), Some((41, 0)), Some((41, 7)), Some((-1, 0))]);
        for invalid in ["x", "1.", ".1", "1.2.3", "1 .2", "9223372036854775808"] {
            assert_eq!(read(invalid), None, "{invalid}");
        }
        let position = EventPosition { message: 41, event: 7 };
        assert_eq!(position.id(&Selection::messages()), "41");
        assert_eq!(position.id(&Selection { messages: false, kinds: vec!["message.sent"] }), "41.7");
    }
}

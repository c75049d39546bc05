//! The tracing spans of the agent.

/// The target of the agent's spans. There is a span for each message that is opened and handled, for each attempt to
/// send a message, and for each private-key operation. Spans contain ids, message types and results, and no message
/// content.
pub const SPAN_TARGET: &str = "claviger::spans";

//! The tracing spans of the agent.

/// The target of the agent's spans: a message is opened and handled, a message is sent, a token operation. Spans have ids,
/// kinds and results, and no content.
pub const SPAN_TARGET: &str = "claviger::spans";

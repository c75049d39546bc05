//! The features of an agent, as discover-features discloses them.

/// The features of this agent.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// The protocol identifiers, and the agent's roles in each protocol.
    pub protocols: Vec<(String, Vec<String>)>,
    /// The goal codes that the agent knows.
    pub goal_codes: Vec<String>,
    /// The optional headers that the agent supports.
    pub headers: Vec<String>,
    /// The largest message that the agent accepts, in bytes: the constraint `max_receive_bytes`.
    pub max_receive_bytes: Option<u64>,
}

//! What an agent can do, as discover-features discloses it.

/// The features of this agent.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// The protocol identifiers, and the agent's roles in each protocol.
    pub protocols: Vec<(String, Vec<String>)>,
    /// The goal codes that the agent knows.
    pub goal_codes: Vec<String>,
    /// The headers that the agent reads, beyond those that every agent reads.
    pub headers: Vec<String>,
    /// The largest message that the agent takes, in bytes: the constraint `max_receive_bytes`.
    pub max_receive_bytes: Option<u64>,
}

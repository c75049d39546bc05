//! The versions of the method that are supported.

/// The version of the method of our own logs.
pub(super) const METHOD: &str = "did:webvh:1.0";

/// The supported versions of the method, oldest first. Each permits one hash function and one cryptosuite, the same ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MethodVersion {
    /// Version 0.5. Its witnesses have weights, and approve entries after the one that names them. It has no watchers.
    #[default]
    V0_5,
    /// Version 1.0.
    V1_0,
}

impl MethodVersion {
    /// Parses the parameter `method`. No other value is accepted, not even that of a candidate.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "did:webvh:0.5" => Some(Self::V0_5),
            METHOD => Some(Self::V1_0),
            _ => None,
        }
    }
}

//! The configuration of a keeper.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use crate::{keys::PublicKey, secrets::policy::Policy};

/// The configuration of a keeper.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The file of the audit log. `None` is for tests only.
    pub audit: Option<PathBuf>,
    /// How many operations with each key are allowed per second. As many are allowed at once. Wrapping a content key
    /// counts once for each recipient. `None` means no limit.
    pub rate: Option<NonZeroU32>,
    /// How long an operation may take. An operation that takes longer counts as hung, and the keeper ends, so that
    /// another can be started.
    pub hang_timeout: Duration,
    /// The policy of the token.
    pub policy: Policy,
    /// The policies of single keys, which override the token's policy.
    pub key_policies: Vec<(PublicKey, Policy)>,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self {
            audit: None,
            rate: NonZeroU32::new(10_000),
            hang_timeout: Duration::from_secs(60),
            policy: Policy::default(),
            key_policies: Vec::new(),
        }
    }
}

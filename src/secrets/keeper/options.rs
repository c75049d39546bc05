//! The configuration of a keeper.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use crate::{keys::PublicKey, secrets::policy::Policy};

/// The configuration of a keeper.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The file of the audit log. `None` is for tests only.
    pub audit: Option<PathBuf>,
    /// How many refusals of one kind (operation, result and user) have an audit line of their own within a minute. The
    /// others are counted, and each count has a line.
    pub audit_refusals: u32,
    /// How many operations with each key are allowed per second. As many are allowed at once. Wrapping a content key
    /// counts once for each recipient. `None` means no limit.
    pub rate: Option<NonZeroU32>,
    /// How long an operation may take. An operation that takes longer counts as hung, and the keeper ends, so that
    /// another can be started.
    pub hang_timeout: Duration,
    /// How long a token may fail before a new process is tried. A device whose profile says that a new process helps is
    /// given less time.
    pub renew_after: Duration,
    /// How often the keys of a token in service are found and tested again. `None` means only after an outage.
    pub check_interval: Option<Duration>,
    /// How often an idle token is asked whether it is still there. `None` means never: a missing token is noticed when it
    /// is used.
    pub probe_interval: Option<Duration>,
    /// Whether the keeper logs the outages of its token. Not if it was started for one client, which knows whether an outage
    /// began before this keeper.
    pub logs_outages: bool,
    /// The policy of the token.
    pub policy: Policy,
    /// The policies of single keys, which override the token's policy.
    pub key_policies: Vec<(PublicKey, Policy)>,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self {
            audit: None,
            audit_refusals: 10,
            rate: NonZeroU32::new(10_000),
            hang_timeout: Duration::from_secs(60),
            renew_after: Duration::from_secs(5),
            check_interval: Some(Duration::from_secs(600)),
            probe_interval: Some(Duration::from_secs(5)),
            logs_outages: true,
            policy: Policy::default(),
            key_policies: Vec::new(),
        }
    }
}

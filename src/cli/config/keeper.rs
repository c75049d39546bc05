//! `[keeper]`: the processes that hold tokens.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use claviger::secrets::keeper::KeeperOptions;
use serde::Deserialize;

use crate::cli::failure::Failure;

/// The keepers: the processes that hold tokens, with the PKCS#11 module and the PIN.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct KeeperSection {
    /// Whether commands open tokens in their own process, without a keeper. The module, the PIN and a software token's
    /// keys are then in the memory of that process, and a warning says so. `claviger serve` refuses it.
    pub in_process: bool,
    /// Operations per second for each key, at most. 0: no limit.
    rate: u32,
    /// An operation that takes longer than this many seconds has hung. Its keeper ends, and another one is started. The
    /// time during which a person is asked for a PIN or a touch does not count.
    hang_seconds: u64,
    /// A token that fails for this many seconds gets a new keeper process, because some modules work again only in a new
    /// process. Doubled each time that it does not help, up to five minutes.
    renew_seconds: u64,
    /// The keys of a token are found and tested again after this many seconds. A key whose halves no longer belong
    /// together is then no longer used, and the agent refuses the DIDs whose documents have it. 0: only after the token
    /// was away.
    check_keys_seconds: u64,
    /// A token that was not used for this many seconds is asked whether it is still there. That needs no PIN and asks no
    /// person. So a missing token is noticed before a message arrives. 0: only when it is used.
    probe_seconds: u64,
    /// The audit file, to which a line is added for each operation. Without it: `audit.jsonl` in `state_dir`.
    pub audit: Option<PathBuf>,
    /// How many refusals of one kind (operation, result and user) have an audit line of their own within a minute. The
    /// others are counted, and each count has a line.
    pub audit_refusals: u32,
    /// The users, by name or number, whose processes may use the keys of a keeper with a socket of its own. Without it:
    /// the keeper's user and root.
    pub agents: Option<Vec<String>>,
    /// The users whose processes may also make and delete its keys. Without it: the keeper's user and root.
    pub custodians: Option<Vec<String>>,
}

impl Default for KeeperSection {
    fn default() -> Self {
        let KeeperOptions { audit_refusals, rate, hang_timeout, renew_after, check_interval, probe_interval, .. } =
            KeeperOptions::default();
        Self {
            in_process: false,
            rate: rate.map_or(0, NonZeroU32::get),
            hang_seconds: hang_timeout.as_secs(),
            renew_seconds: renew_after.as_secs(),
            check_keys_seconds: check_interval.map_or(0, |interval| interval.as_secs()),
            probe_seconds: probe_interval.map_or(0, |interval| interval.as_secs()),
            audit: None,
            audit_refusals,
            agents: None,
            custodians: None,
        }
    }
}

impl KeeperSection {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), Failure> {
        let zeros = [
            ("hang_seconds", self.hang_seconds, "each operation would have hung"),
            ("renew_seconds", self.renew_seconds, "a token that fails would get new keepers without a pause"),
        ];
        match zeros.into_iter().find(|(_, value, _)| *value == 0) {
            Some((name, _, why)) => Err(Failure::usage("bad-config", format!("{name} in [keeper] is 0: {why}"))),
            None => Ok(()),
        }
    }

    /// Operations per second for each key, at most. `None`: no limit.
    pub fn rate(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.rate)
    }

    /// The time after which an operation has hung.
    pub fn hang_timeout(&self) -> Duration {
        Duration::from_secs(self.hang_seconds)
    }

    /// How often keys are found and tested again. `None`: only after an outage.
    pub fn check_interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.check_keys_seconds)).filter(|interval| !interval.is_zero())
    }

    /// How often an idle token is asked whether it is still there. `None`: never.
    pub fn probe_interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.probe_seconds)).filter(|interval| !interval.is_zero())
    }

    /// How long a token may fail before a new keeper process is tried.
    pub fn renew_after(&self) -> Duration {
        Duration::from_secs(self.renew_seconds)
    }
}

//! When a token that does not work needs a new keeper process.
//!
//! A failure is cured by the first means that helps: a new session, a new login and a new search for the keys (each
//! probe of the keyring tries these), and at last a new process, which loads and initialises the module again. So any
//! failure that lasts leads to a new process, whatever its code, except a PIN that was refused or whose result is
//! unknown, and a wrong configuration: there a person must act. A new process presents a PIN only by the same rules as
//! the one before (`secrets/pin/`).

use std::time::{Duration, Instant};

use crate::secrets::{
    error::{Cause, TokenError},
    keyring::TokenStatus,
};

/// A token that is absent for longer than this may need a new process, if its profile says so. With SoftHSM 2.6.1, a
/// process never sees a token again after the token was absent.
const MAX_ABSENCE: Duration = Duration::from_millis(1500);
/// A probe of an absent token that takes longer than this does not end soon.
const LONG_PROBE: Duration = Duration::from_secs(5);
/// A probe tests every key, so it may take longer than one operation before it counts as hung.
const OPERATIONS_PER_PROBE: u32 = 10;
/// The longest time that a failing token is given before a new process is tried.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A keeper that ran for longer than this is not counted as one in a row. More than the longest wait.
const LONG_RUN: Duration = Duration::from_secs(600);

/// Whether the token needs a new process because it is absent. `helps` says whether its profile knows that.
///
/// A probe that is running may log in to a token that has just come back. SoftHSM 2.6.1 empties `token.object` and writes it
/// again at each login: if the process is killed in between, the token is lost for good.
pub(super) fn is_due_after_absence(status: &TokenStatus, helps: bool) -> bool {
    let is_long = |since: Instant| since.elapsed() > MAX_ABSENCE;
    let is_between_probes = status.probing.is_none_or(|time| time > LONG_PROBE);
    helps
        && is_between_probes
        && status.outage.as_ref().is_some_and(|it| it.error.cause() == Cause::TokenGone && is_long(it.since))
}

/// Whether the token has failed for so long that a new process is tried. `helps` says whether the token's profile knows
/// that a new process helps. Then the wait is shorter.
///
/// A probe that is running may succeed, so a new process is tried between two probes only.
pub(super) fn is_due(status: &TokenStatus, helps: bool, renew_after: Duration) -> bool {
    let Some(outage) = status.outage.as_ref().filter(|_| status.probing.is_none()) else { return false };
    let wait = if helps { renew_after.mul_f32(0.3) } else { renew_after };
    may_help(&outage.error) && status.failing_since.is_some_and(|since| since.elapsed() > wait)
}

/// Whether a probe does not return.
pub(super) fn is_probe_hung(status: &TokenStatus, hang_timeout: Duration) -> bool {
    status.probing.is_some_and(|time| time > hang_timeout * OPERATIONS_PER_PROBE)
}

/// Whether a new process may cure a failure.
fn may_help(error: &TokenError) -> bool {
    !matches!(error.cause(), Cause::Pin | Cause::Peer | Cause::Permanent)
}

/// Counts the keepers of one token in a row that ended because the token failed.
#[derive(Debug, Default)]
pub struct FailedKeepers {
    count: u32,
    last_start: Option<Instant>,
}

impl FailedKeepers {
    /// The count for a keeper that is started now. `has_failed` says whether the one before ended because its token
    /// failed. The count begins anew after a keeper that ran for ten minutes.
    pub fn next(&mut self, has_failed: bool) -> u32 {
        let ran_long = self.last_start.replace(Instant::now()).is_none_or(|start| start.elapsed() > LONG_RUN);
        self.count = if ran_long { 0 } else { self.count.saturating_add(has_failed.into()) };
        self.count
    }
}

/// How long a token may fail before the next process is tried: `base`, doubled for each keeper that failed before, up to
/// five minutes.
pub fn renewal_wait(base: Duration, failed_keepers: u32) -> Duration {
    base.saturating_mul(2u32.saturating_pow(failed_keepers)).min(LONGEST_WAIT.max(base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{outage::Outage, token::TokenInfo};

    #[test]
    fn any_lasting_failure_is_due_unless_a_person_must_act() {
        let device = TokenError::Device { operation: "C_Login".into(), reason: "CKR_GENERAL_ERROR".into() };
        let session = TokenError::SessionLost { operation: "C_Sign".into(), reason: "CKR_SESSION_CLOSED".into() };
        let away = TokenError::Away("away".into());
        let status = |error: Option<&TokenError>, seconds: u64, probing: Option<u64>| TokenStatus {
            name: "demo".into(),
            info: TokenInfo::default(),
            outage: error.cloned().map(|error| Outage { error, since: Instant::now() - Duration::from_secs(seconds) }),
            failing_since: error.map(|_| Instant::now() - Duration::from_secs(seconds)),
            probing: probing.map(Duration::from_secs),
        };
        let wait = Duration::from_secs(10);
        for error in [&device, &session, &away] {
            assert!(is_due(&status(Some(error), 11, None), false, wait), "{error}");
            assert!(!is_due(&status(Some(error), 9, None), false, wait), "{error}: too early");
            assert!(is_due(&status(Some(error), 4, None), true, wait), "{error}: a process helps");
            assert!(!is_due(&status(Some(error), 11, Some(1)), true, wait), "{error}: a probe runs");
            assert_eq!(is_due_after_absence(&status(Some(error), 2, None), true), error == &away, "{error}");
            assert_eq!(is_due_after_absence(&status(Some(error), 2, Some(6)), true), error == &away, "{error}");
            assert!(!is_due_after_absence(&status(Some(error), 2, Some(1)), true), "{error}: a probe runs");
            assert!(!is_due_after_absence(&status(Some(error), 2, None), false), "{error}");
        }
        for error in [TokenError::Pin("refused".into()), TokenError::Config("wrong".into())] {
            assert!(!is_due(&status(Some(&error), 1000, None), true, wait), "{error}");
        }
        assert!(!is_due(&status(None, 0, None), true, wait));
        assert!(is_probe_hung(&status(Some(&device), 0, Some(601)), Duration::from_secs(60)));
        assert!(!is_probe_hung(&status(Some(&device), 0, Some(599)), Duration::from_secs(60)));
    }

    #[test]
    fn each_failed_keeper_doubles_the_wait() {
        let mut failed = FailedKeepers::default();
        assert_eq!([true, true, true, false, true].map(|has_failed| failed.next(has_failed)), [0, 1, 2, 2, 3]);
        let wait = |base, count| renewal_wait(Duration::from_secs(base), count).as_secs();
        assert_eq!([0, 1, 3, 6, 100].map(|count| wait(5, count)), [5, 10, 40, 300, 300]);
        assert_eq!(wait(600, 3), 600);
    }
}

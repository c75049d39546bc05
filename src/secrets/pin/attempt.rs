//! One attempt to present a PIN to a token: prepare, present, conclude. The same for every device.
//!
//! 1. [`PinAccess::prepare`] opens the source, takes the guard's lock (not for a PIN that a person types), reads the
//!    record, asks how many tries the device has left, and decides by the rules of `record.rs` whether the PIN may be
//!    tried. If so, it reads the PIN and records the attempt as begun.
//! 2. Our code for the device presents [`PinAttempt::pin`] once: C_Login in `pkcs11/login.rs`, VERIFY in
//!    `piv/unlock.rs`. For a key that needs the PIN before each use, VERIFY is repeated, but only after the card has
//!    accepted the PIN.
//! 3. [`PinAccess::conclude`] erases the PIN, records the result, and releases the lock.
//!
//! The code for a device provides only what differs: the tries left, how the PIN is presented, and what an answer
//! means ([`PinOutcome`]).

use std::path::Path;

use super::{
    guard::{PinGuard, PinGuardLock},
    mark::PinMark,
    prompt::{PinPrompt, PinState, Prompt},
    record::{PinRecord, PinRecordState, PinRefusal},
    source::{OpenedPinSource, PinSource, UriPin},
    source_id::PinSourceId,
    value::Pin,
};
use crate::secrets::{Purpose, TokenError, TokenInfo};

/// Access to the PIN of one token: where the PIN comes from, and where its attempts are recorded. It owns no PIN, but
/// may borrow the `pin-value` of the token's URI.
///
/// Several methods take `process_record`, a record that only this process keeps. It takes the place of the guard's
/// record for a PIN that a person types, and for every PIN if there is no guard.
pub(in crate::secrets) struct PinAccess<'a> {
    /// The token, as it describes itself.
    pub(in crate::secrets) info: &'a TokenInfo,
    /// The token's name in the configuration, if it has one.
    pub(in crate::secrets) name: Option<&'a str>,
    pub(in crate::secrets) source: &'a PinSource,
    pub(in crate::secrets) uri: UriPin<'a>,
    /// The folder that a relative path of the source starts from.
    pub(in crate::secrets) base_dir: Option<&'a Path>,
    pub(in crate::secrets) prompt: Option<&'a Prompt>,
    /// Whether the token asks for the PIN itself, on its own pad. Then no source is read.
    pub(in crate::secrets) has_pin_pad: bool,
    /// What a person does about a locked PIN, for the error.
    pub(in crate::secrets) when_locked: &'a str,
    pub(in crate::secrets) guard: Option<&'a PinGuard>,
}

/// What a device reports about the tries left for its PIN.
pub(in crate::secrets) struct TriesLeft {
    pub(in crate::secrets) state: PinState,
    /// The number of tries left, if the device reports it.
    pub(in crate::secrets) count: Option<u8>,
    /// A warning to log before the PIN is read.
    pub(in crate::secrets) warning: Option<&'static str>,
}

/// A PIN that may be presented now. The guard's lock, if the guard records the attempt, is held
/// until [`PinAccess::conclude`].
#[must_use = "an attempt must be concluded, or its result is recorded as unknown"]
pub(in crate::secrets) struct PinAttempt<'g> {
    /// None for a token with a PIN pad.
    pin: Option<Pin>,
    #[cfg(feature = "yubikey")]
    tries_left: Option<u8>,
    /// What the device reported about its PIN before the attempt.
    #[cfg(feature = "pkcs11")]
    reported: PinState,
    lock: Option<PinGuardLock<'g>>,
    /// The mark of the PIN, if its source keeps its identity when the PIN changes.
    mark: Option<PinMark>,
    /// The record before the attempt.
    before: PinRecord,
    /// The record that says that the attempt has begun.
    begun: PinRecord,
}

/// The device's answer to a PIN.
pub(in crate::secrets) enum PinOutcome {
    /// The PIN is correct.
    Accepted,
    /// The PIN is wrong or locked. `reason` is the device's answer, for the log.
    Refused { locked: bool, reason: String },
    /// The PIN was not sent, or the answer says nothing about it. The record stays as it was.
    NotPresented,
    /// The PIN was sent, and the result is not known.
    Unknown,
}

impl<'a> PinAccess<'a> {
    /// Reads the PIN if it may be tried, and records the attempt as begun.
    ///
    /// `confirmed` means that a person says the PIN is correct: one attempt is made whatever the record says. `purpose`
    /// is shown to a person who is asked for the PIN. `tries_left` returns what the device reports about the tries
    /// left. It is called while the guard's lock is held, if there is a guard. For a PKCS#11 token, it asks the device.
    /// For a card, it returns the count that was read just before; `piv/unlock.rs` compares that count with the card's
    /// again before VERIFY.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if the PIN must not be tried or cannot be read, or if the attempt cannot be recorded.
    pub(in crate::secrets) fn prepare(
        &self,
        process_record: &mut Option<PinRecord>,
        confirmed: bool,
        purpose: Option<Purpose>,
        tries_left: impl FnOnce() -> Result<TriesLeft, TokenError>,
    ) -> Result<PinAttempt<'a>, TokenError> {
        let source = if self.has_pin_pad {
            None
        } else {
            Some(self.source.open(self.uri, self.base_dir, self.prompt, &self.info.label)?)
        };
        let source_id = source.as_ref().map_or(Ok(PinSourceId::Person), OpenedPinSource::id)?;
        let mark = source.as_ref().and_then(|source| source.mark(self.info));
        // A person is present each time, so a typed PIN concerns this process only.
        let lock = self.guard.filter(|_| source_id != PinSourceId::Person).map(PinGuard::lock).transpose()?;
        let before = match &lock {
            // Read under the lock: another program may have tried the PIN since.
            Some(lock) => lock.read_or_new(confirmed)?,
            None => {
                if !confirmed {
                    self.check_not_locked_by_person(process_record.as_ref())?;
                }
                let known = self.process_record_or_new(process_record.as_ref());
                let is_unlocked = |guard: &PinGuard| guard.read().is_ok_and(|record| record.was_cleared_after(&known));
                if self.guard.is_some_and(is_unlocked) { PinRecord::new(self.info) } else { known }
            }
        };
        // Of a refusal that could not be recorded on disk, only this process knows. So does it of the PIN in a credential
        // that was refused here: another program may have had the corrected one accepted meanwhile.
        let was_refused_here = process_record.as_ref().is_some_and(|record| record.is_refusal_of(&source_id, mark));
        match (was_refused_here, confirmed) {
            (true, false) => return Err(self.refusal_error(PinRefusal::Refused)),
            (true, true) if mark.is_some() && self.guard.is_some() => {
                return Err(self.refusal_error(PinRefusal::Unchanged));
            }
            _ => {}
        }
        let TriesLeft { state, count, warning } = tries_left()?;
        // A typed PIN counts as confirmed if the prompt shows how many tries are left (YubiKeys only).
        let confirmed_now = confirmed || source_id == PinSourceId::Person && count.is_some_and(|count| count > 0);
        let begun = before
            .begin_attempt(&source_id, mark, state, confirmed_now)
            .map_err(|refusal| self.refusal_error(refusal))?;
        if let Some(warning) = warning {
            tracing::warn!(token = self.log_name(), "{warning}");
        }
        let (label, serial) = (self.info.label.clone(), self.info.serial.clone());
        let prompt = PinPrompt { label, serial, state, tries_left: count, purpose };
        let pin = source.map(|source| source.read(&prompt)).transpose()?;
        if let Some(lock) = &lock {
            // A full disk must not keep a refusal from being recorded. The PIN may be correct, so its mark is left out.
            lock.prepare_refusal(&begun.clone().refused(None))?;
        }
        store(process_record, lock.as_ref(), &begun)?;
        Ok(PinAttempt {
            pin,
            #[cfg(feature = "yubikey")]
            tries_left: count,
            #[cfg(feature = "pkcs11")]
            reported: state,
            lock,
            mark,
            before,
            begun,
        })
    }

    /// Erases the PIN and records the outcome of an attempt.
    ///
    /// Returns two results. The first is `result`, that of the operation that presented the PIN, or [`TokenError::Pin`]
    /// if the PIN was refused. The second is [`TokenError::Pin`] if the outcome cannot be recorded.
    pub(in crate::secrets) fn conclude<T, E: From<TokenError>>(
        &self,
        process_record: &mut Option<PinRecord>,
        attempt: PinAttempt<'_>,
        outcome: PinOutcome,
        result: Result<T, E>,
    ) -> (Result<T, E>, Result<(), TokenError>) {
        let PinAttempt { pin, lock, mark, before, begun, .. } = attempt;
        drop(pin);
        let is_refused = matches!(outcome, PinOutcome::Refused { .. });
        let is_accepted = matches!(outcome, PinOutcome::Accepted);
        let (after, result) = match outcome {
            PinOutcome::Accepted => (begun.accepted(), result),
            PinOutcome::Refused { locked, reason } => {
                tracing::error!(
                    token = self.log_name(),
                    reason,
                    "PIN REFUSED; it is not tried again until a person acts"
                );
                let refusal = if locked { PinRefusal::Locked } else { PinRefusal::Refused };
                (begun.refused(mark), Err(self.refusal_error(refusal).into()))
            }
            PinOutcome::NotPresented => (before, result),
            PinOutcome::Unknown => (begun, result),
        };
        let stored = match &lock {
            Some(lock) if is_refused => lock.write(&after).or_else(|_| lock.use_prepared_refusal()),
            lock => store(process_record, lock.as_ref(), &after),
        };
        match stored {
            _ if is_refused && (stored.is_err() || mark.is_some()) => *process_record = Some(after),
            // The refusal that this process knew of is past.
            Ok(()) if is_accepted && lock.is_some() => {
                *process_record = None;
                lock.iter().for_each(PinGuardLock::discard_prepared_refusal);
            }
            _ => {}
        }
        (result, stored)
    }

    /// Checks that no person has locked the token.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if a person has locked it, or if the record cannot be read.
    pub(in crate::secrets) fn check_not_locked_by_person(
        &self,
        process_record: Option<&PinRecord>,
    ) -> Result<(), TokenError> {
        match self.record(process_record, false)?.state {
            PinRecordState::LockedByPerson => Err(self.locked_by_person_error()),
            _ => Ok(()),
        }
    }

    /// The record of the last attempt: the guard's, or `process_record` without a guard.
    pub(in crate::secrets) fn record(
        &self,
        process_record: Option<&PinRecord>,
        confirmed: bool,
    ) -> Result<PinRecord, TokenError> {
        match self.guard {
            Some(guard) => guard.read_or_new(confirmed),
            None => Ok(self.process_record_or_new(process_record)),
        }
    }

    /// Records that a person locked the token: in the guard, or in `process_record` without a guard.
    pub(in crate::secrets) fn record_locked_by_person(
        &self,
        process_record: &mut Option<PinRecord>,
    ) -> Result<(), TokenError> {
        match self.guard {
            Some(guard) => guard.record_locked_by_person(),
            None => {
                *process_record = Some(self.process_record_or_new(process_record.as_ref()).locked_by_person());
                Ok(())
            }
        }
    }

    /// Clears the record, after a person has typed a correct PIN or has set a new one.
    #[cfg(feature = "yubikey")]
    pub(in crate::secrets) fn clear(&self, process_record: &mut Option<PinRecord>) -> Result<(), TokenError> {
        match self.guard {
            Some(guard) => {
                let lock = guard.lock()?;
                lock.write(&lock.read_or_new(true)?.cleared())
            }
            None => {
                *process_record = None;
                Ok(())
            }
        }
    }

    /// Clears the guard's record, after a person has typed a correct PIN. The guard does not record that
    /// attempt itself.
    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn clear_guard(&self) -> Result<(), TokenError> {
        let Some(guard) = self.guard else { return Ok(()) };
        let lock = guard.lock()?;
        lock.write(&lock.read_or_new(true)?.cleared())
    }

    /// The error for a token that a person has locked.
    pub(in crate::secrets) fn locked_by_person_error(&self) -> TokenError {
        self.refusal_error(PinRefusal::LockedByPerson)
    }

    fn refusal_error(&self, refusal: PinRefusal) -> TokenError {
        refusal.error(&self.info.label, self.name, self.when_locked)
    }

    fn process_record_or_new(&self, process_record: Option<&PinRecord>) -> PinRecord {
        process_record.cloned().unwrap_or_else(|| PinRecord::new(self.info))
    }

    fn log_name(&self) -> &str {
        self.name.unwrap_or(&self.info.label)
    }
}

impl PinAttempt<'_> {
    /// The PIN to present; none if the token asks for it on its own pad.
    pub(in crate::secrets) fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// The tries left when the attempt was prepared, if the device reports them.
    #[cfg(feature = "yubikey")]
    pub(in crate::secrets) fn tries_left(&self) -> Option<u8> {
        self.tries_left
    }

    /// What the device reported about its PIN before the attempt.
    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn reported(&self) -> PinState {
        self.reported
    }

    /// Whether the guard records the attempt. It does not record a PIN that a person types.
    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn is_recorded_by_guard(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether the token accepted an earlier PIN from the same source.
    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn was_accepted_before(&self) -> bool {
        self.begun.was_accepted_before()
    }
}

/// Stores a record: in the guard if its lock is held, else in this process.
fn store(
    process_record: &mut Option<PinRecord>,
    lock: Option<&PinGuardLock<'_>>,
    record: &PinRecord,
) -> Result<(), TokenError> {
    match lock {
        Some(lock) => lock.write(record),
        None => {
            *process_record = Some(record.clone());
            Ok(())
        }
    }
}

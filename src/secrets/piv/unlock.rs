//! VERIFY: presents the PIN to the card.
//!
//! The rules that keep a wrong PIN from being tried twice are in [`pin`](crate::secrets::pin). The card itself
//! remembers that its PIN was verified, until it is reset, unplugged, or another applet is selected. So the PIN is
//! asked for when the card needs it, and is not kept. The PIN is read between two transactions: a person may take a
//! minute, and other programs should not have to wait that long for the card.

use super::{
    apdu::{CardError, CardResult, Status},
    card::{Card, Reference, Tries},
    device::{SlotKey, State, YubiKey},
};
use crate::secrets::{
    PinPolicy, Purpose, TokenError, TokenInfo, TouchPolicy,
    pin::{PinAccess, PinAttempt, PinOutcome, PinState, TriesLeft},
};

/// What a person does about the locked PIN of a YubiKey, for a message.
pub const WHEN_LOCKED: &str = "set a new PIN with the PUK: `ykman piv access unblock-pin`. If the PUK is locked too, `ykman piv reset` erases the \
     YubiKey and all its keys";

/// A card that may be used in this transaction.
pub(super) struct UnlockedCard<'c, 'x> {
    pub(super) card: &'c mut Card<'x>,
    /// For a key that needs the PIN before each use: the attempt whose PIN is presented again.
    verify_each_use: Option<&'c PinAttempt<'c>>,
    /// Whether the PIN was verified just now, so that the first use needs no second VERIFY.
    just_verified: bool,
}

impl<'x> UnlockedCard<'_, 'x> {
    /// Returns the card, ready for one use of the key: verifies the PIN again if the key needs it before each use.
    pub(super) fn ready_for_use(&mut self) -> CardResult<&mut Card<'x>> {
        if let Some(attempt) = self.verify_each_use
            && !std::mem::replace(&mut self.just_verified, false)
        {
            // The card has accepted this PIN in the same transaction.
            verify(self.card, attempt)?;
        }
        Ok(self.card)
    }
}

/// When work needs the PIN.
#[derive(Clone, Copy)]
pub(super) struct PinNeed<'p> {
    pub(super) policy: PinPolicy,
    /// Whether a person says that the PIN is correct.
    pub(super) confirmed: bool,
    /// What the PIN is for, if a person is asked for it. None for a change of the card itself.
    pub(super) purpose: Option<&'p Purpose>,
    /// Whether the work may be begun without knowing that the PIN is verified: a missing PIN then gives 6982 before
    /// anything was done, and 6982 has no other meaning.
    pub(super) may_begin_without_pin: bool,
}

/// The result of the first transaction of an operation.
enum Step<T> {
    /// The operation ran without the PIN.
    Done(T),
    /// The operation needs the PIN first.
    NeedsPin(Tries),
}

impl YubiKey {
    /// Runs `work`, with the PIN verified if `need` requires that. `check` runs first in the same transaction: if it
    /// fails, no PIN is asked for.
    ///
    /// Firmware that forgets a verified PIN when it is asked about it is not asked. The work is then begun without the
    /// PIN if that is possible; otherwise the PIN is presented again.
    pub(super) fn with_pin_verified<T>(
        &self,
        state: &mut State,
        need: PinNeed<'_>,
        check: impl Fn(&mut Card<'_>) -> CardResult<()>,
        mut work: impl FnMut(&mut UnlockedCard<'_, '_>) -> CardResult<T>,
    ) -> Result<T, TokenError> {
        let PinNeed { policy, confirmed, purpose, may_begin_without_pin } = need;
        let info = self.current_info();
        let pin = self.pin_access(&info);
        if policy != PinPolicy::Never && !confirmed {
            pin.check_not_locked_by_person(state.process_record.as_ref())?;
        }
        let step = self.transaction(state, |card| {
            check(card)?;
            let can_ask = card.firmware.keeps_pin_when_asked();
            let begins = match policy {
                PinPolicy::Never => true,
                PinPolicy::Once if !confirmed && can_ask => card.is_verified()?,
                PinPolicy::Once => !confirmed && may_begin_without_pin,
                // `SlotKey` has the policy by PIN, so the last two do not come here.
                PinPolicy::Always | PinPolicy::MatchOnce | PinPolicy::MatchAlways => false,
            };
            if begins {
                let mut unlocked = UnlockedCard { card, verify_each_use: None, just_verified: false };
                match work(&mut unlocked) {
                    Err(error) if !can_ask && policy == PinPolicy::Once && error.is(Status::NOT_SATISFIED) => {}
                    result => return result.map(Step::Done),
                }
            }
            card.tries(Reference::Pin).map(Step::NeedsPin)
        })?;
        let tries = match step {
            Step::Done(done) => return Ok(done),
            Step::NeedsPin(tries) => tries,
        };
        let attempt = pin.prepare(&mut state.process_record, confirmed, purpose.cloned(), || Ok(tries.into()))?;
        let mut outcome = PinOutcome::NotPresented;
        let result = self.transaction(state, |card| {
            check(card)?;
            if attempt.tries_left() != Some(card.tries(Reference::Pin)?.left) {
                let reason = "another program has just tried a PIN; try again".into();
                return Err(TokenError::Device { operation: "VERIFY".into(), reason }.into());
            }
            let verified = verify(card, &attempt);
            outcome = outcome_of(&verified);
            verified?;
            let verify_each_use = (policy == PinPolicy::Always).then_some(&attempt);
            work(&mut UnlockedCard { card, verify_each_use, just_verified: true })
        });
        let (result, recorded) = pin.conclude(&mut state.process_record, attempt, outcome, result);
        // An outcome that cannot be recorded comes first: until a person repairs the record, no PIN must be tried.
        recorded?;
        result
    }

    /// Runs `work` with a key, with the PIN verified if the key's policy requires that.
    ///
    /// If the slot holds another key by now, fails with [`TokenError::KeyGone`] and asks for neither a PIN nor a touch.
    pub(super) fn with_key<T>(
        &self,
        state: &mut State,
        key: &SlotKey,
        purpose: &Purpose,
        work: impl FnMut(&mut UnlockedCard<'_, '_>) -> CardResult<T>,
    ) -> Result<T, TokenError> {
        let is_still_there = |card: &mut Card<'_>| match card.metadata(key.slot)?.and_then(|metadata| metadata.public) {
            Some(public) if public == key.held.public => Ok(()),
            _ => Err(TokenError::KeyGone.into()),
        };
        let need = PinNeed {
            policy: key.pin,
            confirmed: false,
            purpose: Some(purpose),
            // A card that waits in vain for a touch answers 6982 too.
            may_begin_without_pin: key.touch == TouchPolicy::Never,
        };
        self.with_pin_verified(state, need, is_still_there, work)
    }

    /// Access to the card's PIN. `info` is the card's description.
    pub(super) fn pin_access<'a>(&'a self, info: &'a TokenInfo) -> PinAccess<'a> {
        PinAccess {
            info,
            name: Some(&self.name),
            source: &self.options.pin,
            uri: self.uri.pin(),
            base_dir: self.options.base_dir.as_deref(),
            prompt: self.options.prompt.as_ref(),
            has_pin_pad: false,
            when_locked: WHEN_LOCKED,
            guard: self.guard.as_ref(),
        }
    }
}

fn verify(card: &mut Card<'_>, attempt: &PinAttempt<'_>) -> CardResult<()> {
    card.verify(attempt.pin().expect("only a token with a PIN pad is tried without a PIN"))
}

/// What the card's answer to VERIFY means.
fn outcome_of(verified: &CardResult<()>) -> PinOutcome {
    match verified {
        Ok(()) => PinOutcome::Accepted,
        Err(CardError::Status(_, status)) => match status.tries() {
            Some(left) => PinOutcome::Refused { locked: left == 0, reason: format!("VERIFY: {left} tries left") },
            None => PinOutcome::NotPresented,
        },
        Err(CardError::Transport(_)) => PinOutcome::Unknown,
        // The PIN has the wrong length and was not sent.
        Err(CardError::Token(_)) => PinOutcome::NotPresented,
    }
}

impl Tries {
    /// The tries in the terms of CK_TOKEN_INFO.
    pub(super) fn state(self) -> PinState {
        match (self.left, self.max) {
            (0, _) => PinState::Locked,
            (1, max) if max > 1 => PinState::FinalTry,
            (left, max) if left < max => PinState::CountLow,
            _ => PinState::Ready,
        }
    }
}

impl From<Tries> for TriesLeft {
    fn from(tries: Tries) -> Self {
        let warning = tries.is_factory.then_some(
            "card has the factory PIN; `claviger token init` changes it on a card without keys, otherwise use \
             `ykman piv access change-pin`",
        );
        Self { state: tries.state(), count: Some(tries.left), warning }
    }
}

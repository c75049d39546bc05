//! The PIN: it leaves for the card only if nothing speaks against it, and then once.
//!
//! The card itself remembers that its PIN was verified, until it is reset, unplugged, or another applet is selected; so
//! the PIN is asked for when the card wants it, and not kept. It is read between two transactions, as a person may take
//! a minute, and other programs are not to wait so long.

use std::path::Path;

use super::{
    apdu::{Fault, Outcome},
    card::{Card, Tries},
};
use crate::secrets::{
    Purpose, TokenError, TokenInfo,
    pin::{Guard, Held, InUri, Pin, PinMemory, PinOutcome, PinPrompt, PinSource, PinState, Prompt, Refusal, SourceId},
};

/// A card's PIN and who knows it.
pub(super) struct Door<'a> {
    pub(super) info: &'a TokenInfo,
    /// The token's name in the configuration.
    pub(super) name: &'a str,
    pub(super) source: &'a PinSource,
    pub(super) in_uri: InUri<'a>,
    pub(super) base: Option<&'a Path>,
    pub(super) prompt: Option<&'a Prompt>,
    pub(super) guard: Option<&'a Guard>,
}

/// A PIN that may be tried once.
pub(super) struct Try<'g> {
    pin: Pin,
    /// The tries that were left when it was decided.
    left: u8,
    held: Option<Held<'g>>,
    before: PinMemory,
    trying: PinMemory,
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// It was right.
    Right,
    /// It was wrong, or the PIN is blocked.
    Wrong(u8),
    /// It did not leave.
    Not,
    /// It left, and what came of it is not known.
    Unknown,
}

impl Tries {
    pub(super) fn state(self) -> PinState {
        match (self.left, self.most) {
            (0, _) => PinState::Locked,
            (1, most) if most > 1 => PinState::FinalTry,
            (left, most) if left < most => PinState::CountLow,
            _ => PinState::Ready,
        }
    }
}

impl<'a> Door<'a> {
    /// Fails if a person has locked the token: then a card whose PIN is verified is not used either.
    pub(super) fn check_lock(&self, memory: Option<&PinMemory>) -> Result<(), TokenError> {
        let state = match self.guard {
            Some(guard) => guard.read()?.state,
            None => memory.map_or(PinOutcome::New, |memory| memory.state),
        };
        if state == PinOutcome::Locked { Err(self.refuse(Refusal::ByPerson)) } else { Ok(()) }
    }

    /// Finds the PIN, if it may be tried, and remembers that it will be.
    pub(super) fn prepare(
        &self,
        memory: &mut Option<PinMemory>,
        tries: Tries,
        vouched: bool,
        purpose: Option<Purpose>,
    ) -> Result<Try<'a>, TokenError> {
        let found = self.source.find(self.in_uri, self.base, self.prompt, &self.info.label)?;
        let source = found.id()?;
        let held = self.guard.filter(|_| source != SourceId::Person).map(Guard::hold).transpose()?;
        let own = || memory.clone().unwrap_or_else(|| PinMemory::new(self.info));
        let before = match &held {
            Some(held) => held.read_if(vouched)?,
            None => own(),
        };
        // A person who is asked sees how many tries are left, and answers for one.
        let by_person = source == SourceId::Person && tries.left > 0;
        let trying =
            before.trying(&source, tries.state(), vouched || by_person).map_err(|refusal| self.refuse(refusal))?;
        if tries.factory {
            tracing::warn!(
                token = self.name,
                "the card has the PIN that every YubiKey comes with: `claviger token init` changes it on a card without keys, else \
                 `ykman piv access change-pin`"
            );
        }
        let prompt = PinPrompt {
            label: self.info.label.clone(),
            serial: self.info.serial.clone(),
            state: tries.state(),
            tries_left: Some(tries.left),
            purpose,
        };
        let pin = found.read(&prompt)?;
        match &held {
            Some(held) => held.write(&trying)?,
            None => *memory = Some(trying.clone()),
        }
        Ok(Try { pin, left: tries.left, held, before, trying })
    }

    /// Remembers what came of a try, and says so.
    pub(super) fn conclude(
        &self,
        memory: &mut Option<PinMemory>,
        tried: Try<'_>,
        outcome: Tried,
    ) -> Result<(), TokenError> {
        let (after, said) = match outcome {
            Tried::Right => (tried.trying.accepted(), Ok(())),
            Tried::Wrong(left) => {
                let token = self.name;
                tracing::error!(token, left, "THE PIN WAS REFUSED; it is not tried again until a person acts");
                let refusal = if left == 0 { Refusal::Locked } else { Refusal::Refused };
                (tried.trying.refused(), Err(self.refuse(refusal)))
            }
            Tried::Not => (tried.before, Ok(())),
            Tried::Unknown => (tried.trying, Ok(())),
        };
        match &tried.held {
            Some(held) => held.write(&after)?,
            None => *memory = Some(after),
        }
        said
    }

    /// Has no program use the PIN until a person unlocks the token.
    pub(super) fn mark_locked(&self, memory: &mut Option<PinMemory>) -> Result<(), TokenError> {
        match self.guard {
            Some(guard) => {
                let held = guard.hold()?;
                held.write(&held.read_if(true)?.locked())
            }
            None => {
                *memory = Some(memory.clone().unwrap_or_else(|| PinMemory::new(self.info)).locked());
                Ok(())
            }
        }
    }

    /// Nothing stands against the next try: a person was there, and the PIN was right.
    pub(super) fn clear(&self, memory: &mut Option<PinMemory>) -> Result<(), TokenError> {
        match self.guard {
            Some(guard) => {
                let held = guard.hold()?;
                let before = held.read_if(true)?;
                if before.state == PinOutcome::Accepted { Ok(()) } else { held.write(&before.cleared()) }
            }
            None => {
                *memory = None;
                Ok(())
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> TokenError {
        refusal.of(&self.info.label, Some(self.name))
    }
}

impl Try<'_> {
    /// Whether the card is as it was when this was decided.
    pub(super) fn fits(&self, tries: Tries) -> bool {
        self.left == tries.left
    }

    /// Verifies the PIN.
    pub(super) fn verify(&self, card: &mut Card<'_>) -> (Tried, Outcome<()>) {
        match card.verify(&self.pin) {
            Ok(()) => (Tried::Right, Ok(())),
            Err(Fault::Status(name, status)) => match status.tries() {
                Some(left) => (Tried::Wrong(left), Err(Fault::Status(name, status))),
                None => (Tried::Not, Err(Fault::Status(name, status))),
            },
            Err(Fault::Lost(error)) => (Tried::Unknown, Err(Fault::Lost(error))),
            // Of a wrong length.
            Err(Fault::Token(error)) => (Tried::Not, Err(Fault::Token(error))),
        }
    }

    /// Verifies it again, for a key that wants that before each use; it was right just now.
    pub(super) fn again(&self, card: &mut Card<'_>) -> Outcome<()> {
        card.verify(&self.pin)
    }
}

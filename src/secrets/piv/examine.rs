//! What a YubiKey can do, measured with throw-away keys in an empty slot.
//!
//! All tests run in one transaction, after one authentication with the management key. The keys need neither PIN nor
//! touch, and the card is made to forget a verified PIN first, so the tests also show what works without it. Each key is
//! marked as deleted directly after it was made: if the examination is interrupted, its slot still counts as empty.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    algorithm::{Firmware, MAX_EDDSA_INPUT, algorithm_of},
    apdu::{CardError, CardResult, Status},
    attestation::{self, Attestation},
    card::Card,
    certificate,
    device::YubiKey,
    form_factor::FormFactor,
    key_history,
    manage::is_slot_free,
    operate::signature_of,
    tlv::tlv,
};
use crate::{
    crypto::{self, EphemeralKey},
    keys::{Curve, PublicKey},
    secrets::{PinPolicy, Slot, TokenError, TouchPolicy},
};

/// The number of operations of which the median time is taken.
const REPETITIONS: usize = 5;
/// No card has larger data objects, in bytes.
const MAX_OBJECT: usize = 4096;
/// The tag of the padding behind a certificate, which no program reads, and the bytes of its tag and length.
const PADDING: u8 = 0xfd;
const PADDING_HEAD: usize = 4;
/// The shortest padding whose length takes two bytes.
const MIN_PADDING: usize = 0x100;

/// What a YubiKey did with throw-away keys. Nothing in here tells it from others of its model and firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CardExamination {
    /// The slot of the throw-away keys.
    pub slot: Slot,
    /// The form factor; `None` if the YubiKey did not attest a key, or did not say.
    pub form_factor: Option<FormFactor>,
    /// Whether the attestation of a throw-away key leads to one of Yubico's root certificates; `None` if the YubiKey did
    /// not attest one. A virtual card, and a YubiKey whose key in slot F9 was replaced, lead to another root or to none.
    pub made_by_yubico: Option<bool>,
    /// The results for each curve that YubiKeys of this firmware have.
    pub algorithms: Vec<AlgorithmExamination>,
    /// The PIN policies that were tried.
    pub pin_policies: Vec<PinPolicyExamination>,
    /// The touch policies that were tried, and whether a new key gets that policy. The keys are not used.
    pub touch_policies: Vec<(TouchPolicy, bool)>,
    /// The largest data object that was written and read back, in bytes. Less if the memory of the card is almost full;
    /// `None` if there was none, since the card made no key.
    pub largest_object: Option<usize>,
    /// The longest input that Ed25519 signed, in bytes; `None` without Ed25519. No longer one was tried.
    pub longest_eddsa: Option<usize>,
}

/// Why an examination ended without a result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct ExaminationError {
    /// What failed.
    pub error: TokenError,
    /// What became of the slot for the throw-away keys.
    pub slot: SlotAfter,
}

impl From<TokenError> for ExaminationError {
    /// The error of something before the examination.
    fn from(error: TokenError) -> Self {
        Self { error, slot: SlotAfter::Untouched }
    }
}

/// What became of the slot for the throw-away keys when an examination failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotAfter {
    /// No key was made, and nothing was written.
    Untouched,
    /// The slot counts as empty again.
    Cleared(Slot),
    /// The slot may hold a throw-away key. One that is marked as deleted is not listed, and its slot counts as empty. One
    /// that is not marked yet is listed without a label.
    NotCleared(Slot),
}

/// What a YubiKey did with a throw-away key on one curve.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlgorithmExamination {
    /// The curve.
    pub curve: Curve,
    /// The time to make a key, or why none was made. Without a key nothing else was tested.
    pub made: Result<Duration, Refusal>,
    /// The result of key agreement, compared with that of a software key; `None` if the curve has none.
    pub agreement: Option<KnownAnswer>,
    /// The result of signing, which was verified; `None` if the curve has no signatures in DIDComm.
    pub signature: Option<KnownAnswer>,
    /// Whether the YubiKey attests the key.
    pub attested: bool,
}

/// The result of an operation whose right result is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownAnswer {
    /// The result was right, each time. The median time of one operation.
    Right(Duration),
    /// The YubiKey returned a wrong result.
    Wrong,
    /// The YubiKey refused the operation.
    Refused(Refusal),
}

/// A command that the card refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The command's name in PIV.
    pub command: &'static str,
    /// The status word.
    pub status: u16,
}

/// What a YubiKey did with a throw-away key of one PIN policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinPolicyExamination {
    /// The policy.
    pub policy: PinPolicy,
    /// Whether a new key gets this policy.
    pub made: bool,
    /// Whether such a key was refused while the PIN was not verified.
    pub needs_pin: bool,
}

impl YubiKey {
    /// Measures what the YubiKey can do, with throw-away keys in an empty slot: `slot`, or else the last empty retired
    /// one. Nothing that the card holds is overwritten. Needs the management key, as making a key does
    /// ([`Custodian::set_management_key`](crate::secrets::Custodian::set_management_key)). `progress` is told what is
    /// tested.
    ///
    /// Firmware before 5.7 cannot delete a key: the slot keeps a key that is marked as deleted. So there the
    /// caller must name the slot, unless one with such a key exists.
    ///
    /// # Errors
    /// [`TokenError::Config`] if there is no slot for the keys or the management key is not known. If the YubiKey is
    /// removed or refuses to clear the slot, that may keep a throw-away key: [`ExaminationError::slot`] says so.
    pub fn examine(
        &self,
        slot: Option<Slot>,
        mut progress: impl FnMut(&str),
    ) -> Result<CardExamination, ExaminationError> {
        let state = &mut *self.lock_state();
        let management_key = state.management_key.take();
        let mut after = SlotAfter::Untouched;
        // Before a person is asked for anything.
        let chosen = self.transaction(state, |card| self.choose_test_slot(card, slot));
        let examined = chosen.and_then(|_| {
            self.with_management_key(state, management_key, |card| {
                // Another program may have filled the slot while a person typed the PIN.
                let slot = self.choose_test_slot(card, slot)?;
                card.log_out()?;
                after = SlotAfter::NotCleared(slot);
                let examined = TestSlot { card: &mut *card, slot }.examine(&mut progress);
                let cleared = self.clear_test_slot(card, slot);
                if cleared.is_ok() {
                    after = SlotAfter::Cleared(slot);
                }
                examined.and_then(|examined| cleared.map(|()| examined))
            })
        });
        examined.map_err(|error| ExaminationError { error, slot: after })
    }

    fn choose_test_slot(&self, card: &mut Card<'_>, wanted: Option<Slot>) -> CardResult<Slot> {
        let refused = |reason: String| Err(TokenError::Config(reason).into());
        if let (Some(wanted), Some(only)) = (wanted, self.uri.slot)
            && wanted != only
        {
            return refused(format!("the URI names slot {only} only, so {wanted} cannot be used"));
        }
        let deletes = self.firmware >= Firmware::CURVE_25519;
        let mut slots: Vec<Slot> = Slot::retired().collect();
        slots.reverse();
        if let Some(named) = wanted.or(self.uri.slot) {
            slots = vec![named];
        }
        for slot in slots {
            // A key in an empty slot is marked as deleted, and may be replaced by another.
            if is_slot_free(card, slot)? && (deletes || wanted.is_some() || card.metadata(slot)?.is_some()) {
                return Ok(slot);
            }
        }
        match (wanted.or(self.uri.slot.filter(|_| deletes)), deletes) {
            (Some(slot), _) => refused(format!(
                "slot {slot} is not empty, and nothing is overwritten for a test: name an empty slot with --slot"
            )),
            (None, true) => refused(
                "each of the retired slots 82 to 95 holds a key or a certificate: name another slot with --slot, if one \
                 of 9a, 9c, 9d and 9e is empty"
                    .into(),
            ),
            (None, false) => refused(format!(
                "firmware {} cannot delete a key, so its slot would keep one that is marked as deleted, until another key \
                 is made there: name an empty slot with --slot if that is acceptable",
                self.firmware
            )),
        }
    }

    fn clear_test_slot(&self, card: &mut Card<'_>, slot: Slot) -> CardResult<()> {
        // The card may have refused to make a key.
        if card.metadata(slot)?.is_none() {
            return card.put_certificate(slot, &[]);
        }
        self.clear_slot(card, slot, Curve::P256, algorithm_of(Curve::P256, self.firmware)?)?;
        if self.firmware < Firmware::CURVE_25519 {
            key_history::update(card, slot);
        }
        Ok(())
    }
}

/// The slot for the throw-away keys, on a card that is authenticated with its management key.
struct TestSlot<'c, 'x> {
    card: &'c mut Card<'x>,
    slot: Slot,
}

/// The attestation of a throw-away key.
struct Attested {
    form_factor: Option<FormFactor>,
    by_yubico: bool,
}

impl TestSlot<'_, '_> {
    fn examine(&mut self, progress: &mut impl FnMut(&str)) -> CardResult<CardExamination> {
        progress("PIN and touch policies");
        let (mut pin_policies, mut touch_policies) = (Vec::new(), Vec::new());
        for policy in [PinPolicy::Never, PinPolicy::Once, PinPolicy::Always] {
            pin_policies.push(self.pin_policy(policy)?);
        }
        // A FIPS model makes no key with the policy *never*. Its keys are made and attested, and not used.
        let pin = pin_policies.iter().find(|it| it.made).map_or(PinPolicy::Never, |it| it.policy);
        for policy in [TouchPolicy::Never, TouchPolicy::Cached, TouchPolicy::Always] {
            touch_policies.push((policy, self.make_with(pin, policy)?.is_some()));
        }
        let (mut algorithms, mut attested, mut longest_eddsa) = (Vec::new(), None, None);
        let firmware = self.card.firmware;
        for curve in Curve::ALL.into_iter().filter(|curve| algorithm_of(*curve, firmware).is_ok()) {
            progress(curve.name());
            let (examination, by) = self.algorithm(curve, pin)?;
            attested = attested.or(by);
            if curve == Curve::Ed25519 && examination.made.is_ok() {
                longest_eddsa = self.longest_eddsa()?;
            }
            algorithms.push(examination);
        }
        progress("the largest data object");
        Ok(CardExamination {
            slot: self.slot,
            form_factor: attested.as_ref().and_then(|attested| attested.form_factor),
            made_by_yubico: attested.map(|attested| attested.by_yubico),
            algorithms,
            pin_policies,
            touch_policies,
            largest_object: self.largest_object(pin)?,
            longest_eddsa,
        })
    }

    /// Makes a key, and marks it as deleted. Returns how long the card took to make it.
    fn make(
        &mut self,
        curve: Curve,
        pin: PinPolicy,
        touch: TouchPolicy,
    ) -> CardResult<Result<(PublicKey, Duration), Refusal>> {
        let algorithm = algorithm_of(curve, self.card.firmware)?;
        let begun = Instant::now();
        let made = answered(self.card.generate(self.slot, curve, algorithm, pin, touch))?;
        let took = begun.elapsed();
        if let Ok(public) = &made {
            self.card.put_certificate(self.slot, &certificate::write_deleted(public)?)?;
        }
        Ok(made.map(|public| (public, took)))
    }

    /// Makes a P-256 key with these policies. `None` if the card refuses, or reports other policies.
    fn make_with(&mut self, pin: PinPolicy, touch: TouchPolicy) -> CardResult<Option<PublicKey>> {
        let Ok((public, _)) = self.make(Curve::P256, pin, touch)? else { return Ok(None) };
        let reported = self.card.metadata(self.slot)?;
        Ok(reported.is_some_and(|reported| (reported.pin, reported.touch) == (pin, touch)).then_some(public))
    }

    fn algorithm(&mut self, curve: Curve, pin: PinPolicy) -> CardResult<(AlgorithmExamination, Option<Attested>)> {
        let made = self.make(curve, pin, TouchPolicy::Never)?;
        let mut examination = AlgorithmExamination {
            curve,
            made: made.as_ref().map(|(_, took)| *took).map_err(|refusal| *refusal),
            agreement: None,
            signature: None,
            attested: false,
        };
        let Ok((public, _)) = made else { return Ok((examination, None)) };
        if EphemeralKey::generate(curve).is_some() {
            examination.agreement = Some(self.repeat(|slot| slot.agree(&public))?);
        }
        if curve.signature_algorithm().is_some() {
            examination.signature = Some(self.repeat(|slot| slot.sign(&public, b"claviger known answer"))?);
        }
        let attested = self.attest(&public)?;
        examination.attested = attested.is_some();
        Ok((examination, attested))
    }

    /// Repeats an operation that returns whether its result was right.
    fn repeat(&mut self, operation: impl Fn(&mut Self) -> CardResult<(bool, Duration)>) -> CardResult<KnownAnswer> {
        let mut times = Vec::with_capacity(REPETITIONS);
        for _ in 0..REPETITIONS {
            match answered(operation(self))? {
                Ok((true, took)) => times.push(took),
                Ok((false, _)) => return Ok(KnownAnswer::Wrong),
                Err(refusal) => return Ok(KnownAnswer::Refused(refusal)),
            }
        }
        times.sort_unstable();
        Ok(KnownAnswer::Right(times[REPETITIONS / 2]))
    }

    fn agree(&mut self, public: &PublicKey) -> CardResult<(bool, Duration)> {
        let algorithm = algorithm_of(public.curve(), self.card.firmware)?;
        let peer = EphemeralKey::generate(public.curve()).expect("a curve that agrees");
        let expected = peer.agree(public).expect("a key of the same curve");
        let begun = Instant::now();
        let z = self.card.agree(self.slot, algorithm, peer.public())?;
        Ok((z.as_bytes().ct_eq(expected.as_bytes()).into(), begun.elapsed()))
    }

    fn sign(&mut self, public: &PublicKey, input: &[u8]) -> CardResult<(bool, Duration)> {
        let algorithm = algorithm_of(public.curve(), self.card.firmware)?;
        let hash = Sha256::digest(input);
        let card_input = if public.curve() == Curve::Ed25519 { input } else { &hash[..] };
        let begun = Instant::now();
        let output = self.card.sign(self.slot, algorithm, card_input)?;
        let took = begun.elapsed();
        let is_right = signature_of(public.curve(), &output).is_ok_and(|it| crypto::verify(public, input, &it).is_ok());
        Ok((is_right, took))
    }

    /// The attestation of the key in the slot; `None` if the card attests no key, or another one.
    fn attest(&mut self, public: &PublicKey) -> CardResult<Option<Attested>> {
        let (statement, signer) = match self.card.attest(self.slot) {
            Ok(attested) => attested,
            Err(CardError::Status(..) | CardError::Token(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(read) = attestation::read(&statement, Vec::new(), Default::default()) else { return Ok(None) };
        if (&read.public, read.slot) != (public, self.slot) {
            return Ok(None);
        }
        let verified = Attestation::verify(&[statement, signer], &[]);
        let by_yubico = verified.is_ok_and(|verified| verified.root_is_yubicos);
        Ok(Some(Attested { form_factor: read.form_factor, by_yubico }))
    }

    fn longest_eddsa(&mut self) -> CardResult<Option<usize>> {
        let Some(held) = self.card.metadata(self.slot)?.and_then(|metadata| metadata.public) else { return Ok(None) };
        let signed = answered(self.sign(&held, &vec![b'.'; MAX_EDDSA_INPUT]))?;
        Ok(matches!(signed, Ok((true, _))).then_some(MAX_EDDSA_INPUT))
    }

    fn pin_policy(&mut self, policy: PinPolicy) -> CardResult<PinPolicyExamination> {
        let Some(public) = self.make_with(policy, TouchPolicy::Never)? else {
            return Ok(PinPolicyExamination { policy, made: false, needs_pin: false });
        };
        let used = self.agree(&public);
        let needs_pin = used.as_ref().is_err_and(|error| error.is(Status::NOT_SATISFIED));
        answered(used)?.ok();
        Ok(PinPolicyExamination { policy, made: true, needs_pin })
    }

    /// Searches for the largest object, with the slot's certificate and padding behind it.
    fn largest_object(&mut self, pin: PinPolicy) -> CardResult<Option<usize>> {
        let Ok((public, _)) = self.make(Curve::P256, pin, TouchPolicy::Never)? else { return Ok(None) };
        let certificate = certificate::write_deleted(&public)?;
        let padded = |size: usize| {
            let padding = tlv(&[PADDING], &vec![0; size - certificate.len() - PADDING_HEAD]);
            [&certificate[..], &padding].concat()
        };
        let (mut largest, mut smallest) = (None, certificate.len() + PADDING_HEAD + MIN_PADDING);
        let mut too_large = MAX_OBJECT + 1;
        // The certificate alone is tried first.
        let mut object = certificate.clone();
        loop {
            let written = answered(self.card.put_certificate(self.slot, &object))?.is_ok();
            if written && self.card.certificate(self.slot)?.is_some_and(|read| *read == object) {
                largest = Some(object.len());
                smallest = smallest.max(object.len() + 1);
            } else {
                too_large = object.len();
            }
            if smallest >= too_large {
                return Ok(largest);
            }
            object = padded(usize::midpoint(smallest, too_large));
        }
    }
}

/// Tells a refusal of the card from an error that ends the examination.
fn answered<T>(result: CardResult<T>) -> CardResult<Result<T, Refusal>> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(CardError::Status(command, Status(status))) => Ok(Err(Refusal { command, status })),
        Err(error) => Err(error),
    }
}

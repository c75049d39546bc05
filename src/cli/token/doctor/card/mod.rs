//! The examination of a YubiKey: the keys that it holds, and on demand throw-away keys in an empty slot.

mod report;

use zeroize::Zeroizing;

use claviger::{
    keys::Curve,
    secrets::{
        Custodian, Custody, HeldKey, Origin, PinPolicy, Slot, Token, TokenInfo,
        pin::{PinRecord, PinState},
        piv::{
            AlgorithmExamination, CardExamination, ExaminationError, FormFactor, KnownAnswer, PcscReaders, SlotAfter,
            WHEN_LOCKED, YubiKey,
        },
    },
};

use super::{
    findings::{Finding, Findings, Level, name},
    machine::Machine,
};
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{Out, Progress},
    token::pin_problem::PinProblem,
    tokens::open::yubikey_options,
};

/// What the person wants to know.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// The slot for throw-away keys.
    pub slot: Option<Slot>,
    /// A report on the device.
    pub report: bool,
}

/// A YubiKey that was examined.
pub struct ExaminedYubiKey {
    name: String,
    /// Why the YubiKey could not be opened, or what was seen.
    opened: Result<OpenedYubiKey, Failure>,
}

struct OpenedYubiKey {
    info: TokenInfo,
    form_factor: Option<FormFactor>,
    pin: (PinState, u8),
    pin_record: Option<PinRecord>,
    keys: Vec<HeldKey>,
    /// Whether the keys that ask nobody gave right answers.
    tested: Result<(), Failure>,
    /// The results of throw-away keys, or why there are none. `None` if none were wanted.
    measured: Option<Result<CardExamination, NotMeasured>>,
}

/// Why a YubiKey was not measured, and what became of the slot.
struct NotMeasured {
    failure: Failure,
    slot: SlotAfter,
}

impl ExaminedYubiKey {
    /// Examines a YubiKey. Fails if its configuration is wrong.
    pub fn examine(
        config: &Config,
        token: &TokenConfig,
        wanted: Wanted,
        management_key: Option<Zeroizing<Vec<u8>>>,
        out: &Out,
    ) -> Result<Self, Failure> {
        let (name, options) = (token.name.clone(), yubikey_options(config, token)?);
        let failed = |error| Failure::from_token(&name, &error);
        let opened = options.clone().open(&token.uri, PcscReaders).map_err(failed).and_then(|yubikey| {
            let (progress, info) = (Progress::new(out), yubikey.info());
            progress.show(&format!("{name}: its keys"));
            let keys = yubikey.inventory().map_err(failed)?;
            let tested = Token::keys(&yubikey).map(drop).map_err(failed);
            let form_factor = yubikey.form_factor().map_err(failed)?;
            let pin = yubikey.pin_state().map_err(failed)?;
            let measured = (wanted.report || wanted.slot.is_some()).then(|| {
                let measured = measure(&yubikey, &name, wanted.slot, management_key, &progress);
                measured.map_err(|ended| NotMeasured { failure: failed(ended.error), slot: ended.slot })
            });
            // The YubiKey may have been removed meanwhile, and what was measured still counts.
            let pin = yubikey.pin_state().unwrap_or(pin);
            // A record that cannot be read was already a failure to open the token.
            let pin_record = options.pin_record(&info).ok().flatten();
            Ok(OpenedYubiKey { info, form_factor, pin, pin_record, keys, tested, measured })
        });
        Ok(Self { name, opened })
    }

    /// Returns all findings, in the order of the checks.
    pub fn findings(&self, configured: &TokenConfig, machine: &Machine) -> Vec<Finding> {
        let mut found = Findings(Vec::new());
        if let Ok(opened) = &self.opened {
            let OpenedYubiKey { pin: (state, _), pin_record, keys, tested, measured, .. } = opened;
            found.pin_problem(PinProblem::find(&self.name, *state, pin_record.as_ref(), true, WHEN_LOCKED));
            match measured {
                Some(Ok(measured)) => throw_away_keys(&mut found, measured, configured),
                Some(Err(not_measured)) => add_not_measured(&mut found, not_measured),
                None => {
                    let message = "only the keys that the YubiKey holds were tested, and of them those that ask nobody";
                    found.add("not-measured", Level::Note, message).hint(
                        "--slot 95 makes throw-away keys in slot 95 if it is empty, and deletes them; firmware before 5.7 \
                         cannot delete the last one",
                    );
                }
            }
            if let Err(failure) = tested {
                found.add("key-fails", Level::Bad, failure.message.clone());
            }
            let imported: Vec<_> = keys.iter().filter(|held| held.origin == Origin::Imported).map(name).collect();
            if !imported.is_empty() {
                let message =
                    "existed outside the token before the import: a copy may exist, and no token can prove otherwise";
                let finding = found.add("key-imported", Level::Note, message);
                finding.about = imported;
                finding.hint("`claviger key generate` makes a key that was never outside the token");
            }
        }
        found.machine(machine);
        found.0
    }

    /// Why the YubiKey could not be examined, or not measured although that was wanted; `None` if it was.
    pub fn failure(self) -> Option<Failure> {
        match self.opened {
            Ok(opened) => opened.measured?.err().map(|not_measured| not_measured.failure),
            Err(failure) => Some(failure),
        }
    }
}

fn measure(
    yubikey: &YubiKey,
    name: &str,
    slot: Option<Slot>,
    management_key: Option<Zeroizing<Vec<u8>>>,
    progress: &Progress,
) -> Result<CardExamination, ExaminationError> {
    if let Some(key) = management_key {
        yubikey.set_management_key(key)?;
    }
    yubikey.examine(slot, |what| progress.show(&format!("{name}: throw-away keys: {what}")))
}

fn add_not_measured(found: &mut Findings, NotMeasured { failure, slot }: &NotMeasured) {
    let (what, hint) = match slot {
        SlotAfter::Untouched => {
            ("no throw-away key was made, so nothing was measured".to_owned(), failure.hint.clone())
        }
        SlotAfter::Cleared(slot) => (
            format!("the test with throw-away keys failed, and slot {slot} counts as empty again"),
            failure.hint.clone(),
        ),
        SlotAfter::NotCleared(slot) => (
            format!("the test with throw-away keys failed, and slot {slot} may keep one of them"),
            Some(format!(
                "if `claviger key list` shows a key without a name in slot {slot}, `claviger key delete` deletes it; \
                 otherwise the key is marked as deleted, and the slot counts as empty"
            )),
        ),
    };
    found.add("not-measured", Level::Warning, format!("{what}: {}", failure.message)).hint = hint;
}

fn throw_away_keys(found: &mut Findings, measured: &CardExamination, configured: &TokenConfig) {
    if needs_pin(measured) {
        let message = "the YubiKey makes no key that works without the PIN, as FIPS models do, and the test keys are used \
                       without it: no algorithm was tested";
        found
            .add("not-measured", Level::Warning, message)
            .hint("`claviger key generate` makes a key, and the command without --slot and --report tests it");
    }
    for it in &measured.algorithms {
        for (answer, custody) in [(it.agreement, Some(Custody::SharedSecretInProcess)), (it.signature, None)] {
            if answer == Some(KnownAnswer::Wrong) {
                found.wrong_answer(it.curve, custody);
            }
        }
    }
    let agreeing: Vec<_> = measured.algorithms.iter().filter(|it| agrees(it)).map(|it| it.curve).collect();
    let is_made = |it: &AlgorithmExamination| it.curve == Curve::X25519 && it.made.is_ok();
    let is_untested = needs_pin(measured) && measured.algorithms.iter().any(is_made);
    if !agreeing.contains(&Curve::X25519) && !is_untested {
        found.no_x25519();
    }
    let reached: Vec<_> = agreeing.into_iter().map(|curve| (curve, Custody::SharedSecretInProcess)).collect();
    found.custody(&reached, configured.policy().minimum_custody);
    let message = match measured.made_by_yubico {
        Some(true) => return,
        Some(false) => {
            "the attestation leads to none of Yubico's root certificates: the key in slot F9 was replaced, or this is no \
             YubiKey"
        }
        None => {
            "no throw-away key was attested: none was made, or the key in slot F9 was replaced, or this is no YubiKey"
        }
    };
    found.add("not-made-by-yubico", Level::Warning, message).hint("a report of such a device is not published");
}

/// Whether keys can be made, and none that works without the PIN.
fn needs_pin(measured: &CardExamination) -> bool {
    let makes = |policy| measured.pin_policies.iter().any(|it| it.made && it.policy == policy);
    !makes(PinPolicy::Never) && (makes(PinPolicy::Once) || makes(PinPolicy::Always))
}

/// Whether key agreement gives right results.
fn agrees(it: &AlgorithmExamination) -> bool {
    matches!(it.agreement, Some(KnownAnswer::Right(_)))
}

//! The report on a YubiKey: for people, for programs, and for the folder `hsm-config/reports`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use claviger::{
    keys::Curve,
    secrets::{
        Custody,
        piv::{AlgorithmExamination, CardExamination, Firmware, KnownAnswer, Refusal},
    },
};

use super::{ExaminedYubiKey, OpenedYubiKey, agrees};
use crate::cli::{
    failure::Failure,
    output::{BOLD, Out, count},
    table::Table,
    token::doctor::{device_report::FORMAT, findings::Finding, machine::Machine, report::print_findings},
};

impl ExaminedYubiKey {
    /// Prints the report for a person.
    pub fn print(&self, findings: &[Finding], out: &Out) -> Result<(), Failure> {
        let name = &self.name;
        let Ok(opened) = &self.opened else {
            out.line(&format!("{BOLD}{name}{BOLD:#}: absent"))?;
            return print_findings(findings, out);
        };
        let (info, (_, tries)) = (&opened.info, opened.pin);
        let form = opened.form().map(|form| format!(", {form}")).unwrap_or_default();
        let is =
            format!("{} {}, serial {}, firmware {}{form}", info.manufacturer, info.model, info.serial, info.firmware);
        out.line(&format!("{BOLD}{name}{BOLD:#}: {is}"))?;
        out.line(&format!("{}, and {} for the PIN", count(opened.keys.len(), "key"), tries_left(tries)))?;
        let Some(measured) = opened.measured() else {
            print_findings(findings, out)?;
            return match opened.measured {
                None => out.line("\nNothing in the YubiKey was changed."),
                // Its failure is printed at the end.
                Some(_) => Ok(()),
            };
        };
        out.line(&table(measured))?;
        for line in other_results(measured) {
            out.line(&line)?;
        }
        print_findings(findings, out)?;
        let firmware: Option<Firmware> = info.firmware.parse().ok();
        let deletes = firmware.is_some_and(|firmware| firmware >= Firmware::CURVE_25519);
        out.line(&what_was_changed(measured, deletes))
    }

    /// The JSON form of the report.
    pub fn to_json(&self, findings: &[Finding], machine: &Machine) -> Value {
        let opened = self.opened.as_ref();
        let measured = opened.ok().and_then(OpenedYubiKey::measured);
        let failure = match &self.opened {
            Ok(opened) => opened.measured.as_ref().and_then(|measured| Some(&measured.as_ref().err()?.failure)),
            Err(failure) => Some(failure),
        };
        let document = json!({
            "name": self.name,
            "token": opened.ok().map(|opened| &opened.info),
            "form": opened.ok().and_then(OpenedYubiKey::form),
            "pin": opened.ok().map(|opened| json!({
                "state": opened.pin.0,
                "tries": opened.pin.1,
                "last_try": opened.pin_record.as_ref().map(|record| record.state),
            })),
            "keys": opened.ok().map(|opened| opened.keys.len()),
            "slot": measured.map(|measured| measured.slot.to_string()),
            "findings": findings,
            "process": machine.to_json(),
            "error": failure.map(|failure| failure.to_json()["error"].clone()),
        });
        let Value::Object(mut document) = document else { unreachable!("it is an object") };
        document.extend(measured.map(results).unwrap_or_default());
        Value::Object(document)
    }

    /// The report on the device: what every YubiKey of its model and firmware can do, and nothing that tells one from
    /// another. `None` if nothing was measured.
    pub fn device_report(&self) -> Option<Value> {
        let opened = self.opened.as_ref().ok()?;
        let measured = opened.measured()?;
        let mut report = Map::new();
        report.insert("format".to_owned(), json!(FORMAT));
        report.insert("claviger".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        report.insert(
            "yubikey".to_owned(),
            json!({
                "firmware": opened.info.firmware,
                "form": measured.form_factor.map(|form| form.to_string()),
                "made_by_yubico": measured.made_by_yubico,
            }),
        );
        report.extend(results(measured));
        Some(Value::Object(report))
    }
}

impl OpenedYubiKey {
    fn measured(&self) -> Option<&CardExamination> {
        self.measured.as_ref()?.as_ref().ok()
    }

    fn form(&self) -> Option<String> {
        let form = self.form_factor.or_else(|| self.measured()?.form_factor);
        form.map(|form| form.to_string())
    }
}

fn what_was_changed(measured: &CardExamination, deletes: bool) -> String {
    let slot = measured.slot;
    let was_made =
        measured.algorithms.iter().any(|it| it.made.is_ok()) || measured.pin_policies.iter().any(|it| it.made);
    match (was_made, deletes) {
        (false, _) => "\nThe YubiKey made no throw-away key. Nothing was changed.".to_owned(),
        (true, true) => format!("\nThrow-away keys were made in slot {slot}, and deleted. Nothing else was changed."),
        (true, false) => format!(
            "\nThrow-away keys were made in slot {slot}, which keeps one that is marked as deleted. Nothing else was \
             changed."
        ),
    }
}

fn tries_left(tries: u8) -> String {
    if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") }
}

/// The results of throw-away keys.
fn results(measured: &CardExamination) -> Map<String, Value> {
    let pins = measured.pin_policies.iter();
    let pins = pins.map(|it| json!({ "policy": it.policy, "made": it.made, "needs_pin": it.needs_pin }));
    let touches = measured.touch_policies.iter().map(|(policy, made)| json!({ "policy": policy, "made": made }));
    let results = json!({
        "algorithms": measured.algorithms.iter().map(algorithm).collect::<Vec<_>>(),
        "pin_policies": pins.collect::<Vec<_>>(),
        "touch_policies": touches.collect::<Vec<_>>(),
        "largest_object": measured.largest_object,
        "longest_eddsa": measured.longest_eddsa,
    });
    let Value::Object(results) = results else { unreachable!("it is an object") };
    results
}

fn algorithm(it: &AlgorithmExamination) -> Value {
    let micros = |took: Option<Duration>| took.map(|took| took.as_micros() as u64);
    let answers = [(it.agreement, json!(Custody::SharedSecretInProcess)), (it.signature, json!("signature"))];
    let answers = answers.into_iter().filter_map(|(answer, of)| Some(known_answer(answer?, &of)));
    json!({
        "algorithm": it.curve.name(),
        "verdict": verdict(it),
        "no_key": it.made.err().map(refusal),
        "attested": it.attested,
        "answers": answers.collect::<Vec<_>>(),
        "make_microseconds": micros(it.made.ok()),
        "agree_microseconds": micros(time(it.agreement)),
        "sign_microseconds": micros(time(it.signature)),
    })
}

fn known_answer(answer: KnownAnswer, of: &Value) -> Value {
    let (word, refused) = match answer {
        KnownAnswer::Right(_) => ("right", None),
        KnownAnswer::Wrong => ("wrong", None),
        KnownAnswer::Refused(refused) => ("refused", Some(refusal(refused))),
    };
    json!({ "of": of, "answer": word, "refusal": refused })
}

fn refusal(refusal: Refusal) -> Value {
    json!({ "command": refusal.command, "status": format!("{:04X}", refusal.status) })
}

/// As for PKCS#11 tokens: what DIDComm can do with such a key.
fn verdict(it: &AlgorithmExamination) -> &'static str {
    match (agrees(it), it.signature) {
        (true, _) => "authcrypt",
        (false, Some(KnownAnswer::Right(_))) => "sign-only",
        _ => "not",
    }
}

fn time(answer: Option<KnownAnswer>) -> Option<Duration> {
    match answer? {
        KnownAnswer::Right(took) => Some(took),
        _ => None,
    }
}

/// What was refused first.
fn refused(it: &AlgorithmExamination) -> Option<Refusal> {
    let answers = [it.agreement, it.signature].into_iter().flatten();
    let mut refusals = answers.filter_map(|answer| match answer {
        KnownAnswer::Refused(refusal) => Some(refusal),
        _ => None,
    });
    it.made.err().or_else(|| refusals.next())
}

fn table(measured: &CardExamination) -> String {
    let millis =
        |took: Option<Duration>| took.map_or(String::new(), |took| format!("{:.1} ms", took.as_secs_f64() * 1e3));
    let mut table = Table::new(&["ALGORITHM", "VERDICT", "ATTESTED", "MAKE", "AGREE", "SIGN", "NOTE"]);
    for it in &measured.algorithms {
        table.row([
            it.curve.to_string(),
            verdict(it).to_owned(),
            if it.attested { "yes" } else { "no" }.to_owned(),
            millis(it.made.ok()),
            millis(time(it.agreement)),
            millis(time(it.signature)),
            refused(it).map(|it| format!("{} answered {:04X}", it.command, it.status)).unwrap_or_default(),
        ]);
    }
    table.render()
}

fn other_results(measured: &CardExamination) -> Vec<String> {
    let words = |policies: Vec<Value>| policies.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let pins = measured.pin_policies.iter().filter(|it| it.made).map(|it| json!(it.policy)).collect();
    let touches = measured.touch_policies.iter().filter(|(_, made)| *made).map(|(policy, _)| json!(policy)).collect();
    let mut lines = vec![format!("PIN policies: {}; touch policies: {}", words(pins), words(touches))];
    lines.extend(measured.largest_object.map(|bytes| format!("Largest data object: {bytes} bytes")));
    lines.extend(measured.longest_eddsa.map(|bytes| format!("{} signs at least {bytes} bytes", Curve::Ed25519)));
    lines
}

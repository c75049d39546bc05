//! The report on a device, for the folder `hsm-config/reports`: what every device of its kind and version can do, and
//! nothing that tells one from another. `card/report.rs` has that of YubiKeys.

use std::{io::IsTerminal, path::Path, time::Duration};

use serde_json::{Value, json};

use claviger::secrets::{
    Token,
    pkcs11::{Answer, CurveExamination, KnownAnswerTest, Profile, ProfileSource, TestKey},
};

use super::examination::{ExaminedToken, OpenedToken};
use crate::cli::{
    confirm::confirm_that,
    failure::Failure,
    output::{Out, tell},
    output_file::OutputFile,
};

/// The version of the report's form.
pub const FORMAT: u32 = 1;

/// Fails if nobody can be asked whether the report may be written.
pub fn check_can_ask(yes: bool) -> Result<(), Failure> {
    if yes || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::new("not-confirmed", "a report is written after a person has seen it, and there is no terminal")
        .hint("--yes writes it without asking"))
}

/// Shows a report, asks whether it may be written unless `yes`, and writes it.
pub fn write(report: &Value, path: &Path, yes: bool, out: &Out) -> Result<(), Failure> {
    let report = serde_json::to_string_pretty(report).expect("a JSON value can be serialized");
    let shown = path.display();
    if !yes {
        tell(&format!("\n{report}\n"));
        confirm_that(
            &format!("{shown} gets this text, and nothing else. Write it?"),
            "not confirmed: no report was written",
            "--yes writes it without asking",
        )?;
    }
    OutputFile::open(path, 0o644)?.line(&report)?;
    out.say(&format!("{shown} has the report. It has no label, serial number, PIN, key or path."));
    Ok(())
}

/// The report on the device of a PKCS#11 token.
pub fn report(token: &ExaminedToken, opened: &OpenedToken) -> Result<Value, Failure> {
    let failed = |error| Failure::from_token(&token.name, &error);
    let overview = token.overview.as_ref().expect("the caller has checked it");
    let mut device = json!(opened.token.describe_device().map_err(failed)?);
    // Some modules write a number of the device into other texts.
    leave_out(&mut device, &overview.token.info.serial);
    let profile = &overview.profile;
    let is_known = overview.profile_source != ProfileSource::Unknown;
    Ok(json!({
        "format": FORMAT,
        "claviger": env!("CARGO_PKG_VERSION"),
        // A name that the site has chosen may say whose device it is.
        "profile": is_known.then(|| profile.name()).filter(|name| Profile::is_built_in(name)),
        "module": device["module"],
        "token": device["token"],
        "sessions": { "most": overview.most_sessions, "used": opened.token.concurrency() },
        "session_keys": opened.examination.session_keys,
        "algorithms": opened.examination.algorithms.iter().map(algorithm).collect::<Vec<_>>(),
        "mechanisms": device["mechanisms"],
    }))
}

/// Replaces the texts that contain the serial number.
fn leave_out(value: &mut Value, serial: &str) {
    match value {
        Value::String(text) if serial.len() >= 4 && text.contains(serial) => *text = "left out".to_owned(),
        Value::Array(values) => values.iter_mut().for_each(|value| leave_out(value, serial)),
        Value::Object(members) => members.values_mut().for_each(|value| leave_out(value, serial)),
        _ => {}
    }
}

fn algorithm(it: &CurveExamination) -> Value {
    let micros = |took: Option<Duration>| took.map(|took| took.as_micros() as u64);
    json!({
        "algorithm": it.curve.name(),
        "verdict": it.verdict,
        "tested_with": match it.test_key {
            TestKey::Session => Some("session-key"),
            TestKey::Held(_) => Some("held-key"),
            TestKey::Nothing => None,
        },
        // Without a key the reason is why none is made.
        "no_key": it.reason.as_deref().filter(|_| it.test_key == TestKey::Nothing).map(codes),
        "new_key": it.form,
        "signs": it.signs,
        "custody": it.custody,
        "peer_point": it.point,
        "answers": it.tests.iter().map(answer).collect::<Vec<_>>(),
        "sign_microseconds": micros(it.sign_time),
        "unwrap_microseconds": micros(it.anoncrypt_time),
        "authcrypt_microseconds": micros(it.authcrypt_time),
    })
}

fn answer(test: &KnownAnswerTest) -> Value {
    let (answer, codes) = match &test.answer {
        Answer::Right => ("right", None),
        Answer::Wrong => ("wrong", None),
        Answer::Refused(reason) => ("refused", Some(codes(reason))),
    };
    json!({ "of": test.custody.map_or(json!("signature"), |custody| json!(custody)), "answer": answer, "codes": codes })
}

/// The PKCS#11 names in an error: functions and return values. Other words may be about this device.
fn codes(reason: &str) -> Vec<&str> {
    let words = reason.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| ["C_", "CKR_", "CKM_"].iter().any(|start| word.starts_with(start))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_device_itself_is_left() {
        let reason = "not permitted: C_DeriveKey: CKR_KEY_FUNCTION_NOT_PERMITTED (token \"mine\", /opt/CKR/x.so)";
        assert_eq!(codes(reason), ["C_DeriveKey", "CKR_KEY_FUNCTION_NOT_PERMITTED"]);
        let mut texts = json!({ "model": "HSM 12345678", "version": "1.2", "list": ["12345678", "1234"] });
        leave_out(&mut texts, "12345678");
        assert_eq!(texts, json!({ "model": "left out", "version": "1.2", "list": ["left out", "1234"] }));
        let before = texts.clone();
        leave_out(&mut texts, "");
        assert_eq!(texts, before);
    }
}

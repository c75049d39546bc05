//! The report on a token: a table and findings for people, a JSON document for programs.

use std::time::Duration;

use serde_json::{Value, json};

use claviger::{
    keys::Curve,
    secrets::{
        Token,
        pkcs11::{CurveExamination, EvidenceBasis, PinLocation, ProfileSource, TestKey, TokenOverview},
    },
};

use super::{
    examination::{ExaminedToken, OpenedToken},
    findings::{Finding, Level, findings},
    machine::Machine,
};
use crate::cli::{
    config::TokenConfig,
    failure::Failure,
    output::{BAD, BOLD, DIM, NAME, Out, WARN},
    table::Table,
};

/// The report on one token.
pub struct Report<'m> {
    token: ExaminedToken,
    findings: Vec<Finding>,
    machine: &'m Machine,
}

impl<'m> Report<'m> {
    pub fn new(token: ExaminedToken, configured: &TokenConfig, machine: &'m Machine) -> Self {
        let findings = findings(&token, configured, machine);
        Self { token, findings, machine }
    }

    /// The token that was examined.
    pub fn token(&self) -> &ExaminedToken {
        &self.token
    }

    /// Why the token could not be examined, or `None` if it was.
    pub fn failure(self) -> Option<Failure> {
        self.token.opened.err()
    }

    /// Prints the report for a person.
    pub fn print(&self, out: &Out) -> Result<(), Failure> {
        let name = &self.token.name;
        match &self.token.overview {
            Some(overview) => {
                let info = &overview.token.info;
                let is =
                    format!("{} {}, serial {}, firmware {}", info.manufacturer, info.model, info.serial, info.firmware);
                out.line(&format!("{BOLD}{name}{BOLD:#}: {is}"))?;
                out.line(&format!("{DIM}{}; {}{DIM:#}", overview.module.display(), profile(overview)))?;
            }
            None => out.line(&format!("{BOLD}{name}{BOLD:#}: absent"))?,
        }
        if let Ok(opened) = &self.token.opened {
            out.line(&table(opened))?;
        }
        print_findings(&self.findings, out)?;
        out.line(match &self.token.opened {
            Ok(opened) if opened.has_changed() => "\nThe objects in the token changed during the test: see above.",
            Ok(_) => "\nNothing in the token was changed.",
            Err(_) => "\nNothing in the token was changed. Its keys can be tested only after a login.",
        })
    }

    /// The JSON form of the report.
    pub fn to_json(&self) -> Value {
        let ExaminedToken { name, overview, pin_record, opened } = &self.token;
        let opened = opened.as_ref();
        let examination = opened.ok().map(|opened| &opened.examination);
        let algorithms = examination.into_iter().flat_map(|it| it.algorithms.iter().map(algorithm));
        json!({
            "name": name,
            "token": overview.as_ref().map(|overview| &overview.token.info),
            "module": overview.as_ref().map(|overview| &overview.module),
            "profile": overview.as_ref().map(profile_to_json),
            "pin": overview.as_ref().map(|overview| json!({
                "state": overview.token.pin,
                "last_try": pin_record.as_ref().map(|record| record.state),
                "source": source(&overview.pin_location),
                "file": match &overview.pin_location {
                    PinLocation::File { path, .. } => Some(path),
                    _ => None,
                },
            })),
            "sessions": overview.as_ref().map(|overview| json!({
                "used": opened.ok().map(|opened| opened.token.concurrency()),
                "most": overview.most_sessions,
            })),
            "session_keys": examination.map(|it| it.session_keys),
            "algorithms": algorithms.collect::<Vec<_>>(),
            "refused": opened.ok().map(OpenedToken::refused_keys).unwrap_or_default(),
            "findings": self.findings,
            "process": self.machine.to_json(),
            "changed": opened.ok().map(OpenedToken::has_changed),
            "error": opened.err().map(|failure| failure.to_json()["error"].clone()),
        })
    }
}

/// Prints findings for a person, the worst first.
pub fn print_findings(findings: &[Finding], out: &Out) -> Result<(), Failure> {
    for level in Level::ALL {
        let (style, mut findings) = (style(level), findings.iter().filter(|it| it.level == level).peekable());
        if findings.peek().is_some() {
            out.line(&format!("\n{style}{level}{style:#}"))?;
        }
        for finding in findings {
            let about = match finding.about.as_slice() {
                [] => String::new(),
                about => format!("{}: ", about.join(", ")),
            };
            out.line(&format!("- {about}{}", finding.message))?;
            if let Some(hint) = &finding.hint {
                out.line(&format!("  {DIM}hint:{DIM:#} {hint}"))?;
            }
        }
    }
    Ok(())
}

fn table(opened: &OpenedToken) -> String {
    let time =
        |took: Option<Duration>| took.map_or(String::new(), |took| format!("{:.2} ms", took.as_secs_f64() * 1e3));
    let mut table = Table::new(&["ALGORITHM", "VERDICT", "CUSTODY", "POINT", "UNWRAP", "SIGN", "NOTE"]);
    for it in &opened.examination.algorithms {
        table.row([
            it.curve.to_string(),
            it.verdict.map_or("not tested".to_owned(), |verdict| verdict.to_string()),
            it.custody.map(|custody| custody.to_string()).unwrap_or_default(),
            it.point.map_or(String::new(), |point| word(&json!(point))),
            time(it.anoncrypt_time),
            time(it.sign_time),
            note(it).unwrap_or_default(),
        ]);
    }
    table.render()
}

/// A remark on a verdict.
fn note(it: &CurveExamination) -> Option<String> {
    match (&it.test_key, &it.reason) {
        (TestKey::Nothing, Some(why)) if it.verdict.is_none() => {
            Some(format!("the token makes no key for the test ({why}), and holds no such key"))
        }
        (TestKey::Held(key), why) => {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("tested with the key {key}{why}"))
        }
        (_, why) => why.clone(),
    }
}

fn algorithm(it: &CurveExamination) -> Value {
    let micros = |took: Option<Duration>| took.map(|took| took.as_micros() as u64);
    let (tested_with, key) = match &it.test_key {
        TestKey::Session => (Some("session-key"), None),
        TestKey::Held(key) => (Some("held-key"), Some(key.to_multikey())),
        TestKey::Nothing => (None, None),
    };
    json!({
        "algorithm": it.curve.name(),
        "verdict": it.verdict,
        "tested_with": tested_with,
        "key": key,
        "signs": it.signs,
        "custody": it.custody,
        "point": it.point,
        "unwrap_microseconds": micros(it.anoncrypt_time),
        "authcrypt_microseconds": micros(it.authcrypt_time),
        "sign_microseconds": micros(it.sign_time),
        "mechanisms": it.mechanisms,
        "tried": it.tests,
        "note": note(it),
    })
}

fn profile(overview: &TokenOverview) -> String {
    let name = overview.profile.name();
    let by = match overview.profile_source {
        ProfileSource::Configured => format!("profile {name}, which the configuration names"),
        ProfileSource::Matched => format!("profile {name}, which matches the device"),
        ProfileSource::Unknown => "no profile matches the device".to_owned(),
    };
    match overview.profile.basis() {
        Some((EvidenceBasis::Measured, version)) => format!("{by} (measured: {version})"),
        Some((EvidenceBasis::Documented, version)) => format!("{by} (read, not measured: {version})"),
        None => by,
    }
}

fn profile_to_json(overview: &TokenOverview) -> Value {
    let (basis, version) = overview.profile.basis().unzip();
    let says = Curve::ALL
        .into_iter()
        .filter_map(|curve| Some((curve.name().to_owned(), json!(overview.profile.verdict(curve)?))));
    json!({
        "name": overview.profile.name(),
        "device": overview.profile.device(),
        "by": overview.profile_source,
        "basis": basis.map(|basis| match basis {
            EvidenceBasis::Measured => "measured",
            EvidenceBasis::Documented => "read",
        }),
        "version": version,
        "says": says.collect::<serde_json::Map<_, _>>(),
    })
}

fn source(place: &PinLocation) -> &'static str {
    match place {
        PinLocation::File { .. } => "file",
        PinLocation::Credential => "credential",
        PinLocation::Uri => "uri",
        PinLocation::Person => "person",
        _ => "program",
    }
}

fn style(level: Level) -> anstyle::Style {
    match level {
        Level::Bad => BAD,
        Level::Warning => WARN,
        Level::Note => BOLD,
        Level::Good => NAME,
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

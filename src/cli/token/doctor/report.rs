//! What a doctor says: a table and findings for people, one document for programs.

use std::time::Duration;

use serde_json::{Value, json};

use claviger::{
    keys::Curve,
    secrets::{
        HeldKey, Token,
        pkcs11::{Basis, Examined, Look, PinPlace, ProfileBy, TestKey},
    },
};

use super::{
    Inside, Patient,
    findings::{Finding, Level, findings},
    machine::Machine,
};
use crate::cli::{
    config::TokenConfig,
    failure::Failure,
    output::{BAD, BOLD, DIM, NAME, Out, WARN},
    table::Table,
};

/// One token.
pub struct Report<'m> {
    patient: Patient,
    findings: Vec<Finding>,
    machine: &'m Machine,
}

impl<'m> Report<'m> {
    pub fn new(patient: Patient, configured: &TokenConfig, machine: &'m Machine) -> Self {
        let findings = findings(&patient, configured, machine);
        Self { patient, findings, machine }
    }

    /// Why the token could not be examined, if so.
    pub fn failure(self) -> Option<Failure> {
        self.patient.inside.err()
    }

    pub fn print(&self, out: &Out) -> Result<(), Failure> {
        let name = &self.patient.name;
        match &self.patient.look {
            Some(look) => {
                let info = &look.token.info;
                let is =
                    format!("{} {}, serial {}, firmware {}", info.manufacturer, info.model, info.serial, info.firmware);
                out.line(&format!("{BOLD}{name}{BOLD:#}: {is}"))?;
                out.line(&format!("{DIM}{}; {}{DIM:#}", look.module.display(), profile(look)))?;
            }
            None => out.line(&format!("{BOLD}{name}{BOLD:#}: it is not there"))?,
        }
        if let Ok(inside) = &self.patient.inside {
            out.line(&table(inside))?;
        }
        for level in Level::ALL {
            let (style, mut findings) = (style(level), self.findings.iter().filter(|it| it.level == level).peekable());
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
        out.line(match &self.patient.inside {
            Ok(inside) if inside.changed() => "\nThe objects in the token changed meanwhile: see above.",
            Ok(_) => "\nNothing in the token was changed.",
            Err(_) => "\nNothing in the token was changed. What it does with keys is seen after a login.",
        })
    }

    pub fn to_json(&self) -> Value {
        let Patient { name, look, remembered, inside } = &self.patient;
        let inside = inside.as_ref();
        let examination = inside.ok().map(|inside| &inside.examination);
        let algorithms = examination.into_iter().flat_map(|it| it.algorithms.iter().map(algorithm));
        json!({
            "name": name,
            "token": look.as_ref().map(|look| &look.token.info),
            "module": look.as_ref().map(|look| &look.module),
            "profile": look.as_ref().map(profile_to_json),
            "pin": look.as_ref().map(|look| json!({
                "state": look.token.pin,
                "last_try": remembered.as_ref().map(|memory| memory.state),
                "source": source(&look.pin),
                "file": match &look.pin {
                    PinPlace::File { path, .. } => Some(path),
                    _ => None,
                },
            })),
            "sessions": look.as_ref().map(|look| json!({
                "used": inside.ok().map(|inside| inside.token.concurrency()),
                "most": look.most_sessions,
            })),
            "session_keys": examination.map(|it| it.session_keys),
            "algorithms": algorithms.collect::<Vec<_>>(),
            "refused": inside.ok().map(Inside::refused).unwrap_or_default(),
            "findings": self.findings,
            "process": self.machine.to_json(),
            "changed": inside.ok().map(Inside::changed),
            "error": inside.err().map(|failure| failure.to_json()["error"].clone()),
        })
    }
}

impl Inside {
    fn changed(&self) -> bool {
        let (before, after) = self.examination.objects;
        before != after
    }

    /// Keys that it holds and that are not used.
    fn refused(&self) -> Vec<String> {
        let unused = self.inventory.iter().filter(|held| !self.usable.contains(held));
        unused.map(|held: &HeldKey| held.public.to_multikey()).collect()
    }
}

fn table(inside: &Inside) -> String {
    let time =
        |took: Option<Duration>| took.map_or(String::new(), |took| format!("{:.2} ms", took.as_secs_f64() * 1e3));
    let mut table = Table::new(&["ALGORITHM", "VERDICT", "CUSTODY", "POINT", "UNWRAP", "SIGN", "NOTE"]);
    for it in &inside.examination.algorithms {
        table.row([
            it.curve.to_string(),
            it.verdict.map_or("not tested".to_owned(), |verdict| verdict.to_string()),
            it.custody.map(|custody| custody.to_string()).unwrap_or_default(),
            it.point.map_or(String::new(), |point| word(&json!(point))),
            time(it.unwrap),
            time(it.sign),
            note(it).unwrap_or_default(),
        ]);
    }
    table.render()
}

/// What is to be known of a verdict.
fn note(it: &Examined) -> Option<String> {
    match (&it.with, &it.why) {
        (TestKey::Nothing, Some(why)) if it.verdict.is_none() => {
            Some(format!("the token makes no key for the test ({why}), and holds none"))
        }
        (TestKey::Held(key), why) => {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("tested with the key {key}{why}"))
        }
        (_, why) => why.clone(),
    }
}

fn algorithm(it: &Examined) -> Value {
    let micros = |took: Option<Duration>| took.map(|took| took.as_micros() as u64);
    let (with, key) = match &it.with {
        TestKey::Session => (Some("session-key"), None),
        TestKey::Held(key) => (Some("held-key"), Some(key.to_multikey())),
        TestKey::Nothing => (None, None),
    };
    json!({
        "algorithm": it.curve.name(),
        "verdict": it.verdict,
        "tested_with": with,
        "key": key,
        "signs": it.signs,
        "custody": it.custody,
        "point": it.point,
        "unwrap_microseconds": micros(it.unwrap),
        "authcrypt_microseconds": micros(it.authcrypt),
        "sign_microseconds": micros(it.sign),
        "mechanisms": it.mechanisms,
        "tried": it.tried,
        "note": note(it),
    })
}

fn profile(look: &Look) -> String {
    let name = look.profile.name();
    let by = match look.profile_by {
        ProfileBy::Name => format!("profile {name}, which the configuration names"),
        ProfileBy::Match => format!("profile {name}, which fits it"),
        ProfileBy::Nothing => "no profile fits it".to_owned(),
    };
    match look.profile.basis() {
        Some((Basis::Measured, version)) => format!("{by} (measured: {version})"),
        Some((Basis::Read, version)) => format!("{by} (read, not measured: {version})"),
        None => by,
    }
}

fn profile_to_json(look: &Look) -> Value {
    let (basis, version) = look.profile.basis().unzip();
    let says =
        Curve::ALL.into_iter().filter_map(|curve| Some((curve.name().to_owned(), json!(look.profile.verdict(curve)?))));
    json!({
        "name": look.profile.name(),
        "device": look.profile.device(),
        "by": look.profile_by,
        "basis": basis.map(|basis| match basis {
            Basis::Measured => "measured",
            Basis::Read => "read",
        }),
        "version": version,
        "says": says.collect::<serde_json::Map<_, _>>(),
    })
}

fn source(place: &PinPlace) -> &'static str {
    match place {
        PinPlace::File { .. } => "file",
        PinPlace::Credential => "credential",
        PinPlace::Uri => "uri",
        PinPlace::Person => "person",
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

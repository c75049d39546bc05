//! This machine: which measures protect a keeper's memory here, and which restrictions of the agent's sandbox hold.

use std::process::Stdio;

use serde_json::{Value, json};

use claviger::process::{
    hardening::{HardeningReport, harden},
    sandbox::Sandbox,
};

use crate::cli::{failure::Failure, output::Out, this_program};

/// The measures that hold on this machine.
pub struct Machine {
    hardening: HardeningReport,
    /// The report of the process that entered the sandbox, or why there is none.
    sandbox: Result<Value, String>,
}

/// A measure that does not hold.
pub struct MissingMeasure {
    pub name: String,
    pub why: String,
    pub remedy: Option<String>,
}

impl Machine {
    /// Hardens this process like a keeper, and has another process enter the agent's sandbox.
    pub fn harden_and_examine() -> Self {
        let sandbox = sandbox();
        Self { hardening: harden(), sandbox }
    }

    /// The measures of a keeper that do not hold.
    pub fn missing_hardening(&self) -> Vec<MissingMeasure> {
        let missing = self.hardening.0.iter().filter(|it| !it.holds);
        let of = |it: &claviger::process::Finding| MissingMeasure {
            name: it.name.to_owned(),
            why: it.why.clone().unwrap_or_default(),
            remedy: it.remedy.map(str::to_owned),
        };
        missing.map(of).collect()
    }

    /// The restrictions of the agent's sandbox that do not hold.
    pub fn missing_sandbox_measures(&self) -> Vec<MissingMeasure> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match &self.sandbox {
            Ok(report) => {
                let findings = report["findings"].as_array().into_iter().flatten();
                let missing = findings.filter(|it| it["holds"] != true);
                let of = |it: &Value| MissingMeasure {
                    name: text(&it["name"]).unwrap_or_default(),
                    why: text(&it["why"]).unwrap_or_default(),
                    remedy: text(&it["remedy"]),
                };
                missing.map(of).collect()
            }
            Err(why) => vec![MissingMeasure { name: "sandbox".to_owned(), why: why.clone(), remedy: None }],
        }
    }

    /// The JSON form of both reports.
    pub fn to_json(&self) -> Value {
        json!({ "hygiene": self.hardening, "sandbox": self.sandbox.as_ref().ok() })
    }
}

/// Has another process enter the sandbox, because a process cannot leave it.
fn sandbox() -> Result<Value, String> {
    let mut command = this_program::command().map_err(|failure| failure.message)?;
    command.args(["token", "doctor", "--sandbox", "--json"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(|error| error.to_string());
    }
    Err(this_program::error_message(&output.stderr).unwrap_or_else(|| output.status.to_string()))
}

/// `--sandbox`: enters the sandbox, and prints the report.
pub fn report_sandbox(out: &Out) -> Result<(), Failure> {
    let report = Sandbox::new().enforce().map_err(|error| Failure::new("failed", error.to_string()))?;
    out.document(&report)
}

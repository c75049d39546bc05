//! This machine: what a keeper's process can do to guard its memory here, and what an agent's sandbox holds.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use claviger::process::{
    hygiene::{Hygiene, harden},
    sandbox::Sandbox,
};

use crate::cli::{failure::Failure, output::Out};

/// What holds here.
pub struct Machine {
    hygiene: Hygiene,
    /// What the process that went into the sandbox said of it; or why there was none.
    sandbox: Result<Value, String>,
}

/// A measure that does not hold.
pub struct Lacking {
    pub name: String,
    pub why: String,
    pub remedy: Option<String>,
}

impl Machine {
    /// Hardens this process as a keeper is, and has another one enter the agent's sandbox.
    pub fn harden_and_look() -> Self {
        let sandbox = sandbox();
        Self { hygiene: harden(), sandbox }
    }

    /// What of a keeper's measures does not hold.
    pub fn unguarded(&self) -> Vec<Lacking> {
        let lacking = self.hygiene.0.iter().filter(|it| !it.holds);
        let of = |it: &claviger::process::Finding| Lacking {
            name: it.name.to_owned(),
            why: it.why.clone().unwrap_or_default(),
            remedy: it.remedy.map(str::to_owned),
        };
        lacking.map(of).collect()
    }

    /// What of an agent's sandbox does not hold.
    pub fn open_doors(&self) -> Vec<Lacking> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match &self.sandbox {
            Ok(report) => {
                let findings = report["findings"].as_array().into_iter().flatten();
                let lacking = findings.filter(|it| it["holds"] != true);
                let of = |it: &Value| Lacking {
                    name: text(&it["name"]).unwrap_or_default(),
                    why: text(&it["why"]).unwrap_or_default(),
                    remedy: text(&it["remedy"]),
                };
                lacking.map(of).collect()
            }
            Err(why) => vec![Lacking { name: "sandbox".to_owned(), why: why.clone(), remedy: None }],
        }
    }

    pub fn to_json(&self) -> Value {
        json!({ "hygiene": self.hygiene, "sandbox": self.sandbox.as_ref().ok() })
    }
}

/// In a process of its own: who enters does not come out.
fn sandbox() -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["token", "doctor", "--sandbox", "--json"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(|error| error.to_string());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error: Option<Value> = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let message = error.and_then(|error| error["error"]["message"].as_str().map(str::to_owned));
    Err(message.unwrap_or_else(|| output.status.to_string()))
}

/// `--sandbox`: in that process.
pub fn try_sandbox(out: &Out) -> Result<(), Failure> {
    let report = Sandbox::new().enforce().map_err(|error| Failure::new("failed", error.to_string()))?;
    out.document(&report)
}

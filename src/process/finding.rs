//! [`Finding`]: a protective measure, and whether it is in effect in this process.

use serde::Serialize;

/// A protective measure, and whether it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The measure's name, in lower case.
    pub name: &'static str,
    /// Whether the measure is in effect.
    pub holds: bool,
    /// Why the measure is not in effect; `None` if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How a person can bring the measure into effect; `None` if it is in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

impl Finding {
    /// Makes a finding from the result of a check. The error says why the measure is not in effect.
    pub(super) fn new(name: &'static str, result: Result<(), String>, remedy: &'static str) -> Self {
        match result {
            Ok(()) => Self { name, holds: true, why: None, remedy: None },
            Err(why) => Self { name, holds: false, why: Some(why), remedy: Some(remedy) },
        }
    }

    /// Makes the finding of a measure that this operating system does not have.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn unsupported(name: &'static str) -> Self {
        let why = "not supported on this system".to_owned();
        Self { name, holds: false, why: Some(why), remedy: Some("run Claviger on Linux") }
    }
}

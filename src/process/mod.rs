//! What a process does to itself before it touches a secret: hygiene for both, a sandbox for the agent.
//!
//! The lowest module of the library: it uses nothing above it, and knows no key. [`hygiene`] is for every process that
//! holds a secret, [`sandbox`] for the one that talks to the network. Both report what holds on this machine, in words for
//! `token doctor`, since much of it is the kernel's and the operator's to give.

#[cfg(target_os = "linux")]
mod calls;
pub mod hygiene;
pub mod sandbox;

use serde::Serialize;

/// One measure, and whether it holds here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is called, in lower case.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

impl Finding {
    fn new(name: &'static str, result: Result<(), String>, remedy: &'static str) -> Self {
        match result {
            Ok(()) => Self { name, holds: true, why: None, remedy: None },
            Err(why) => Self { name, holds: false, why: Some(why), remedy: Some(remedy) },
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn elsewhere(name: &'static str) -> Self {
        Self { name, holds: false, why: Some("not on this system".to_owned()), remedy: Some("run it on Linux") }
    }
}

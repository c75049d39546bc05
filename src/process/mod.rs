//! How a process protects itself before it touches a secret.
//!
//! [`hardening`] is for every process that holds a secret, and [`sandbox`] is for the process that talks to the
//! network. Both report which measures are in effect, for `token doctor`: the kernel and the operator decide about many
//! of them.
//!
//! This is the lowest module of the library. It uses nothing above it, and handles no keys.

mod finding;
pub mod hardening;
pub mod sandbox;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(target_os = "linux")]
mod system_calls;

pub use finding::Finding;

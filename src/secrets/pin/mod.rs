//! A token's PIN: where it comes from, how long it is in memory, and why a wrong PIN is not tried twice.
//!
//! **Where is a PIN kept from being tried twice?** In `attempt.rs`: `TokenPin::prepare` is the only way to get a PIN that
//! may be presented, for PKCS#11 tokens and YubiKeys alike. It refuses by the rules at the top of `record.rs`. The record is
//! on disk, in the guard's folder (`guard.rs`), so the rules hold across restarts and for all programs that share the
//! folder. An attempt is recorded as begun before the PIN is presented: a program that crashes during the attempt does not
//! make the next one try the PIN again. The guard's lock file lets one program try a PIN at a time.
//!
//! **How long is a PIN in memory?** From `TokenPin::prepare`, which reads it from its source, to `TokenPin::conclude`, which
//! erases it right after the token has answered. It is never kept for the next login; the source is read again. With a
//! YubiKey the time includes the operation, since a key with PIN policy `always` wants the PIN again before each use. Two
//! sources hold a PIN longer: [`PinSource::value`] and `pin-value` in the URI, as long as the token's options exist. Each
//! [`Pin`] is overwritten when it is dropped, and is never printed.
//!
//! | file | what it has |
//! |---|---|
//! | `attempt.rs` | one attempt: prepare, present, conclude |
//! | `record.rs` | the record of the last attempt, and the rules |
//! | `guard.rs` | the record and the lock on disk |
//! | `source.rs`, `file.rs`, `source_id.rs` | where a PIN comes from, and how a changed source is recognised |
//! | `prompt.rs` | asking a person |
//! | `value.rs` | the PIN itself |

mod attempt;
mod file;
mod guard;
mod prompt;
mod record;
mod source;
mod source_id;
mod value;

pub(super) use attempt::{PinAttempt, PinOutcome, TokenPin, TriesLeft};
pub(super) use guard::PinGuard;
pub use prompt::{PinPrompt, PinState, Prompt};
pub use record::{PinRecord, PinRecordState};
pub(super) use source::UriPin;
pub use source::{PinLocation, PinSource};
pub use value::Pin;

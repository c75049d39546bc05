//! A token's PIN: where it comes from, how long it is in memory, and why a wrong PIN is not tried twice.
//!
//! **Where is a PIN kept from being tried twice?** In `attempt.rs`, for PKCS#11 tokens and YubiKeys alike: C_Login and
//! VERIFY get their PIN from `PinAccess::prepare`, which refuses by the rules at the top of `record.rs`. The record of
//! the last attempt is on disk (`guard.rs`), in the folder of `OpenOptions::pin_guard` (the programs: `pin-guard` in
//! `state_dir`), so the rules hold across restarts and for all programs that share the folder. The attempt is recorded
//! as begun before the PIN is presented, so a crash during it counts too. The guard's lock file lets one program at a
//! time try a PIN that the guard records.
//!
//! A PIN that a person types is recorded in this process only, since a person is present each time. It takes no lock
//! and needs no writable folder. Without a folder, every PIN is recorded in this process only.
//!
//! Two calls are not under these rules: `pkcs11::init_token` logs in as security officer with a PIN that a person
//! gives for that call, and `YubiKey::set_up` presents the factory PIN after the card has reported that it has
//! the factory PIN.
//!
//! **How long is a PIN in memory?** From `PinAccess::prepare`, which reads it from its source, to
//! `PinAccess::conclude`, which erases it as soon as the device is done. For a PKCS#11 token the device is done after
//! C_Login. For a YubiKey it is done after VERIFY and the operation, which share one transaction: a key with PIN policy
//! `always` needs the PIN again before each use. The PIN is not kept for the next login: the token stays logged in, and
//! if the login is lost, the source is read again. Two sources hold a PIN longer, as long as the token is open:
//! [`PinSource::value`], and `pin-value` in the URI. A module, `pinentry` and the configuration's text may keep copies
//! (`docs/custody.md`). A [`Pin`] is overwritten when it is dropped, and is never printed.
//!
//! | file | what it has |
//! |---|---|
//! | `attempt.rs` | one attempt: prepare, present, conclude |
//! | `record.rs` | the record of the last attempt, and the rules |
//! | `guard.rs` | the record and the lock on disk |
//! | `mark.rs` | how a changed credential is recognised |
//! | `source.rs`, `file.rs`, `source_id.rs` | where a PIN comes from, and how a changed source is recognised |
//! | `prompt.rs` | asking a person |
//! | `value.rs` | the PIN itself |

mod attempt;
mod file;
mod guard;
mod mark;
mod prompt;
mod record;
mod source;
mod source_id;
mod value;

pub(super) use attempt::{PinAccess, PinAttempt, PinOutcome, TriesLeft};
pub(super) use guard::PinGuard;
pub use prompt::{PinPrompt, PinState, Prompt};
pub use record::{PinRecord, PinRecordState};
pub(super) use source::UriPin;
pub use source::{PinLocation, PinSource};
pub use value::Pin;

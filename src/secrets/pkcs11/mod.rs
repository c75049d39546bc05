//! PKCS#11 tokens: HSMs, and SoftHSM or Kryoptic for tests.
//!
//! [`open`] loads the module, finds the one token that a `pkcs11:` URI names, and logs in. Known-answer tests then find
//! out what each key can do, and [`Keyring`](super::Keyring) serves the token.
//!
//! No type of `cryptoki` is public here, and no other module uses that crate.
//!
//! | file | what it has |
//! |---|---|
//! | `token.rs` | [`Pkcs11Token`]: operations, and one new session when a session is lost |
//! | `connection.rs`, `session.rs` | sessions: opened, logged in, leased from a pool |
//! | `login.rs`, `lock_watch.rs` | C_Login; noticing that a person has locked the token |
//! | `key_table.rs`, `key_set.rs`, `find.rs` | finding and remembering the keys |
//! | `known_answer.rs`, `test_peers.rs` | known-answer tests: what a key can do |
//! | `examine.rs`, `overview.rs`, `description.rs` | what `claviger token doctor` reports |
//! | `agree/`, `sign.rs`, `object.rs` | key agreement by custody tier, signing, session objects |
//! | `manage.rs`, `key_pair.rs`, `init.rs` | making, importing and deleting keys; initialising a token |
//! | `module.rs`, `slot_token.rs`, `uri.rs`, `uri_encoding.rs`, `options.rs` | which module and token, and how to open it |
//! | `profile/`, `curves.rs`, `der.rs`, `ckr.rs`, `raw.rs` | differences of devices; encodings; return values; unsafe calls |

mod agree;
mod ckr;
mod connection;
mod curves;
mod der;
mod description;
mod examine;
mod find;
mod init;
mod key_pair;
mod key_set;
mod key_table;
mod known_answer;
mod lock_watch;
mod login;
mod manage;
mod module;
mod object;
mod one_symbol;
mod options;
mod overview;
mod pair;
mod profile;
mod raw;
mod session;
mod sign;
mod slot_token;
mod token;
mod uri;
mod uri_encoding;
mod uri_error;

use std::path::Path;

pub use curves::PointEncoding;
pub use description::{DeviceDescription, MechanismDescription, ModuleDescription, TokenDescription};
pub use examine::{CurveExamination, Examination, ExaminationStep, KeyForm, MechanismSupport, TestKey};
pub use init::{InitToken, init_token};
pub use known_answer::{Answer, KnownAnswerTest};
pub use options::OpenOptions;
pub use overview::{ProfileSource, TokenOverview};
pub use profile::{EvidenceBasis, Profile, Verdict};
pub use slot_token::SlotToken;
pub use token::Pkcs11Token;
pub use uri::{ObjectType, Uri};
pub use uri_error::UriError;

use super::TokenError;
pub use super::pin::{Pin, PinLocation, PinPrompt, PinRecord, PinRecordState, PinSource, PinState, Prompt};

/// Opens the token that a `pkcs11:` URI (RFC 7512) names, with default options. See [`OpenOptions::open`].
///
/// There is no [`OpenOptions::pin_guard`], so only this process records a refused PIN. After a restart, a wrong PIN is
/// tried once more.
///
/// # Errors
/// Those of [`OpenOptions::open`].
pub fn open(uri: &str, pin: PinSource) -> Result<Pkcs11Token, TokenError> {
    OpenOptions::new().pin(pin).open(uri)
}

/// The file of the module that a URI names by `module-path` or `module-name`. A relative path starts from `base_dir`.
///
/// # Errors
/// [`TokenError::Config`] if the URI names no module, or no module of this name is installed.
pub fn module_file(uri: &Uri, base_dir: impl AsRef<Path>) -> Result<std::path::PathBuf, TokenError> {
    module::module_file(uri, Some(base_dir.as_ref()))
}

/// The tokens in the slots of a module, initialised or not. No login is needed.
///
/// # Errors
/// [`TokenError::Config`] if the module cannot be loaded, [`TokenError::Device`] if it fails.
pub fn tokens(module: impl AsRef<Path>) -> Result<Vec<SlotToken>, TokenError> {
    let tokens = module::Module::load(module.as_ref(), None)?.tokens()?;
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

impl OpenOptions {
    /// Locks a token without a login: no program that shares [`pin_guard`](Self::pin_guard) uses its PIN until a person
    /// unlocks it ([`pin_confirmed`](Self::pin_confirmed)). Programs that use the token stop about a second later, and
    /// log out at the next request.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`TokenError::Config`] if no folder for the guard is set.
    pub fn lock(&self, uri: &str) -> Result<(), TokenError> {
        if self.pin_guard.is_none() {
            return Err(TokenError::Config(
                "locking a token for all programs needs the folder of the PIN guard".into(),
            ));
        }
        let uri = Uri::parse(uri)?;
        let module = module::Module::for_uri(&uri, self.base_dir.as_deref())?;
        let (_, token) = module.find_token(&uri)?;
        login::Login::new(&module, &token, &uri, self).record_locked_by_person()
    }
}

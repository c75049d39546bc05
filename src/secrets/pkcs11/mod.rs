//! PKCS#11 tokens: HSMs, and SoftHSM or Kryoptic for tests.
//!
//! [`open`] loads the module, finds the one token that a `pkcs11:` URI names, and logs in. The token then proves what
//! it can do with each key by known answers, and is served by [`Keyring`](super::Keyring).
//!
//! Nothing of `cryptoki` stands in what is public here, and no other module knows it.

mod agree;
mod ckr;
mod curves;
mod find;
mod init;
mod login;
mod manage;
mod module;
mod object;
mod pin;
mod prove;
mod raw;
mod session;
mod sign;
mod token;
mod uri;

use std::path::{Path, PathBuf};

pub use init::{InitToken, init_token};
pub use module::{PinState, SeenToken};
pub use pin::{Pin, PinPrompt, PinSource, Prompt};
pub use token::Pkcs11Token;
pub use uri::{Uri, UriError};

use super::{Custody, TokenError};

/// Opens the token that a `pkcs11:` URI (RFC 7512) names, with the options' defaults. See [`OpenOptions::open`].
pub fn open(uri: &str, pin: PinSource) -> Result<Pkcs11Token, TokenError> {
    OpenOptions::new().pin(pin).open(uri)
}

/// The tokens in the slots of a module, initialised or not, without a login.
///
/// # Errors
/// [`TokenError::Config`] if the module cannot be loaded, [`TokenError::Device`] if it fails.
pub fn tokens(module: impl AsRef<Path>) -> Result<Vec<SeenToken>, TokenError> {
    let tokens = module::Module::load(module.as_ref())?.tokens()?;
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// How a token is opened.
#[derive(Clone)]
pub struct OpenOptions {
    name: Option<String>,
    pin: PinSource,
    prompt: Option<Prompt>,
    base_dir: Option<PathBuf>,
    minimum_custody: Option<Custody>,
    allow_unprotected: Vec<String>,
    tiers: Vec<Custody>,
    sessions: usize,
    kept_secrets: usize,
    vouched: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            name: None,
            pin: PinSource::uri(),
            prompt: None,
            base_dir: None,
            minimum_custody: None,
            allow_unprotected: Vec::new(),
            tiers: Custody::ALL.to_vec(),
            sessions: 1,
            kept_secrets: 256,
            vouched: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: PIN from the URI, every custody tier, one session, 256 shared secrets kept in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token's name in the configuration and in errors; its label if not said.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the PIN comes from.
    pub fn pin(mut self, pin: PinSource) -> Self {
        self.pin = pin;
        self
    }

    /// Who asks a person, if the PIN's source is a prompt or there is none.
    pub fn prompt(mut self, ask: impl Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync + 'static) -> Self {
        self.prompt = Some(std::sync::Arc::new(ask));
        self
    }

    /// The folder that relative paths of the PIN's file and the module start from: the configuration file's.
    pub fn base_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base_dir = Some(folder.into());
        self
    }

    /// The custody below which a key that agrees makes [`Token::keys`](super::Token::keys) fail.
    pub fn minimum_custody(mut self, minimum: Custody) -> Self {
        self.minimum_custody = Some(minimum);
        self
    }

    /// Keys that may be used though they are extractable or not sensitive, by label or multikey.
    pub fn allow_unprotected(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.allow_unprotected = keys.into_iter().map(Into::into).collect();
        self
    }

    /// The custody tiers to try; all if not said. The highest that gives right answers is used, key by key.
    pub fn tiers(mut self, tiers: impl IntoIterator<Item = Custody>) -> Self {
        self.tiers = tiers.into_iter().collect();
        self
    }

    /// How many operations may be under way at once, each with a session: 1 if not said. SoftHSM and Kryoptic gain
    /// nothing from more (a lock in the module); an HSM on the network does.
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.max(1);
        self
    }

    /// How many shared secrets with peers are kept in the token for each session, as sensitive session objects of 32 to
    /// 66 bytes: 256 if not said, 0 for none. Each saves the derivation that ECDH-1PU makes with that peer's key.
    pub fn kept_secrets(mut self, secrets: usize) -> Self {
        self.kept_secrets = secrets;
        self
    }

    /// A person says that the PIN is right now: one try is made though it was refused before, or the token says that
    /// its tries are running out.
    pub fn vouched(mut self, vouched: bool) -> Self {
        self.vouched = vouched;
        self
    }

    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// - [`TokenError::Config`]: the URI, the module or the PIN's source is wrong, or several tokens match; they are
    ///   listed.
    /// - [`TokenError::Away`]: no token matches; those that are there are listed.
    /// - [`TokenError::Pin`]: there is no PIN, it is refused, or it is not to be tried.
    pub fn open(self, uri: &str) -> Result<Pkcs11Token, TokenError> {
        let parsed = uri.parse().map_err(|error: UriError| TokenError::Config(format!("the PKCS#11 URI: {error}")))?;
        Pkcs11Token::open(parsed, self)
    }
}

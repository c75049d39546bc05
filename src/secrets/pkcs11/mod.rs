//! PKCS#11 tokens: HSMs, and SoftHSM or Kryoptic for tests.
//!
//! [`open`] loads the module, finds the one token that a `pkcs11:` URI names, and logs in. The token then proves what
//! it can do with each key by known answers, and is served by [`Keyring`](super::Keyring).
//!
//! Nothing of `cryptoki` stands in what is public here, and no other module knows it.

mod agree;
mod ckr;
mod curves;
mod examine;
mod find;
mod init;
mod login;
mod manage;
mod module;
mod object;
mod profile;
mod prove;
mod raw;
mod session;
mod sign;
mod token;
mod uri;

use std::path::{Path, PathBuf};

pub use agree::PointForm;
pub use examine::{Examination, Examined, Listed, Look, ProfileBy, Step, TestKey};
pub use init::{InitToken, init_token};
pub use module::SeenToken;
pub use profile::{Basis, Profile, Verdict};
pub use prove::{Answer, Tried};
pub use token::Pkcs11Token;
pub use uri::{Uri, UriError};

pub use super::pin::{Pin, PinMemory, PinOutcome, PinPlace, PinPrompt, PinSource, PinState, Prompt};
use super::{Custody, TokenError, TokenInfo, pin::Guard};

/// Opens the token that a `pkcs11:` URI (RFC 7512) names, with the options' defaults. See [`OpenOptions::open`].
pub fn open(uri: &str, pin: PinSource) -> Result<Pkcs11Token, TokenError> {
    OpenOptions::new().pin(pin).open(uri)
}

/// The tokens in the slots of a module, initialised or not, without a login.
///
/// # Errors
/// [`TokenError::Config`] if the module cannot be loaded, [`TokenError::Device`] if it fails.
pub fn tokens(module: impl AsRef<Path>) -> Result<Vec<SeenToken>, TokenError> {
    let tokens = module::Module::load(module.as_ref(), None)?.tokens()?;
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// How a token is opened.
#[derive(Clone)]
pub struct OpenOptions {
    name: Option<String>,
    pin: PinSource,
    prompt: Option<Prompt>,
    base_dir: Option<PathBuf>,
    pin_guard: Option<PathBuf>,
    minimum_custody: Option<Custody>,
    allow_unprotected: Vec<String>,
    profile: Option<Profile>,
    tiers: Option<Vec<Custody>>,
    sessions: Option<usize>,
    kept_secrets: Option<usize>,
    vouched: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            name: None,
            pin: PinSource::uri(),
            prompt: None,
            base_dir: None,
            pin_guard: None,
            minimum_custody: None,
            allow_unprotected: Vec::new(),
            profile: None,
            tiers: None,
            sessions: None,
            kept_secrets: None,
            vouched: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: PIN from the URI, and the rest as the profile says that the token's manufacturer and model choose.
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

    /// The folder in which is remembered that a PIN was refused, for all programs that share it and across restarts: no
    /// one tries it again until a person acts. It is made if it is not there, for its owner alone. Remembered are the
    /// token and the PIN's source, with what came of the last try; nothing of the PIN. If it cannot be written to, no PIN
    /// is tried. Without a folder this process alone remembers.
    pub fn pin_guard(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pin_guard = Some(folder.into());
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

    /// What is peculiar to the device; chosen by the module's and the token's manufacturer and the token's model if not
    /// said. What the other options say comes before it.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// The custody tiers to try; those of the profile if not said. The highest that gives right answers is used, key by key.
    pub fn tiers(mut self, tiers: impl IntoIterator<Item = Custody>) -> Self {
        self.tiers = Some(tiers.into_iter().collect());
        self
    }

    /// How many operations may be under way at once, each with a session: as the profile has it if not said,
    /// which is 1 mostly. SoftHSM and Kryoptic gain
    /// nothing from more (a lock in the module); an HSM on the network does.
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = Some(sessions.max(1));
        self
    }

    /// How many shared secrets with peers are kept in the token for each session, as sensitive session objects of 32 to
    /// 66 bytes: as the profile has it if not said (256 mostly), 0 for none. Each saves the derivation that ECDH-1PU makes with that peer's key.
    pub fn kept_secrets(mut self, secrets: usize) -> Self {
        self.kept_secrets = Some(secrets);
        self
    }

    /// A person says that the PIN is right now: one try is made though it was refused before, or the token says that
    /// its tries are running out.
    pub fn vouched(mut self, vouched: bool) -> Self {
        self.vouched = vouched;
        self
    }

    /// The profile for a token, with what is said here in its place.
    fn profile_of(&self, module: &module::Module, token: &SeenToken) -> Result<Profile, TokenError> {
        let mut profile = match &self.profile {
            Some(profile) => profile.clone(),
            None => Profile::of(&module.manufacturer, &token.info, self.base_dir.as_deref())?,
        };
        profile.sessions.usual = profile.sessions(self.sessions)?;
        if let Some(tiers) = &self.tiers {
            profile.agreement.tiers.clone_from(tiers);
        }
        profile.agreement.kept_secrets = self.kept_secrets.unwrap_or(profile.agreement.kept_secrets);
        Ok(profile)
    }

    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// - [`TokenError::Config`]: the URI, the module or the PIN's source is wrong, or several tokens match; they are
    ///   listed.
    /// - [`TokenError::Away`]: no token matches; those that are there are listed.
    /// - [`TokenError::Pin`]: there is no PIN, it is refused, or it is not to be tried.
    pub fn open(self, uri: &str) -> Result<Pkcs11Token, TokenError> {
        Pkcs11Token::open(parse(uri)?, self)
    }

    /// Has no program use the token's PIN until a person vouches for it ([`vouched`](Self::vouched)), without a login.
    /// Those that share [`pin_guard`](Self::pin_guard) do nothing more with it from about a second later on, and log out when they are next asked.
    ///
    /// # Errors
    /// As of [`open`](Self::open); [`TokenError::Config`] if there is no folder for the guard.
    pub fn lock(&self, uri: &str) -> Result<(), TokenError> {
        if self.pin_guard.is_none() {
            return Err(TokenError::Config(
                "to lock a token for all programs, name the folder of the PIN's guard".into(),
            ));
        }
        let uri = parse(uri)?;
        let module = module::Module::of(&uri, self.base_dir.as_deref())?;
        let (_, token) = module.find(&uri)?;
        login::Door { module: &module, token: &token, uri: &uri, options: self }.mark_locked()
    }

    /// What [`pin_guard`](Self::pin_guard) remembers of a token's PIN; none without a folder.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if it cannot be read.
    pub fn pin_memory(&self, token: &TokenInfo) -> Result<Option<PinMemory>, TokenError> {
        self.guard(token).map(|guard| guard.read()).transpose()
    }

    fn guard(&self, token: &TokenInfo) -> Option<Guard> {
        self.pin_guard.as_ref().map(|folder| Guard::new(folder, token))
    }
}

fn parse(uri: &str) -> Result<Uri, TokenError> {
    uri.parse().map_err(|error: UriError| TokenError::Config(format!("the PKCS#11 URI: {error}")))
}

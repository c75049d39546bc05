//! Options for opening a token.

use std::path::PathBuf;

use super::profile::Profile;
use crate::secrets::{
    Custody, TokenError, TokenInfo,
    pin::{Pin, PinGuard, PinPrompt, PinRecord, PinSource, Prompt},
};

/// Options for opening a token.
#[derive(Clone)]
pub struct OpenOptions {
    pub(super) name: Option<String>,
    pub(super) pin: PinSource,
    pub(super) prompt: Option<Prompt>,
    pub(super) base_dir: Option<PathBuf>,
    pub(super) pin_guard: Option<PathBuf>,
    pub(super) minimum_custody: Option<Custody>,
    pub(super) allow_unprotected: Vec<String>,
    pub(super) profile: Option<Profile>,
    tiers: Option<Vec<Custody>>,
    sessions: Option<usize>,
    kept_secrets: Option<usize>,
    pub(super) confirmed: bool,
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
            confirmed: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: the PIN from the URI, and the rest from the profile that fits the token's manufacturer and model.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token's name in the configuration and in errors. Default: its label.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the PIN comes from.
    pub fn pin(mut self, pin: PinSource) -> Self {
        self.pin = pin;
        self
    }

    /// The function that asks a person for the PIN. Used if the source is a prompt, or if there is no source.
    pub fn prompt(mut self, ask: impl Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync + 'static) -> Self {
        self.prompt = Some(std::sync::Arc::new(ask));
        self
    }

    /// The folder that relative paths of the PIN file and the module start from, usually the configuration
    /// file's folder.
    pub fn base_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base_dir = Some(folder.into());
        self
    }

    /// The folder that records refused PINs, across restarts and for all programs that share it. No program tries a
    /// refused PIN again until a person acts.
    ///
    /// The folder is created for its owner only, if it does not exist. A record has the token's label and serial
    /// number, the PIN's source and the result of the last attempt, and nothing of the PIN. If the folder is not
    /// writable, no PIN is tried. A PIN that a person types is recorded in this process only: it needs no writable
    /// folder, and another program may try it too. Without a folder, this process records every PIN, and no other
    /// program learns of a refusal.
    pub fn pin_guard(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pin_guard = Some(folder.into());
        self
    }

    /// The minimum custody tier. A key-agreement key below it makes [`Token::keys`](crate::secrets::Token::keys) fail.
    pub fn minimum_custody(mut self, minimum: Custody) -> Self {
        self.minimum_custody = Some(minimum);
        self
    }

    /// The keys that may be used although they are extractable or not sensitive, by label or multikey.
    pub fn allow_unprotected(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.allow_unprotected = keys.into_iter().map(Into::into).collect();
        self
    }

    /// The device's profile. Default: the profile that fits the manufacturer of module and token and the token's model.
    /// The other options take precedence over the profile.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// The custody tiers to try. Default: those of the profile. Each key uses the highest tier that gives
    /// right answers.
    pub fn tiers(mut self, tiers: impl IntoIterator<Item = Custody>) -> Self {
        self.tiers = Some(tiers.into_iter().collect());
        self
    }

    /// How many operations run at once, each in a session of its own. Default: as the profile says, usually 1. SoftHSM
    /// and Kryoptic gain nothing from more than 1, because of a lock in the module. A network HSM does.
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = Some(sessions.max(1));
        self
    }

    /// How many shared secrets with peers each session keeps in the token, as sensitive session objects of 32 to 66
    /// bytes. Default: as the profile says, usually 256. 0 keeps none. Each kept secret saves one ECDH derivation for
    /// each ECDH-1PU message from or to that peer.
    pub fn kept_secrets(mut self, secrets: usize) -> Self {
        self.kept_secrets = Some(secrets);
        self
    }

    /// Whether a person has confirmed that the PIN is correct. If so, one attempt is made even if the PIN was refused
    /// before or the token reports that few tries are left.
    pub fn pin_confirmed(mut self, confirmed: bool) -> Self {
        self.confirmed = confirmed;
        self
    }

    /// The record of PIN attempts in the folder of [`pin_guard`](Self::pin_guard); none without a folder.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if the record cannot be read.
    pub fn pin_record(&self, token: &TokenInfo) -> Result<Option<PinRecord>, TokenError> {
        self.guard(token).map(|guard| guard.read()).transpose()
    }

    pub(super) fn guard(&self, token: &TokenInfo) -> Option<PinGuard> {
        self.pin_guard.as_ref().map(|folder| PinGuard::new(folder, token))
    }

    /// The profile for a token, overridden by these options. `module` is the module's manufacturer.
    pub(super) fn profile_for(&self, module: &str, token: &TokenInfo) -> Result<Profile, TokenError> {
        let mut profile = match &self.profile {
            Some(profile) => profile.clone(),
            None => Profile::matching(module, token, self.base_dir.as_deref())?,
        };
        profile.sessions.usual = profile.sessions(self.sessions)?;
        if let Some(tiers) = &self.tiers {
            profile.agreement.tiers.clone_from(tiers);
        }
        profile.agreement.kept_secrets = self.kept_secrets.unwrap_or(profile.agreement.kept_secrets);
        Ok(profile)
    }
}

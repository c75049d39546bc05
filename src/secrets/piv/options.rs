//! Options for opening a YubiKey.

use std::{path::PathBuf, sync::Arc};

use super::touch::{TouchPrompt, Touches};
use crate::secrets::{
    TokenError, TokenInfo,
    pin::{Pin, PinGuard, PinPrompt, PinRecord, PinSource, Prompt},
};

/// Options for opening a YubiKey.
#[derive(Clone)]
pub struct OpenOptions {
    pub(super) name: Option<String>,
    pub(super) pin: PinSource,
    pub(super) prompt: Option<Prompt>,
    pub(super) base_dir: Option<PathBuf>,
    pub(super) pin_guard: Option<PathBuf>,
    pub(super) touches: Touches,
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
            touches: Touches::default(),
            confirmed: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: the PIN from the URI, and no touch prompts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token's name in the configuration and in errors. Default: `YubiKey` and its serial number.
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
        self.prompt = Some(Arc::new(ask));
        self
    }

    /// The function that prompts a person for a touch. Called before the operation, and once more after five seconds if
    /// the operation still waits.
    pub fn touch(mut self, prompt: impl Fn(&TouchPrompt) + Send + Sync + 'static) -> Self {
        self.touches = Touches::new(prompt);
        self
    }

    /// The folder that a relative path of the PIN file starts from.
    pub fn base_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base_dir = Some(folder.into());
        self
    }

    /// The folder that records refused PINs, across restarts and for all programs that share the folder. A PIN that a
    /// person types is recorded in the opened [`YubiKey`](super::YubiKey) only, and so is every PIN without a folder.
    pub fn pin_guard(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pin_guard = Some(folder.into());
        self
    }

    /// Whether a person has confirmed that the PIN is correct. If so, one attempt is made even if the PIN was refused
    /// before or few tries are left.
    pub fn pin_confirmed(mut self, confirmed: bool) -> Self {
        self.confirmed = confirmed;
        self
    }

    /// The record of PIN attempts in the folder of [`pin_guard`](Self::pin_guard); none without a folder.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if the record cannot be read.
    pub fn pin_record(&self, token: &TokenInfo) -> Result<Option<PinRecord>, TokenError> {
        self.pin_guard.as_deref().map(|folder| PinGuard::new(folder, token).read()).transpose()
    }
}

//! How a YubiKey is opened.

use std::{path::PathBuf, sync::Arc};

use super::{
    token::YubiKey,
    touch::{TouchPrompt, Touches},
    transport::Readers,
    uri::UriError,
};
use crate::secrets::{
    TokenError, TokenInfo,
    pin::{Guard, Pin, PinMemory, PinPrompt, PinSource, Prompt},
};

/// How a YubiKey is opened.
#[derive(Clone)]
pub struct OpenOptions {
    pub(super) name: Option<String>,
    pub(super) pin: PinSource,
    pub(super) prompt: Option<Prompt>,
    pub(super) base_dir: Option<PathBuf>,
    pub(super) pin_guard: Option<PathBuf>,
    pub(super) touches: Touches,
    pub(super) vouched: bool,
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
            vouched: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: the PIN from the URI, and nobody who is told of touches.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token's name in the configuration and in errors; `YubiKey` and its serial number if not said.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the PIN comes from.
    pub fn pin(mut self, pin: PinSource) -> Self {
        self.pin = pin;
        self
    }

    /// Who asks a person for the PIN, if its source is a prompt or there is none.
    pub fn prompt(mut self, ask: impl Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync + 'static) -> Self {
        self.prompt = Some(Arc::new(ask));
        self
    }

    /// Who tells a person that a touch is wanted: before the operation, and again after five seconds.
    pub fn touch(mut self, tell: impl Fn(&TouchPrompt) + Send + Sync + 'static) -> Self {
        self.touches = Touches::told_to(tell);
        self
    }

    /// The folder that a relative path of the PIN's file starts from.
    pub fn base_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base_dir = Some(folder.into());
        self
    }

    /// The folder in which is remembered that a PIN was refused, for all programs that share it and across restarts. Without
    /// one this object alone remembers.
    pub fn pin_guard(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pin_guard = Some(folder.into());
        self
    }

    /// A person says that the PIN is right now: one try is made though it was refused before, or few are left.
    pub fn vouched(mut self, vouched: bool) -> Self {
        self.vouched = vouched;
        self
    }

    /// What [`pin_guard`](Self::pin_guard) remembers of a YubiKey's PIN; none without a folder.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if it cannot be read.
    pub fn pin_memory(&self, token: &TokenInfo) -> Result<Option<PinMemory>, TokenError> {
        self.pin_guard.as_deref().map(|folder| Guard::new(folder, token).read()).transpose()
    }

    /// Opens the YubiKey that a `yubikey:` URI names. Its PIN is not wanted yet, unless a person vouches for it.
    ///
    /// # Errors
    /// - [`TokenError::Config`]: the URI is wrong, or several YubiKeys match; they are listed.
    /// - [`TokenError::Away`]: it is not there, or the PC/SC service is not.
    /// - [`TokenError::Unsupported`]: its firmware is older than 5.3.
    pub fn open(self, uri: &str, readers: impl Readers + 'static) -> Result<YubiKey, TokenError> {
        let uri = uri.parse().map_err(|error: UriError| TokenError::Config(format!("the YubiKey's URI: {error}")))?;
        YubiKey::open(uri, self, Box::new(readers))
    }
}

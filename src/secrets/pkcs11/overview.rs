//! What is known about a token without a login. For `claviger token doctor`.

use std::path::PathBuf;

use cryptoki_sys::{CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION};
use serde::Serialize;

use super::{ckr::During, module::Module, options::OpenOptions, profile::Profile, slot_token::SlotToken, uri::Uri};
use crate::secrets::{TokenError, pin::PinLocation};

/// What is known about a token without a login.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenOverview {
    /// The module's file.
    pub module: PathBuf,
    /// The token's description of itself.
    pub token: SlotToken,
    /// The device's profile.
    pub profile: Profile,
    /// How the profile was chosen.
    pub profile_source: ProfileSource,
    /// Where the PIN comes from.
    pub pin_location: PinLocation,
    /// How many sessions the token grants a program, if it reports it.
    pub most_sessions: Option<u64>,
    /// The names of the URI's attributes that have no effect.
    pub unused_attributes: Vec<String>,
}

/// How a profile was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileSource {
    /// The configuration names the profile.
    #[serde(rename = "name")]
    Configured,
    /// The profile fits the manufacturers of module and token and the token's model.
    #[serde(rename = "match")]
    Matched,
    /// No profile fits, so every variant is tried.
    #[serde(rename = "nothing")]
    Unknown,
}

impl OpenOptions {
    /// Describes a token without a login. No PIN is read.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), except those of the PIN.
    pub fn overview(&self, uri: &str) -> Result<TokenOverview, TokenError> {
        let uri = Uri::parse(uri)?;
        let module = Module::for_uri(&uri, self.base_dir.as_deref())?;
        let (slot, token) = module.find_token(&uri)?;
        let profile = self.profile_for(&module.manufacturer, &token.info)?;
        let profile_source = match &self.profile {
            Some(_) => ProfileSource::Configured,
            None if profile.name() == Profile::default().name() => ProfileSource::Unknown,
            None => ProfileSource::Matched,
        };
        let info = module.raw.token_info(slot).during("C_GetTokenInfo")?;
        let limit = info.ulMaxSessionCount;
        let is_unknown = [CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION].contains(&limit);
        Ok(TokenOverview {
            pin_location: self.pin.location(uri.pin(), self.base_dir.as_deref()),
            module: module.path.clone(),
            most_sessions: (!is_unknown).then_some(limit),
            unused_attributes: uri.unused,
            token,
            profile,
            profile_source,
        })
    }
}

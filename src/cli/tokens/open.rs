//! Opens tokens in this process, for keepers and for commands that examine a device.

use std::sync::Arc;

#[cfg(feature = "yubikey")]
use claviger::secrets::piv;
use claviger::secrets::{
    Custodian, Keyring, TokenError,
    pkcs11::{OpenOptions, Pkcs11Token, Profile, Uri},
};

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    pin::{self, AskAt},
};

/// Opens a token in this process, and logs in.
pub struct Opener {
    uri: String,
    options: Options,
}

/// The options for the kind of token.
enum Options {
    Pkcs11(Box<OpenOptions>),
    #[cfg(feature = "yubikey")]
    YubiKey(Box<piv::OpenOptions>),
}

impl Opener {
    /// Checks the token's URI. Opens nothing yet.
    pub fn new(config: &Config, token: &TokenConfig) -> Result<Self, Failure> {
        let options = match token.is_yubikey() {
            false => Options::Pkcs11(Box::new(pkcs11_options(config, token)?)),
            #[cfg(feature = "yubikey")]
            true => Options::YubiKey(Box::new(yubikey_options(config, token)?)),
            #[cfg(not(feature = "yubikey"))]
            true => return Err(no_yubikeys(token)),
        };
        Ok(Self { uri: token.uri.clone(), options })
    }

    /// Opens the token. With `confirmed`, a person says that the PIN is correct, and a refused PIN is tried once more.
    pub fn open(&self, confirmed: bool) -> Result<Arc<dyn Custodian>, TokenError> {
        match &self.options {
            Options::Pkcs11(options) => Ok(Arc::new((**options).clone().pin_confirmed(confirmed).open(&self.uri)?)),
            #[cfg(feature = "yubikey")]
            Options::YubiKey(options) => {
                Ok(Arc::new((**options).clone().pin_confirmed(confirmed).open(&self.uri, piv::PcscReaders)?))
            }
        }
    }
}

/// Opens a token in this process. `confirmed` is as in [`Opener::open`].
pub fn open_in_process(config: &Config, token: &TokenConfig, confirmed: bool) -> Result<Arc<dyn Custodian>, Failure> {
    Opener::new(config, token)?.open(confirmed).map_err(|error| Failure::from_token(&token.name, &error))
}

/// Opens a PKCS#11 token in this process.
pub fn open_pkcs11(config: &Config, token: &TokenConfig) -> Result<Arc<Pkcs11Token>, Failure> {
    let opened = pkcs11_options(config, token)?.open(&token.uri);
    opened.map(Arc::new).map_err(|error| Failure::from_token(&token.name, &error))
}

/// Starts a keyring over one token in this process, with the configured policies.
pub async fn start_keyring(config: &Config, name: &str, token: Arc<dyn Custodian>) -> Result<Keyring, Failure> {
    let mut builder = Keyring::builder().shared_token(token);
    if let Ok(token) = config.token(Some(name)) {
        builder = builder.token_policy(&token.name, token.policy());
    }
    for (key, policy) in &config.keys {
        builder = builder.key_policy(key.clone(), policy.clone());
    }
    Ok(builder.start().await?)
}

/// Checks the URI of a token that this configuration opens. Loads no module, and accesses no card reader.
pub fn check_uri(token: &TokenConfig) -> Result<(), Failure> {
    token.check()?;
    if token.keeper.is_some() {
        return Ok(());
    }
    match token.is_yubikey() {
        false => pkcs11_uri(token).map(drop),
        #[cfg(feature = "yubikey")]
        true => yubikey_uri(token).map(drop),
        #[cfg(not(feature = "yubikey"))]
        true => Err(no_yubikeys(token)),
    }
}

/// The options to open a PKCS#11 token with.
pub fn pkcs11_options(config: &Config, token: &TokenConfig) -> Result<OpenOptions, Failure> {
    let ask_at = AskAt::from_pin_source(pkcs11_uri(token)?.pin_source.as_deref());
    let name = token.name.clone();
    let mut options = OpenOptions::new()
        .name(&token.name)
        .base_dir(&config.base)
        .pin_guard(config.state_dir.join("pin-guard"))
        .allow_unprotected(&token.allow_unprotected)
        .prompt(move |prompt| pin::prompt(&name, ask_at, prompt));
    if let Some(sessions) = token.sessions {
        options = options.sessions(sessions);
    }
    if let Some(profile) = &token.profile {
        let profile = Profile::named(profile, Some(&config.base));
        options = options.profile(profile.map_err(|error| Failure::from_token(&token.name, &error))?);
    }
    Ok(options)
}

/// The URI of a PKCS#11 token. Loads no module.
pub fn pkcs11_uri(token: &TokenConfig) -> Result<Uri, Failure> {
    token.check()?;
    if let Some(address) = &token.keeper {
        let message = format!("the token {:?} is held by the keeper at {address}", token.name);
        return Err(Failure::usage("token-elsewhere", message)
            .hint("run this as the keeper's user, with the keeper's configuration"));
    }
    if token.is_yubikey() {
        let message = format!("the token {:?} is a YubiKey, and this works for PKCS#11 tokens only", token.name);
        return Err(
            Failure::usage("token-misconfigured", message).hint("`claviger token list` shows a YubiKey's PIN and keys")
        );
    }
    token.uri.parse().map_err(|error| {
        Failure::usage("token-misconfigured", format!("the URI of the token {:?}: {error}", token.name))
    })
}

/// The options to open a YubiKey with.
#[cfg(feature = "yubikey")]
pub fn yubikey_options(config: &Config, token: &TokenConfig) -> Result<piv::OpenOptions, Failure> {
    let ask_at = AskAt::from_pin_source(yubikey_uri(token)?.pin_source.as_deref());
    let (name, touch_name) = (token.name.clone(), token.name.clone());
    Ok(piv::OpenOptions::new()
        .name(&token.name)
        .base_dir(&config.base)
        .pin_guard(config.state_dir.join("pin-guard"))
        .prompt(move |prompt| pin::prompt_for_yubikey(&name, ask_at, prompt))
        .touch(move |touch| pin::ask_for_touch(&touch_name, touch)))
}

/// The URI of a YubiKey. Accesses no card reader.
#[cfg(feature = "yubikey")]
pub fn yubikey_uri(token: &TokenConfig) -> Result<piv::Uri, Failure> {
    token.check()?;
    token.uri.parse().map_err(|error| {
        Failure::usage("token-misconfigured", format!("the URI of the token {:?}: {error}", token.name))
    })
}

#[cfg(not(feature = "yubikey"))]
fn no_yubikeys(token: &TokenConfig) -> Failure {
    let message = format!("the token {:?}: this program was built without support for YubiKeys", token.name);
    Failure::usage("token-misconfigured", message)
        .hint("build it with the feature `yubikey`, or use pkcs11:?module-name=ykcs11")
}

//! The configured tokens, opened when they are needed and not before.

use std::sync::Arc;

use claviger::secrets::{
    Custodian, HeldKey, Keyring, Token,
    pkcs11::{OpenOptions, Pkcs11Token, Uri},
};

use super::{
    config::{Config, TokenConfig},
    failure::Failure,
    pin,
};

/// Opens a token and logs in.
pub fn open(config: &Config, token: &TokenConfig) -> Result<Arc<Pkcs11Token>, Failure> {
    open_with(config, token, false)
}

/// The same; if `vouched`, a person says that the PIN is right now.
pub fn open_with(config: &Config, token: &TokenConfig, vouched: bool) -> Result<Arc<Pkcs11Token>, Failure> {
    check_uri(token)?;
    let mut options = OpenOptions::new()
        .name(&token.name)
        .base_dir(&config.base)
        .allow_unprotected(&token.allow_unprotected)
        .sessions(token.sessions.unwrap_or(1))
        .vouched(vouched);
    let name = token.name.clone();
    options = options.prompt(move |prompt| pin::prompt(&name, prompt));
    options.open(&token.uri).map(Arc::new).map_err(|error| Failure::of_token(&token.name, &error))
}

/// The URI of a token, looked at before any module is loaded.
pub fn check_uri(token: &TokenConfig) -> Result<Uri, Failure> {
    if token.uri.starts_with("yubikey:") {
        let said = format!("the token {:?}: this program cannot open yubikey: URIs", token.name);
        return Err(Failure::words("token-misconfigured", said)
            .hint("a YubiKey is reached by its PKCS#11 module: pkcs11:?module-name=ykcs11"));
    }
    token.uri.parse().map_err(|error| {
        Failure::words("token-misconfigured", format!("the URI of the token {:?}: {error}", token.name))
    })
}

/// Opens tokens in configured order until `enough` says so of their keys, and starts a keyring on them.
///
/// A token that is not ready is passed over, for another may hold the key; if in the end it is missing, it is told.
pub async fn keyring(config: &Config, enough: impl Fn(&Keyring) -> bool) -> Result<Keyring, Failure> {
    let mut opened: Vec<Arc<Pkcs11Token>> = Vec::new();
    let mut not_ready = None;
    for token in &config.tokens {
        match open(config, token) {
            Ok(token) => opened.push(token),
            Err(failure) => {
                not_ready.get_or_insert(failure);
                continue;
            }
        }
        let keyring = start(config, &opened).await?;
        if enough(&keyring) {
            return Ok(keyring);
        }
    }
    match not_ready {
        Some(failure) => Err(failure),
        None => start(config, &opened).await,
    }
}

/// A keyring over opened tokens, with the configured rules.
pub async fn start(config: &Config, tokens: &[Arc<Pkcs11Token>]) -> Result<Keyring, Failure> {
    let mut builder = Keyring::builder();
    for token in tokens {
        builder = builder.shared_token(token.clone());
        if let Some(configured) = config.tokens.iter().find(|configured| configured.name == token.name()) {
            builder = builder.token_policy(token.name(), configured.policy());
        }
    }
    for (key, policy) in &config.keys {
        builder = builder.key_policy(key.clone(), policy.clone());
    }
    Ok(builder.start().await?)
}

/// Every key of a token, those too that would be refused for use.
pub fn inventory(token: &Pkcs11Token) -> Result<Vec<HeldKey>, Failure> {
    token.inventory().map_err(|error| Failure::of_token(token.name(), &error))
}

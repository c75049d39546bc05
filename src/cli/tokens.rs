//! The configured tokens, reached when they are needed and not before: by way of a keeper, or in this process.

use std::sync::Arc;

use zeroize::Zeroizing;

#[cfg(feature = "yubikey")]
use claviger::secrets::piv;
use claviger::{
    keys::PublicKey,
    secrets::{
        Context, Custodian, HeldKey, ImportKey, Keyring, NewKey, Place, Secrets, Several, Signature, ToSign,
        TokenError, TokenInfo,
        keeper::{KeeperClient, KeeperCustodian, Process, Role, Supervisor, spawn},
        pkcs11::{OpenOptions, Pkcs11Token, Profile, Uri},
    },
};

use super::{
    config::{Config, TokenConfig},
    failure::{Failure, Status},
    keeper,
    keys::KeyName,
    patience::{Patience, is_absent},
    pin, wait,
};

/// Opens a token in this process and logs in: what a keeper does, and who examines a token.
pub struct Opener {
    uri: String,
    way: Way,
}

enum Way {
    Pkcs11(Box<OpenOptions>),
    #[cfg(feature = "yubikey")]
    YubiKey(Box<piv::OpenOptions>),
}

impl Opener {
    pub fn new(config: &Config, token: &TokenConfig) -> Result<Self, Failure> {
        let way = match is_yubikey(token) {
            false => Way::Pkcs11(Box::new(options(config, token)?)),
            #[cfg(feature = "yubikey")]
            true => Way::YubiKey(Box::new(yubikey_options(config, token)?)),
            #[cfg(not(feature = "yubikey"))]
            true => return Err(no_yubikeys(token)),
        };
        Ok(Self { uri: token.uri.clone(), way })
    }

    /// The token; if `vouched`, a person says that the PIN is right now.
    pub fn open(&self, vouched: bool) -> Result<Arc<dyn Custodian>, TokenError> {
        match &self.way {
            Way::Pkcs11(options) => Ok(Arc::new((**options).clone().vouched(vouched).open(&self.uri)?)),
            #[cfg(feature = "yubikey")]
            Way::YubiKey(options) => {
                Ok(Arc::new((**options).clone().vouched(vouched).open(&self.uri, piv::PcscReaders)?))
            }
        }
    }
}

/// Opens a token in this process.
pub fn open_here(config: &Config, token: &TokenConfig, vouched: bool) -> Result<Arc<dyn Custodian>, Failure> {
    Opener::new(config, token)?.open(vouched).map_err(|error| Failure::of_token(&token.name, &error))
}

/// Opens a token behind a PKCS#11 module in this process.
pub fn open_module(config: &Config, token: &TokenConfig) -> Result<Arc<Pkcs11Token>, Failure> {
    let opened = options(config, token)?.open(&token.uri);
    opened.map(Arc::new).map_err(|error| Failure::of_token(&token.name, &error))
}

/// Whether it is a YubiKey by its URI; a keeper's token is what the keeper says.
pub fn is_yubikey(token: &TokenConfig) -> bool {
    token.keeper.is_none() && token.uri.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("yubikey:"))
}

/// How a YubiKey is opened, its URI looked at.
#[cfg(feature = "yubikey")]
pub fn yubikey_options(config: &Config, token: &TokenConfig) -> Result<piv::OpenOptions, Failure> {
    let at = pin::At::of(check_yubikey_uri(token)?.pin_source.as_deref());
    let (name, told) = (token.name.clone(), token.name.clone());
    Ok(piv::OpenOptions::new()
        .name(&token.name)
        .base_dir(&config.base)
        .pin_guard(config.state_dir.join("pin-guard"))
        .prompt(move |prompt| pin::prompt(&name, at, prompt))
        .touch(move |touch| pin::touch(&told, touch)))
}

/// The URI of a YubiKey, looked at before any reader is.
#[cfg(feature = "yubikey")]
pub fn check_yubikey_uri(token: &TokenConfig) -> Result<piv::Uri, Failure> {
    token.uri.parse().map_err(|error| {
        Failure::words("token-misconfigured", format!("the URI of the token {:?}: {error}", token.name))
    })
}

#[cfg(not(feature = "yubikey"))]
fn no_yubikeys(token: &TokenConfig) -> Failure {
    let said = format!("the token {:?}: this program was built without YubiKeys", token.name);
    Failure::words("token-misconfigured", said)
        .hint("build it with the feature `yubikey`, or use pkcs11:?module-name=ykcs11")
}

/// How a token is opened, its URI looked at.
pub fn options(config: &Config, token: &TokenConfig) -> Result<OpenOptions, Failure> {
    let at = pin::At::of(check_uri(token)?.pin_source.as_deref());
    let name = token.name.clone();
    let mut options = OpenOptions::new()
        .name(&token.name)
        .base_dir(&config.base)
        .pin_guard(config.state_dir.join("pin-guard"))
        .allow_unprotected(&token.allow_unprotected)
        .prompt(move |prompt| pin::prompt(&name, at, prompt));
    if let Some(sessions) = token.sessions {
        options = options.sessions(sessions);
    }
    if let Some(profile) = &token.profile {
        let profile = Profile::named(profile, Some(&config.base));
        options = options.profile(profile.map_err(|error| Failure::of_token(&token.name, &error))?);
    }
    Ok(options)
}

/// The URI of a PKCS#11 token, looked at before any module is loaded.
pub fn check_uri(token: &TokenConfig) -> Result<Uri, Failure> {
    if let Some(address) = &token.keeper {
        let said = format!("the token {:?} is kept by the keeper at {address}", token.name);
        return Err(
            Failure::words("token-elsewhere", said).hint("run this as the keeper's user, with its configuration")
        );
    }
    if is_yubikey(token) {
        let said = format!("the token {:?} is a YubiKey: this is for PKCS#11 tokens", token.name);
        return Err(
            Failure::words("token-misconfigured", said).hint("`claviger token list` shows a YubiKey's PIN and keys")
        );
    }
    token.uri.parse().map_err(|error| {
        Failure::words("token-misconfigured", format!("the URI of the token {:?}: {error}", token.name))
    })
}

/// The URI of a token that is opened by a keeper of ours.
fn check(token: &TokenConfig) -> Result<(), Failure> {
    if token.keeper.is_some() {
        return Ok(());
    }
    match is_yubikey(token) {
        false => check_uri(token).map(drop),
        #[cfg(feature = "yubikey")]
        true => check_yubikey_uri(token).map(drop),
        #[cfg(not(feature = "yubikey"))]
        true => Err(no_yubikeys(token)),
    }
}

/// A token in the hands of its custodian.
pub struct Opened {
    custodian: Reached,
    /// What every change wants, of a YubiKey that was set up elsewhere.
    management_key: Option<Zeroizing<Vec<u8>>>,
}

enum Reached {
    Here(Arc<dyn Custodian>),
    /// Behind a keeper, which may be one of our own: then that is waited for when we let go.
    Keeper(Box<KeeperCustodian>, #[expect(dead_code, reason = "dropped, and nothing else")] Option<Process>),
}

/// The management key, of a YubiKey that was set up elsewhere.
#[derive(Default, clap::Args)]
pub struct Management {
    /// Where the management key of a YubiKey comes from that has one of its own and does not keep it behind its PIN:
    /// prompt, file:PATH or credential:NAME, in hexadecimal
    #[arg(long, value_name = "SOURCE")]
    management_key: Option<String>,
}

/// Opens a token to look at its keys.
pub fn open(config: &Config, token: &TokenConfig) -> Result<Opened, Failure> {
    reach_custodian(config, token).map(|custodian| Opened { custodian, management_key: None })
}

/// The same, for a command that can do nothing without it: one that is not plugged in is waited for.
pub fn open_patiently(config: &Config, token: &TokenConfig) -> Result<Opened, Failure> {
    let mut patience = Patience::new(config);
    loop {
        match open(config, token) {
            Err(failure) if patience.again(token, &failure) => {}
            result => return result,
        }
    }
}

/// The first token, in configured order, that holds the key which is named. One that is not ready is passed over; if no
/// other holds the key, that is told.
pub fn holding(config: &Config, name: &KeyName, text: &str) -> Result<(Opened, HeldKey), Failure> {
    if config.tokens.is_empty() {
        return Err(config.no_token());
    }
    let mut not_ready = None;
    for token in &config.tokens {
        match open(config, token).and_then(|token| token.inventory().map(|keys| (token, keys))) {
            Ok((token, keys)) => {
                if let Some(held) = name.find(text, &keys)? {
                    return Ok((token, held.clone()));
                }
            }
            Err(failure) if failure.status == Status::TokenNotReady => {
                not_ready.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(not_ready.unwrap_or_else(|| KeyName::unknown(text)))
}

fn reach_custodian(config: &Config, token: &TokenConfig) -> Result<Reached, Failure> {
    if token.keeper.is_none() && config.in_process() {
        return open_here(config, token, false).map(Reached::Here);
    }
    let failed = |error: TokenError| Failure::of_token(&token.name, &error);
    let away =
        |error: std::io::Error| failed(TokenError::Away(format!("the keeper of the token {:?}: {error}", token.name)));
    let (stream, process) = match &token.keeper {
        Some(address) => (keeper::connect(address).map_err(away)?, None),
        None => {
            check(token)?;
            let (stream, process) = spawn(keeper::command(config, &token.name, Role::Custodian)).map_err(away)?;
            (stream, Some(process))
        }
    };
    let custodian = KeeperCustodian::new(&token.name, stream).map_err(failed)?;
    match custodian.trouble() {
        Some(error) => Err(failed(error.clone())),
        None => Ok(Reached::Keeper(Box::new(custodian), process)),
    }
}

impl Opened {
    pub fn name(&self) -> &str {
        match &self.custodian {
            Reached::Here(token) => token.name(),
            Reached::Keeper(keeper, _) => keeper.name(),
        }
    }

    /// What it is.
    pub fn info(&self) -> TokenInfo {
        match &self.custodian {
            Reached::Here(token) => token.info(),
            Reached::Keeper(keeper, _) => keeper.info(),
        }
    }

    /// The management key for the changes to come.
    pub fn with(mut self, management_key: Option<&Zeroizing<Vec<u8>>>) -> Self {
        self.management_key = management_key.cloned();
        self
    }

    /// Gives the token what the next change wants.
    fn prepare(&self) -> Result<(), TokenError> {
        match (&self.management_key, &self.custodian) {
            (None, _) => Ok(()),
            (Some(key), Reached::Here(token)) => token.manage_with(key.clone()),
            (Some(key), Reached::Keeper(keeper, _)) => keeper.manage_with(key),
        }
    }

    pub fn generate(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        self.prepare()?;
        match &self.custodian {
            Reached::Here(token) => token.generate_in(key, place),
            Reached::Keeper(keeper, _) => keeper.generate_in(key, place),
        }
    }

    pub fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.prepare()?;
        match &self.custodian {
            Reached::Here(token) => token.import(key),
            Reached::Keeper(keeper, _) => keeper.import(&key),
        }
    }

    pub fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.prepare()?;
        match &self.custodian {
            Reached::Here(token) => token.delete(key),
            Reached::Keeper(keeper, _) => keeper.delete(key),
        }
    }

    /// What proves that a key was made in the token.
    #[cfg(feature = "yubikey")]
    pub fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        match &self.custodian {
            Reached::Here(token) => token.attest(key),
            Reached::Keeper(keeper, _) => keeper.attest(key),
        }
    }

    /// A signature of what wants a custodian, within the configured rules.
    pub fn sign(&self, config: &Config, key: &PublicKey, what: &ToSign<'_>) -> Result<Signature, Failure> {
        match &self.custodian {
            Reached::Here(token) => wait(async {
                let keyring = keyring(config, self.name(), token.clone()).await?;
                Ok(keyring.sign(key, what, &Context::default()).await?)
            }),
            Reached::Keeper(keeper, _) => {
                keeper.sign(key, what).map_err(|error| Failure::of_token(self.name(), &error))
            }
        }
    }

    /// Every key of the token, those too that would be refused for use.
    pub fn inventory(&self) -> Result<Vec<HeldKey>, Failure> {
        let keys = match &self.custodian {
            Reached::Here(token) => token.inventory(),
            Reached::Keeper(keeper, _) => keeper.inventory(),
        };
        keys.map_err(|error| Failure::of_token(self.name(), &error))
    }
}

impl Management {
    /// None is given.
    pub fn none() -> Self {
        Self { management_key: None }
    }

    /// Before any token is opened.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        self.management_key.as_ref().map(|source| pin::hexadecimal(source, "the management key")).transpose()
    }
}

/// Reaches tokens in configured order until `enough` says so of their keys.
///
/// A token that is not ready is passed over, for another may hold the key; if in the end it is missing, it is told, or waited
/// for.
/// `supervisor` starts their keepers, or connects to those that listen; without one they are opened in this process.
pub async fn secrets(
    config: &Config,
    supervisor: Option<&Arc<Supervisor>>,
    enough: impl Fn(&dyn Secrets) -> bool,
) -> Result<Arc<dyn Secrets>, Failure> {
    let mut patience = Patience::new(config);
    let mut reached: Vec<Arc<dyn Secrets>> = Vec::new();
    let mut missing: Vec<&TokenConfig> = config.tokens.iter().collect();
    let mut failed = None;
    loop {
        let mut absent = Vec::new();
        for token in std::mem::take(&mut missing) {
            match reach(config, token, supervisor).await {
                Ok(token) => reached.push(token),
                // A configuration that cannot be is not passed over.
                Err(failure) if failure.code == "custody-too-low" => return Err(failure),
                Err(failure) if is_absent(token, &failure) => {
                    absent.push((token, failure));
                    continue;
                }
                // It is not asked for again: a person may have been asked for its PIN.
                Err(failure) => {
                    failed.get_or_insert(failure);
                    continue;
                }
            }
            let all = Several::new(reached.clone());
            if enough(&all) {
                return Ok(Arc::new(all));
            }
        }
        missing = absent.iter().map(|(token, _)| *token).collect();
        let waits = absent.iter().any(|(token, failure)| patience.again(token, failure));
        match failed.take().or_else(|| absent.into_iter().next().map(|(_, failure)| failure)) {
            Some(failure) if waits => failed = Some(failure).filter(|failure| failure.code != "token-absent"),
            Some(failure) => return Err(failure),
            None => return Ok(Arc::new(Several::new(reached))),
        }
    }
}

/// One token: in this process, or by way of its keeper.
async fn reach(
    config: &Config,
    token: &TokenConfig,
    supervisor: Option<&Arc<Supervisor>>,
) -> Result<Arc<dyn Secrets>, Failure> {
    let Some(supervisor) = supervisor else { return start_here(config, token).await };
    check(token)?;
    let client = KeeperClient::start(&token.name, supervisor.connect(&token.name)).await?;
    match client.trouble() {
        Some(error) => Err(Failure::of_token(&token.name, &error)),
        None => Ok(Arc::new(client)),
    }
}

/// A keyring in this process, with the configured rules.
async fn start_here(config: &Config, token: &TokenConfig) -> Result<Arc<dyn Secrets>, Failure> {
    let opened = open_here(config, token, false)?;
    Ok(Arc::new(keyring(config, &token.name, opened).await?))
}

/// A keyring over one token, with the configured rules.
async fn keyring(config: &Config, name: &str, token: Arc<dyn Custodian>) -> Result<Keyring, Failure> {
    let mut builder = Keyring::builder().shared_token(token);
    if let Ok(token) = config.token(Some(name)) {
        builder = builder.token_policy(&token.name, token.policy());
    }
    for (key, policy) in &config.keys {
        builder = builder.key_policy(key.clone(), policy.clone());
    }
    Ok(builder.start().await?)
}

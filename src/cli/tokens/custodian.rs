//! A token that is opened for a custodian, who may make, import and delete keys.

use std::sync::Arc;

use zeroize::Zeroizing;

use claviger::{
    keys::PublicKey,
    secrets::{
        Context, Custodian, HeldKey, ImportKey, KeyUse, NewKey, Secrets, SignRequest, Signature, SlotOptions,
        TokenError, TokenInfo, UnpairedKey,
        keeper::{ChildProcess, KeeperCustodian, Role, spawn_on_socket},
        prove_keys,
    },
};

use super::open::{check_uri, open_in_process, start_keyring};
use crate::cli::{
    config::{Config, TokenConfig},
    failure::{Failure, Status},
    keeper_process::{connect, keeper_command},
    key_name::KeyName,
    pin,
    runtime::block_on,
    shell::quoted,
    yubikey_wait::YubiKeyWait,
};

/// An open token, and the management key for changes to it.
pub struct CustodianToken {
    connection: Connection,
    /// The management key of a YubiKey, if the PIN does not protect it.
    management_key: Option<Zeroizing<Vec<u8>>>,
}

/// How the token is reached.
enum Connection {
    InProcess(Arc<dyn Custodian>),
    /// A keeper. If we started it, dropping the process waits for its end.
    Keeper(
        Box<KeeperCustodian>,
        #[expect(dead_code, reason = "waits for the process when dropped")] Option<ChildProcess>,
    ),
}

/// The option for the management key of a YubiKey.
#[derive(Default, clap::Args)]
pub struct ManagementKeyArgs {
    /// The source of a YubiKey's management key, in hexadecimal: prompt, file:PATH or credential:NAME. Needed only if
    /// the PIN does not protect the management key
    #[arg(long, value_name = "SOURCE")]
    management_key: Option<String>,
}

impl ManagementKeyArgs {
    /// Whether a source of the key is named.
    pub fn is_given(&self) -> bool {
        self.management_key.is_some()
    }

    /// Reads the key. Must be called before a token is opened.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        self.management_key.as_ref().map(|source| pin::read_hex_key(source, "the management key")).transpose()
    }
}

/// Opens a token.
pub fn open(config: &Config, token: &TokenConfig) -> Result<CustodianToken, Failure> {
    connect_to(config, token).map(|connection| CustodianToken { connection, management_key: None })
}

/// Opens a token. Waits for a YubiKey that is not plugged in.
pub fn open_or_wait(config: &Config, token: &TokenConfig) -> Result<CustodianToken, Failure> {
    let mut wait = YubiKeyWait::new(config);
    loop {
        match open(config, token) {
            Err(failure) if wait.should_retry(token, &failure) => {}
            result => return result,
        }
    }
}

/// Opens the first token, in configured order, that serves the named key; if none does, the first that holds it. A token
/// that cannot be opened is skipped; its failure is returned if no other token holds the key.
pub fn open_holder(config: &Config, name: &KeyName, text: &str) -> Result<(CustodianToken, HeldKey), Failure> {
    if config.tokens.is_empty() {
        return Err(config.no_token());
    }
    let (mut failed, mut not_served): (Option<Failure>, _) = (None, None);
    for token in &config.tokens {
        match open(config, token).and_then(|token| token.inventory().map(|keys| (token, keys))) {
            Ok((token, keys)) => match name.find(text, &keys)? {
                Some(held) if held.refused.is_none() => return Ok((token, held.clone())),
                Some(held) => {
                    let held = held.clone();
                    not_served.get_or_insert((token, held));
                }
                None => {}
            },
            // Of several, one that may be ready later says more than a wrong configuration.
            Err(failure) => match &failed {
                Some(before) if before.status == Status::TokenNotReady || failure.status != Status::TokenNotReady => {}
                _ => failed = Some(failure),
            },
        }
    }
    match not_served {
        Some(found) => Ok(found),
        None => Err(failed.unwrap_or_else(|| KeyName::unknown(text))),
    }
}

/// Finds the named key in the tokens, and has its token prove that the key may be used for a relationship of a DID
/// document.
pub fn prove_named(config: &Config, name: &KeyName, text: &str, usage: KeyUse) -> Result<HeldKey, Failure> {
    let (token, held) = open_holder(config, name, text)?;
    check_fits(&held, usage, text)?;
    token.prove(config, &[(&held, usage)])?;
    Ok(held)
}

/// Checks, without using the key, that its token serves it and that it may be used so. `text` is its name as typed.
pub fn check_fits(held: &HeldKey, usage: KeyUse, text: &str) -> Result<(), Failure> {
    held.check_served().map_err(|error| Failure::from_token(&held.token, &error))?;
    let relationship = match usage {
        _ if usage.allows_key_agreement() && !held.usage.allows_key_agreement() => "keyAgreement",
        _ if usage.allows_signing() && !held.usage.allows_signing() => "authentication",
        _ => return Ok(()),
    };
    let message = format!("the key {text} cannot be used for {relationship}");
    Err(Failure::usage("use-unfit", message).hint("`claviger key list` shows the use of each key"))
}

/// Connects to a keeper that listens, as a custodian. The token may be out of service.
pub fn custodian_of(name: &str, address: &str) -> Result<KeeperCustodian, Failure> {
    let stream = connect(address).map_err(|error| {
        Failure::not_ready("token-absent", format!("no keeper of the token {name:?} listens: {error}")).hint(format!(
            "start it: `systemctl start {}`, or `claviger keeper --listen`",
            quoted(format!("claviger-keeper@{name}"))
        ))
    })?;
    KeeperCustodian::new(name, stream).map_err(|error| Failure::from_token(name, &error))
}

fn connect_to(config: &Config, token: &TokenConfig) -> Result<Connection, Failure> {
    token.check()?;
    if token.keeper.is_none() && config.in_process() {
        return open_in_process(config, token, false).map(Connection::InProcess);
    }
    let failed = |error: TokenError| Failure::from_token(&token.name, &error);
    let absent =
        |error: std::io::Error| failed(TokenError::Away(format!("the keeper of the token {:?}: {error}", token.name)));
    let (stream, process) = match &token.keeper {
        Some(address) => (connect(address).map_err(absent)?, None),
        None => {
            check_uri(token)?;
            let (stream, process) =
                keeper_command(config, &token.name, Role::Custodian, 0).and_then(spawn_on_socket).map_err(absent)?;
            (stream, Some(process))
        }
    };
    let custodian = KeeperCustodian::new(&token.name, stream).map_err(failed)?;
    match custodian.token_error() {
        Some(error) => Err(failed(error.clone())),
        None => Ok(Connection::Keeper(Box::new(custodian), process)),
    }
}

impl CustodianToken {
    pub fn name(&self) -> &str {
        match &self.connection {
            Connection::InProcess(token) => token.name(),
            Connection::Keeper(keeper, _) => keeper.name(),
        }
    }

    pub fn info(&self) -> TokenInfo {
        match &self.connection {
            Connection::InProcess(token) => token.info(),
            Connection::Keeper(keeper, _) => keeper.info(),
        }
    }

    /// Sets the management key for the changes that follow.
    pub fn with_management_key(mut self, management_key: Option<&Zeroizing<Vec<u8>>>) -> Self {
        self.management_key = management_key.cloned();
        self
    }

    /// Gives the token the management key for the next change.
    fn send_management_key(&self) -> Result<(), TokenError> {
        match (&self.management_key, &self.connection) {
            (None, _) => Ok(()),
            (Some(key), Connection::InProcess(token)) => token.set_management_key(key.clone()),
            (Some(key), Connection::Keeper(keeper, _)) => keeper.set_management_key(key),
        }
    }

    /// Makes a key in the token. `options` choose the slot and the policies of a YubiKey.
    pub fn generate(&self, key: &NewKey, options: SlotOptions) -> Result<HeldKey, TokenError> {
        self.send_management_key()?;
        match &self.connection {
            Connection::InProcess(token) => token.generate_in_slot(key, options),
            Connection::Keeper(keeper, _) => keeper.generate_in_slot(key, options),
        }
    }

    /// Imports a private key into the token.
    pub fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.send_management_key()?;
        match &self.connection {
            Connection::InProcess(token) => token.import(key),
            Connection::Keeper(keeper, _) => keeper.import(&key),
        }
    }

    /// Deletes a key pair from the token: the pair in its slot, if the token has slots.
    pub fn delete(&self, held: &HeldKey) -> Result<(), TokenError> {
        self.send_management_key()?;
        match &self.connection {
            Connection::InProcess(token) => token.delete_in_slot(&held.public, held.slot),
            Connection::Keeper(keeper, _) => keeper.delete_in_slot(&held.public, held.slot),
        }
    }

    /// Returns the certificates, in DER, which prove that a key was made in the token.
    #[cfg(feature = "yubikey")]
    pub fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        match &self.connection {
            Connection::InProcess(token) => token.attest(key),
            Connection::Keeper(keeper, _) => keeper.attest(key),
        }
    }

    /// Signs what only a custodian may sign, within the configured policies.
    pub fn sign(&self, config: &Config, key: &PublicKey, what: &SignRequest<'_>) -> Result<Signature, Failure> {
        match &self.connection {
            Connection::InProcess(token) => block_on(async {
                let keyring = start_keyring(config, self.name(), token.clone()).await?;
                Ok(keyring.sign(key, what, &Context::default()).await?)
            }),
            Connection::Keeper(keeper, _) => {
                keeper.sign(key, what).map_err(|error| Failure::from_token(self.name(), &error))
            }
        }
    }

    /// Proves that keys of this token may enter a DID document, each with its use: the token serves the key, both halves
    /// belong together, and the use works now.
    pub fn prove(&self, config: &Config, keys: &[(&HeldKey, KeyUse)]) -> Result<(), Failure> {
        for (held, usage) in keys {
            check_fits(held, *usage, &held.public.to_string())?;
        }
        let keys: Vec<_> = keys.iter().map(|(held, usage)| (held.public.clone(), *usage)).collect();
        let proved = match &self.connection {
            Connection::InProcess(token) => {
                // A keyring refuses keys below the configured custody.
                block_on(start_keyring(config, self.name(), token.clone()))?;
                prove_keys(&**token, &keys)
            }
            Connection::Keeper(keeper, _) => keeper.prove(&keys),
        };
        proved.map(drop).map_err(|error| Failure::from_token(self.name(), &error))
    }

    /// Every key of the token, including keys that would be refused for use.
    pub fn inventory(&self) -> Result<Vec<HeldKey>, Failure> {
        let keys = match &self.connection {
            Connection::InProcess(token) => token.inventory(),
            Connection::Keeper(keeper, _) => keeper.inventory(),
        };
        keys.map_err(|error| Failure::from_token(self.name(), &error))
    }

    /// The private keys that [`CustodianToken::inventory`] left out, because their public halves are not known.
    pub fn unpaired_keys(&self) -> Result<Vec<UnpairedKey>, Failure> {
        match &self.connection {
            Connection::InProcess(token) => Ok(token.unpaired_keys()),
            Connection::Keeper(keeper, _) => {
                keeper.unpaired_keys().map_err(|error| Failure::from_token(self.name(), &error))
            }
        }
    }
}

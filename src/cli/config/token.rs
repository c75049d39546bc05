//! `[[token]]` and `[[key]]`: the tokens, and what their keys may be used for.

use std::{collections::BTreeMap, fmt};

#[cfg(feature = "yubikey")]
use claviger::secrets::piv;
use claviger::secrets::{Custody, KeyOperation, Policy, pkcs11};
use serde::Deserialize;

use crate::cli::failure::Failure;

/// A token that holds private keys. The table is given once for each token; tokens are tried in the order of the file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The token's name on the command line, in errors and in the log.
    pub name: String,
    /// The token's address: `pkcs11:` (RFC 7512, docs/devices.md) or `yubikey:` (docs/desktop.md). Its `pin-source` is
    /// `file:PATH`, `credential:NAME` (systemd), `prompt` or `pinentry`. A token has either `uri` or `keeper`.
    #[serde(default)]
    pub uri: String,
    /// `unix:PATH`: the socket of a keeper that runs as a service of its own and holds this token.
    pub keeper: Option<String>,
    /// The device profile: a name in `hsm-config/`, or in a folder `hsm-config` beside the configuration. Without it,
    /// the manufacturer and the model of the module and the token choose the profile.
    pub profile: Option<String>,
    /// The least protection that the token must give in a key agreement: `shared-secret-in-process`, `kek-in-process`
    /// or `kek-in-token`. Keys below it are refused at start. docs/custody.md describes the tiers.
    minimum_custody: Option<Custody>,
    /// The operations that the token's keys may be used for: `unwrap`, `wrap`, `sign:message`, `sign:from-prior`,
    /// `sign:webvh-entry`. Without it, all are allowed.
    allow: Option<Vec<Allowed>>,
    /// Keys, by label or multikey, that may be used although they are extractable or not sensitive.
    #[serde(default)]
    pub allow_unprotected: Vec<String>,
    /// The number of operations that may run at once, each in a PKCS#11 session of its own. Without it: 1. A software
    /// token gains nothing from more; a network HSM does.
    pub sessions: Option<usize>,
    /// Environment variables for the processes that load the token's module, such as `SOFTHSM2_CONF`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(skip)]
    fault: Option<Failure>,
}

/// The policy of one key. The table is given once for each key. It takes precedence over the policy of the key's token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySection {
    /// The key's multikey.
    pub key: String,
    /// As in `[[token]]`.
    minimum_custody: Option<Custody>,
    /// As in `[[token]]`.
    allow: Option<Vec<Allowed>>,
}

impl TokenConfig {
    /// A token that no configuration names.
    pub fn from_uri(uri: &str) -> Self {
        Self {
            name: "token".to_owned(),
            uri: uri.to_owned(),
            keeper: None,
            profile: None,
            minimum_custody: None,
            allow: None,
            allow_unprotected: Vec::new(),
            sessions: None,
            environment: BTreeMap::new(),
            fault: None,
        }
    }

    /// The table of a token that cannot be used. Only its name is known.
    pub fn faulty(name: String, fault: Failure) -> Self {
        Self { name, fault: Some(fault), ..Self::from_uri("") }
    }

    /// Records that the token cannot be used. A fault that is known already stays.
    pub fn set_fault(&mut self, fault: Failure) {
        self.fault.get_or_insert(fault);
    }

    /// What is wrong with the table of this token. Other tokens can be used.
    pub fn fault(&self) -> Option<&Failure> {
        self.fault.as_ref()
    }

    /// Checks that the token can be used.
    ///
    /// # Errors
    /// What is wrong with its table.
    pub fn check(&self) -> Result<(), Failure> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// A token of a keeper that listens on a socket.
    pub fn at_keeper(name: &str, address: &str) -> Self {
        Self { name: name.to_owned(), keeper: Some(address.to_owned()), ..Self::from_uri("") }
    }

    /// The name of the systemd credential that holds the PIN, if the URI names one.
    pub fn credential(&self) -> Option<String> {
        let pin_source = match self.is_yubikey() {
            false => self.uri.parse::<pkcs11::Uri>().ok()?.pin_source,
            #[cfg(feature = "yubikey")]
            true => self.uri.parse::<piv::Uri>().ok()?.pin_source,
            #[cfg(not(feature = "yubikey"))]
            true => None,
        };
        pin_source?.strip_prefix("credential:").map(str::to_owned)
    }

    /// The policy of the token's keys.
    pub fn policy(&self) -> Policy {
        policy(&self.allow, self.minimum_custody)
    }

    /// Whether the token is a YubiKey that this configuration opens. `false` for a token behind a separate keeper,
    /// because only that keeper knows the device.
    pub fn is_yubikey(&self) -> bool {
        self.keeper.is_none() && self.uri.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("yubikey:"))
    }
}

/// Leaves out the URI, which may hold a PIN.
impl fmt::Debug for TokenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KeySection {
    /// The policy of the key.
    pub fn policy(&self) -> Policy {
        policy(&self.allow, self.minimum_custody)
    }
}

fn policy(allow: &Option<Vec<Allowed>>, minimum_custody: Option<Custody>) -> Policy {
    Policy { allow: allow.as_ref().map(|allow| allow.iter().map(|it| it.0).collect()), minimum_custody }
}

/// One operation of `allow`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Allowed(KeyOperation);

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Self)
    }
}

/// Whether an environment variable may have this name. A variable with another name could never be set.
pub fn is_variable_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_allowed) && !name.starts_with(|first: char| first.is_ascii_digit())
}

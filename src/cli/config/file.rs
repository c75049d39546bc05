//! The structure of claviger.toml. docs/settings.md is generated from the comments on the fields.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    daemon::{AgentSection, ApiSection, HttpSection, MediationSection, NetSection, OpsSection, OutboxSection},
    keeper::KeeperSection,
    store::StoreSection,
    token::{KeySection, TokenConfig},
    token_table::TokenTable,
};

/// The settings at the top of the file, before the first table.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The folder for everything that must outlive a command: our DIDs and their documents, long forms of did:peer:4,
    /// the PIN guard, the store, the audit file. Without it: `$STATE_DIRECTORY` of a systemd service, else
    /// `$XDG_STATE_HOME/claviger`, else `~/.local/state/claviger`, else `/var/lib/claviger`.
    pub state_dir: Option<PathBuf>,
    #[serde(default)]
    #[cfg_attr(test, serde(skip_serializing))]
    pub token: Vec<TokenTable<TokenConfig>>,
    #[serde(default)]
    #[cfg_attr(test, serde(skip_serializing))]
    pub key: Vec<KeySection>,
    #[serde(default)]
    pub did: DidSection,
    #[serde(default)]
    pub keeper: KeeperSection,
    #[serde(default)]
    pub agent: AgentSection,
    #[serde(default)]
    pub http: HttpSection,
    #[serde(default)]
    pub net: NetSection,
    #[serde(default)]
    pub mediation: MediationSection,
    #[serde(default)]
    pub outbox: OutboxSection,
    #[serde(default)]
    pub store: StoreSection,
    #[serde(default)]
    pub api: ApiSection,
    #[serde(default)]
    pub ops: OpsSection,
}

/// DID documents that the program reads from files.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct DidSection {
    /// Files with a DID document as JSON, or folders of such files: for did:example, for offline use, for tests. A DID
    /// is ours if its document, made by claviger or listed here, names a public key that one of our tokens holds.
    pub documents: Vec<PathBuf>,
}

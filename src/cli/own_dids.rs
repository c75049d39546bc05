//! Our DIDs: the documents that claviger made or was given, and the tokens that hold their keys.

use std::{collections::HashSet, sync::Arc};

use claviger::{
    did::{
        CachedResolver, Document, LocalResolver, Relationship, Resolver, ResolverChain, did_of, is_did,
        peer::LongForms, read_documents,
    },
    didcomm::{FromPrior, Identities},
    keys::PublicKey,
    process::sandbox::Sandbox,
    secrets::{
        Keyring, Secrets,
        keeper::{Role, Supervisor},
    },
};

use super::{
    arguments::not_a_did,
    config::Config,
    failure::Failure,
    keeper_process::start_supervisor,
    output::short,
    runtime::block_on,
    servers::{with_servers, without_servers},
    state_dir::StateDir,
    tokens::secrets::open_until,
};

/// The documents that may be ours, and a resolver. Only a token can tell whether a document's DID is ours.
pub struct OwnDids<'a> {
    config: &'a Config,
    pub documents: Vec<Document>,
    pub resolver: CachedResolver<ResolverChain>,
    /// Whether the resolver asks servers.
    asks_servers: bool,
    long_forms: Arc<dyn LongForms>,
    supervisor: Option<Arc<Supervisor>>,
}

/// The keys that a command needs.
pub enum NeededKeys {
    /// The command needs all of these keys.
    All(Vec<PublicKey>),
    /// The command needs at least one of these keys.
    Any(Vec<PublicKey>),
}

impl<'a> OwnDids<'a> {
    /// Reads the documents that were made here and those that the configuration names. Opens no token. The resolver asks no
    /// server.
    pub fn load(config: &'a Config) -> Result<Self, Failure> {
        Self::load_with(config, false, |local| local)
    }

    /// Like [`load`](Self::load), with a resolver that finds what the agent finds: it asks servers for the documents of
    /// did:web and did:webvh, unless this is `offline`.
    pub fn load_with_servers(config: &'a Config, offline: bool) -> Result<Self, Failure> {
        match offline {
            true => Self::load_with(config, false, without_servers),
            false => Self::load_with(config, true, |local| with_servers(local, config)),
        }
    }

    fn load_with(
        config: &'a Config,
        asks_servers: bool,
        methods: impl FnOnce(ResolverChain) -> ResolverChain,
    ) -> Result<Self, Failure> {
        let state = StateDir::new(config.state_dir.clone());
        let mut documents = state.documents()?;
        let mut known: HashSet<String> = documents.iter().map(|document| document.id().to_owned()).collect();
        for path in &config.documents {
            let more = read_documents(path)?.into_iter().map(|(_, document)| document);
            documents.extend(more.filter(|document| known.insert(document.id().to_owned())));
        }
        let long_forms = state.long_forms();
        let local = LocalResolver::new().with_long_forms(long_forms.clone()).with_documents(documents.clone());
        let resolver = CachedResolver::new(methods(ResolverChain::new(local)));
        Ok(Self { config, documents, resolver, asks_servers, long_forms, supervisor: None })
    }

    /// Keeps the document of a did:peer:4 whose owner was authenticated, or that a person named. Does nothing for other
    /// DIDs and for a short form.
    pub fn keep_long_form(&self, did: &str) {
        self.long_forms.keep(did);
    }

    /// Starts the keepers' supervisor, and enters the sandbox, which a process cannot leave: the process will read
    /// messages of strangers. Must be called before the process has a second thread.
    ///
    /// Does nothing with `in_process = true`, because this process must then load the module and read the PIN.
    pub fn enter_sandbox(&mut self) -> Result<(), Failure> {
        if self.config.in_process() {
            return Ok(());
        }
        if !self.config.tokens.is_empty() {
            self.supervisor = Some(start_supervisor(self.config, Role::Agent)?);
        }
        self.enter_sandbox_without_keepers();
        Ok(())
    }

    /// Like [`enter_sandbox`](Self::enter_sandbox), for a command that needs no token.
    pub fn enter_sandbox_without_keepers(&self) {
        let long_forms = StateDir::new(self.config.state_dir.clone()).long_forms_folder();
        let mut sandbox = if long_forms.is_dir() { Sandbox::new().allow_write(long_forms) } else { Sandbox::new() };
        if self.asks_servers {
            sandbox = sandbox.allow_name_resolution();
        }
        match sandbox.enforce() {
            Ok(report) => {
                for finding in report.findings.iter().filter(|finding| !finding.holds) {
                    tracing::info!(name = finding.name, reason = finding.why, "sandbox incomplete on this kernel");
                }
            }
            Err(error) => tracing::warn!(%error, "sandbox not entered"),
        }
    }

    /// Our DIDs with the tokens that hold the needed keys. If no key is needed, no token is opened.
    pub async fn identities(&self, needed: &NeededKeys) -> Result<Identities, Failure> {
        let secrets = match needed {
            NeededKeys::All(keys) | NeededKeys::Any(keys) if keys.is_empty() => {
                Arc::new(Keyring::builder().start().await?)
            }
            _ => open_until(self.config, self.supervisor.as_ref(), |secrets| needed.are_held(secrets)).await?,
        };
        let (identities, missing) = Identities::with_missing_keys(secrets, self.documents.clone());
        if !missing.is_empty() {
            tracing::debug!(missing = missing.len(), "verification methods without a key in an open token");
        }
        Ok(identities)
    }

    /// The keys of a DID in a verification relationship, or the one key of a DID URL.
    pub async fn keys(&self, did_or_kid: &str, relationship: Relationship) -> Result<Vec<PublicKey>, Failure> {
        let did = did_of(did_or_kid).ok_or_else(|| not_a_did(did_or_kid))?;
        let document = self.resolver.resolve(did).await?;
        if is_did(did_or_kid) {
            return Ok(document.methods(relationship).filter_map(|method| method.key.as_ref().ok()).cloned().collect());
        }
        match document.method(did_or_kid, relationship) {
            Some(method) => Ok(method.key.iter().cloned().collect()),
            None => {
                let message = format!("{did_or_kid} is not in {} of its document", relationship.name());
                Err(Failure::new("key-not-authorised", message))
            }
        }
    }

    /// Resolves a DID that needs no file, such as a did:key, and adds its document to ours. The DID is ours if a token
    /// holds its keys.
    pub async fn add_resolved(&mut self, did_or_kid: &str) -> Result<(), Failure> {
        let did = did_of(did_or_kid).ok_or_else(|| not_a_did(did_or_kid))?;
        if !self.documents.iter().any(|document| document.is_about(did)) {
            self.documents.push((*self.resolver.resolve(did).await?).clone());
        }
        Ok(())
    }

    /// The public keys that our documents give for these key IDs in keyAgreement.
    pub fn agreement_keys<'k>(&self, kids: impl Iterator<Item = &'k str>) -> Vec<PublicKey> {
        let find = |kid: &str| {
            let methods = self.documents.iter().filter_map(|it| it.method(kid, Relationship::KeyAgreement));
            methods.filter_map(|method| method.key.as_ref().ok()).next().cloned()
        };
        kids.filter_map(find).collect()
    }
}

impl NeededKeys {
    fn are_held(&self, secrets: &dyn Secrets) -> bool {
        let held = secrets.keys().borrow().clone();
        match self {
            Self::All(keys) => keys.iter().all(|key| held.get(key).is_some()),
            Self::Any(keys) => keys.iter().any(|key| held.get(key).is_some()),
        }
    }
}

/// The document of one of our DIDs, which may be named by its short name.
pub fn own_document(config: &Config, did: &str) -> Result<Document, Failure> {
    let documents = OwnDids::load(config)?.documents;
    documents.into_iter().find(|document| document.is_about(did) || short(document.id()) == did).ok_or_else(|| {
        Failure::new("not-ours", format!("{} is not one of our DIDs", short(did)))
            .hint(match config.daemon.store.node {
                None => "`claviger did list` shows our DIDs",
                Some(_) => "`claviger did list` shows our DIDs; `claviger did fetch` writes those of other nodes to the state folder",
            })
    })
}

/// Signs a `from_prior` with an authentication key of its `iss`, in the role of a custodian: an agent may not sign it.
pub fn sign_from_prior(config: &Config, claims: &FromPrior) -> Result<String, Failure> {
    let own = OwnDids::load(config)?;
    let supervisor = match config.in_process() {
        true => None,
        false => Some(start_supervisor(config, Role::Custodian)?),
    };
    block_on(async {
        let keys = NeededKeys::Any(own.keys(&claims.iss, Relationship::Authentication).await?);
        let secrets = open_until(config, supervisor.as_ref(), |secrets| keys.are_held(secrets)).await?;
        let (own_identities, _) = Identities::with_missing_keys(secrets, own.documents.clone());
        Ok(claims.pack(None, &own_identities).await?.0)
    })
}

//! What is ours: the documents at hand, and the tokens behind them when a command needs their keys.

use std::sync::Arc;

use claviger::{
    did::{Cached, Document, LocalResolver, Relationship, Resolver, did_of, is_did, read_documents},
    didcomm::Identities,
    keys::PublicKey,
    process::sandbox::Sandbox,
    secrets::{
        Keyring, Secrets,
        keeper::{Role, Supervisor},
    },
};

use super::{config::Config, failure::Failure, keeper, state::State, tokens};

/// The documents and the resolver. Whether a document's DID is ours only a token can tell.
pub struct Own<'a> {
    config: &'a Config,
    pub documents: Vec<Document>,
    pub resolver: Cached<LocalResolver>,
    supervisor: Option<Arc<Supervisor>>,
}

/// The keys that a command needs.
pub enum Wanted {
    /// Each of them.
    All(Vec<PublicKey>),
    /// One of them.
    Any(Vec<PublicKey>),
}

impl<'a> Own<'a> {
    /// Reads the documents made here and those that the configuration names. No token is touched.
    pub fn load(config: &'a Config) -> Result<Self, Failure> {
        let state = State::new(config.state_dir.clone());
        let mut documents = state.documents()?;
        for path in &config.documents {
            for (_, document) in read_documents(path)? {
                if !documents.iter().any(|known| known.id() == document.id()) {
                    documents.push(document);
                }
            }
        }
        let local = LocalResolver::new().with_long_forms(state.long_forms()).with_documents(documents.clone());
        Ok(Self { config, documents, resolver: Cached::new(local), supervisor: None })
    }

    /// Starts what starts keepers, and closes this process in: from then on it reads what strangers wrote. To be called
    /// before it has a second thread.
    ///
    /// With `in_process` it stays open, since the module must be loaded and the PIN be read here.
    pub fn close_in(&mut self) -> Result<(), Failure> {
        if self.config.in_process() {
            return Ok(());
        }
        if !self.config.tokens.is_empty() {
            self.supervisor = Some(keeper::supervisor(self.config, Role::Agent)?);
        }
        let long_forms = State::new(self.config.state_dir.clone()).long_forms_folder();
        let sandbox = if long_forms.is_dir() { Sandbox::new().write(long_forms) } else { Sandbox::new() };
        match sandbox.enforce() {
            Ok(report) => {
                for finding in report.findings.iter().filter(|finding| !finding.holds) {
                    tracing::info!(name = finding.name, why = finding.why, "this kernel does not close the process in");
                }
            }
            Err(error) => tracing::warn!(%error, "the process is not closed in"),
        }
        Ok(())
    }

    /// Our DIDs, on the tokens that hold the wanted keys. Nothing wanted: no token is opened.
    pub async fn identities(&self, wanted: &Wanted) -> Result<Identities, Failure> {
        let secrets = match wanted {
            Wanted::All(keys) | Wanted::Any(keys) if keys.is_empty() => Arc::new(Keyring::builder().start().await?),
            _ => tokens::secrets(self.config, self.supervisor.as_ref(), |secrets| wanted.found(secrets)).await?,
        };
        let (identities, missing) = Identities::partial(secrets, self.documents.clone());
        if !missing.is_empty() {
            tracing::debug!(missing = missing.len(), "methods of documents at hand that no open token holds");
        }
        Ok(identities)
    }

    /// The keys of a DID, or the one of a DID URL, in the relationship.
    pub async fn keys(&self, did_or_kid: &str, relationship: Relationship) -> Result<Vec<PublicKey>, Failure> {
        let did = did_of(did_or_kid).ok_or_else(|| bad_did(did_or_kid))?;
        let document = self.resolver.resolve(did).await?;
        if is_did(did_or_kid) {
            return Ok(document.methods(relationship).filter_map(|method| method.key.as_ref().ok()).cloned().collect());
        }
        match document.method(did_or_kid, relationship) {
            Some(method) => Ok(method.key.iter().cloned().collect()),
            None => {
                let said = format!("{did_or_kid} does not stand in {} of its document", relationship.name());
                Err(Failure::new("key-not-authorised", said))
            }
        }
    }

    /// A DID that is its own document is ours without a file, if a token holds its keys.
    pub async fn adopt(&mut self, did_or_kid: &str) -> Result<(), Failure> {
        let did = did_of(did_or_kid).ok_or_else(|| bad_did(did_or_kid))?;
        if !self.documents.iter().any(|document| document.names(did)) {
            self.documents.push((*self.resolver.resolve(did).await?).clone());
        }
        Ok(())
    }

    /// The public keys that the documents at hand give for these key ids.
    pub fn agreement_keys<'k>(&self, kids: impl Iterator<Item = &'k str>) -> Vec<PublicKey> {
        let find = |kid: &str| {
            let methods = self.documents.iter().filter_map(|it| it.method(kid, Relationship::KeyAgreement));
            methods.filter_map(|method| method.key.as_ref().ok()).next().cloned()
        };
        kids.filter_map(find).collect()
    }
}

impl Wanted {
    fn found(&self, secrets: &dyn Secrets) -> bool {
        let held = secrets.keys().borrow().clone();
        match self {
            Self::All(keys) => keys.iter().all(|key| held.get(key).is_some()),
            Self::Any(keys) => keys.iter().any(|key| held.get(key).is_some()),
        }
    }
}

/// A word that should be a DID or a DID URL.
pub fn bad_did(text: &str) -> Failure {
    Failure::words("bad-did", format!("{text:?} is no DID or DID URL"))
}

/// Checks the syntax of a DID or DID URL.
pub fn check_did(text: &str) -> Result<(), Failure> {
    did_of(text).map(|_| ()).ok_or_else(|| bad_did(text))
}

//! did:webvh: a document that a web server has, with the log of all its versions (DIF, "did:webvh DID Method" 1.0).
//!
//! The server is not believed. The DID holds the hash of the log's first entry (its SCID), each entry the hash of the one
//! before, and each is signed by a key that an entry before it named. So who takes the server over can take the DID away,
//! and not take it over.
//!
//! The whole log is verified each time, every entry of it; and one fault anywhere, also behind what was asked for, makes
//! it a log that is not believed.

mod log;
mod own;
mod parameters;
mod proof;
mod witness;

pub use own::{Draft, NewKeys, OwnLog};
pub use parameters::ParameterFault;
pub use proof::ProofFault;

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{
    Document, DocumentError, Fetch, ResolveError, Resolver, WebError, fetch, is_did, resolver::shortened, web::folder,
};
use log::Log;

/// The longest log that is read, in bytes: hundreds of versions.
const MAX_LOG: usize = 1024 * 1024;
/// The longest file of witnesses' proofs.
const MAX_WITNESSES: usize = 256 * 1024;

/// Why a `did:webvh` has no document. Its controller is to blame, or its server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebvhError {
    /// It has no SCID: 46 characters of base58 before the host.
    #[error("it has no SCID, which is 46 characters of base58")]
    Scid,
    /// It names no place.
    #[error(transparent)]
    Place(WebError),
    /// The log has no entry.
    #[error("its log is empty")]
    Empty,
    /// An entry of the log is not what it has to be.
    #[error("entry {number} of its log is not valid: {fault}")]
    Entry {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// Too few of the witnesses that an entry needs have approved it.
    #[error("entry {number} of its log has the approval of {approvals} witnesses, and needs {threshold}")]
    Witnesses {
        /// Which one, from 1.
        number: usize,
        /// How many have approved it.
        approvals: usize,
        /// How many have to.
        threshold: usize,
    },
    /// The file of its witnesses' proofs has another form.
    #[error("its did-witness.json is not a list of versions and their proofs")]
    WitnessFile,
    /// The log never was that of this DID, only of others with its SCID.
    #[error("its log is that of {0:?}")]
    Another(String),
    /// Its controller has ended it.
    #[error("its controller has deactivated it")]
    Deactivated,
}

/// What is wrong with an entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// It is not a JSON object.
    #[error("it is not a JSON object")]
    Json,
    /// It is longer than what is read.
    #[error("it has more than 128 KiB")]
    TooLong,
    /// A member is absent, or of another type.
    #[error("its {0:?} is absent, or of another type")]
    Member(&'static str),
    /// Its version is not its place in the log and the hash over it and the entry before.
    #[error("its versionId is not the number and the hash of this entry behind the one before")]
    Version,
    /// The first entry's hash is not the SCID.
    #[error("it does not have the SCID that is its hash")]
    Scid,
    /// Its time is not one in UTC.
    #[error("its versionTime is not a time in UTC")]
    Time,
    /// Its time is not later than that of the entry before.
    #[error("its versionTime is not later than that of the entry before")]
    Order,
    /// Its time is not yet.
    #[error("its versionTime is in the future")]
    Future,
    /// Its parameters are not what they have to be.
    #[error("in its parameters, {0}")]
    Parameters(ParameterFault),
    /// Its document's id is no `did:webvh` with the log's SCID.
    #[error("its document's id is not a did:webvh with the SCID of the log")]
    Id,
    /// Its document has another id than the one before, which only a portable DID may have that names the former.
    #[error("it moves the DID, which is not portable or does not name its former id in alsoKnownAs")]
    Moved,
    /// A proof is not valid, or not that of a key that may change the DID.
    #[error("its proof {0}")]
    Proof(ProofFault),
    /// The DID was deactivated by an entry before.
    #[error("the DID was deactivated before it")]
    Deactivated,
}

/// Resolves `did:webvh` by HTTPS.
///
/// No redirect is followed; at most 1 MiB of a log are read and 256 KiB of witnesses' proofs. A DID that has moved is
/// resolved by its newest name only. It asks at each call: [`Cached`](super::Cached) is put before it.
#[derive(Debug, Clone)]
pub struct WebvhResolver<F> {
    fetch: F,
    /// Logs that are read at once: each takes many times its length in memory.
    verifying: Arc<Semaphore>,
}

/// How many logs are verified at once.
const AT_ONCE: usize = 4;

impl<F: Fetch> WebvhResolver<F> {
    /// One that fetches by `fetch`.
    pub fn new(fetch: F) -> Self {
        Self { fetch, verifying: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn log<'a>(&self, did: &'a str) -> Result<Log<'a>, ResolveError> {
        let wrong = |source| ResolveError::Webvh { did: shortened(did), source };
        let place = Place::of(did).map_err(wrong)?;
        let accept = "text/jsonl, application/jsonl;q=0.9, */*;q=0.1";
        let text = fetch::body(&self.fetch, did, &place.log(), accept, MAX_LOG).await?;
        // It is never closed.
        let _one = self.verifying.acquire().await;
        let mut log = Log::new(place.scid, SystemTime::now());
        for line in lines(&text) {
            log.add(line).map_err(wrong)?;
            // A long log does not keep others waiting.
            tokio::task::yield_now().await;
        }
        if log.is_witnessed() {
            let asked = fetch::body(&self.fetch, did, &place.witnesses(), "application/json", MAX_WITNESSES).await;
            let proofs = match asked {
                Err(ResolveError::NotFound(_)) => b"[]".to_vec(),
                asked => asked?,
            };
            log.check_witnesses(&proofs).map_err(wrong)?;
        }
        Ok(log)
    }
}

#[async_trait]
impl<F: Fetch> Resolver for WebvhResolver<F> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        if !did.starts_with("did:webvh:") {
            return Err(ResolveError::unsupported_method(did));
        }
        let state =
            self.log(did).await?.state(did).map_err(|source| ResolveError::Webvh { did: shortened(did), source })?;
        let wrong = |source: DocumentError| ResolveError::document(did, source);
        Ok(Arc::new(Document::from_value(state).and_then(|document| document.of(did)).map_err(wrong)?))
    }
}

/// The lines of a log: JSON Lines, whose last line may end or not.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|byte| *byte == b'\n').filter(move |_| !text.is_empty())
}

/// Where a `did:webvh` is, and what its log has to begin with.
struct Place<'a> {
    scid: &'a str,
    folder: String,
}

impl<'a> Place<'a> {
    /// The method-specific identifier: `scid ":" domain *( ":" segment )`.
    fn of(did: &'a str) -> Result<Self, WebvhError> {
        let (scid, place) = did.strip_prefix("did:webvh:").and_then(|id| id.split_once(':')).ok_or(WebvhError::Scid)?;
        let is_base58 = |byte: u8| byte.is_ascii_alphanumeric() && !b"0IOl".contains(&byte);
        if scid.len() != 46 || !scid.bytes().all(is_base58) {
            return Err(WebvhError::Scid);
        }
        Ok(Self { scid, folder: folder(place).map_err(WebvhError::Place)? })
    }

    fn log(&self) -> String {
        format!("{}/did.jsonl", self.folder)
    }

    fn witnesses(&self) -> String {
        format!("{}/did-witness.json", self.folder)
    }
}

/// Where the log of a `did:webvh` is.
///
/// # Errors
/// If the DID is none of this method, or names no place.
pub fn url(did: &str) -> Result<String, WebvhError> {
    Place::of(did).map(|place| place.log())
}

/// The path at which the log of a `did:webvh` is served; none for a DID of another method.
pub fn path(did: &str) -> Option<String> {
    let url = url(did).ok()?;
    let (_, rest) = url.strip_prefix("https://")?.split_once('/')?;
    Some(format!("/{rest}"))
}

/// The hash of a text as the method writes it: a multihash of SHA-256, in base58btc.
fn hash(text: &str) -> String {
    let mut multihash = vec![0x12, 32];
    multihash.extend_from_slice(&Sha256::digest(text));
    bs58::encode(multihash).into_string()
}

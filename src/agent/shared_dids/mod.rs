//! The documents of our DIDs, shared by the nodes of one store.
//!
//! Each node has documents in a folder, which a person changes with commands. What one node has read there is written to the
//! store, sealed, and all nodes use it ([`record`]). A store without nodes has no such records: there the folder is all.
//!
//! A document of the store is never trusted more than a file: the DID is ours only once a token of this node has shown one of
//! its keys, and what a DID itself says of its document is taken from the DID.

mod folder;
mod record;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, sleep_until, timeout},
};

use self::{
    folder::Folder,
    record::{DidContent, Merge, OwnDidRecord},
};
use super::{
    own_dids::{OwnDids, OwnDocuments},
    protocol::RecordType,
    sealed_store::SealedStore,
    stale::{Part, Stale},
    store::{
        StoreError,
        types::{CommitOutcome, UNREAD},
    },
};
use crate::did::{Document, LocalResolver, ResolveError, Resolver, webvh::OwnLog};

/// The kind of the record whose revision grows with each change of the shared documents.
pub const VERSION_KIND: &str = "own-dids";
const VERSION: &str = "1";
/// How many records are read, or written, at once.
const PAGE_SIZE: usize = 500;
const MAX_WRITTEN: usize = 100;
/// How often a merge begins anew because another node writes meanwhile.
const MAX_ATTEMPTS: usize = 20;
/// The shortest time between two looks for unknown DIDs. Strangers cause them.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a message to an unknown DID may wait for a look, and for the documents that it finds.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// The record whose revision is the version of the shared documents.
#[derive(Serialize, Deserialize)]
struct Version {}

impl RecordType for Version {
    const KIND: &'static str = VERSION_KIND;
}

/// What another look at the store says of a DID that this node does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// No node knows more DIDs.
    Nothing,
    /// This node knows more DIDs now: the caller looks again.
    More,
    /// It is not known whether there are more DIDs.
    Unknown,
}

/// The documents of our DIDs: those in this node's folder, and those that the nodes share.
pub struct SharedDids {
    store: Arc<SealedStore>,
    own_dids: Arc<OwnDids>,
    stale: Arc<Stale>,
    has_nodes: AtomicBool,
    folder: Mutex<Arc<Folder>>,
    merging: AsyncMutex<Merged>,
    /// The version of the shared documents that this node has. None before it has read them.
    version: watch::Sender<Option<i64>>,
    /// When the store was looked at last, and the version that it had, if it answered.
    looked: AsyncMutex<Option<(Instant, Option<i64>)>>,
}

/// What was merged last.
#[derive(Default)]
struct Merged {
    folder: Option<Arc<Folder>>,
    records: Records,
    taken: HashMap<String, Taken>,
}

/// A document that this node has from the store.
#[derive(Clone)]
struct Taken {
    digest: String,
    /// None if it is not used.
    content: Option<(Document, Option<OwnLog>)>,
}

/// The records, each with its revision.
type Records = BTreeMap<String, (i64, Arc<OwnDidRecord>)>;

impl SharedDids {
    /// `documents` are those of the folder.
    pub fn new(store: Arc<SealedStore>, own_dids: Arc<OwnDids>, stale: Arc<Stale>, documents: OwnDocuments) -> Self {
        Self {
            store,
            own_dids,
            stale,
            has_nodes: AtomicBool::new(false),
            folder: Mutex::new(Arc::new(Folder::new(documents, HashSet::new()))),
            merging: AsyncMutex::default(),
            version: watch::Sender::new(None),
            looked: AsyncMutex::default(),
        }
    }

    /// Finds out whether the store has nodes. Then not all of our DIDs are known before the first merge.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn begin(&self) -> Result<(), StoreError> {
        let has_nodes = !self.store.inner().nodes().await?.is_empty();
        self.has_nodes.store(has_nodes, Ordering::SeqCst);
        match has_nodes {
            true => self.own_dids.expect_more(true),
            false => *self.lock_folder() = Arc::default(),
        }
        Ok(())
    }

    fn has_nodes(&self) -> bool {
        self.has_nodes.load(Ordering::SeqCst)
    }

    fn lock_folder(&self) -> std::sync::MutexGuard<'_, Arc<Folder>> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the documents of the folder, which were read anew. `changed` is a DID whose file a person has just changed. With
    /// nodes, the documents are used after the next [`merge`](Self::merge); without, and before the first one, at once.
    pub fn replace_folder(&self, documents: OwnDocuments, changed: Option<&str>) {
        if !self.has_nodes() {
            return self.own_dids.replace(documents);
        }
        if self.version().is_none() {
            self.own_dids.replace(documents.clone());
        }
        let mut folder = self.lock_folder();
        let changed = folder.changed().into_iter().chain(changed.map(str::to_owned)).collect();
        *folder = Arc::new(Folder::new(documents, changed));
    }

    /// Writes what is new in the folder to the store, and uses what is new in the store. Returns whether our documents may have
    /// changed. Does nothing in a store without nodes, and while the store is sealed.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails. Our documents stay as they are.
    pub async fn merge(&self) -> Result<bool, StoreError> {
        if !self.has_nodes() || !self.store.is_unlocked() {
            return Ok(false);
        }
        let mut merged = self.merging.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let folder = self.lock_folder().clone();
            // Before the records: what is written meanwhile has a later version.
            let version = self.store.revision::<Version>(VERSION).await?;
            let is_same_folder = merged.folder.as_ref().is_some_and(|last| Arc::ptr_eq(last, &folder));
            if is_same_folder && self.version() == Some(version) {
                return Ok(false);
            }
            let records = self.read(&merged.records).await?;
            let new = changes(&folder, &records, !is_same_folder);
            if !new.is_empty() {
                // Another node may have written first. In any case, what is there now is read again.
                self.write(&records, new).await?;
                merged.records = records;
                continue;
            }
            merged.taken = take(&folder, &records, &merged.taken).await;
            self.own_dids.replace(documents(&folder, &records, &merged.taken));
            self.own_dids.expect_more(false);
            folder.note_merged();
            (merged.folder, merged.records) = (Some(folder), records);
            self.version.send_replace(Some(version));
            return Ok(true);
        }
        Err(StoreError::Unavailable("the documents of our DIDs are changed again and again".to_owned()))
    }

    /// Reads all records. Those in `known` that have not changed are not opened again.
    async fn read(&self, known: &Records) -> Result<Records, StoreError> {
        let (mut records, mut after) = (Records::new(), String::new());
        loop {
            let page = self.store.inner().records(OwnDidRecord::KIND, &after, PAGE_SIZE).await?;
            let is_last_page = page.len() < PAGE_SIZE;
            if let Some(last) = page.last() {
                after.clone_from(&last.key);
            }
            for record in page {
                let read = match known.get(&record.key).filter(|(revision, _)| *revision == record.revision) {
                    Some(known) => Some(known.clone()),
                    None => self
                        .store
                        .open_record(OwnDidRecord::KIND, &record.key, Some(&record))?
                        .map(|(opened, revision): (OwnDidRecord, i64)| (revision, Arc::new(opened))),
                };
                records.extend(read.map(|read| (record.key, read)));
            }
            if is_last_page {
                return Ok(records);
            }
        }
    }

    /// Writes new records, unless those that were read have changed meanwhile.
    async fn write(&self, read: &Records, new: Vec<(String, OwnDidRecord)>) -> Result<(), StoreError> {
        for some in new.chunks(MAX_WRITTEN) {
            let mut changes = vec![self.store.put_change(VERSION, &Version {}, UNREAD, None)?];
            for (did, record) in some {
                let revision = read.get(did).map_or(0, |(revision, _)| *revision);
                changes.push(self.store.put_change(did, record, revision, None)?);
            }
            if self.store.commit_changes(changes).await? != CommitOutcome::Committed {
                return Ok(());
            }
        }
        tracing::info!(dids = new.len(), "documents of our DIDs shared with the other nodes");
        Ok(())
    }

    /// The version of the shared documents that this node has. For [`catch_up`](Self::catch_up), ask before the DID is looked
    /// up.
    pub fn version(&self) -> Option<i64> {
        *self.version.borrow()
    }

    /// Looks whether another node has shared more documents than those of this version, and waits until they are merged.
    /// However many messages to unknown DIDs come, the store is looked at 20 times a second at most.
    pub async fn catch_up(&self, known: Option<i64>) -> CatchUp {
        if !self.has_nodes() {
            return CatchUp::Nothing;
        }
        let look = async {
            let newest = self.look().await?;
            if known == Some(newest) {
                return Some(CatchUp::Nothing);
            }
            self.stale.mark(Part::OwnDids);
            let mut version = self.version.subscribe();
            // The sender lives as long as self.
            let _ = version.wait_for(|version| version.is_some_and(|version| version >= newest)).await;
            Some(CatchUp::More)
        };
        timeout(LOOK_TIMEOUT, look).await.ok().flatten().unwrap_or(CatchUp::Unknown)
    }

    /// Returns the version of the shared documents in the store, as it is after this call began. One look answers all who wait
    /// for it. None if the store does not answer.
    async fn look(&self) -> Option<i64> {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        match *looked {
            Some((begun, version)) if begun >= asked => return version,
            Some((begun, _)) => sleep_until(begun + LOOK_INTERVAL).await,
            None => {}
        }
        let begun = Instant::now();
        let version = timeout(LOOK_TIMEOUT, self.store.revision::<Version>(VERSION)).await;
        let version = version.ok().and_then(Result::ok);
        *looked = Some((begun, version));
        version
    }
}

/// Returns the records that the folder brings. `is_new_folder` says whether the folder was not merged before.
fn changes(folder: &Folder, records: &Records, is_new_folder: bool) -> Vec<(String, OwnDidRecord)> {
    let (mut new, mut outdated) = (Vec::new(), 0);
    for (did, file) in folder.files() {
        let shared = records.get(did).map(|(_, record)| &**record);
        if shared.is_some_and(|shared| !shared.is_retired() && Some(shared.digest()) == folder.digest(did)) {
            continue;
        }
        match OwnDidRecord::merge(shared, &file()) {
            Merge::Same => {}
            Merge::Outdated => outdated += 1,
            Merge::Forked if is_new_folder => tracing::error!(
                did,
                "log in the folder not used: at another node, the DID was changed in another way. `claviger did fetch` replaces it"
            ),
            Merge::Forked => {}
            Merge::New(record) => new.push((did.to_owned(), record)),
        }
    }
    let retired = records.iter().filter(|(did, (_, it))| !it.is_retired() && folder.has_retired(did, it.digest()));
    new.extend(retired.map(|(did, (_, record))| (did.clone(), record.retired())));
    if is_new_folder && outdated > 0 {
        tracing::info!(
            outdated,
            "documents in the folder not used: other nodes have newer ones, or the DIDs are retired"
        );
    }
    new
}

/// Returns the documents that the store has and the folder does not have so. Those in `known` are not parsed again.
async fn take(folder: &Folder, records: &Records, known: &HashMap<String, Taken>) -> HashMap<String, Taken> {
    let (mut taken, mut new) = (HashMap::new(), 0);
    for (did, (_, record)) in records {
        let Some(content) = record.content.as_ref().filter(|_| folder.digest(did) != Some(record.digest())) else {
            continue;
        };
        if let Some(known) = known.get(did).filter(|known| known.digest == record.digest()) {
            taken.insert(did.clone(), known.clone());
            continue;
        }
        let content = parse(did, content).await.inspect_err(|reason| {
            tracing::error!(did, reason, "document of another node not used");
        });
        new += usize::from(content.is_ok());
        taken.insert(did.clone(), Taken { digest: record.digest().to_owned(), content: content.ok() });
    }
    if new > 0 {
        tracing::info!(dids = new, "documents of our DIDs taken from other nodes");
    }
    taken
}

/// Parses the document of a DID. What the DID itself says of its document counts, and a log must prove itself.
async fn parse(did: &str, content: &DidContent) -> Result<(Document, Option<OwnLog>), String> {
    match content {
        DidContent::Document(text) => match LocalResolver::new().resolve(did).await {
            Ok(document) => Ok((Arc::unwrap_or_clone(document), None)),
            Err(ResolveError::UnsupportedMethod(_)) => {
                let document = Document::from_json(text.as_bytes()).map_err(|error| error.to_string())?;
                if document.id() != did {
                    return Err(format!("it is the document of {}", document.id()));
                }
                Ok((document, None))
            }
            Err(error) => Err(error.to_string()),
        },
        DidContent::Log(text) => {
            let log = OwnLog::read(text.clone()).map_err(|error| error.to_string())?;
            if log.document().id() != did {
                return Err(format!("it is the log of {}", log.document().id()));
            }
            Ok((log.document().clone(), Some(log)))
        }
    }
}

/// Returns the documents of all nodes.
fn documents(folder: &Folder, records: &Records, taken: &HashMap<String, Taken>) -> OwnDocuments {
    let mut all = OwnDocuments::default();
    for (did, (_, record)) in records.iter().filter(|(_, (_, record))| !record.is_retired()) {
        let here = folder.document(did).filter(|_| folder.digest(did) == Some(record.digest()));
        let from_store = taken.get(did).and_then(|taken| taken.content.as_ref());
        let (document, log) = match (here, from_store) {
            (Some((document, log)), _) => {
                all.created.push(document.clone());
                (document, log)
            }
            (None, Some((document, log))) => {
                all.candidates.push(document.clone());
                (document, log.as_ref())
            }
            (None, None) => continue,
        };
        all.logs.extend(log.cloned());
        all.created_at.insert(document.id().to_owned(), record.created);
    }
    let given = folder.documents().candidates.iter().filter(|it| !all.created_at.contains_key(it.id()));
    all.candidates.extend(given.cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::EphemeralKey,
        did::{Relationship, Service, key, peer},
        keys::Curve,
    };

    /// A DID that contains its document is not changed by its record, and has one digest at all nodes.
    #[tokio::test]
    async fn what_a_did_says_of_itself_is_taken_from_it() {
        let [agreement, signing] =
            [Curve::X25519, Curve::P256].map(|it| EphemeralKey::generate(it).unwrap().public().clone());
        let service = Service::didcomm("https://example.com/inbox", ["did:example:mediator".to_owned()]);
        let keys = [(Relationship::KeyAgreement, agreement.clone()), (Relationship::Authentication, signing.clone())];
        let builder = Document::builder().method("key-1", &agreement, &[Relationship::KeyAgreement]);
        let builder = builder.method("key-2", &signing, &[Relationship::Authentication]).service(service.clone());
        let made = [
            key::create(&signing),
            peer::create_2(&keys, std::slice::from_ref(&service)).unwrap(),
            peer::create_4(&builder.input()).unwrap().long,
        ];
        for document in made {
            let (did, value) = (document.id(), document.as_value().clone());
            let planted = serde_json::json!({ "id": did, "keyAgreement": [] });
            for value in [value.clone(), planted] {
                let (parsed, _) = parse(did, &DidContent::Document(value.to_string())).await.unwrap();
                let digest = |document: &Document| DidContent::Document(document.as_value().to_string()).digest();
                assert_eq!(digest(&parsed), digest(&document), "{did}");
            }
        }
        let web = |id: &str| DidContent::Document(serde_json::json!({ "id": id }).to_string());
        assert!(parse("did:web:a.example", &web("did:web:a.example")).await.is_ok());
        assert!(parse("did:web:a.example", &web("did:web:b.example")).await.is_err());
        assert!(parse("did:peer:2.x", &web("did:peer:2.x")).await.is_err());
        assert!(parse("did:webvh:x:a.example", &DidContent::Log("{}\n".to_owned())).await.is_err());
    }
}

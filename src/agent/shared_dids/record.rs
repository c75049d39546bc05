//! The document of one of our DIDs as the nodes share it, and the rule by which a node's file and the shared document become
//! one.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    agent::{clock::Millis, protocol::RecordType},
    crypto::canonical_json,
};

/// How many versions that were replaced are remembered. A file that is older than all of them counts as new.
const MAX_REPLACED: usize = 64;

/// What is published of one of our DIDs. The key of the record is the DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnDidRecord {
    /// The document or the log. `None` once the DID is retired.
    pub content: Option<DidContent>,
    /// When the DID was created, in milliseconds since 1970.
    pub created: Millis,
    /// The digest of the content, also of that which was retired.
    digest: String,
    /// The digests of the contents before it, oldest first.
    replaced: Vec<String>,
}

impl RecordType for OwnDidRecord {
    const KIND: &'static str = "own-did";
}

/// A DID document, or the log of a did:webvh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DidContent {
    /// The text of the DID document.
    Document(String),
    /// The text of the log.
    Log(String),
}

impl DidContent {
    /// The SHA-256 of the document, however its JSON is written, or of the log.
    pub fn digest(&self) -> String {
        match self {
            Self::Document(text) => {
                serde_json::from_str(text).map_or_else(|_| hex(text.as_bytes()), |value| document_digest(&value))
            }
            Self::Log(text) => hex(text.as_bytes()),
        }
    }
}

/// The SHA-256 of a document, however its JSON is written.
pub fn document_digest(document: &Value) -> String {
    hex(canonical_json(document).as_bytes())
}

/// The digests by which the text of a file may be known: that of a log, and that of a document.
pub fn digests_of(text: &str) -> impl Iterator<Item = String> {
    [DidContent::Log(text.to_owned()), DidContent::Document(text.to_owned())]
        .into_iter()
        .map(|content| content.digest())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What this node's folder has of one of our DIDs.
#[derive(Debug, Clone)]
pub struct DidFile {
    /// The document or the log.
    pub content: DidContent,
    /// The digest of the content.
    pub digest: String,
    /// When the DID was created, in milliseconds since 1970.
    pub created: Millis,
    /// Whether a person has just changed the file here, perhaps back to what it was before.
    pub is_changed: bool,
}

/// What becomes of a file and the shared document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// They are the same.
    Same,
    /// The shared document is used: the file is older, or its DID is retired.
    Outdated,
    /// The shared document is used: the file has a log that went on in another way.
    Forked,
    /// The file is new. This is the shared document from now on.
    New(OwnDidRecord),
}

impl OwnDidRecord {
    /// Whether the DID is retired.
    pub fn is_retired(&self) -> bool {
        self.content.is_none()
    }

    /// The digest of the content.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the record of the retired DID.
    pub fn retired(&self) -> Self {
        Self { content: None, ..self.clone() }
    }

    /// Decides between a file of this node and the shared document.
    pub fn merge(shared: Option<&Self>, file: &DidFile) -> Merge {
        use DidContent::Log;
        let Some(shared) = shared else {
            let DidFile { content, digest, created, .. } = file.clone();
            return Merge::New(Self { content: Some(content), created, digest, replaced: Vec::new() });
        };
        if shared.digest == file.digest {
            return if shared.is_retired() { Merge::Outdated } else { Merge::Same };
        }
        match (&shared.content, &file.content) {
            (Some(Log(shared_log)), Log(log)) if log.starts_with(shared_log) => Merge::New(shared.replaced_by(file)),
            (Some(Log(shared_log)), Log(log)) if shared_log.starts_with(log) => Merge::Outdated,
            (Some(Log(_)), Log(_)) => Merge::Forked,
            // A did:webvh that is created anew has another DID.
            (None, Log(_)) => Merge::Outdated,
            _ if !file.is_changed && shared.replaced.contains(&file.digest) => Merge::Outdated,
            _ => Merge::New(shared.replaced_by(file)),
        }
    }

    fn replaced_by(&self, file: &DidFile) -> Self {
        let mut replaced = self.replaced.clone();
        replaced.push(self.digest.clone());
        replaced.drain(..replaced.len().saturating_sub(MAX_REPLACED));
        replaced.retain(|digest| *digest != file.digest);
        let DidFile { content, digest, .. } = file.clone();
        Self { content: Some(content), created: self.created, digest, replaced }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn file(content: DidContent) -> DidFile {
        DidFile { digest: content.digest(), content, created: 1, is_changed: false }
    }

    fn document(version: usize) -> DidFile {
        file(DidContent::Document(json!({ "id": "did:web:a.example", "version": version }).to_string()))
    }

    fn log(entries: &str) -> DidFile {
        file(DidContent::Log(entries.chars().map(|entry| format!("{entry}\n")).collect()))
    }

    fn new(merge: Merge) -> OwnDidRecord {
        match merge {
            Merge::New(record) => record,
            other => panic!("{other:?}"),
        }
    }

    fn merged(shared: &OwnDidRecord, file: &DidFile) -> Merge {
        OwnDidRecord::merge(Some(shared), file)
    }

    #[test]
    fn an_older_file_is_outdated_and_a_changed_one_is_new() {
        let first = new(OwnDidRecord::merge(None, &document(1)));
        assert_eq!(merged(&first, &document(1)), Merge::Same);
        // The same document, written in another way.
        let text = "{ \"version\": 1,\n\"id\": \"did:web:a.example\" }";
        assert_eq!(merged(&first, &file(DidContent::Document(text.to_owned()))), Merge::Same);
        assert!(digests_of(text).any(|digest| digest == first.digest()));
        let second = new(merged(&first, &DidFile { created: 7, ..document(2) }));
        assert_eq!((merged(&second, &document(1)), second.created), (Merge::Outdated, 1));
        // A person has changed it back.
        let third = new(merged(&second, &DidFile { is_changed: true, ..document(1) }));
        assert_eq!((merged(&third, &document(1)), merged(&third, &document(2))), (Merge::Same, Merge::Outdated));
        let last = (3..3 + MAX_REPLACED).fold(third, |record, version| new(merged(&record, &document(version))));
        assert_eq!(merged(&last, &document(1)), Merge::Outdated);
        assert_eq!(last.replaced.len(), MAX_REPLACED);
    }

    #[test]
    fn a_retired_did_comes_back_with_another_document_only() {
        let first = new(OwnDidRecord::merge(None, &document(1)));
        let retired = new(merged(&first, &document(2))).retired();
        for file in [document(1), document(2)] {
            assert_eq!(merged(&retired, &file), Merge::Outdated);
        }
        // The same did:web, created anew with other keys.
        let again = new(merged(&retired, &document(3)));
        assert!(!again.is_retired() && merged(&again, &document(2)) == Merge::Outdated);
        let text = serde_json::to_string(&retired).unwrap();
        assert_eq!(serde_json::from_str::<OwnDidRecord>(&text).unwrap(), retired);
    }

    #[test]
    fn the_longer_log_that_extends_the_other_is_used() {
        let first = new(OwnDidRecord::merge(None, &log("ab")));
        assert_eq!([merged(&first, &log("a")), merged(&first, &log("ax"))], [Merge::Outdated, Merge::Forked]);
        assert_eq!(merged(&first, &log("axy")), Merge::Forked);
        let longer = new(merged(&first, &log("abcd")));
        assert_eq!([merged(&longer, &log("ab")), merged(&longer, &log("abcd"))], [Merge::Outdated, Merge::Same]);
        assert_eq!(merged(&longer.retired(), &log("abcde")), Merge::Outdated);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A node merges its file.
        Merge(usize),
        /// A person changes the document at a node, once the node's file is up to date.
        Change(usize),
        /// The operator copies the file of one node to another.
        Copy(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize).prop_map(Step::Merge),
            (0..3usize).prop_map(Step::Change),
            (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Copy(from, to)),
        ]
    }

    proptest! {
        /// Three nodes merge in any order: the version that is used only grows, and in the end all use the newest.
        #[test]
        fn nodes_converge_and_no_outdated_file_wins(steps in prop::collection::vec(step(), 0..60)) {
            let mut files = [document(0), document(0), document(0)];
            let (mut shared, mut newest): (Option<OwnDidRecord>, usize) = (None, 0);
            let merge = |shared: &mut Option<OwnDidRecord>, file: &DidFile| {
                let before = shared.clone();
                if let Merge::New(record) = OwnDidRecord::merge(shared.as_ref(), file) {
                    *shared = Some(record);
                }
                before != *shared
            };
            for step in steps {
                match step {
                    Step::Merge(node) => {
                        let is_new = merge(&mut shared, &files[node]);
                        prop_assert!(!is_new || files[node].digest == document(newest).digest);
                    }
                    Step::Change(node) => {
                        merge(&mut shared, &files[node]);
                        newest += 1;
                        files[node] = document(newest);
                        merge(&mut shared, &files[node]);
                    }
                    Step::Copy(from, to) => files[to] = files[from].clone(),
                }
            }
            files.iter().for_each(|file| _ = merge(&mut shared, file));
            let shared = shared.unwrap();
            prop_assert_eq!(shared.digest(), document(newest).digest);
            for file in &files {
                prop_assert!(matches!(merged(&shared, file), Merge::Same | Merge::Outdated));
            }
        }
    }
}

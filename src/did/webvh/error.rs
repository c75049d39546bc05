//! Why a did:webvh has no document.

use crate::did::web::WebError;

/// Why a `did:webvh` has no document. The controller of the DID or the server is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebvhError {
    /// The DID has no SCID: 46 characters of base58 before the host.
    #[error("it has no SCID, which is 46 characters of base58")]
    Scid,
    /// The host, port or path of the DID is invalid.
    #[error(transparent)]
    Location(WebError),
    /// The log has no entry.
    #[error("its log is empty")]
    Empty,
    /// An entry of the log is invalid.
    #[error("entry {number} of its log is not valid: {fault}")]
    Entry {
        /// The number of the entry, from 1.
        number: usize,
        /// What is wrong with the entry.
        fault: EntryFault,
    },
    /// Too few witnesses have approved an entry.
    #[error("entry {number} of its log has the approval of {approvals} witnesses, and needs {threshold}")]
    Witnesses {
        /// The number of the entry, from 1.
        number: usize,
        /// The number of witnesses that have approved the entry, or in version 0.5 of the method their weight.
        approvals: u64,
        /// The required number.
        threshold: u64,
    },
    /// The file with the proofs of the witnesses is malformed.
    #[error("its did-witness.json is not a list of versions and their proofs")]
    WitnessFile,
    /// The log has the SCID of this DID, but none of its documents has this DID as `id`. Holds the newest `id` in the
    /// log.
    #[error("its log belongs to {0:?}")]
    WrongDid(String),
    /// The controller has deactivated the DID.
    #[error("its controller has deactivated it")]
    Deactivated,
}

impl WebvhError {
    /// Whether a later attempt may succeed: the server returned something else than the log, only a part of the log, or
    /// files that do not fit together. A malformed or deactivated DID, and one that has moved, stay so.
    pub(in crate::did) fn may_pass(&self) -> bool {
        !matches!(self, Self::Scid | Self::Location(_) | Self::WrongDid(_) | Self::Deactivated)
    }
}

/// What is wrong with an entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// The entry is not a JSON object, or has more than 10,000 JSON values.
    #[error("it is not a JSON object, or has too many values")]
    Json,
    /// The entry is longer than 128 KiB.
    #[error("it has more than 128 KiB")]
    TooLong,
    /// A member is absent or has the wrong type.
    #[error("its {0:?} is absent or has the wrong type")]
    Member(&'static str),
    /// `versionId` is not `NUMBER-HASH`: the number of the entry, and the hash over the entry and the `versionId` of
    /// the previous entry.
    #[error("its versionId is not the number of the entry and the hash over it and the previous entry")]
    Version,
    /// The hash of the first entry is not the SCID.
    #[error("its hash is not the SCID")]
    Scid,
    /// `versionTime` is not a time in UTC.
    #[error("its versionTime is not a time in UTC")]
    Time,
    /// `versionTime` is not later than that of the previous entry.
    #[error("its versionTime is not later than that of the previous entry")]
    Order,
    /// `versionTime` is in the future.
    #[error("its versionTime is in the future")]
    Future,
    /// The parameters are invalid.
    #[error("in its parameters, {0}")]
    Parameters(ParameterFault),
    /// The `id` of the document is not a `did:webvh` with the SCID of the log.
    #[error("its document's id is not a did:webvh with the SCID of the log")]
    Id,
    /// The document has another `id` than the previous one. Only a portable DID may do that, and it must name the
    /// previous `id` in `alsoKnownAs`.
    #[error("it changes the id, but the DID is not portable or does not name its previous id in alsoKnownAs")]
    Moved,
    /// A proof is invalid, or by a key that may not change the DID.
    #[error("its proof {0}")]
    Proof(ProofFault),
    /// An earlier entry deactivated the DID.
    #[error("an earlier entry deactivated the DID")]
    Deactivated,
}

/// What is wrong with the parameters of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterFault {
    /// The entry's version of the method has no such parameter.
    #[error("its version of the method has no parameter {0:?}")]
    Unknown(String),
    /// A parameter has an invalid value, or is absent although it is required.
    #[error("{0:?} is absent or invalid")]
    Value(&'static str),
    /// A parameter is allowed in the first entry only.
    #[error("{0:?} is allowed in the first entry only")]
    FirstOnly(&'static str),
    /// With pre-rotation, each entry must name its keys and the hashes of the next keys.
    #[error("{0:?} is absent, which pre-rotation demands")]
    PreRotation(&'static str),
    /// With pre-rotation, the hash of each key must be in the previous entry.
    #[error("the previous entry has not committed to the key {0:?}")]
    NotCommitted(String),
}

/// What is wrong with a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofFault {
    /// There is no proof.
    #[error("is missing")]
    Missing,
    /// There are more than ten proofs.
    #[error("is one of more than ten")]
    TooMany,
    /// A member is absent, or has a value that the method does not allow.
    #[error("has an invalid {0}")]
    Member(&'static str),
    /// The key may not change the DID.
    #[error("is by a key that may not change the DID")]
    Key,
    /// The signature is wrong.
    #[error("has a wrong signature")]
    Signature,
}

//! Why JSON is not a DID document.

/// Why JSON is not a DID document. The author of the document is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The document is too long.
    #[error("the document has {length} bytes; at most {limit} are read")]
    TooLong {
        /// The length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The document has too many entries of one kind.
    #[error("the document's {member} has {length} entries; at most {limit} are read")]
    TooMany {
        /// The member of the document.
        member: &'static str,
        /// The number of entries.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The document has too many JSON values. Holds the limit.
    #[error("the document has more than {0} JSON values")]
    TooManyValues(usize),
    /// The text is not JSON, or has more JSON values than a document may have.
    #[error("the document is not JSON, or has too many values: line {line}, column {column}")]
    Json {
        /// The line of the error, from 1.
        line: usize,
        /// The column of the error, from 1.
        column: usize,
    },
    /// A member does not have the form that DID Core gives it.
    #[error("the document's {member} is not {expected}")]
    Member {
        /// The member. For a verification method or service, the name of its parent comes first.
        member: &'static str,
        /// What the member must be.
        expected: &'static str,
    },
    /// The `id` of the document is not the requested DID.
    #[error("the document is about {found:?}, not about {requested:?}")]
    WrongId {
        /// The requested DID.
        requested: String,
        /// The document's `id`.
        found: String,
    },
    /// Two verification methods with different keys have one id.
    #[error("two verification methods have the id {0:?}")]
    DuplicateMethod(String),
}

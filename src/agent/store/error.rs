//! The errors of a store.

/// Why a request to the store failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A limit of the configuration is reached, or the disk is full.
    #[error("the store is full: {0}")]
    Full(String),
    /// The store cannot be read or written now. Trying again may help.
    #[error("the store cannot be used now: {0}")]
    Unavailable(String),
    /// The store is damaged, or belongs to another program. The text continues the sentence "the store ...".
    #[error("the store {0}")]
    Unusable(String),
    /// A later release wrote the store with a schema that this release does not know.
    #[error(
        "the store has schema {found}, and this release knows {known}: run the release that wrote it, or a later one"
    )]
    TooNew {
        /// The schema of the store.
        found: i64,
        /// The latest schema that this release knows.
        known: i64,
    },
    /// Another agent uses the store.
    #[error("another agent uses the store {0}")]
    InUse(String),
    /// The store has not given out this cursor. It was restored from an older state, or is another store. The reader must
    /// start from the beginning.
    #[error(
        "the store has not given out the cursor {0}: it was restored from a backup, or is another store. Start from the \
         beginning, with 0"
    )]
    UnknownCursor(i64),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unavailable(_))
    }
}

//! What may go wrong with the store.

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room: a limit of the configuration, or the disk.
    #[error("the store is full: {0}")]
    Full(String),
    /// It cannot be reached or written now; trying again may help.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// It is damaged, or is not ours.
    #[error("the store {0}")]
    Unusable(String),
    /// It was written by a later release than this one understands.
    #[error(
        "the store has schema {found}, and this release knows {known}: run the release that wrote it, or a later one"
    )]
    TooNew {
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another agent has it.
    #[error("another agent uses the store {0}")]
    InUse(String),
    /// It was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same may succeed later.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unavailable(_))
    }
}

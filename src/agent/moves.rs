//! Which DID somebody has by now: ours that have moved, and peers' that have said so.

use serde::de::DeserializeOwned;

use super::{
    books::Books,
    protocol::{
        Records,
        connections::{Connection, MOVED, Moved},
    },
    rotation::{ROTATED, Rotated},
    store::StoreError,
};

/// Changes of a DID that are followed, at most.
const MOVES: usize = 16;

impl Books {
    /// Our DID of today, if this one has moved.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::Unusable`] for a record that is damaged.
    pub async fn ours_by_now(&self, did: &str) -> Result<String, StoreError> {
        let mut now = did.to_owned();
        for _ in 0..MOVES {
            let Some(rotated) = self.remembered::<Rotated>(ROTATED, &now).await? else { break };
            now = rotated.to;
        }
        Ok(now)
    }

    /// A peer's DID of today, if it has told this DID of ours that it has moved.
    ///
    /// # Errors
    /// As [`ours_by_now`](Self::ours_by_now).
    pub async fn theirs_by_now(&self, ours: &str, theirs: &str) -> Result<String, StoreError> {
        let mut now = theirs.to_owned();
        for _ in 0..MOVES {
            let Some(moved) = self.remembered::<Moved>(MOVED, &Connection::key(ours, &now)).await? else { break };
            now = moved.to;
        }
        Ok(now)
    }

    /// A record of this form.
    ///
    /// # Errors
    /// As [`ours_by_now`](Self::ours_by_now).
    pub async fn remembered<T: DeserializeOwned>(&self, kind: &str, key: &str) -> Result<Option<T>, StoreError> {
        let record = self.read(kind, key).await?;
        let read = record.map(|(value, _)| serde_json::from_value(value)).transpose();
        read.map_err(|error| StoreError::Unusable(format!("has a damaged {kind}: {error}")))
    }
}

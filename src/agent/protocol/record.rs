//! Typed records: the values that protocols and the agent keep in the store, by kind and key.

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::agent::store::error::StoreError;

/// A value that is kept as a record. The kind belongs to the type, so a record cannot be read as another type.
pub trait RecordType: Serialize + DeserializeOwned + Send {
    /// The kind, as stored. Choose a kind that no other type has, such as `org.example.offer`: types that share a kind
    /// overwrite each other's records. The kind must never change, because existing stores contain it.
    const KIND: &'static str;

    /// Whether such a record says something about the sender of the message that wrote it, and about nobody else. The
    /// store forgets these records of a stranger after a while, and at once if strangers have left too much. Records of
    /// other types stay.
    const ABOUT_SENDER: bool = false;
}

/// The value of a record and its revision, or `None` if there is no such record.
pub type ReadRecord = Option<(Value, i64)>;

/// Reads and decrypts records.
#[async_trait]
pub trait RecordReader: Send + Sync {
    /// Returns the value of a record and its revision, or `None` if there is no such record.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    async fn read(&self, kind: &str, key: &str) -> Result<ReadRecord, StoreError>;

    /// Returns the records with these kinds and keys, like [`read`](Self::read). The agent reads all of them in one request.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    async fn read_all(&self, places: &[(&str, &str)]) -> Result<Vec<ReadRecord>, StoreError> {
        let mut found = Vec::new();
        for (kind, key) in places {
            found.push(self.read(kind, key).await?);
        }
        Ok(found)
    }

    /// Returns these records as the agent remembers them, or `None` if it does not remember all of them. They may have changed
    /// since: the commit finds out.
    ///
    /// # Errors
    /// [`StoreError`] if what is remembered cannot be decrypted.
    fn recall(&self, _places: &[(&str, &str)]) -> Result<Option<Vec<ReadRecord>>, StoreError> {
        Ok(None)
    }

    /// Returns the position of a handled message in the order of handling, or `None` if the message was not handled.
    /// `message` is the message id in lower case. Protocols use the position to acknowledge earlier messages in order.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    async fn handled_position(
        &self,
        _sender: &str,
        _recipient: &str,
        _message: &str,
    ) -> Result<Option<i64>, StoreError> {
        Ok(None)
    }
}

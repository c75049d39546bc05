//! Unlocks the store: a token unwraps its key, which is then wrapped for further keys.

use std::collections::HashSet;

use super::{
    own_dids::OwnDids,
    sealed_store::SealedStore,
    store::types::{Change, CommitOutcome, Record},
    store_key::{StoreKey, WrappedStoreKey},
};
use crate::{jose::JoseError, keys::PublicKey};

/// The kind and the key of the record that holds the wrapped store key. All other records are sealed.
pub(super) const STORE_KEY_KIND: &str = "store-key";
const STORE_KEY: &str = "1";
/// How many times the wrapped store key is changed if another task changes it meanwhile.
const MAX_ATTEMPTS: usize = 10;

impl SealedStore {
    /// Has a token unwrap the store's key, and wraps the key for each of our ready key agreement keys for which it is
    /// not wrapped yet. A store without a key gets a new key.
    ///
    /// # Errors
    /// The reason, for the log: no token is ready, no token holds a key that the store's key is wrapped for, the token
    /// fails, or the store fails.
    pub async fn unlock(&self, own_dids: &OwnDids) -> Result<(), String> {
        self.unlock_excluding(own_dids, &[]).await
    }

    /// Unlocks the store, and removes the wrapped keys for `excluded`, which are to be deleted from their tokens.
    ///
    /// # Errors
    /// The errors of [`unlock`](Self::unlock). Also fails if none of our other keys is ready.
    pub async fn unlock_excluding(&self, own_dids: &OwnDids, excluded: &[PublicKey]) -> Result<(), String> {
        for _ in 0..MAX_ATTEMPTS {
            // Another task may have wrapped the store's key meanwhile, perhaps for other keys.
            if self.try_unlock(own_dids, excluded).await? == CommitOutcome::Committed {
                return Ok(());
            }
        }
        Err("the wrapped store key is changed again and again".to_owned())
    }

    /// Unlocks the store, unless the wrapped key is changed meanwhile.
    async fn try_unlock(&self, own_dids: &OwnDids, excluded: &[PublicKey]) -> Result<CommitOutcome, String> {
        let secrets = own_dids.secrets();
        let (stored, revision) = self.load_wrapped_key().await?;
        let unlocked = self.key.borrow().clone();
        let key = match (unlocked, &stored) {
            (Some(key), _) => key,
            (None, None) => StoreKey::generate(),
            (None, Some(wrapped)) => {
                let unwrapped = wrapped.unwrap(&self.trusted, secrets).await;
                unwrapped.map_err(|error| sealed(&wrapped.keys(), &own_dids.ready_agreement_keys(), &error))?
            }
        };
        let old = stored.unwrap_or_default();
        let mut wrapped = old.clone();
        excluded.iter().for_each(|key| wrapped.remove(key));
        let ready = own_dids.ready_agreement_keys();
        for new in ready.iter().filter(|new| !excluded.contains(new) && !old.has_own(new)) {
            // The failure of one token, such as a missing touch, must not affect the others.
            if let Err(error) = wrapped.add(&key, new, secrets).await {
                tracing::info!(%error, key = %new, "store key not wrapped for a key yet");
            }
        }
        // A wrapped key for a lost token opens nothing. So excluded keys may go only if a ready key remains.
        let ready = own_dids.ready_agreement_keys();
        let ready: HashSet<&PublicKey> = ready.iter().filter(|key| !excluded.contains(key)).collect();
        if !excluded.is_empty() && !wrapped.keys().iter().any(|key| ready.contains(key)) {
            return Err("no other key agreement key of ours is ready to unwrap the store key".to_owned());
        }
        if wrapped.keys().is_empty() {
            return Err("no token is ready that holds a key agreement key of ours".to_owned());
        }
        for (key, why) in wrapped.share(&key, &ready, &self.trusted, secrets).await {
            tracing::warn!(%key, why, "store key not wrapped for a key in `keys` of [store]");
        }
        let saved = match wrapped == old {
            true => CommitOutcome::Committed,
            false => self.save_wrapped_key(&wrapped, revision).await?,
        };
        if saved == CommitOutcome::Committed {
            self.key.send_replace(Some(key));
        }
        Ok(saved)
    }

    /// Returns the wrapped store key, and the revision of its record.
    async fn load_wrapped_key(&self) -> Result<(Option<WrappedStoreKey>, i64), String> {
        let record = self.inner().record(STORE_KEY_KIND, STORE_KEY).await.map_err(|error| error.to_string())?;
        let Some(record) = record else { return Ok((None, 0)) };
        let wrapped = serde_json::from_slice(&record.value);
        let wrapped = wrapped.map_err(|error| format!("the wrapped store key is damaged: {error}"))?;
        Ok((Some(wrapped), record.revision))
    }

    async fn save_wrapped_key(&self, wrapped: &WrappedStoreKey, revision: i64) -> Result<CommitOutcome, String> {
        let value = serde_json::to_vec(wrapped).map_err(|error| error.to_string())?;
        let (kind, key) = (STORE_KEY_KIND.to_owned(), STORE_KEY.to_owned());
        let put = Change::Put(Record { kind, key, revision, value, expires: None });
        self.commit_changes(vec![put]).await.map_err(|error| error.to_string())
    }
}

/// Says why the store is sealed, and what to do. `ready` are the keys that tokens have ready.
fn sealed(wrapped_for: &[PublicKey], ready: &[PublicKey], error: &JoseError) -> String {
    let list = |keys: &[PublicKey]| keys.iter().map(PublicKey::to_string).collect::<Vec<_>>().join(", ");
    let keys = list(wrapped_for);
    match error {
        JoseError::NoRecipient if ready.is_empty() => {
            format!("no token is ready that holds a key of the store: {keys}")
        }
        JoseError::NoRecipient => format!(
            "the store is sealed for keys that no token here holds: {keys}. If a token of another node holds one of them, name \
             it and the keys of this node in `keys` of [store] at both, and restart them. The keys of this node are: {}",
            list(ready)
        ),
        error => format!("cannot unwrap the store key, which is wrapped for {keys}: {error}"),
    }
}

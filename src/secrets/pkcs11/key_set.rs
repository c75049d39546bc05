//! The keys that a search of the token has found.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cryptoki::object::ObjectHandle;

use super::{
    agree::{AgreementKey, AgreementMethod},
    ckr::CallResult,
    session::KeySetVersion,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, TokenError},
};

/// The usable keys, as the last search found them.
#[derive(Default)]
pub(super) struct KeySet {
    pub(super) version: KeySetVersion,
    pub(super) by_public: HashMap<PublicKey, Arc<UsableKey>>,
}

/// A key that may be used.
pub(super) struct UsableKey {
    /// A number that is never used again, so that a cached Zs cannot be mistaken for another key's.
    number: u64,
    pub(super) private: ObjectHandle,
    /// How the key performs key agreement; none for a key that only signs.
    pub(super) method: Option<AgreementMethod>,
    pub(super) held: HeldKey,
    /// Whether the key was found again after a session was lost, and was not tested since.
    untested: AtomicBool,
}

impl UsableKey {
    pub(super) fn new(private: ObjectHandle, method: Option<AgreementMethod>, held: HeldKey) -> Self {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            private,
            method,
            held,
            untested: AtomicBool::new(false),
        }
    }

    /// A known key that was found again. It is tested at its next use.
    pub(super) fn untested(private: ObjectHandle, known: &Self) -> Self {
        let key = Self::new(private, known.method, known.held.clone());
        key.untested.store(true, Ordering::Relaxed);
        key
    }

    /// Whether the key must be tested before it is used.
    pub(super) fn is_untested(&self) -> bool {
        self.untested.load(Ordering::Relaxed)
    }

    /// Records that the key has passed its test.
    pub(super) fn set_tested(&self) {
        self.untested.store(false, Ordering::Relaxed);
    }
}

impl KeySet {
    /// The key with this public half. Fails with [`TokenError::KeyGone`] if there is none.
    pub(super) fn get(&self, key: &PublicKey) -> CallResult<&UsableKey> {
        Ok(self.by_public.get(key).ok_or(TokenError::KeyGone)?)
    }

    /// The key with this public half, for key agreement. Fails with [`TokenError::Unsupported`] if the key only signs.
    pub(super) fn agreement_key<'a>(&'a self, key: &'a PublicKey) -> CallResult<AgreementKey<'a>> {
        let usable = self.get(key)?;
        let method = usable
            .method
            .ok_or_else(|| TokenError::Unsupported(format!("the key {key} cannot be used for key agreement")))?;
        Ok(AgreementKey { number: usable.number, public: key, private: usable.private, method })
    }

    /// A key on a curve, preferably one that does everything the curve can do.
    pub(super) fn on_curve(&self, curve: Curve) -> Option<(PublicKey, ObjectHandle, KeyUse)> {
        let on_curve = self.by_public.iter().filter(|(public, _)| public.curve() == curve);
        let best = on_curve.max_by_key(|(_, key)| key.held.usage == KeyUse::of(curve));
        best.map(|(public, key)| (public.clone(), key.private, key.held.usage))
    }
}

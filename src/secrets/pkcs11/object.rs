//! Objects that must not outlive an operation.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::{
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

/// How often a token is asked to destroy an object before that is given up.
const TRIES: usize = 3;

/// A session object that is destroyed when this is dropped: on every path, the failing ones too.
pub(super) struct Object<'s> {
    session: &'s Session,
    handle: ObjectHandle,
}

/// Objects of all sessions that this process has had made.
static MADE: AtomicU64 = AtomicU64::new(0);

pub(super) fn objects_made() -> u64 {
    MADE.load(Ordering::Relaxed)
}

impl<'s> Object<'s> {
    pub(super) fn new(session: &'s Session, handle: ObjectHandle) -> Self {
        MADE.fetch_add(1, Ordering::Relaxed);
        Self { session, handle }
    }

    pub(super) fn handle(&self) -> ObjectHandle {
        self.handle
    }

    /// The handle, and the duty to destroy it.
    pub(super) fn keep(self) -> ObjectHandle {
        std::mem::ManuallyDrop::new(self).handle
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        // A token that fails now and then is asked again: what stays is there until the session ends.
        if !(0..TRIES).any(|_| self.session.destroy_object(self.handle).is_ok()) {
            // A session that is lost has destroyed it already.
            tracing::debug!("C_DestroyObject");
        }
    }
}

/// Which sessions of this process may use an object (CKA_PRIVATE); no other process sees a session object at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeenBy {
    /// Those that are logged in. SoftHSM 2.6.1 also keeps its value encrypted in memory, which costs 8 microseconds when
    /// it is made and 3 each time it is used: right for what is kept.
    LoggedIn,
    /// All: for what lives as long as one operation, where the token allows it.
    All,
}

/// A secret that stays in the token and dies with the session. A length of none is for mechanisms that know it.
pub(super) fn sensitive(key_type: KeyType, length: Option<usize>, seen_by: SeenBy) -> Vec<Attribute> {
    secret(key_type, length, seen_by, true)
}

/// A secret that can be read.
pub(super) fn readable(length: usize, seen_by: SeenBy) -> Vec<Attribute> {
    secret(KeyType::GENERIC_SECRET, Some(length), seen_by, false)
}

fn secret(key_type: KeyType, length: Option<usize>, seen_by: SeenBy, sensitive: bool) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(seen_by == SeenBy::LoggedIn),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(!sensitive),
    ];
    if key_type == KeyType::AES {
        template.extend([Attribute::Wrap(true), Attribute::Unwrap(true)]);
    } else {
        template.push(Attribute::Derive(true));
    }
    // The specification has lengths of 32 bits on every platform (CK_ULONG), and no secret here has 100 bytes.
    template.extend(length.and_then(|length| length.try_into().ok()).map(Attribute::ValueLen));
    template
}

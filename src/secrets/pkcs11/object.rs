//! Session objects that must not outlive their operation.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::{
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

/// How often the token is asked to destroy an object.
const DESTROY_ATTEMPTS: usize = 3;

/// A session object that is destroyed when this is dropped, also when the operation fails.
pub(super) struct SessionObject<'s> {
    session: &'s Session,
    handle: ObjectHandle,
}

/// The number of session objects that this process has made.
static OBJECTS_MADE: AtomicU64 = AtomicU64::new(0);

/// The number of session objects that this process has made.
pub(super) fn objects_made() -> u64 {
    OBJECTS_MADE.load(Ordering::Relaxed)
}

impl<'s> SessionObject<'s> {
    pub(super) fn new(session: &'s Session, handle: ObjectHandle) -> Self {
        OBJECTS_MADE.fetch_add(1, Ordering::Relaxed);
        Self { session, handle }
    }

    pub(super) fn handle(&self) -> ObjectHandle {
        self.handle
    }

    /// The handle. The caller must destroy the object.
    pub(super) fn into_handle(self) -> ObjectHandle {
        std::mem::ManuallyDrop::new(self).handle
    }
}

impl Drop for SessionObject<'_> {
    fn drop(&mut self) {
        // Repeated, since a token may fail for a moment. An object that is not destroyed stays until the session ends.
        if !(0..DESTROY_ATTEMPTS).any(|_| self.session.destroy_object(self.handle).is_ok()) {
            // If the session is lost, the object is destroyed already.
            tracing::debug!("C_DestroyObject failed");
        }
    }
}

/// Which sessions of this process can use an object (CKA_PRIVATE). No other process sees a session object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visibility {
    /// Sessions that are logged in. SoftHSM 2.6.1 also keeps the object's value encrypted in memory, which costs 8
    /// microseconds when it is made and 3 at each use. For objects that are cached.
    LoggedIn,
    /// All sessions. For objects that exist for one operation, if the token allows public objects.
    AllSessions,
}

/// Attributes of a session object whose value stays in the token. `length` is none for mechanisms that determine it.
pub(super) fn sensitive(key_type: KeyType, length: Option<usize>, visibility: Visibility) -> Vec<Attribute> {
    secret(key_type, length, visibility, true)
}

/// Attributes of a session object whose value can be read.
pub(super) fn readable(length: usize, visibility: Visibility) -> Vec<Attribute> {
    secret(KeyType::GENERIC_SECRET, Some(length), visibility, false)
}

fn secret(key_type: KeyType, length: Option<usize>, visibility: Visibility, sensitive: bool) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(visibility == Visibility::LoggedIn),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(!sensitive),
    ];
    if key_type == KeyType::AES {
        template.extend([Attribute::Wrap(true), Attribute::Unwrap(true)]);
    } else {
        template.push(Attribute::Derive(true));
    }
    // CK_ULONG has at least 32 bits on every platform, and no secret here has more than 100 bytes.
    template.extend(length.and_then(|length| length.try_into().ok()).map(Attribute::ValueLen));
    template
}

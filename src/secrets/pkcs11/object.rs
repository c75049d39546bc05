//! Objects that must not outlive an operation.

use cryptoki::{
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

/// A session object that is destroyed when this is dropped: on every path, the failing ones too.
pub(super) struct Object<'s> {
    session: &'s Session,
    handle: ObjectHandle,
}

impl<'s> Object<'s> {
    pub(super) fn new(session: &'s Session, handle: ObjectHandle) -> Self {
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
        if let Err(error) = self.session.destroy_object(self.handle) {
            // A session that is lost has destroyed it already.
            tracing::debug!(%error, "C_DestroyObject");
        }
    }
}

/// A secret that stays in the token and dies with the session. A length of none is for mechanisms that know it.
pub(super) fn sensitive(key_type: KeyType, length: Option<usize>) -> Vec<Attribute> {
    secret(key_type, length, true)
}

/// A secret that can be read.
pub(super) fn readable(length: usize) -> Vec<Attribute> {
    secret(KeyType::GENERIC_SECRET, Some(length), false)
}

fn secret(key_type: KeyType, length: Option<usize>, sensitive: bool) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(true),
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

//! DIDComm Messaging v2.1: plaintext messages, packing and unpacking, DID rotation, forwarding.
//!
//! The API has the shape of the `didcomm` crate's, with one trait changed: where that takes a `SecretsResolver`, which
//! returns private keys, this takes [`Identities`], which stand on [`Secrets`](crate::secrets::Secrets).
//!
//! This module knows no transport, no store and no token.

/// Methods of a builder, each setting an optional member of what it builds.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.0.$name = Some($value);
            self
        }
    )*};
}

mod attachment;
mod error;
mod forward;
mod from_prior;
mod identities;
mod message;
mod message_type;
mod pack;
mod provenance;
mod unpack;

pub use crate::secrets::Claims as FromPrior;
pub use attachment::{Attachment, AttachmentBuilder, AttachmentData, HashError};
pub use error::{Error, FromPriorError};
pub use forward::{FORWARD, Forward, wrap_in_forward};
pub use identities::{Identities, OwnKey};
pub use message::{Message, MessageBuilder, MessageError};
pub use message_type::{MessageType, same_name};
pub use pack::{MessagingService, PackEncryptedMetadata, PackEncryptedOptions, PackSignedMetadata};
pub use provenance::{Layer, PriorDid, Provenance, Warning};
pub use unpack::UnpackOptions;

/// The media type of a plaintext message (DIDComm v2.1 "IANA Media Types").
pub const PLAIN: &str = "application/didcomm-plain+json";
/// The media type of a signed message.
pub const SIGNED: &str = "application/didcomm-signed+json";
/// The media type of an encrypted message.
pub const ENCRYPTED: &str = "application/didcomm-encrypted+json";

/// Whether two DIDs are one: the same text, or the two forms of one did:peer:4.
fn same_did(a: &str, b: &str) -> bool {
    let short = |did| crate::did::peer::short_form(did).unwrap_or(did);
    a == b || (a.starts_with("did:peer:4") && b.starts_with("did:peer:4") && short(a) == short(b))
}

/// Of a DID and a key id of that same DID, the one to resolve: of a did:peer:4 the long form, which needs not to have been
/// seen before, whichever of the two is in it.
fn resolvable<'a>(did: &'a str, kid: &'a str) -> &'a str {
    let named = crate::did::did_of(kid).unwrap_or(kid);
    if did.len() > named.len() { did } else { named }
}

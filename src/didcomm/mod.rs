//! DIDComm Messaging v2.1: plaintext messages, packing and unpacking, DID rotation, forwarding.
//!
//! The API follows the crate `didcomm`, except for private keys. Where that crate takes a `SecretsResolver`, which
//! returns private keys, this module takes [`Identities`], which use [`Secrets`](crate::secrets::Secrets).
//! `docs/from-didcomm.md` lists every difference for users of that crate.
//!
//! This module opens no socket, stores nothing, and knows no token library.

#[macro_use]
mod setters;

mod attachment;
mod attachment_problem;
mod consistency;
mod did_forms;
mod error;
mod forward;
mod from_prior;
mod headers;
mod identities;
mod key_lookup;
mod media_type;
mod message;
mod message_error;
mod message_type;
mod pack;
mod provenance;
mod recipients;
mod refused;
mod route;
mod times;
mod unpack;

pub use crate::secrets::FromPriorClaims as FromPrior;
pub use attachment::{Attachment, AttachmentBuilder, AttachmentData};
pub use attachment_problem::{AttachmentNote, AttachmentProblem};
pub use error::{Error, FromPriorError};
pub use forward::{FORWARD, Forward, wrap_in_forward};
pub use identities::{Identities, OwnKey};
pub use media_type::{ENCRYPTED, PLAIN, SIGNED};
pub use message::{Message, MessageBuilder};
pub use message_error::{HashError, MessageError};
pub use message_type::{MessageType, same_name};
pub use pack::{PackEncrypted, PackEncryptedMetadata, PackSignedMetadata};
pub use provenance::{Layer, PriorDid, Provenance, Warning};
#[cfg(feature = "agent")]
pub(crate) use recipients::{check_curves, check_recipient};
pub use refused::RefusedMessage;
pub use route::{MessagingService, Route, Routes};
#[cfg(feature = "agent")]
pub(crate) use times::MAX_CLOCK_SKEW_SECONDS;
pub use unpack::UnpackOptions;

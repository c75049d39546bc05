//! Media types (DIDComm v2.1 "IANA Media Types").

/// The media type of a plaintext message.
pub const PLAIN: &str = "application/didcomm-plain+json";
/// The media type of a signed message.
pub const SIGNED: &str = "application/didcomm-signed+json";
/// The media type of an encrypted message.
pub const ENCRYPTED: &str = "application/didcomm-encrypted+json";

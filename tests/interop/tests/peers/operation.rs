//! What is tried with a peer.

use std::fmt;

use claviger::crypto::ContentEncryption;
use claviger::keys::{Curve, SignatureAlgorithm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Plain,
    Signed(SignatureAlgorithm),
    /// To one key.
    Anoncrypt(Curve, ContentEncryption),
    /// To both X25519 keys of the recipient.
    AnoncryptToTwo,
    Authcrypt(Curve),
    AuthcryptToTwo,
    /// anoncrypt(sign()).
    AnoncryptSigned,
    /// anoncrypt(authcrypt()), which hides the sender from mediators.
    AnoncryptAuthcrypt,
    /// X25519, between two did:peer:2 that each side resolves by its own means. The peer chooses the content encryption.
    AnoncryptOverPeer2,
    AuthcryptOverPeer2,
    /// One side makes a DID, and the other resolves it.
    Did(Method),
}

/// A DID method that Claviger shares with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Key,
    Peer0,
    Peer2,
    Peer4,
    Webvh,
}

/// A message, and how it is packed.
pub struct Envelope {
    pub kind: Kind,
    /// The content encryption that both sides are asked for.
    pub enc: Option<ContentEncryption>,
    pub to_two: bool,
    pub over_peer_2: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Signed(SignatureAlgorithm),
    Anoncrypt(Curve),
    Authcrypt(Curve),
    /// Signed with EdDSA, and encrypted on X25519.
    AnoncryptSigned,
    /// Both layers on X25519.
    AnoncryptAuthcrypt,
}

impl Operation {
    /// `None` if the operation is about a DID.
    pub fn envelope(self) -> Option<Envelope> {
        const CBC: Option<ContentEncryption> = Some(ContentEncryption::A256CbcHs512);
        let (kind, enc) = match self {
            Self::Plain => (Kind::Plain, None),
            Self::Signed(alg) => (Kind::Signed(alg), None),
            Self::Anoncrypt(curve, enc) => (Kind::Anoncrypt(curve), Some(enc)),
            Self::AnoncryptToTwo => (Kind::Anoncrypt(Curve::X25519), CBC),
            Self::AnoncryptOverPeer2 => (Kind::Anoncrypt(Curve::X25519), None),
            Self::Authcrypt(curve) => (Kind::Authcrypt(curve), CBC),
            Self::AuthcryptToTwo | Self::AuthcryptOverPeer2 => (Kind::Authcrypt(Curve::X25519), CBC),
            Self::AnoncryptSigned => (Kind::AnoncryptSigned, CBC),
            Self::AnoncryptAuthcrypt => (Kind::AnoncryptAuthcrypt, CBC),
            Self::Did(_) => return None,
        };
        let to_two = matches!(self, Self::AnoncryptToTwo | Self::AuthcryptToTwo);
        let over_peer_2 = matches!(self, Self::AnoncryptOverPeer2 | Self::AuthcryptOverPeer2);
        Some(Envelope { kind, enc, to_two, over_peer_2 })
    }

    /// The column of the summary.
    pub fn group(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Signed(_) => "signed",
            Self::Anoncrypt(..) | Self::AnoncryptToTwo | Self::AnoncryptOverPeer2 => "anoncrypt",
            Self::Authcrypt(_) | Self::AuthcryptToTwo | Self::AuthcryptOverPeer2 => "authcrypt",
            Self::AnoncryptSigned | Self::AnoncryptAuthcrypt => "nested",
            Self::Did(Method::Key) => "did:key",
            Self::Did(Method::Webvh) => "did:webvh",
            Self::Did(_) => "did:peer",
        }
    }
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Peer0 => "peer:0",
            Self::Peer2 => "peer:2",
            Self::Peer4 => "peer:4",
            Self::Webvh => "webvh",
        }
    }
}

impl Kind {
    /// The name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Signed(_) => "signed",
            Self::Anoncrypt(_) => "anoncrypt",
            Self::Authcrypt(_) => "authcrypt",
            Self::AnoncryptSigned => "anoncrypt(sign)",
            Self::AnoncryptAuthcrypt => "anoncrypt(authcrypt)",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => write!(f, "plain"),
            Self::Signed(alg) => write!(f, "signed, {}", alg.name()),
            Self::Anoncrypt(curve, enc) => write!(f, "anoncrypt, {curve}, {enc}"),
            Self::AnoncryptToTwo => write!(f, "anoncrypt, two recipients"),
            Self::Authcrypt(curve) => write!(f, "authcrypt, {curve}"),
            Self::AuthcryptToTwo => write!(f, "authcrypt, two recipients"),
            Self::AnoncryptSigned => write!(f, "anoncrypt(sign())"),
            Self::AnoncryptAuthcrypt => write!(f, "anoncrypt(authcrypt())"),
            Self::AnoncryptOverPeer2 => write!(f, "anoncrypt between did:peer:2"),
            Self::AuthcryptOverPeer2 => write!(f, "authcrypt between did:peer:2"),
            Self::Did(method) => write!(f, "did:{}", method.name()),
        }
    }
}

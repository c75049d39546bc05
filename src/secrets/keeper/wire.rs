//! The frames between a keeper and its clients.
//!
//! The client sends [`Hello`] with the role that it wants. The keeper answers [`ServerFrame::Welcome`] or
//! [`ServerFrame::Refused`]. Then the client sends requests ([`ClientFrame`]), any number at once, and the keeper
//! answers each request when the request is done.
//!
//! The types borrow from the frame, so that decoding makes no second copy of a secret. postcard writes a variant of an
//! enum as its number, so the order of the variants is part of the format.

use serde::{Deserialize, Serialize};

use super::{
    monotonic_clock::from_monotonic_millis,
    wire_types::{WireError, WireHeldKey, WireKey},
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{
        context::Context,
        error::TokenError,
        held_key::UnpairedKey,
        key_use::KeyUse,
        policy::KeyOperation,
        request::{UnwrapRequest, WrapRequest},
        signing::{FromPriorClaims, SignRequest},
        slot::{Slot, SlotOptions},
        token::TokenInfo,
    },
};

/// The version of this format. Keeper and client must be of the same release; other versions are refused with
/// an explanation.
pub(super) const VERSION: u16 = 3;

/// The first frame from a client. The version is the first member in every version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) role: Role,
}

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// The agent: it uses the keys, within policy and rate. It signs no DID rotation.
    Agent,
    /// The command line: it also makes, imports and deletes keys, and locks and unlocks the token.
    Custodian,
}

/// A frame from the client.
#[derive(Serialize, Deserialize)]
pub(super) enum ClientFrame<'a> {
    #[serde(borrow)]
    Request(Request<'a>),
    /// Cancels the request with this id. A request that is still waiting is not begun.
    Cancel(u64),
}

/// A request and its [`Context`].
#[derive(Serialize, Deserialize)]
pub(super) struct Request<'a> {
    /// A number that the client chooses. The response has the same number.
    pub(super) id: u64,
    /// When the client stops waiting, in milliseconds of CLOCK_MONOTONIC, which all processes of a machine share. A
    /// request that has not begun by then is not performed.
    pub(super) deadline: Option<u64>,
    pub(super) kid: Option<&'a str>,
    pub(super) message_id: Option<&'a str>,
    /// The DID at the other end.
    pub(super) peer: Option<&'a str>,
    #[serde(borrow)]
    pub(super) body: RequestBody<'a>,
}

/// What the client asks for.
#[derive(Serialize, Deserialize)]
pub(super) enum RequestBody<'a> {
    Sign {
        #[serde(borrow)]
        key: WireKey<'a>,
        #[serde(borrow)]
        content: SignContent<'a>,
    },
    Unwrap {
        #[serde(borrow)]
        key: WireKey<'a>,
        #[serde(borrow)]
        epk: WireKey<'a>,
        /// The sender's key, and the content's authentication tag. `None` for ECDH-ES.
        #[serde(borrow)]
        sender: Option<(WireKey<'a>, &'a [u8])>,
        apu: &'a [u8],
        apv: &'a [u8],
        encrypted_key: &'a [u8],
    },
    Wrap {
        #[serde(borrow)]
        key: WireKey<'a>,
        cek: &'a [u8],
        apu: &'a [u8],
        apv: &'a [u8],
        tag: &'a [u8],
        /// The key of each recipient, and its Ze.
        #[serde(borrow)]
        recipients: Vec<(WireKey<'a>, &'a [u8])>,
    },
    // The requests below are for custodians only.
    Generate {
        curve: Curve,
        usage: KeyUse,
        label: Option<&'a str>,
        options: SlotOptions,
    },
    Import {
        #[serde(borrow)]
        key: WireKey<'a>,
        private: &'a [u8],
        usage: KeyUse,
        label: Option<&'a str>,
    },
    Delete {
        #[serde(borrow)]
        key: WireKey<'a>,
        /// The only slot to empty, of a token with slots.
        slot: Option<Slot>,
    },
    Inventory,
    Lock,
    Unlock,
    Attest {
        #[serde(borrow)]
        key: WireKey<'a>,
    },
    /// The management key for the next change.
    SetManagementKey(&'a [u8]),
    /// Proves that each key may enter a DID document with this use.
    Prove {
        #[serde(borrow)]
        keys: Vec<(WireKey<'a>, KeyUse)>,
    },
    /// The private keys that the last `Inventory` left out, because their public halves are not known.
    Unpaired,
    /// Has the token searched for this key. For agents too.
    LookFor {
        #[serde(borrow)]
        key: WireKey<'a>,
    },
}

/// A [`SignRequest`] in a frame.
#[derive(Serialize, Deserialize)]
pub(super) enum SignContent<'a> {
    Message(&'a [u8]),
    FromPrior { kid: &'a str, iss: &'a str, sub: Option<&'a str>, iat: Option<i64> },
    WebvhEntry(&'a [u8]),
}

/// A frame from the keeper.
#[derive(Serialize, Deserialize)]
pub(super) enum ServerFrame<'a> {
    /// The keeper accepts the connection.
    Welcome(TokenState),
    /// The keeper refuses the connection, for this reason.
    Refused(TokenError),
    /// The token or its keys have changed.
    Changed(TokenState),
    /// The keeper will end, since the token needs a new process. The client must connect to another keeper, and then
    /// close this connection once its running requests are answered.
    Ending,
    Response {
        id: u64,
        #[serde(borrow)]
        result: Result<Response<'a>, WireError>,
    },
}

/// The result of a request.
#[derive(Serialize, Deserialize)]
pub(super) enum Response<'a> {
    /// A signature of 64 bytes. The client builds header and payload itself, as the keeper did.
    Signature(&'a [u8]),
    Cek(&'a [u8]),
    EncryptedKeys(Vec<&'a [u8]>),
    Key(WireHeldKey),
    Keys(Vec<WireHeldKey>),
    /// X.509 certificates in DER.
    Certificates(Vec<&'a [u8]>),
    Done,
    Unpaired(Vec<UnpairedKey>),
}

/// A keeper's token and its keys.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TokenState {
    pub(super) info: TokenInfo,
    pub(super) keys: Vec<WireHeldKey>,
    /// The pairs that the token holds and does not serve.
    pub(super) refused: Vec<WireHeldKey>,
    /// Whether the token has shown its keys since the keeper's start.
    pub(super) is_complete: bool,
    /// Why the token is out of service; `None` while it is in service.
    pub(super) error: Option<TokenError>,
}

impl Request<'_> {
    pub(super) fn context(&self) -> Context {
        Context {
            kid: self.kid.map(Into::into),
            message_id: self.message_id.map(Into::into),
            peer: self.peer.map(Into::into),
            deadline: self.deadline.map(from_monotonic_millis),
        }
    }
}

impl RequestBody<'_> {
    /// The operation's name in the audit. For an operation with a key it is its name in `allow`.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Sign { content: SignContent::Message(_), .. } => KeyOperation::SignMessage.name(),
            Self::Sign { content: SignContent::FromPrior { .. }, .. } => KeyOperation::SignFromPrior.name(),
            Self::Sign { content: SignContent::WebvhEntry(_), .. } => KeyOperation::SignWebvhEntry.name(),
            Self::Unwrap { .. } => KeyOperation::Unwrap.name(),
            Self::Wrap { .. } => KeyOperation::Wrap.name(),
            Self::Generate { .. } => "generate",
            Self::Import { .. } => "import",
            Self::Delete { .. } => "delete",
            Self::Inventory => "inventory",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Attest { .. } => "attest",
            Self::Prove { .. } => "prove",
            Self::SetManagementKey(_) => "set-management-key",
            Self::Unpaired => "inventory",
            Self::LookFor { .. } => "look-for",
        }
    }

    /// The role that the request needs.
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Sign { .. } | Self::Unwrap { .. } | Self::Wrap { .. } | Self::LookFor { .. } => Role::Agent,
            _ => Role::Custodian,
        }
    }
}

impl<'a> RequestBody<'a> {
    pub(super) fn sign(key: &'a PublicKey, request: &'a SignRequest<'a>) -> Self {
        Self::Sign { key: key.into(), content: request.into() }
    }

    pub(super) fn unwrap(key: &'a PublicKey, request: &'a UnwrapRequest) -> Self {
        Self::Unwrap {
            key: key.into(),
            epk: (&request.epk).into(),
            sender: request.sender.as_ref().map(|sender| ((&sender.key).into(), &sender.tag[..])),
            apu: &request.apu,
            apv: &request.apv,
            encrypted_key: &request.encrypted_key,
        }
    }

    pub(super) fn wrap(key: &'a PublicKey, request: &'a WrapRequest) -> Self {
        let recipients = request.recipients.iter().map(|(recipient, ze)| (recipient.into(), ze.as_bytes()));
        Self::Wrap {
            key: key.into(),
            cek: request.cek.as_bytes(),
            apu: &request.apu,
            apv: &request.apv,
            tag: &request.tag,
            recipients: recipients.collect(),
        }
    }
}

impl<'a> From<&'a SignRequest<'a>> for SignContent<'a> {
    fn from(request: &'a SignRequest<'a>) -> Self {
        match request {
            SignRequest::Message(payload) => Self::Message(payload),
            SignRequest::WebvhEntry(entry) => Self::WebvhEntry(entry),
            SignRequest::FromPrior { kid, claims } => {
                Self::FromPrior { kid, iss: &claims.iss, sub: claims.sub.as_deref(), iat: claims.iat }
            }
        }
    }
}

impl SignContent<'_> {
    /// The claims of a DID rotation; `None` for other content.
    pub(super) fn claims(&self) -> Option<FromPriorClaims> {
        match self {
            Self::Message(_) | Self::WebvhEntry(_) => None,
            Self::FromPrior { iss, sub, iat, .. } => {
                Some(FromPriorClaims { iss: (*iss).to_owned(), sub: sub.map(str::to_owned), iat: *iat })
            }
        }
    }
}

//! What agent and keeper say to each other, and what it means.
//!
//! Who connects says [`Hello`] and who it wants to be; the keeper answers [`Said::Welcome`] or [`Said::Refused`]. From then
//! on it asks ([`Asked`]), as much at once as it likes, and the keeper answers in the order in which it is done.
//!
//! The types borrow from the frame, so that no second copy of a secret is made on the way.

use std::{io, sync::Arc, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::{Cek, SharedSecret},
    keys::{Curve, PublicKey},
    secrets::{
        Allow, Claims, Context, Custody, HeldKey, KeyState, KeyUse, Origin, Place, SecretsError, Sender, Slot, ToSign,
        TokenError, TokenInfo, Unwrap, Wrap,
    },
};

/// The version of all this. Agent and keeper come from one release; others part with a clear word.
pub(super) const VERSION: u16 = 1;

/// The first frame of who connects. Its first member stays where it is in every version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) role: Role,
}

/// What who connects may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// The agent: to use the keys, within policy and rate. A rotation it may sign only when it was armed.
    Agent,
    /// The command line: to make, import and delete keys as well, and to lock and unlock the token.
    Custodian,
}

/// A frame to the keeper.
#[derive(Serialize, Deserialize)]
pub(super) enum Asked<'a> {
    #[serde(borrow)]
    Request(Request<'a>),
    /// Nobody waits for this answer any more: if it is not begun, it is not to be.
    Cancel(u64),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) id: u64,
    /// When it is not to be begun any more: milliseconds of CLOCK_MONOTONIC, which all processes of a machine share.
    pub(super) deadline: Option<u64>,
    pub(super) kid: Option<&'a str>,
    pub(super) message_id: Option<&'a str>,
    /// The DID at the other end.
    pub(super) peer: Option<&'a str>,
    #[serde(borrow)]
    pub(super) ask: Ask<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Ask<'a> {
    Sign {
        #[serde(borrow)]
        key: Key<'a>,
        #[serde(borrow)]
        what: What<'a>,
    },
    Unwrap {
        #[serde(borrow)]
        key: Key<'a>,
        #[serde(borrow)]
        epk: Key<'a>,
        #[serde(borrow)]
        sender: Option<(Key<'a>, &'a [u8])>,
        apu: &'a [u8],
        apv: &'a [u8],
        encrypted_key: &'a [u8],
    },
    Wrap {
        #[serde(borrow)]
        key: Key<'a>,
        cek: &'a [u8],
        apu: &'a [u8],
        apv: &'a [u8],
        tag: &'a [u8],
        #[serde(borrow)]
        recipients: Vec<(Key<'a>, &'a [u8])>,
    },
    // From here on for the custodian.
    Generate {
        curve: Curve,
        usage: KeyUse,
        label: Option<&'a str>,
        place: Place,
    },
    Import {
        #[serde(borrow)]
        key: Key<'a>,
        private: &'a [u8],
        usage: KeyUse,
        label: Option<&'a str>,
    },
    Delete {
        #[serde(borrow)]
        key: Key<'a>,
    },
    Inventory,
    Lock,
    Unlock,
    /// Lets the agent sign one rotation with this key.
    Arm {
        #[serde(borrow)]
        key: Key<'a>,
    },
    Attest {
        #[serde(borrow)]
        key: Key<'a>,
    },
    /// The management key for the next change.
    Manage(&'a [u8]),
}

#[derive(Serialize, Deserialize)]
pub(super) enum What<'a> {
    Message(&'a [u8]),
    FromPrior { kid: &'a str, iss: &'a str, sub: Option<&'a str>, iat: Option<i64> },
    WebvhEntry(&'a [u8]),
}

/// A frame from the keeper.
#[derive(Serialize, Deserialize)]
pub(super) enum Said<'a> {
    /// Come in.
    Welcome(Status),
    /// Go: why.
    Refused(TokenError),
    /// What is held has changed.
    Changed(Status),
    /// A new process is what the token needs: connect to another keeper, and then let this one go. It answers what is
    /// under way.
    Ending,
    Answer {
        id: u64,
        #[serde(borrow)]
        answer: Result<Answer<'a>, Failure>,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) enum Answer<'a> {
    /// 64 bytes; header and payload the asker builds itself, as the keeper did.
    Signature(&'a [u8]),
    Cek(&'a [u8]),
    EncryptedKeys(Vec<&'a [u8]>),
    Key(Held),
    Keys(Vec<Held>),
    /// DER.
    Certificates(Vec<&'a [u8]>),
    Done,
}

/// The token and its keys.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) info: TokenInfo,
    pub(super) keys: Vec<Held>,
    /// Why it does not serve.
    pub(super) trouble: Option<TokenError>,
}

/// A public key, to be checked by who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key<'a> {
    curve: Curve,
    bytes: &'a [u8],
}

impl<'a> From<&'a PublicKey> for Key<'a> {
    fn from(key: &'a PublicKey) -> Self {
        Self { curve: key.curve(), bytes: key.as_bytes() }
    }
}

impl Key<'_> {
    /// The key, if it is one.
    pub(super) fn read(self) -> Result<PublicKey, SecretsError> {
        PublicKey::from_bytes(self.curve, self.bytes).map_err(|_| SecretsError::Request("a public key is no point"))
    }
}

/// A [`HeldKey`].
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Held {
    curve: Curve,
    point: Vec<u8>,
    label: Option<String>,
    token: String,
    usage: KeyUse,
    custody: Option<Custody>,
    origin: Origin,
    protected: bool,
    always_sensitive: Option<bool>,
    never_extractable: Option<bool>,
    state: KeyState,
    asks_pin: bool,
    asks_touch: bool,
    slot: Option<Slot>,
}

impl From<&HeldKey> for Held {
    fn from(held: &HeldKey) -> Self {
        let HeldKey { public, label, token, usage, custody, origin, protected, state, asks_pin, asks_touch, .. } = held;
        Self {
            curve: public.curve(),
            point: public.as_bytes().to_vec(),
            label: label.clone(),
            token: token.to_string(),
            usage: *usage,
            custody: *custody,
            origin: *origin,
            protected: *protected,
            always_sensitive: held.always_sensitive,
            never_extractable: held.never_extractable,
            state: *state,
            asks_pin: *asks_pin,
            asks_touch: *asks_touch,
            slot: held.slot,
        }
    }
}

impl Held {
    pub(super) fn read(self) -> io::Result<HeldKey> {
        let public = PublicKey::from_bytes(self.curve, &self.point).map_err(io::Error::other)?;
        Ok(HeldKey {
            label: self.label,
            custody: self.custody,
            origin: self.origin,
            protected: self.protected,
            always_sensitive: self.always_sensitive,
            never_extractable: self.never_extractable,
            state: self.state,
            asks_pin: self.asks_pin,
            asks_touch: self.asks_touch,
            slot: self.slot,
            ..HeldKey::new(public, self.token, self.usage)
        })
    }
}

/// A [`SecretsError`]; the key in question is the one that was asked for.
#[derive(Serialize, Deserialize)]
pub(super) enum Failure {
    NotHeld,
    NotAllowed(String),
    Request(String),
    Busy,
    Deadline,
    Interrupted,
    RateLimited,
    Audit(String),
    Stopped,
    Token(TokenError),
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::NotHeld(_) => Self::NotHeld,
            SecretsError::NotAllowed { operation, .. } => Self::NotAllowed(operation.to_owned()),
            SecretsError::Request(reason) => Self::Request(reason.to_owned()),
            SecretsError::Busy { .. } => Self::Busy,
            SecretsError::Deadline { .. } => Self::Deadline,
            SecretsError::Interrupted { .. } => Self::Interrupted,
            SecretsError::RateLimited(_) => Self::RateLimited,
            SecretsError::Audit(reason) => Self::Audit(reason),
            SecretsError::Stopped => Self::Stopped,
            SecretsError::Token { error, .. } => Self::Token(error),
        }
    }
}

impl Failure {
    pub(super) fn read(self, token: &Arc<str>, key: &PublicKey) -> SecretsError {
        let token = token.clone();
        match self {
            Self::NotHeld => SecretsError::NotHeld(key.clone()),
            Self::NotAllowed(operation) => match operation.parse::<Allow>() {
                Ok(allow) => SecretsError::NotAllowed { key: key.clone(), operation: allow.name() },
                Err(_) => SecretsError::Request("the keeper does not allow it"),
            },
            // The same checks are made on this side, with the same words; only a keeper that knows more says others.
            Self::Request(reason) => {
                tracing::warn!(%token, reason, "the keeper refuses a request");
                SecretsError::Request("the keeper refuses it")
            }
            Self::Busy => SecretsError::Busy { token },
            Self::Deadline => SecretsError::Deadline { token },
            Self::Interrupted => SecretsError::Interrupted { token },
            Self::RateLimited => SecretsError::RateLimited(key.clone()),
            Self::Audit(reason) => SecretsError::Audit(reason),
            Self::Stopped => SecretsError::Stopped,
            Self::Token(error) => SecretsError::Token { token, error },
        }
    }
}

impl<'a> From<&'a ToSign<'a>> for What<'a> {
    fn from(what: &'a ToSign<'a>) -> Self {
        match what {
            ToSign::Message(payload) => Self::Message(payload),
            ToSign::WebvhEntry(entry) => Self::WebvhEntry(entry),
            ToSign::FromPrior { kid, claims } => {
                Self::FromPrior { kid, iss: &claims.iss, sub: claims.sub.as_deref(), iat: claims.iat }
            }
        }
    }
}

impl What<'_> {
    /// The claims of a rotation.
    pub(super) fn claims(&self) -> Option<Claims> {
        match self {
            Self::Message(_) | Self::WebvhEntry(_) => None,
            Self::FromPrior { iss, sub, iat, .. } => {
                Some(Claims { iss: (*iss).to_owned(), sub: sub.map(str::to_owned), iat: *iat })
            }
        }
    }
}

impl<'a> Ask<'a> {
    pub(super) fn unwrap(key: &'a PublicKey, request: &'a Unwrap) -> Self {
        Self::Unwrap {
            key: key.into(),
            epk: (&request.epk).into(),
            sender: request.sender.as_ref().map(|sender| ((&sender.key).into(), &sender.tag[..])),
            apu: &request.apu,
            apv: &request.apv,
            encrypted_key: &request.encrypted_key,
        }
    }

    pub(super) fn wrap(key: &'a PublicKey, request: &'a Wrap) -> Self {
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

/// An [`Unwrap`], its keys checked.
pub(super) fn read_unwrap(
    epk: Key<'_>,
    sender: Option<(Key<'_>, &[u8])>,
    apu: &[u8],
    apv: &[u8],
    encrypted_key: &[u8],
) -> Result<Unwrap, SecretsError> {
    let sender = sender.map(|(key, tag)| Ok::<_, SecretsError>(Sender { key: key.read()?, tag: tag.to_vec() }));
    Ok(Unwrap {
        epk: epk.read()?,
        sender: sender.transpose()?,
        apu: apu.to_vec(),
        apv: apv.to_vec(),
        encrypted_key: encrypted_key.to_vec(),
    })
}

/// A [`Wrap`], its keys checked.
pub(super) fn read_wrap(
    cek: &[u8],
    apu: &[u8],
    apv: &[u8],
    tag: &[u8],
    recipients: Vec<(Key<'_>, &[u8])>,
) -> Result<Wrap, SecretsError> {
    let recipients = recipients.into_iter().map(|(key, ze)| Ok((key.read()?, SharedSecret::new(ze.to_vec()))));
    Ok(Wrap {
        cek: Cek::new(cek.to_vec()),
        apu: apu.to_vec(),
        apv: apv.to_vec(),
        tag: tag.to_vec(),
        recipients: recipients.collect::<Result<_, SecretsError>>()?,
    })
}

/// A deadline as both sides read it.
pub(super) fn to_clock(deadline: Instant) -> u64 {
    clock() + u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX / 2)
}

/// A deadline of the other side.
pub(super) fn from_clock(deadline: u64) -> Instant {
    Instant::now() + std::time::Duration::from_millis(deadline.saturating_sub(clock()).min(u64::from(u32::MAX)))
}

/// Milliseconds of CLOCK_MONOTONIC.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}

impl Request<'_> {
    pub(super) fn context(&self) -> Context {
        Context {
            kid: self.kid.map(Into::into),
            message_id: self.message_id.map(Into::into),
            peer: self.peer.map(Into::into),
            deadline: self.deadline.map(from_clock),
        }
    }
}

//! A message that was opened and is refused. Its sender is proved, and can be told which header is wrong.

use serde_json::{Map, Value};

use super::{consistency::Evidence, did_forms::same_did, error::Error, message::Message, provenance::Provenance};
use crate::{did::did_of, jose::JoseError};

/// The longest id, thread id or type that is kept of a refused message, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// What is known of a message that was opened and is refused.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RefusedMessage {
    /// The header that is wrong.
    pub header: &'static str,
    /// What is wrong with it. The text has nothing of the network or the token.
    pub reason: String,
    /// The id, the type, the thread and the return route of the message, as far as they are valid. `from` is the DID that
    /// authcrypted the message, and everything else is left out.
    pub message: Message,
    /// How the message was protected.
    pub provenance: Provenance,
}

/// The names in a message that is about to be read.
pub(super) struct MessageNames {
    id: Option<String>,
    type_: Option<String>,
    thid: Option<String>,
    pthid: Option<String>,
    return_route: Option<String>,
    return_route_thread: Option<String>,
}

impl MessageNames {
    pub fn of(message: &Map<String, Value>) -> Self {
        let name = |name| {
            let text = message.get(name).and_then(Value::as_str);
            text.filter(|text| (1..=MAX_NAME_BYTES).contains(&text.len())).map(str::to_owned)
        };
        Self {
            id: name("id"),
            type_: name("type"),
            thid: name("thid"),
            pthid: name("pthid"),
            return_route: name("return_route"),
            return_route_thread: name("return_route_thread"),
        }
    }

    /// Describes the message that failed with this error. `None` if it has no id, so that no report can name its thread,
    /// if authcrypt does not prove its sender, or if the error is no header's.
    pub fn refused(self, evidence: &Evidence, error: &Error) -> Option<RefusedMessage> {
        let (header, reason) = fault(error)?;
        let sender = proved_sender(evidence)?;
        let mut message =
            Message::build(self.id?, self.type_.unwrap_or_default(), Map::new().into()).from(sender).finalize();
        (message.thid, message.pthid) = (self.thid, self.pthid);
        (message.return_route, message.return_route_thread) = (self.return_route, self.return_route_thread);
        Some(RefusedMessage { header, reason, message, provenance: evidence.provenance.clone() })
    }
}

/// The DID that authcrypted the message, unless another DID signed it. A signature alone proves no sender: the headers
/// of the message failed, so it may have been made for somebody else, and anyone who got it can encrypt it to us.
fn proved_sender(evidence: &Evidence) -> Option<&str> {
    let sender = did_of(evidence.skid.as_deref()?)?;
    let is_senders = |kid: &str| did_of(kid).is_some_and(|did| same_did(did, sender));
    evidence.signer.as_deref().is_none_or(is_senders).then_some(sender)
}

/// Returns the header that an error is about, and what is wrong with it.
fn fault(error: &Error) -> Option<(&'static str, String)> {
    let header = match error {
        Error::Message(error) => error.header()?,
        Error::FromAbsent(_) | Error::FromMismatch { .. } => "from",
        Error::ToAbsent | Error::ToMismatch { .. } => "to",
        Error::FromPrior(_) | Error::InvalidKeyId(_) => "from_prior",
        Error::Envelope(error) if !matches!(error, JoseError::Secrets(_)) => "from_prior",
        // Whether, and why, a DID does not resolve may tell something about this network. So there is no report at all.
        Error::Resolve(_) => return None,
        Error::NotAuthorised { .. } | Error::UnusableKey { .. } => {
            return Some(("from_prior", "its key cannot be used".to_owned()));
        }
        _ => return None,
    };
    Some((header, error.to_string()))
}

//! The differences between the versions of the mediation protocols.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::didcomm::{Message, MessageType};

/// A version of coordinate-mediation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoordinationVersion {
    /// 2.0: registered DIDs are a "keylist", and the mediator has one routing DID.
    #[serde(rename = "2.0")]
    V2,
    /// 3.0: registered DIDs are "recipients", and the mediator may have several routing DIDs.
    #[serde(rename = "3.0")]
    V3,
}

/// A version of the pickup protocol, by which messages are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PickupVersion {
    /// messagepickup 3.0. The specification does not say how live messages are delivered. This agent accepts both ways:
    /// in a `delivery`, as in 4.0, and as they are.
    #[serde(rename = "3.0")]
    V3,
    /// message-pickup 4.0: live messages arrive in a `delivery`. The mediator keeps them until they are acknowledged.
    #[serde(rename = "4.0")]
    V4,
}

impl CoordinationVersion {
    /// The protocol identifier (PIURI).
    pub fn piuri(self) -> &'static str {
        match self {
            Self::V2 => "https://didcomm.org/coordinate-mediation/2.0",
            Self::V3 => "https://didcomm.org/coordinate-mediation/3.0",
        }
    }

    /// The name of the message that adds and removes registered DIDs.
    pub fn update_name(self) -> &'static str {
        match self {
            Self::V2 => "keylist-update",
            Self::V3 => "recipient-update",
        }
    }

    /// The body of the message that adds and removes these DIDs.
    pub fn update_body(add: &[String], remove: &[String]) -> Value {
        let actions = add.iter().map(|did| (did, "add")).chain(remove.iter().map(|did| (did, "remove")));
        let updates = actions.map(|(did, action)| json!({ "recipient_did": did, "action": action }));
        json!({ "updates": updates.collect::<Vec<_>>() })
    }
}

impl PickupVersion {
    /// The protocol identifier (PIURI).
    pub fn piuri(self) -> &'static str {
        match self {
            Self::V3 => "https://didcomm.org/messagepickup/3.0",
            Self::V4 => "https://didcomm.org/message-pickup/4.0",
        }
    }

    /// The body that asks for at most `count` messages.
    pub fn delivery_request_body(self, count: usize) -> Value {
        match self {
            Self::V3 => json!({ "limit": count }),
            Self::V4 => json!({ "message_count_limit": count }),
        }
    }
}

/// The routing DIDs in a `mediate-grant`: a string in 2.0, a list in 3.0. Anything else yields none.
pub fn routing_dids(grant: &Message) -> Vec<String> {
    match grant.body.get("routing_did") {
        Some(Value::String(did)) => vec![did.clone()],
        Some(Value::Array(dids)) => dids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Whether a message belongs to this protocol in this major version.
pub fn belongs_to(message: &Message, piuri: &str) -> bool {
    let own = format!("{piuri}/{}", message.message_type().map_or("", |kind| kind.message));
    let own = MessageType::parse(&own);
    own.zip(message.message_type()).is_some_and(|(own, kind)| kind.is_compatible_with(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_dids_are_one_or_several() {
        let granted = |routing: Value| {
            let grant = Message::build("1", "https://didcomm.org/coordinate-mediation/3.0/mediate-grant", routing);
            routing_dids(&grant.finalize())
        };
        assert_eq!(granted(json!({ "routing_did": "did:example:m" })), ["did:example:m"]);
        assert_eq!(granted(json!({ "routing_did": ["did:example:m", "did:example:n"] })).len(), 2);
        assert!(granted(json!({ "routing_did": null })).is_empty());
        assert!(granted(json!({})).is_empty());
    }

    #[test]
    fn a_message_belongs_to_one_protocol() {
        let status = |piuri: &str| Message::build("1", format!("{piuri}/status"), json!({})).finalize();
        assert!(belongs_to(&status("https://didcomm.org/messagepickup/3.0"), PickupVersion::V3.piuri()));
        assert!(belongs_to(&status("https://didcomm.org/messagepickup/3.1"), PickupVersion::V3.piuri()));
        assert!(!belongs_to(&status("https://didcomm.org/messagepickup/3.0"), PickupVersion::V4.piuri()));
        // Punctuation in a protocol's name is ignored.
        assert!(belongs_to(&status("https://didcomm.org/messagepickup/4.0"), PickupVersion::V4.piuri()));
        assert!(belongs_to(&status("https://didcomm.org/message-pickup/4.0"), PickupVersion::V4.piuri()));
        assert!(!belongs_to(&status("https://example.org/messagepickup/3.0"), PickupVersion::V3.piuri()));
    }
}

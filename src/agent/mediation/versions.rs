//! What differs between the versions of the mediators' protocols.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::didcomm::{Message, MessageType};

/// A version of coordinate-mediation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coordination {
    /// 2.0: DIDs stand in a "keylist", and one DID routes.
    #[serde(rename = "2.0")]
    V2,
    /// 3.0: they are "recipients", and several DIDs may route.
    #[serde(rename = "3.0")]
    V3,
}

/// A version of the protocol by which messages are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pickup {
    /// messagepickup 3.0. How live messages come it does not say; here as in 4.0, and as they are too.
    #[serde(rename = "3.0")]
    V3,
    /// message-pickup 4.0: live messages come by `delivery`, and stay with the mediator until they are acknowledged.
    #[serde(rename = "4.0")]
    V4,
}

impl Coordination {
    /// Its protocol identifier.
    pub fn piuri(self) -> &'static str {
        match self {
            Self::V2 => "https://didcomm.org/coordinate-mediation/2.0",
            Self::V3 => "https://didcomm.org/coordinate-mediation/3.0",
        }
    }

    /// The name of the message that adds and removes DIDs.
    pub fn update(self) -> &'static str {
        match self {
            Self::V2 => "keylist-update",
            Self::V3 => "recipient-update",
        }
    }

    /// What adds and removes these DIDs.
    pub fn updates(add: &[String], remove: &[String]) -> Value {
        let actions = add.iter().map(|did| (did, "add")).chain(remove.iter().map(|did| (did, "remove")));
        let updates = actions.map(|(did, action)| json!({ "recipient_did": did, "action": action }));
        json!({ "updates": updates.collect::<Vec<_>>() })
    }
}

impl Pickup {
    /// Its protocol identifier.
    pub fn piuri(self) -> &'static str {
        match self {
            Self::V3 => "https://didcomm.org/messagepickup/3.0",
            Self::V4 => "https://didcomm.org/message-pickup/4.0",
        }
    }

    /// What asks for so many messages.
    pub fn limit(self, count: usize) -> Value {
        match self {
            Self::V3 => json!({ "limit": count }),
            Self::V4 => json!({ "message_count_limit": count }),
        }
    }
}

/// The DIDs that route, as `mediate-grant` names them: one in 2.0, several in 3.0. What is neither is none.
pub fn routing_dids(grant: &Message) -> Vec<String> {
    match grant.body.get("routing_did") {
        Some(Value::String(did)) => vec![did.clone()],
        Some(Value::Array(dids)) => dids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Whether a message is of this protocol, in this major version.
pub fn is_of(message: &Message, piuri: &str) -> bool {
    let own = format!("{piuri}/{}", message.message_type().map_or("", |kind| kind.message));
    let own = MessageType::parse(&own);
    own.zip(message.message_type()).is_some_and(|(own, kind)| kind.is(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_routes_or_several() {
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
    fn a_message_is_of_one_protocol() {
        let status = |piuri: &str| Message::build("1", format!("{piuri}/status"), json!({})).finalize();
        assert!(is_of(&status("https://didcomm.org/messagepickup/3.0"), Pickup::V3.piuri()));
        assert!(is_of(&status("https://didcomm.org/messagepickup/3.1"), Pickup::V3.piuri()));
        assert!(!is_of(&status("https://didcomm.org/messagepickup/3.0"), Pickup::V4.piuri()));
        // Punctuation does not count in a protocol's name.
        assert!(is_of(&status("https://didcomm.org/messagepickup/4.0"), Pickup::V4.piuri()));
        assert!(is_of(&status("https://didcomm.org/message-pickup/4.0"), Pickup::V4.piuri()));
        assert!(!is_of(&status("https://example.org/messagepickup/3.0"), Pickup::V3.piuri()));
    }
}

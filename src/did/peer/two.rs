//! did:peer:2: the DID contains keys and services (Peer DID Method Specification, "Method 2").

use serde_json::{Value, json};

use super::{error::PeerError, length::check_length};
use crate::{
    did::document::{CONTEXT, Document, DocumentError, MAX_ENTRIES, MAX_VALUES, Relationship, Service, ServiceNames},
    encoding::{from_base64, json_to_base64url},
    json::{Duplicates, parse},
    keys::{KeyError, PublicKey},
};

/// Makes a `did:peer:2` from keys, each with its relationship, and services.
///
/// The keys get the fragments `key-1`, `key-2` and so on, in this order. Give a key twice to put it in two
/// relationships; a separate key for each relationship is better. The id of a service begins with `#`, or is empty and
/// then generated.
///
/// The DID is written for libraries that read less than the specification has. Its services are in letters and digits
/// only, and the first service has no `id` in the DID if its id is the one that every resolver gives it, `#service`:
/// peerdid 0.5.2 fails if there is one.
///
/// # Errors
/// If there is no key, the id of a service is not relative, or the DID is longer than 20 KiB.
pub fn create_2(keys: &[(Relationship, PublicKey)], services: &[Service]) -> Result<Document, PeerError> {
    if keys.is_empty() {
        return Err(PeerError::Input("a did:peer:2 needs a key"));
    }
    let mut elements = String::new();
    for (relationship, key) in keys {
        elements += &format!(".{}{}", purpose(*relationship), key.to_multikey());
    }
    let mut names = ServiceNames::default();
    for (index, service) in services.iter().enumerate() {
        let is_first = index == 0 && (service.id.is_empty() || service.id == ServiceNames::FIRST);
        let id = if service.id.is_empty() || is_first { names.next_name() } else { service.id.clone() };
        if !id.starts_with('#') {
            return Err(PeerError::Input("the id of a did:peer:2's service must begin with `#`"));
        }
        let value = Abbreviations::Abbreviate.apply(service.to_value(if is_first { "" } else { &id }));
        elements += &format!(".S{}", json_to_base64url(&value.to_string()));
    }
    resolve(&format!("did:peer:2{elements}"), &elements)
}

/// The document of the did:peer:2 `did`. `elements` is the part after `did:peer:2`: keys and services,
/// each after a dot.
pub(super) fn resolve(did: &str, elements: &str) -> Result<Document, PeerError> {
    check_length(did)?;
    let elements = elements.strip_prefix('.').ok_or(PeerError::Purpose)?;
    let mut methods = Vec::new();
    let mut relationships: Vec<(Relationship, Vec<Value>)> = Vec::new();
    let mut services = Services::default();
    for element in elements.split('.') {
        let (code, content) = element.split_at_checked(1).ok_or(PeerError::Purpose)?;
        if code == "S" {
            services.add(content)?;
            continue;
        }
        let relationship =
            Relationship::ALL.into_iter().find(|known| purpose(*known) == code).ok_or(PeerError::Purpose)?;
        // An unsupported key does not invalidate the others, nor change their numbers. Its method keeps the error, and that of
        // a point that is not on its curve.
        if let Err(error @ (KeyError::Malformed(_) | KeyError::Length { .. })) = PublicKey::check_multikey_form(content)
        {
            return Err(error.into());
        }
        if methods.len() == MAX_ENTRIES {
            return Err(DocumentError::TooMany {
                member: "verificationMethod",
                length: MAX_ENTRIES + 1,
                limit: MAX_ENTRIES,
            }
            .into());
        }
        let id = format!("#key-{}", methods.len() + 1);
        methods.push(json!({ "id": id, "type": "Multikey", "controller": did, "publicKeyMultibase": content }));
        match relationships.iter_mut().find(|(known, _)| *known == relationship) {
            Some((_, ids)) => ids.push(id.into()),
            None => relationships.push((relationship, vec![id.into()])),
        }
    }
    let mut document = json!({ "@context": CONTEXT, "id": did, "verificationMethod": methods });
    for (relationship, ids) in relationships {
        document[relationship.name()] = ids.into();
    }
    if !services.services.is_empty() {
        document["service"] = services.services.into();
    }
    Ok(Document::from_own_did(document)?)
}

/// The table "Purpose Codes" of the specification.
fn purpose(relationship: Relationship) -> &'static str {
    match relationship {
        Relationship::AssertionMethod => "A",
        Relationship::KeyAgreement => "E",
        Relationship::Authentication => "V",
        Relationship::CapabilityInvocation => "I",
        Relationship::CapabilityDelegation => "D",
    }
}

/// The services that were read so far.
#[derive(Default)]
struct Services {
    services: Vec<Value>,
    names: ServiceNames,
}

impl Services {
    /// Reads one element: JSON in base64url, or in another spelling of base64 that is percent-encoded in the DID. Before
    /// the clarifications of the specification, an element could be an array of services; @hyperledger/identus-sdk 7.0.0
    /// still writes one.
    fn add(&mut self, content: &str) -> Result<(), PeerError> {
        let json = from_base64(content).ok_or(PeerError::Service)?;
        let value = parse(&json, MAX_VALUES, Duplicates::LastWins).map_err(|_| PeerError::Service)?;
        let values = if let Value::Array(values) = value { values } else { vec![value] };
        for value in values {
            let Value::Object(mut service) = Abbreviations::Expand.apply(value) else {
                return Err(PeerError::Service);
            };
            if !service.contains_key("id") {
                service.insert("id".to_owned(), self.names.next_name().into());
            }
            self.services.push(service.into());
        }
        Ok(())
    }
}

/// The table "Common String Abbreviations" of the specification: names of members, and one value of `type`.
const MEMBERS: [(&str, &str); 4] = [("type", "t"), ("serviceEndpoint", "s"), ("routingKeys", "r"), ("accept", "a")];
const KINDS: [(&str, &str); 1] = [("DIDCommMessaging", "dm")];

/// Whether to expand abbreviations or to abbreviate.
#[derive(Clone, Copy)]
enum Abbreviations {
    Expand,
    Abbreviate,
}

impl Abbreviations {
    /// Expands or abbreviates the names of members at every depth, and the values of `type`.
    fn apply(self, value: Value) -> Value {
        match value {
            Value::Object(members) => Value::Object(members.into_iter().map(|member| self.member(member)).collect()),
            Value::Array(values) => values.into_iter().map(|value| self.apply(value)).collect(),
            other => other,
        }
    }

    fn member(self, (name, value): (String, Value)) -> (String, Value) {
        let name = self.text(&MEMBERS, name);
        let value = match value {
            kinds if name == "type" || name == "t" => self.kinds(kinds),
            other => self.apply(other),
        };
        (name, value)
    }

    /// Handles the value of `type`: a string, or an array of strings.
    fn kinds(self, value: Value) -> Value {
        match value {
            Value::String(kind) => self.text(&KINDS, kind).into(),
            Value::Array(kinds) => kinds.into_iter().map(|kind| self.kinds(kind)).collect(),
            other => other,
        }
    }

    fn text(self, table: &[(&str, &str)], text: String) -> String {
        let replaced = table.iter().find_map(|(long, short)| match self {
            Abbreviations::Expand => (*short == text).then_some(long),
            Abbreviations::Abbreviate => (*long == text).then_some(short),
        });
        replaced.map_or(text, |replaced| (*replaced).to_owned())
    }
}

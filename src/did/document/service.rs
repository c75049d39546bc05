//! Services (DID Core section 5.4, DIDComm v2.1 "Service Endpoint"), in every form that documents give them.

use serde_json::{Map, Value, json};

use super::absolute;

/// A service of a DID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// The absolute id; in a document to be made, one that begins with `#`.
    pub id: String,
    /// `type`: mostly one.
    pub kind: Vec<String>,
    /// The endpoints that have a URI, in order of preference.
    pub endpoints: Vec<ServiceEndpoint>,
}

/// Where a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceEndpoint {
    /// A URI; a DID or DID URL if a mediator's own document says where.
    pub uri: String,
    /// The profiles that are understood there, as `didcomm/v2`; none leaves the choice to the sender.
    pub accept: Option<Vec<String>>,
    /// The DID URLs of the keys to wrap forwards for, the one next to the sender first.
    pub routing_keys: Vec<String>,
}

impl Service {
    /// A `DIDCommMessaging` service at one endpoint, understanding `didcomm/v2`.
    pub fn didcomm(uri: impl Into<String>, routing_keys: impl IntoIterator<Item = String>) -> Self {
        let endpoint = ServiceEndpoint {
            uri: uri.into(),
            accept: Some(vec!["didcomm/v2".to_owned()]),
            routing_keys: routing_keys.into_iter().collect(),
        };
        Self { id: String::new(), kind: vec!["DIDCommMessaging".to_owned()], endpoints: vec![endpoint] }
    }

    /// Whether it is DIDComm v2's; v1's `did-communication` is not.
    pub fn is_didcomm(&self) -> bool {
        self.kind.iter().any(|kind| kind == "DIDCommMessaging")
    }

    /// Reads one; what is not of the expected form is left out of it.
    pub(super) fn read(did: &str, members: &Map<String, Value>) -> Self {
        let id = members.get("id").and_then(Value::as_str).map(|id| absolute(did, id)).unwrap_or_default();
        let endpoints = one_or_many(members.get("serviceEndpoint"));
        Self {
            id,
            kind: strings(members.get("type")),
            endpoints: endpoints.iter().filter_map(|value| ServiceEndpoint::read(value, members)).collect(),
        }
    }

    /// The service as it stands in a document, with its id or without one if it is empty.
    pub(in crate::did) fn to_value(&self, id: &str) -> Value {
        let mut members = Map::new();
        if !id.is_empty() {
            members.insert("id".to_owned(), id.into());
        }
        members.insert("type".to_owned(), one(self.kind.iter().map(|kind| kind.as_str().into()).collect()));
        members
            .insert("serviceEndpoint".to_owned(), one(self.endpoints.iter().map(ServiceEndpoint::to_value).collect()));
        Value::Object(members)
    }
}

impl ServiceEndpoint {
    /// Whether it understands DIDComm v2, as one that names no profile may.
    pub fn accepts_v2(&self) -> bool {
        self.accept.as_ref().is_none_or(|profiles| profiles.is_empty() || profiles.iter().any(|p| p == "didcomm/v2"))
    }

    /// An endpoint that is an object, or a bare URI with its routing keys beside it in the service, as did:peer:2 once
    /// had it. None for an object without a URI, as other kinds of service have.
    fn read(value: &Value, service: &Map<String, Value>) -> Option<Self> {
        let (uri, members) = match value {
            Value::String(uri) => (uri, service),
            Value::Object(endpoint) => (
                match endpoint.get("uri")? {
                    Value::String(uri) => uri,
                    _ => return None,
                },
                endpoint,
            ),
            _ => return None,
        };
        Some(Self {
            uri: uri.clone(),
            accept: members.get("accept").map(|accept| strings(Some(accept))),
            routing_keys: strings(members.get("routingKeys")),
        })
    }

    fn to_value(&self) -> Value {
        let mut value = json!({ "uri": self.uri });
        if let Some(accept) = &self.accept {
            value["accept"] = json!(accept);
        }
        if !self.routing_keys.is_empty() {
            value["routingKeys"] = json!(self.routing_keys);
        }
        value
    }
}

fn one_or_many(value: Option<&Value>) -> &[Value] {
    match value {
        None => &[],
        Some(Value::Array(values)) => values,
        Some(value) => std::slice::from_ref(value),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    one_or_many(value).iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// The only value, or all in an array.
fn one(mut values: Vec<Value>) -> Value {
    if values.len() == 1 { values.remove(0) } else { Value::Array(values) }
}

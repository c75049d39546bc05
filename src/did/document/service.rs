//! Services (DID Core section 5.4, DIDComm v2.1 "Service Endpoint"), in every form that documents use.

use serde_json::{Map, Value, json};

use super::id::absolute;

/// A service in a DID document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// The absolute id. While a document is built it may begin with `#`, or be empty.
    pub id: String,
    /// The values of `type`, usually one.
    pub kind: Vec<String>,
    /// The endpoints that have a URI, in order of preference.
    pub endpoints: Vec<ServiceEndpoint>,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceEndpoint {
    /// The URI. It may be a DID or DID URL of a mediator, whose own document then has the URL.
    pub uri: String,
    /// The accepted profiles, such as `didcomm/v2`. `None` leaves the choice to the sender.
    pub accept: Option<Vec<String>>,
    /// The DID URLs of the mediators' keys. The mediator next to the sender comes first.
    pub routing_keys: Vec<String>,
}

impl Service {
    /// A `DIDCommMessaging` service with one endpoint that accepts `didcomm/v2`.
    pub fn didcomm(uri: impl Into<String>, routing_keys: impl IntoIterator<Item = String>) -> Self {
        let endpoint = ServiceEndpoint {
            uri: uri.into(),
            accept: Some(vec!["didcomm/v2".to_owned()]),
            routing_keys: routing_keys.into_iter().collect(),
        };
        Self { id: String::new(), kind: vec!["DIDCommMessaging".to_owned()], endpoints: vec![endpoint] }
    }

    /// Whether the type is `DIDCommMessaging`. The `did-communication` of DIDComm v1 is not.
    pub fn is_didcomm(&self) -> bool {
        self.kind.iter().any(|kind| kind == "DIDCommMessaging")
    }

    /// Reads a service from its members. Malformed parts are left out. `did` makes a relative id absolute.
    pub(super) fn read(did: &str, members: &Map<String, Value>) -> Self {
        let id = members.get("id").and_then(Value::as_str).map(|id| absolute(did, id)).unwrap_or_default();
        let endpoints = one_or_many(members.get("serviceEndpoint"));
        Self {
            id,
            kind: strings(members.get("type")),
            endpoints: endpoints.iter().filter_map(|value| ServiceEndpoint::read(value, members)).collect(),
        }
    }

    /// Writes the service as a member of a document, with `id` as its id. An empty id is left out.
    pub(in crate::did) fn to_value(&self, id: &str) -> Value {
        let mut members = Map::new();
        if !id.is_empty() {
            members.insert("id".to_owned(), id.into());
        }
        members.insert("type".to_owned(), value_or_array(self.kind.iter().map(|kind| kind.as_str().into()).collect()));
        members.insert(
            "serviceEndpoint".to_owned(),
            value_or_array(self.endpoints.iter().map(ServiceEndpoint::to_value).collect()),
        );
        Value::Object(members)
    }
}

impl ServiceEndpoint {
    /// Whether the endpoint may accept DIDComm v2: it names the profile `didcomm/v2`, or no profile.
    pub fn accepts_v2(&self) -> bool {
        self.accept.as_ref().is_none_or(|profiles| profiles.is_empty() || profiles.iter().any(|p| p == "didcomm/v2"))
    }

    /// Reads an endpoint: an object, or a URI with the routing keys beside it in the service, as early versions of
    /// did:peer:2 had it. `None` for an object without a URI, which other types of service have.
    pub(super) fn read(value: &Value, service: &Map<String, Value>) -> Option<Self> {
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

/// The entries of a member: none if the member is absent or `null`, and the member itself if it is no array.
pub(super) fn one_or_many(value: Option<&Value>) -> &[Value] {
    match value {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) => values,
        Some(value) => std::slice::from_ref(value),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    one_or_many(value).iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// The value itself if there is only one, otherwise an array.
fn value_or_array(mut values: Vec<Value>) -> Value {
    if values.len() == 1 { values.remove(0) } else { Value::Array(values) }
}

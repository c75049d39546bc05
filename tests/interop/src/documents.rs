//! Translates DID documents into the form that `didcomm` 0.4.1 supports.
//!
//! Its `DIDDoc` refuses many valid documents. `keyAgreement`, `authentication`, `verificationMethod` and `service` must
//! all be present, relationships must be lists of strings, and the service endpoint must be one object.

use didcomm::did::{
    DIDCommMessagingService, DIDDoc, Service, ServiceKind, VerificationMaterial, VerificationMethod,
    VerificationMethodType,
};
use serde_json::Value;

pub(crate) fn translate(document: &Value) -> DIDDoc {
    let did = text(document, "id").expect("a DID document has an id");
    let mut methods: Vec<_> =
        list(document, "verificationMethod").map(|method| translate_method(did, method)).collect();
    let mut relationship = |name: &str| -> Vec<String> {
        list(document, name)
            .map(|entry| {
                if let Some(reference) = entry.as_str() {
                    return absolute(did, reference);
                }
                let embedded = translate_method(did, entry);
                let id = embedded.id.clone();
                methods.push(embedded);
                id
            })
            .collect()
    };
    DIDDoc {
        id: did.to_owned(),
        key_agreement: relationship("keyAgreement"),
        authentication: relationship("authentication"),
        verification_method: methods,
        service: list(document, "service").filter_map(|service| translate_service(did, service)).collect(),
    }
}

fn translate_method(did: &str, method: &Value) -> VerificationMethod {
    let (type_, verification_material) = if let Some(jwk) = method.get("publicKeyJwk") {
        // `JsonWebKey` is the new name of the same type.
        let material = VerificationMaterial::JWK { public_key_jwk: bare_jwk(jwk) };
        (VerificationMethodType::JsonWebKey2020, material)
    } else if let Some(multibase) = text(method, "publicKeyMultibase") {
        let material = VerificationMaterial::Multibase { public_key_multibase: multibase.to_owned() };
        (multikey_type(multibase), material)
    } else {
        panic!("a method has a publicKeyJwk or a publicKeyMultibase: {method}")
    };
    VerificationMethod {
        id: absolute(did, text(method, "id").expect("a method has an id")),
        type_,
        controller: text(method, "controller").unwrap_or(did).to_owned(),
        verification_material,
    }
}

/// The JWK without unknown members. The parser of `didcomm` takes a key with unknown members (`ext`, or the `"kid "` of
/// the appendix) for malformed.
pub(crate) fn bare_jwk(jwk: &Value) -> Value {
    let known = |name: &str| ["kty", "crv", "x", "y", "d"].contains(&name);
    jwk.as_object()
        .expect("a JWK is an object")
        .iter()
        .filter(|(name, _)| known(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The type of a Multikey. Its first bytes name the curve, and are always the same letters in base58. `didcomm` has
/// types for the 25519 keys only (those of 2020), and ignores `Other`.
fn multikey_type(multibase: &str) -> VerificationMethodType {
    match multibase.get(..4) {
        Some("z6LS") => VerificationMethodType::X25519KeyAgreementKey2020,
        Some("z6Mk") => VerificationMethodType::Ed25519VerificationKey2020,
        _ => VerificationMethodType::Other,
    }
}

/// Keeps the first endpoint, which is the preferred one: `didcomm` supports one only. Services of other types are
/// left out.
fn translate_service(did: &str, service: &Value) -> Option<Service> {
    if text(service, "type") != Some("DIDCommMessaging") {
        return None;
    }
    let endpoint = match service.get("serviceEndpoint")? {
        Value::Array(endpoints) => endpoints.first()?,
        endpoint => endpoint,
    };
    let strings =
        |name: &str| -> Vec<String> { list(endpoint, name).filter_map(Value::as_str).map(str::to_owned).collect() };
    Some(Service {
        id: absolute(did, text(service, "id")?),
        service_endpoint: ServiceKind::DIDCommMessaging {
            value: DIDCommMessagingService {
                uri: text(endpoint, "uri").or(endpoint.as_str())?.to_owned(),
                accept: endpoint.get("accept").map(|_| strings("accept")),
                routing_keys: strings("routingKeys"),
            },
        },
    })
}

fn absolute(did: &str, id: &str) -> String {
    if id.starts_with('#') { format!("{did}{id}") } else { id.to_owned() }
}

fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

fn list<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    object.get(name).and_then(Value::as_array).into_iter().flatten()
}

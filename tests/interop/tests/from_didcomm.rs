//! Tests that `examples/from_didcomm.rs` translates documents and secrets as `didcomm` serializes them.

use claviger::did::{Document, Relationship};
use claviger::secrets::ImportKey;
use claviger_interop::did_doc;
use claviger_interop::didcomm::secrets::{Secret, SecretMaterial, SecretType};
use common::{documents, keys};
use from_didcomm::{document_from_did_doc, jwk_from_secret};
use serde_json::{Value, json};

#[path = "../../../examples/from_didcomm.rs"]
#[allow(dead_code, reason = "the rest of the example")]
mod from_didcomm;

mod common;

#[test]
fn a_did_doc_becomes_a_document() {
    let mut all = documents();
    all[0]["service"] = json!([{
        "id": "#didcomm",
        "type": "DIDCommMessaging",
        "serviceEndpoint": { "uri": "https://example.org", "routingKeys": ["did:example:mediator#key-1"] },
    }]);
    for document in all {
        let json = serde_json::to_value(did_doc(&document)).unwrap();
        let translated = document_from_did_doc(json.clone()).unwrap();
        // docs/from-didcomm.md: no translation is needed for version 0.4.
        assert_eq!(translated, Document::from_value(json).unwrap());
        let original = Document::from_value(document).unwrap();
        assert_eq!(translated.id(), original.id());
        assert_eq!(translated.services(), original.services());
        for relationship in [Relationship::KeyAgreement, Relationship::Authentication] {
            let keys = |document: &Document| -> Vec<_> {
                document.methods(relationship).map(|method| (method.id.clone(), method.key.clone())).collect()
            };
            assert_eq!(keys(&translated), keys(&original), "{}", relationship.name());
        }
    }
}

#[test]
fn a_secret_becomes_a_key_to_import() {
    for jwk in keys("alice") {
        let Value::String(kid) = &jwk["kid"] else { panic!("{jwk}") };
        let mut private = jwk.clone();
        private.as_object_mut().unwrap().remove("kid");
        let secret = Secret {
            id: kid.clone(),
            type_: SecretType::JsonWebKey2020,
            secret_material: SecretMaterial::JWK { private_key_jwk: private },
        };
        let translated = jwk_from_secret(&serde_json::to_value(secret).unwrap()).unwrap();
        let (_, read) = ImportKey::from_jwk(&translated).unwrap();
        assert_eq!(read.as_ref(), Some(kid));
    }
}

//! The peer reads the vectors of the specification, except those on P-384 and P-521.

use claviger_interop::didcomm::error::ErrorKind;
use common::{bob, vector, vector_text};
use serde_json::Value;

mod common;

#[tokio::test]
async fn appendix_c() {
    let index = vector("index.json");
    let mut read = 0;
    for entry in index["messages"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let layers = entry["layers"].as_array().unwrap();
        let outcome = bob().unpack(&vector_text(file)).await;
        if layers.iter().any(|layer| is_unsupported_by_peer(&layer["curve"])) {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unsupported, "{file}");
            continue;
        }
        let (message, metadata) = outcome.unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut expected = vector(entry["plaintext"].as_str().unwrap());
        // The peer adds `typ` if it is absent.
        expected["typ"] = "application/didcomm-plain+json".into();
        assert_eq!(serde_json::to_value(&message).unwrap(), expected, "{file}");

        let provenance = &entry["provenance"];
        assert_eq!(provenance["encrypted"], metadata.encrypted, "{file}");
        assert_eq!(provenance["authenticated"], metadata.authenticated, "{file}");
        assert_eq!(provenance["non_repudiable"], metadata.non_repudiation, "{file}");
        assert_eq!(provenance["sender_hidden"], metadata.anonymous_sender, "{file}");
        read += 1;
    }
    assert_eq!(read, 7);
}

fn is_unsupported_by_peer(curve: &Value) -> bool {
    ["P-384", "P-521"].iter().any(|beyond| curve == beyond)
}

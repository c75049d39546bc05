//! josekit, as a user writes DIDComm envelopes with it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use josekit::JoseError;
use josekit::jwe::{self, ECDH_ES_A256KW, JweHeader, JweHeaderSet};
use josekit::jwk::Jwk;
use josekit::jws::{self, ES256, ES256K, EdDSA, JwsHeaderSet, JwsSigner, JwsVerifier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{list, text};

pub fn pack(request: &Value) -> Result<String, String> {
    let payload = request["message"].to_string();
    let packed = match text(request, "kind") {
        "signed" => sign(request, payload.as_bytes()),
        _ => encrypt(request, payload.as_bytes()),
    };
    packed.map_err(|error| error.to_string())
}

pub fn open(request: &Value) -> Result<Value, String> {
    let payload = match text(request, "kind") {
        "signed" => verify(request),
        _ => decrypt(request),
    };
    Ok(serde_json::from_slice(&payload.map_err(|error| error.to_string())?).unwrap())
}

fn sign(request: &Value, payload: &[u8]) -> Result<String, JoseError> {
    let (kid, alg) = (text(request, "from"), text(request, "alg"));
    let jwk = jwk(list(request, "secrets").iter().find(|secret| secret["kid"] == kid).unwrap())?;
    let signer: Box<dyn JwsSigner> = match alg {
        "EdDSA" => Box::new(EdDSA.signer_from_jwk(&jwk)?),
        "ES256" => Box::new(ES256.signer_from_jwk(&jwk)?),
        _ => Box::new(ES256K.signer_from_jwk(&jwk)?),
    };
    let mut header = JwsHeaderSet::new();
    header.set_token_type("application/didcomm-signed+json", true);
    header.set_algorithm(alg, true);
    header.set_key_id(kid, false);
    jws::serialize_general_json(payload, &[(&header, &*signer)])
}

fn verify(request: &Value) -> Result<Vec<u8>, JoseError> {
    let packed = text(request, "packed");
    let value: Value = serde_json::from_str(packed).unwrap();
    let jwk = jwk(public(request, text(&value["signatures"][0]["header"], "kid")))?;
    let verifier: Box<dyn JwsVerifier> = match text(request, "alg") {
        "EdDSA" => Box::new(EdDSA.verifier_from_jwk(&jwk)?),
        "ES256" => Box::new(ES256.verifier_from_jwk(&jwk)?),
        _ => Box::new(ES256K.verifier_from_jwk(&jwk)?),
    };
    Ok(jws::deserialize_json(packed, &*verifier)?.0)
}

fn encrypt(request: &Value, payload: &[u8]) -> Result<String, JoseError> {
    let kids: Vec<_> = list(request, "to").iter().map(|kid| kid.as_str().unwrap()).collect();
    let alg = if text(request, "kind") == "authcrypt" { "ECDH-1PU+A256KW" } else { "ECDH-ES+A256KW" };
    let mut header = JweHeaderSet::new();
    header.set_token_type("application/didcomm-encrypted+json", true);
    header.set_algorithm(alg, true);
    header.set_content_encryption(text(request, "enc"), true);
    let mut sorted = kids.clone();
    sorted.sort_unstable();
    let apv = URL_SAFE_NO_PAD.encode(Sha256::digest(sorted.join(".")));
    header.set_claim("apv", Some(apv.into()), true)?;
    let mut recipients = vec![];
    for kid in &kids {
        let mut recipient = JweHeader::new();
        recipient.set_key_id(*kid);
        recipients.push((recipient, ECDH_ES_A256KW.encrypter_from_jwk(&jwk(public(request, kid))?)?));
    }
    if let [(recipient, encrypter)] = &recipients[..] {
        let flattened = jwe::serialize_flattened_json(payload, Some(&header), Some(recipient), None, encrypter)?;
        let mut value: Value = serde_json::from_str(&flattened).unwrap();
        // DIDComm requires the general form.
        value["recipients"] = json!([{ "header": value["header"], "encrypted_key": value["encrypted_key"] }]);
        value.as_object_mut().unwrap().retain(|name, _| !["header", "encrypted_key"].contains(&name.as_str()));
        return Ok(value.to_string());
    }
    let recipients: Vec<_> =
        recipients.iter().map(|(header, encrypter)| (Some(header), encrypter as &dyn jwe::JweEncrypter)).collect();
    jwe::serialize_general_json(payload, Some(&header), &recipients, None)
}

fn decrypt(request: &Value) -> Result<Vec<u8>, JoseError> {
    let packed = text(request, "packed");
    let value: Value = serde_json::from_str(packed).unwrap();
    let secrets = list(request, "secrets");
    let mut kids = list(&value, "recipients").iter().map(|recipient| &recipient["header"]["kid"]);
    let secret = kids.find_map(|kid| secrets.iter().find(|secret| secret["kid"] == *kid)).unwrap();
    let mut decrypter = ECDH_ES_A256KW.decrypter_from_jwk(&jwk(secret)?)?;
    // The library looks for this recipient.
    decrypter.set_key_id(text(secret, "kid"));
    Ok(jwe::deserialize_json(packed, &decrypter)?.0)
}

fn jwk(value: &Value) -> Result<Jwk, JoseError> {
    let mut members = value.as_object().unwrap().clone();
    members.remove("kid");
    Jwk::from_map(members)
}

/// The public key with this id in the documents.
fn public<'a>(request: &'a Value, kid: &str) -> &'a Value {
    let mut methods = list(request, "documents").iter().flat_map(|document| list(document, "verificationMethod"));
    &methods.find(|method| method["id"] == kid).unwrap()["publicKeyJwk"]
}

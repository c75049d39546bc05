//! Makes envelopes with any header. Tag, key wrap and signature are always valid for the header.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    crypto::{Cek, ContentEncryption, KdfInfo, SharedSecret, concat_kdf, wrap_key},
    keys::{Curve, PublicKey},
    secrets::{Purpose, Token, WrapRequest},
};
use claviger_testkit::{PrivateKey, SoftToken};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Person;

/// Base64url without padding.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unb64(text: Option<&Value>) -> Vec<u8> {
    text.and_then(Value::as_str).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default()
}

/// A JWE under construction. It is valid until a test changes a member.
pub struct Jwe {
    /// The protected header.
    pub header: Value,
    /// The shared unprotected header.
    pub unprotected: Option<Value>,
    pub recipients: Vec<Recipient>,
    /// The content encryption that is used, whatever the header says.
    pub enc: ContentEncryption,
    /// The sender's key for ECDH-1PU, whatever the header says.
    pub sender: Option<(SoftToken, PublicKey)>,
    /// The ephemeral key, for Ze. Its public half is the `epk` of the header.
    pub ephemeral: PrivateKey,
    /// Ze, if the test knows it without the ephemeral private key.
    pub ze: Option<Vec<u8>>,
}

pub struct Recipient {
    /// The header of the recipient.
    pub header: Value,
    pub key: PublicKey,
}

impl Jwe {
    /// ECDH-ES+A256KW to keys, given with their ids.
    pub fn anoncrypt(recipients: &[(String, PublicKey)]) -> Self {
        let ephemeral = PrivateKey::generate(recipients[0].1.curve());
        let enc = ContentEncryption::A256CbcHs512;
        let header = json!({
            "typ": "application/didcomm-encrypted+json",
            "alg": "ECDH-ES+A256KW",
            "enc": enc.name(),
            "apv": b64(apv(recipients.iter().map(|(kid, _)| kid.as_str()))),
            "epk": ephemeral.public().to_jwk(),
        });
        let recipients =
            recipients.iter().map(|(kid, key)| Recipient { header: json!({"kid": kid}), key: key.clone() }).collect();
        Self { header, unprotected: None, recipients, enc, sender: None, ephemeral, ze: None }
    }

    /// ECDH-1PU+A256KW from the sender's first key.
    pub fn authcrypt(sender: &Person, recipients: &[(String, PublicKey)]) -> Self {
        Self::authcrypt_as(sender, &sender.kid("agree-1"), &sender.agree[0], recipients)
    }

    /// ECDH-1PU+A256KW from any key of the sender, with any `skid`.
    pub fn authcrypt_as(sender: &Person, skid: &str, key: &PublicKey, recipients: &[(String, PublicKey)]) -> Self {
        let mut jwe = Self::anoncrypt(recipients);
        jwe.header["alg"] = "ECDH-1PU+A256KW".into();
        jwe.header["skid"] = skid.into();
        jwe.header["apu"] = b64(skid).into();
        jwe.sender = Some((sender.token.clone(), key.clone()));
        jwe
    }

    /// Changes the content encryption, also in the header.
    pub fn enc(mut self, enc: ContentEncryption) -> Self {
        self.enc = enc;
        self.header["enc"] = enc.name().into();
        self
    }

    /// Sets the `apv` to that of the current recipients.
    pub fn fit_apv(&mut self) {
        let kids = self.recipients.iter().map(|to| to.header["kid"].as_str().unwrap_or_default());
        self.header["apv"] = b64(apv(kids)).into();
    }

    /// Removes a parameter of the protected header.
    pub fn without(mut self, name: &str) -> Self {
        self.header.as_object_mut().unwrap().shift_remove(name);
        self
    }

    /// Encrypts the message under the current header.
    pub fn seal(&self, plaintext: impl AsRef<[u8]>) -> Value {
        self.seal_under(&self.header.to_string(), plaintext)
    }

    /// Encrypts the message with this text as the protected header.
    pub fn seal_under(&self, header: &str, plaintext: impl AsRef<[u8]>) -> Value {
        let protected = b64(header);
        let cek = Cek::generate(self.enc);
        let sealed = self.enc.seal(&cek, protected.as_bytes(), plaintext.as_ref());
        let (apu, apv) = (unb64(self.header.get("apu")), unb64(self.header.get("apv")));
        let keys = match &self.sender {
            Some((token, key)) => {
                let recipients = self.recipients.iter().map(|to| (to.key.clone(), self.ze(&to.key))).collect();
                token
                    .wrap_cek(
                        key,
                        &WrapRequest { cek, apu, apv, tag: sealed.tag.clone(), recipients },
                        &Purpose::KeyTest,
                    )
                    .expect("a wrap")
            }
            None => {
                let wrap = |to: &Recipient| {
                    let info = KdfInfo { apu: &apu, apv: &apv, tag: None };
                    wrap_key(&concat_kdf(&[&self.ze(&to.key)], &info), &cek)
                };
                self.recipients.iter().map(wrap).collect()
            }
        };
        let recipients: Vec<Value> = self.recipients.iter().zip(keys).map(|(to, key)| to.value(&key)).collect();
        let mut jwe = json!({
            "protected": protected,
            "recipients": recipients,
            "iv": b64(&sealed.iv),
            "ciphertext": b64(&sealed.ciphertext),
            "tag": b64(&sealed.tag),
        });
        if let Some(unprotected) = &self.unprotected {
            jwe["unprotected"] = unprotected.clone();
        }
        jwe
    }

    fn ze(&self, key: &PublicKey) -> SharedSecret {
        match &self.ze {
            Some(ze) => SharedSecret::new(ze.clone()),
            // Keys on two curves have no shared secret. Any value will do.
            None => self.ephemeral.agree(key).unwrap_or_else(|| SharedSecret::new(vec![7; 32])),
        }
    }
}

impl Recipient {
    fn value(&self, encrypted_key: &[u8]) -> Value {
        json!({"header": self.header, "encrypted_key": b64(encrypted_key)})
    }
}

/// The `apv` of a message: the SHA-256 of the sorted key ids, joined with dots.
pub fn apv<'a>(kids: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut kids: Vec<&str> = kids.collect();
    kids.sort_unstable();
    Sha256::digest(kids.join(".")).to_vec()
}

/// A JWS in General JSON, signed by any key, whatever its headers say.
pub fn jws(signer: &Person, key: &PublicKey, protected: &Value, header: &Value, payload: impl AsRef<[u8]>) -> Value {
    let mut signature = compact(signer, key, &protected.to_string(), payload.as_ref());
    signature.insert("header".to_owned(), header.clone());
    let payload = signature.shift_remove("payload");
    json!({"payload": payload, "signatures": [signature]})
}

/// A valid JWS by the signer's first key.
pub fn signed(signer: &Person, payload: impl AsRef<[u8]>) -> Value {
    let key = &signer.sign[0];
    jws(signer, key, &jws_header(key.curve()), &json!({"kid": signer.kid("sign-1")}), payload)
}

/// The protected header for a signature by a key on this curve.
pub fn jws_header(curve: Curve) -> Value {
    let alg = curve.signature_algorithm().expect("a curve that signs").name();
    json!({"typ": "application/didcomm-signed+json", "alg": alg})
}

/// A compact JWS, signed by any key, whatever its header says.
pub fn jwt(signer: &Person, key: &PublicKey, header: &Value, claims: &Value) -> String {
    let parts = compact(signer, key, &header.to_string(), claims.to_string().as_bytes());
    ["protected", "payload", "signature"].map(|part| parts[part].as_str().unwrap_or_default()).join(".")
}

fn compact(signer: &Person, key: &PublicKey, protected: &str, payload: &[u8]) -> Map<String, Value> {
    let (protected, payload) = (b64(protected), b64(payload));
    let signature =
        signer.token.sign(key, format!("{protected}.{payload}").as_bytes(), &Purpose::KeyTest).expect("a signature");
    let members = [("payload", payload), ("protected", protected), ("signature", b64(signature))];
    members.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect()
}

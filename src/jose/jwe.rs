//! Received JWEs in General JSON (RFC 7516 section 7.2.1). Parsing makes every check that needs no key.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    b64,
    error::JoseError,
    header::{PROTECTED, RECIPIENT, UNPROTECTED, refuse_extensions, refuse_misplaced},
    json,
    limits::Limits,
};
use crate::{
    crypto::{CheckFailed, ContentEncryption},
    keys::{Jwk, PublicKey},
    secrets::{Context, Ecdh1puSender, Secrets, SecretsError, TokenError, UnwrapRequest},
};

/// The key agreement of a JWE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAgreement {
    /// ECDH-ES+A256KW (RFC 7518 section 4.6): anoncrypt.
    EcdhEs,
    /// ECDH-1PU+A256KW (draft-madden-jose-ecdh-1pu-04): authcrypt.
    Ecdh1Pu,
}

impl KeyAgreement {
    /// The value of `alg` in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdhEs => "ECDH-ES+A256KW",
            Self::Ecdh1Pu => "ECDH-1PU+A256KW",
        }
    }
}

/// An encrypted message with valid headers and with an `apv` that fits the recipients.
#[derive(Debug)]
pub struct Jwe {
    alg: KeyAgreement,
    enc: ContentEncryption,
    epk: PublicKey,
    skid: Option<String>,
    apu: Vec<u8>,
    apv: Vec<u8>,
    /// The protected header as it was received. It is the AAD.
    protected: String,
    recipients: Vec<JweRecipient>,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

#[derive(Debug)]
struct JweRecipient {
    kid: String,
    encrypted_key: Vec<u8>,
}

impl Jwe {
    /// The key agreement (`alg`).
    pub fn algorithm(&self) -> KeyAgreement {
        self.alg
    }

    /// The content encryption (`enc`).
    pub fn encryption(&self) -> ContentEncryption {
        self.enc
    }

    /// The ephemeral key of the message (`epk`). The keys of sender and recipients must be on its curve.
    pub fn ephemeral_key(&self) -> &PublicKey {
        &self.epk
    }

    /// The sender's key id. `Some` for authcrypt, `None` for anoncrypt.
    pub fn sender_kid(&self) -> Option<&str> {
        self.skid.as_deref()
    }

    /// The recipients' key ids, in the order of the message.
    pub fn recipient_kids(&self) -> impl Iterator<Item = &str> {
        self.recipients.iter().map(|recipient| recipient.kid.as_str())
    }

    /// A digest that is the same for two envelopes exactly if they open to the same message, for the same keys, or not at
    /// all: of the protected header, the initialization vector, the ciphertext, the tag, and each recipient's key id and
    /// encrypted key. White space, the order of members and recipients, and members that nothing authenticates do not
    /// count, since anyone can change them.
    ///
    /// The encrypted keys count although the tag does not cover them. Otherwise a copy with a damaged key would have the
    /// digest of the sender's own envelope.
    pub fn digest(&self) -> [u8; 32] {
        let mut recipients: Vec<_> = self.recipients.iter().map(|it| (it.kid.as_bytes(), &*it.encrypted_key)).collect();
        recipients.sort_unstable();
        let parts = [self.protected.as_bytes(), &self.iv, &self.ciphertext, &self.tag];
        let mut digest = Sha256::new_with_prefix(b"JWE");
        for part in parts.into_iter().chain(recipients.into_iter().flat_map(|(kid, key)| [kid, key])) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Decrypts the message as one recipient, and returns the plaintext. `kid` is the recipient's key id, `key` its
    /// public key, and `sender` the sender's public key: `Some` for authcrypt, `None` for anoncrypt.
    ///
    /// This calls [`Secrets::unwrap_cek`] once, or not at all if a key is on another curve.
    ///
    /// # Errors
    /// [`JoseError::Missing`] if `kid` is not a recipient, or `sender` does not fit the key agreement;
    /// [`JoseError::CurveMismatch`] if a key is on another curve than `epk`; [`JoseError::Decrypt`] if the message does
    /// not open; [`JoseError::Secrets`] if the token fails.
    pub async fn decrypt(
        &self,
        kid: &str,
        key: &PublicKey,
        sender: Option<&PublicKey>,
        secrets: &(impl Secrets + ?Sized),
        cx: &Context,
    ) -> Result<Vec<u8>, JoseError> {
        let recipient =
            self.recipients.iter().find(|recipient| recipient.kid == kid).ok_or(JoseError::Missing("recipients"))?;
        self.check_curve(kid, key)?;
        let sender = match (self.alg, sender) {
            (KeyAgreement::EcdhEs, None) => None,
            (KeyAgreement::Ecdh1Pu, Some(key)) => {
                self.check_curve(self.skid.as_deref().unwrap_or_default(), key)?;
                Some(Ecdh1puSender { key: key.clone(), tag: self.tag.clone() })
            }
            _ => return Err(JoseError::Missing("skid")),
        };
        let request = UnwrapRequest {
            epk: self.epk.clone(),
            sender,
            apu: self.apu.clone(),
            apv: self.apv.clone(),
            encrypted_key: recipient.encrypted_key.clone(),
        };
        let peer = self.skid.as_deref().map(|skid| skid.split('#').next().unwrap_or_default().into());
        let cx = Context { peer, ..cx.for_kid(kid) };
        let cek = secrets.unwrap_cek(key, &request, &cx).await.map_err(|error| match error {
            // A failure to unwrap the content key and a failure to decrypt the content give the same error.
            SecretsError::Token { error: TokenError::Unwrap, .. } => JoseError::Decrypt(CheckFailed),
            error => JoseError::Secrets(error),
        })?;
        Ok(self.enc.open(&cek, self.protected.as_bytes(), &self.iv, &self.ciphertext, &self.tag)?)
    }

    fn check_curve(&self, kid: &str, key: &PublicKey) -> Result<(), JoseError> {
        if key.curve() == self.epk.curve() {
            return Ok(());
        }
        Err(JoseError::CurveMismatch { kid: kid.to_owned(), curve: key.curve(), expected: self.epk.curve() })
    }

    /// Reads a JWE from its members, and makes every check that needs no key.
    pub(super) fn from_object(mut map: Map<String, Value>, limits: &Limits) -> Result<Self, JoseError> {
        let protected = json::take_string(&mut map, "protected")?.ok_or(JoseError::Missing("protected"))?;
        let mut header =
            json::parse_object("protected header", &b64::decode("protected", &protected)?, json::MAX_HEADER_VALUES)?;
        if map.contains_key("aad") {
            // DIDComm has no `aad`. Ignoring it would hide something from the receiver.
            return Err(JoseError::RefusedParameter("aad".to_owned()));
        }
        let unprotected = match map.remove("unprotected") {
            None => Map::new(),
            Some(Value::Object(unprotected)) => unprotected,
            Some(_) => return Err(JoseError::InvalidMember("unprotected")),
        };
        check_unprotected(&unprotected, &[&header], UNPROTECTED)?;
        let recipients = recipients(&mut map, &[&header, &unprotected], limits)?;

        let alg = algorithm(&mut header)?;
        let enc = encryption(&mut header, alg)?;
        refuse_extensions(&header)?;
        let epk: Jwk = serde_json::from_value(header.remove("epk").ok_or(JoseError::Missing("epk"))?)
            .map_err(|_| JoseError::InvalidMember("epk"))?;
        let epk = PublicKey::from_jwk(&epk).map_err(JoseError::InvalidEphemeralKey)?;
        if !epk.curve().supports_key_agreement() {
            return Err(JoseError::UnsupportedAlgorithm(epk.curve().name().to_owned()));
        }
        let (skid, apu) = sender(&mut header, alg)?;
        let apv = json::take_string(&mut header, "apv")?.ok_or(JoseError::Missing("apv"))?;
        let apv = b64::decode("apv", &apv)?;
        if apv != apv_of(recipients.iter().map(|recipient| recipient.kid.as_str())) {
            return Err(JoseError::ApvMismatch);
        }
        if recipients.iter().any(|recipient| recipient.encrypted_key.len() != enc.key_length() + 8) {
            return Err(JoseError::InvalidLength("encrypted_key"));
        }

        let mut bytes = |name| b64::decode(name, &json::take_string(&mut map, name)?.ok_or(JoseError::Missing(name))?);
        let (iv, ciphertext, tag) = (bytes("iv")?, bytes("ciphertext")?, bytes("tag")?);
        if iv.len() != enc.iv_length() {
            return Err(JoseError::InvalidLength("iv"));
        }
        if tag.len() != enc.tag_length() {
            return Err(JoseError::InvalidLength("tag"));
        }
        // A CBC ciphertext has whole blocks. Any other length cannot be decrypted, so the token need not be asked.
        if enc == ContentEncryption::A256CbcHs512 && (ciphertext.is_empty() || !ciphertext.len().is_multiple_of(16)) {
            return Err(JoseError::InvalidLength("ciphertext"));
        }
        Ok(Self { alg, enc, epk, skid, apu, apv, protected, recipients, iv, ciphertext, tag })
    }
}

/// Computes `apv`, the hash of the recipients' key ids (DIDComm v2.1, "ECDH-1PU key wrapping and common
/// protected headers").
pub(super) fn apv_of<'a>(kids: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut kids: Vec<&str> = kids.collect();
    kids.sort_unstable();
    Sha256::digest(kids.join(".").as_bytes()).to_vec()
}

fn recipients(
    map: &mut Map<String, Value>,
    other_headers: &[&Map<String, Value>],
    limits: &Limits,
) -> Result<Vec<JweRecipient>, JoseError> {
    let items = match map.remove("recipients") {
        Some(Value::Array(items)) => items,
        None if map.contains_key("encrypted_key") => {
            return Err(JoseError::Serialization("Flattened JWE JSON Serialization"));
        }
        _ => return Err(JoseError::Missing("recipients")),
    };
    if items.is_empty() {
        return Err(JoseError::Missing("recipients"));
    }
    if items.len() > limits.recipients {
        return Err(JoseError::TooManyRecipients { count: items.len(), limit: limits.recipients });
    }
    let mut recipients: Vec<JweRecipient> = Vec::with_capacity(items.len());
    for item in items {
        let Value::Object(mut item) = item else { return Err(JoseError::InvalidMember("recipients")) };
        let mut header = match item.remove("header") {
            Some(Value::Object(header)) => header,
            Some(_) => return Err(JoseError::InvalidMember("header")),
            None => return Err(JoseError::Missing("header")),
        };
        check_unprotected(&header, other_headers, RECIPIENT)?;
        let kid = json::take_string(&mut header, "kid")?.ok_or_else(|| kid_absent(other_headers))?;
        let encrypted_key =
            json::take_string(&mut item, "encrypted_key")?.ok_or(JoseError::Missing("encrypted_key"))?;
        if recipients.iter().any(|other| other.kid == kid) {
            return Err(JoseError::DuplicateRecipient(kid));
        }
        recipients.push(JweRecipient { kid, encrypted_key: b64::decode("encrypted_key", &encrypted_key)? });
    }
    Ok(recipients)
}

/// The error if a recipient has no `kid`: it may be in another header, given as the protected and the unprotected one.
fn kid_absent(headers: &[&Map<String, Value>]) -> JoseError {
    let found = headers.iter().zip([PROTECTED, UNPROTECTED]).find(|(header, _)| header.contains_key("kid"));
    match found {
        Some((_, found)) => JoseError::Misplaced { names: vec!["kid"], found, wanted: RECIPIENT },
        None => JoseError::Missing("kid"),
    }
}

/// Checks an unprotected header: it must not repeat a parameter of another header, contain a parameter that must be
/// protected, or contain an extension.
fn check_unprotected(
    header: &Map<String, Value>,
    others: &[&Map<String, Value>],
    place: &'static str,
) -> Result<(), JoseError> {
    if let Some(name) = header.keys().find(|name| others.iter().any(|other| other.contains_key(*name))) {
        return Err(JoseError::DuplicateParameter(name.clone()));
    }
    refuse_misplaced(header, &["alg", "enc", "epk", "apu", "apv", "skid", "typ"], place)?;
    refuse_extensions(header)
}

fn algorithm(header: &mut Map<String, Value>) -> Result<KeyAgreement, JoseError> {
    let alg = json::take_string(header, "alg")?.ok_or(JoseError::Missing("alg"))?;
    [KeyAgreement::EcdhEs, KeyAgreement::Ecdh1Pu]
        .into_iter()
        .find(|known| known.name() == alg)
        .ok_or(JoseError::UnsupportedAlgorithm(alg))
}

fn encryption(header: &mut Map<String, Value>, alg: KeyAgreement) -> Result<ContentEncryption, JoseError> {
    let enc = json::take_string(header, "enc")?.ok_or(JoseError::Missing("enc"))?;
    let enc = enc.parse().map_err(|_| JoseError::UnsupportedEncryption(enc))?;
    if alg == KeyAgreement::Ecdh1Pu && enc != ContentEncryption::A256CbcHs512 {
        return Err(JoseError::AuthcryptEncryption(enc));
    }
    Ok(enc)
}

/// Returns `skid` and the decoded `apu`. For authcrypt both name the sender's key, and `apu` is enough if `skid` is
/// absent. An anoncrypted message has no `skid`; its `apu`, if there is one, is only an input of the KDF.
fn sender(header: &mut Map<String, Value>, alg: KeyAgreement) -> Result<(Option<String>, Vec<u8>), JoseError> {
    let skid = json::take_string(header, "skid")?;
    let apu = json::take_string(header, "apu")?;
    match (alg, skid, apu) {
        (KeyAgreement::EcdhEs, Some(_), _) => Err(JoseError::RefusedParameter("skid".to_owned())),
        (KeyAgreement::EcdhEs, None, None) => Ok((None, Vec::new())),
        (KeyAgreement::EcdhEs, None, Some(apu)) => Ok((None, b64::decode("apu", &apu)?)),
        (KeyAgreement::Ecdh1Pu, _, None) => Err(JoseError::Missing("apu")),
        (KeyAgreement::Ecdh1Pu, skid, Some(apu)) => {
            let apu = b64::decode("apu", &apu)?;
            let named = std::str::from_utf8(&apu).map_err(|_| JoseError::ApuMismatch)?;
            if skid.as_ref().is_some_and(|skid| skid != named) {
                return Err(JoseError::ApuMismatch);
            }
            Ok((Some(named.to_owned()), apu))
        }
    }
}

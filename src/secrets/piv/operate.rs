//! What a key does on the card: key agreement, with KDF and key wrap in this process, and signing.

use std::time::Instant;

use p256::ecdsa::DerSignature;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    algorithm::MAX_EDDSA_INPUT,
    apdu::{CardError, CardResult, Status},
    card::Card,
    device::{SlotKey, State, YubiKey},
    touch::{CACHED_TOUCH, TouchPrompt},
    unlock::UnlockedCard,
};
use crate::{
    crypto::{self, Cek, EncryptedKey, EphemeralKey, KdfInfo, SharedSecret},
    keys::{Curve, PublicKey, SignatureAlgorithm},
    secrets::{PinPolicy, Purpose, TokenError, TouchPolicy, UnwrapRequest, WrapRequest},
};

/// Unwraps a content key: the card does ECDH with `epk` (for ECDH-1PU also with the sender's key), and this process
/// does the KDF and the key unwrap.
pub(super) fn unwrap(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    request: &UnwrapRequest,
    purpose: &Purpose,
) -> Result<Cek, TokenError> {
    let sender = request.sender.as_ref();
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: sender.map(|sender| sender.tag.as_slice()) };
    let peers: Vec<&PublicKey> = [&request.epk].into_iter().chain(sender.map(|sender| &sender.key)).collect();
    let z = derive(token, state, key, &peers, purpose)?;
    let kek = crypto::concat_kdf(&z.iter().collect::<Vec<_>>(), &info);
    crypto::unwrap_key(&kek, &request.encrypted_key).map_err(|_| TokenError::Unwrap)
}

/// Wraps a content key for each recipient: the card does ECDH with the recipient's key, and this process does the KDF
/// and the key wrap.
pub(super) fn wrap(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    request: &WrapRequest,
    purpose: &Purpose,
) -> Result<Vec<EncryptedKey>, TokenError> {
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: Some(&request.tag) };
    let peers: Vec<&PublicKey> = request.recipients.iter().map(|(recipient, _)| recipient).collect();
    let z = derive(token, state, key, &peers, purpose)?;
    let kek = |(_, ze): &(PublicKey, SharedSecret), zs: &SharedSecret| crypto::concat_kdf(&[ze, zs], &info);
    Ok(request.recipients.iter().zip(&z).map(|(to, zs)| crypto::wrap_key(&kek(to, zs), &request.cek)).collect())
}

/// Makes a signature of 64 bytes over `input`. The signature is verified before it is returned.
pub(super) fn sign(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    input: &[u8],
    purpose: &Purpose,
) -> Result<Vec<u8>, TokenError> {
    let public = &key.held.public;
    let hash;
    let card_input = match public.curve().signature_algorithm() {
        Some(SignatureAlgorithm::EdDsa) if input.len() > MAX_EDDSA_INPUT => {
            return Err(TokenError::Unsupported(format!(
                "a YubiKey signs at most {MAX_EDDSA_INPUT} bytes with Ed25519, since the whole input goes to the card, \
                 and this input has {}; use an ES256 key (P-256)",
                input.len()
            )));
        }
        Some(SignatureAlgorithm::EdDsa) => input,
        Some(SignatureAlgorithm::Es256) => {
            hash = Sha256::digest(input);
            &hash[..]
        }
        Some(SignatureAlgorithm::Es256k) | None => {
            return Err(TokenError::Unsupported(format!("{} does not sign", public.curve())));
        }
    };
    let output = token.with_key(state, key, purpose, |unlocked| {
        use_once(token, unlocked, key, (1, 1, purpose), |card| card.sign(key.slot, key.algorithm, card_input))
    })?;
    let signature = signature_of(public.curve(), &output)?;
    match crypto::verify(public, input, &signature) {
        Ok(()) => Ok(signature),
        Err(_) => Err(TokenError::KnownAnswer("the card returned a signature that does not verify".into())),
    }
}

/// The card's signature in the form of JWS.
pub(super) fn signature_of(curve: Curve, output: &[u8]) -> Result<Vec<u8>, TokenError> {
    match curve.signature_algorithm() {
        Some(SignatureAlgorithm::Es256) => DerSignature::try_from(output)
            .and_then(p256::ecdsa::Signature::try_from)
            .map(|signature| signature.to_bytes().to_vec())
            .map_err(|_| TokenError::KnownAnswer("the card returned an ECDSA signature that is not DER".into())),
        _ => Ok(output.to_vec()),
    }
}

/// Tests a key with known answers. A key that would ask a person for a PIN or a touch is not tested before
/// its first use.
pub(super) fn test_key(token: &YubiKey, state: &mut State, key: &SlotKey) -> Result<(), TokenError> {
    let asks_for_pin = key.pin == PinPolicy::Always || (key.pin == PinPolicy::Once && token.asks_a_person_for_pin());
    if asks_for_pin || key.touch != TouchPolicy::Never {
        return Ok(());
    }
    let public = &key.held.public;
    if key.held.usage.allows_key_agreement() {
        let peer = EphemeralKey::generate(public.curve()).expect("a curve that agrees");
        let expected = peer.agree(public).expect("a key of the same curve");
        let z = derive(token, state, key, &[peer.public()], &Purpose::KeyTest)?;
        if !bool::from(z[0].as_bytes().ct_eq(expected.as_bytes())) {
            return Err(TokenError::KnownAnswer(format!("the key agreement of slot {} is wrong", key.slot)));
        }
    }
    if key.held.usage.allows_signing() {
        sign(token, state, key, b"claviger known answer", &Purpose::KeyTest)?;
    }
    Ok(())
}

/// Computes Z of the slot's key and each peer's key, all in one transaction.
fn derive(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    peers: &[&PublicKey],
    purpose: &Purpose,
) -> Result<Vec<SharedSecret>, TokenError> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    token.with_key(state, key, purpose, |unlocked| {
        let mut z = Vec::with_capacity(peers.len());
        for (index, peer) in peers.iter().enumerate() {
            let touch = (index + 1, peers.len(), purpose);
            z.push(use_once(token, unlocked, key, touch, |card| card.agree(key.slot, key.algorithm, peer))?);
        }
        Ok(z)
    })
}

/// Uses a key once. If the key needs a touch, prompts a person with the number of this touch, the number of touches
/// that the operation needs, and its purpose.
fn use_once<T>(
    token: &YubiKey,
    unlocked: &mut UnlockedCard<'_, '_>,
    key: &SlotKey,
    (number, of, purpose): (usize, usize, &Purpose),
    work: impl FnOnce(&mut Card<'_>) -> CardResult<T>,
) -> CardResult<T> {
    let prompt = match key.touch {
        TouchPolicy::Never => None,
        TouchPolicy::Always => Some((number, of)),
        TouchPolicy::Cached if token.touches().was_touched_within(key.slot.number(), CACHED_TOUCH) => None,
        // One touch is enough for all uses that follow.
        TouchPolicy::Cached => Some((1, 1)),
    };
    let card = unlocked.ready_for_use()?;
    let result = match prompt {
        None => work(card),
        Some((number, of)) => {
            let purpose = Some(purpose.clone());
            let prompt = TouchPrompt { serial: token.serial, number, of, is_reminder: false, purpose };
            let result = token.touches().prompt_during(prompt, || work(card));
            if result.is_ok() {
                token.touches().record(key.slot.number(), Instant::now());
            }
            result
        }
    };
    // The PIN was verified in this transaction, so 6982 means that the touch is missing.
    result.map_err(|error| match error {
        error if error.is(Status::NOT_SATISFIED) && key.touch != TouchPolicy::Never => {
            let reason = "no touch came within the 15 seconds that the card waits; try again".into();
            CardError::Token(TokenError::Device { operation: "the touch".into(), reason })
        }
        error => error,
    })
}

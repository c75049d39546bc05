//! What a key does: derive, and KDF and key wrap behind it in this process; or sign.

use std::time::{Duration, Instant};

use p256::ecdsa::DerSignature;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    apdu::{Fault, Outcome, Status},
    token::{SlotKey, State, Unlocked, YubiKey},
    touch::TouchPrompt,
};
use crate::{
    crypto::{self, Cek, EncryptedKey, EphemeralKey, KdfInfo, SharedSecret},
    keys::{PublicKey, SignatureAlgorithm},
    secrets::{PinPolicy, Purpose, TokenError, TouchPolicy, Unwrap, Wrap},
};

/// The longest input of an Ed25519 signature, in bytes: all of it goes into one command, which takes 3,072.
pub(super) const LONGEST_EDDSA: usize = 3000;
/// So long a touch counts for a key that caches it: 15 seconds on the card, and one for the way.
const CACHED: Duration = Duration::from_secs(14);

pub(super) fn unwrap(token: &YubiKey, state: &mut State, key: &SlotKey, request: &Unwrap) -> Result<Cek, TokenError> {
    let sender = request.sender.as_ref();
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: sender.map(|sender| sender.tag.as_slice()) };
    let peers: Vec<&PublicKey> = [&request.epk].into_iter().chain(sender.map(|sender| &sender.key)).collect();
    let z = derive(token, state, key, &peers)?;
    let kek = crypto::concat_kdf(&z.iter().collect::<Vec<_>>(), &info);
    crypto::unwrap_key(&kek, &request.encrypted_key).map_err(|_| TokenError::Unwrap)
}

pub(super) fn wrap(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    request: &Wrap,
) -> Result<Vec<EncryptedKey>, TokenError> {
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: Some(&request.tag) };
    let peers: Vec<&PublicKey> = request.recipients.iter().map(|(recipient, _)| recipient).collect();
    let z = derive(token, state, key, &peers)?;
    let kek = |(_, ze): &(PublicKey, SharedSecret), zs: &SharedSecret| crypto::concat_kdf(&[ze, zs], &info);
    Ok(request.recipients.iter().zip(&z).map(|(to, zs)| crypto::wrap_key(&kek(to, zs), &request.cek)).collect())
}

pub(super) fn sign(token: &YubiKey, state: &mut State, key: &SlotKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
    let public = &key.held.public;
    let hash;
    let to_card = match public.curve().signature_algorithm() {
        Some(SignatureAlgorithm::EdDsa) if input.len() > LONGEST_EDDSA => {
            return Err(TokenError::Unsupported(format!(
                "a YubiKey signs at most {LONGEST_EDDSA} bytes with Ed25519, as all of it goes to the card, and this is \
                 {}: use an ES256 key (P-256)",
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
    let purpose = state.purpose.clone();
    let said = token.using(state, key, |unlocked| {
        touched(token, unlocked, key, (1, 1, &purpose), |card| card.sign(key.slot, key.algorithm, to_card))
    })?;
    let signature = match public.curve().signature_algorithm() {
        Some(SignatureAlgorithm::Es256) => DerSignature::try_from(&said[..])
            .and_then(p256::ecdsa::Signature::try_from)
            .map(|signature| signature.to_bytes().to_vec())
            .map_err(|_| TokenError::KnownAnswer("an ECDSA signature that is no DER".into()))?,
        _ => said.to_vec(),
    };
    match crypto::verify(public, input, &signature) {
        Ok(()) => Ok(signature),
        Err(_) => Err(TokenError::KnownAnswer("a signature that does not verify".into())),
    }
}

/// Shows that a key does what it is for, where no person is asked: the others show it at their first use.
pub(super) fn prove(token: &YubiKey, state: &mut State, key: &SlotKey) -> Result<(), TokenError> {
    let by_person = key.pin == PinPolicy::Always || (key.pin == PinPolicy::Once && token.asks_a_person());
    if by_person || key.touch != TouchPolicy::Never {
        return Ok(());
    }
    let public = &key.held.public;
    if key.held.usage.agrees() {
        let peer = EphemeralKey::generate(public.curve()).expect("a curve that agrees");
        let right = peer.agree(public).expect("a key of the same curve");
        let z = derive(token, state, key, &[peer.public()])?;
        if !bool::from(z[0].as_bytes().ct_eq(right.as_bytes())) {
            return Err(TokenError::KnownAnswer(format!("the key agreement of slot {}", key.slot)));
        }
    }
    if key.held.usage.signs() {
        sign(token, state, key, b"claviger known answer")?;
    }
    Ok(())
}

/// Z of our key and each peer's, in one transaction.
fn derive(
    token: &YubiKey,
    state: &mut State,
    key: &SlotKey,
    peers: &[&PublicKey],
) -> Result<Vec<SharedSecret>, TokenError> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    let purpose = state.purpose.clone();
    token.using(state, key, |unlocked| {
        let mut z = Vec::with_capacity(peers.len());
        for (at, peer) in peers.iter().enumerate() {
            let which = (at + 1, peers.len(), &purpose);
            z.push(touched(token, unlocked, key, which, |card| card.agree(key.slot, key.algorithm, peer))?);
        }
        Ok(z)
    })
}

/// One use of a key. A person is told if it wants a touch, which of how many, and what for.
fn touched<T>(
    token: &YubiKey,
    unlocked: &mut Unlocked<'_, '_>,
    key: &SlotKey,
    (number, of, purpose): (usize, usize, &Option<Purpose>),
    work: impl FnOnce(&mut super::card::Card<'_>) -> Outcome<T>,
) -> Outcome<T> {
    let prompt = match key.touch {
        TouchPolicy::Never => None,
        TouchPolicy::Always => Some((number, of)),
        TouchPolicy::Cached if token.touches().within(key.slot, CACHED) => None,
        // One touch is for all that follows.
        TouchPolicy::Cached => Some((1, 1)),
    };
    let card = unlocked.once()?;
    let result = match prompt {
        None => work(card),
        Some((number, of)) => {
            let prompt = TouchPrompt { serial: token.serial(), number, of, again: false, purpose: purpose.clone() };
            let result = token.touches().around(prompt, || work(card));
            if result.is_ok() {
                token.touches().came(key.slot, Instant::now());
            }
            result
        }
    };
    // The PIN was verified in this transaction, so it is the touch that is missing.
    result.map_err(|fault| match fault {
        fault if fault.is(Status::NOT_SATISFIED) && key.touch != TouchPolicy::Never => {
            let reason = "no touch came within the 15 seconds that the card waits: try again".into();
            Fault::Token(TokenError::Device { operation: "the touch".into(), reason })
        }
        fault => fault,
    })
}

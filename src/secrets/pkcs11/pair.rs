//! Which public key belongs to which private key, for pairs that their CKA_ID does not tell apart: keys without one, as
//! openCryptoki has them, or with the same one.
//!
//! One operation of each private key decides: a signature, which is verified with each candidate in this process, or
//! else an ECDH with a fresh key pair, whose Z this process computes for each candidate. So the number of calls to the
//! token grows with the number of keys, and not with its square.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::ObjectHandle,
    session::Session,
};
use zeroize::Zeroizing;

use super::{
    agree::Driver,
    ckr::{CallResult, During},
    curves::{PointEncoding, octet_string},
    find::FoundKey,
    known_answer::ignore_unless_lost,
    object::{SessionObject, Visibility, readable},
    sign::sign,
};
use crate::{
    crypto::{self, EphemeralKey, SharedSecret},
    keys::{Curve, PublicKey},
};

/// How many candidates are left for a key that can neither sign nor give a readable Z. Each is tested with several
/// operations.
const MOST_CANDIDATES: usize = 4;
const MESSAGE: &[u8] = b"claviger pairs keys";

/// Leaves one candidate to each key that has several, if an operation shows which is its other half.
pub(super) fn pair(session: &Session, driver: Driver<'_>, found: &mut [FoundKey]) -> CallResult<()> {
    let mut known = KnownSecrets::default();
    // Found already for another key, so the least likely ones.
    let mut taken: HashSet<PublicKey> = HashSet::new();
    for key in found.iter_mut().filter(|key| key.halves.len() > 1 && !key.always_authenticate) {
        key.halves.sort_by_key(|(public, _)| taken.contains(public));
        let half = match signer(session, key)? {
            Some(half) => Some(half),
            None => known.agreeing(session, driver, key)?,
        };
        match half {
            Some(half) => {
                key.halves.retain(|(public, _)| *public == half);
                key.guessed = false;
                taken.insert(half);
            }
            None => key.halves.truncate(MOST_CANDIDATES),
        }
    }
    Ok(())
}

/// The candidate with which a signature of the key is valid.
fn signer(session: &Session, key: &FoundKey) -> CallResult<Option<PublicKey>> {
    let Some((any, _)) = key.halves.first().filter(|_| key.curve.signature_algorithm().is_some()) else {
        return Ok(None);
    };
    match sign(session, any, key.private, MESSAGE) {
        Ok(signature) => {
            let mut candidates = key.halves.iter().map(|(public, _)| public);
            Ok(candidates.find(|public| crypto::verify(public, MESSAGE, &signature).is_ok()).cloned())
        }
        Err(error) => ignore_unless_lost(error).map(|()| None),
    }
}

/// Z of a fresh key pair on each curve with each candidate.
#[derive(Default)]
struct KnownSecrets(HashMap<Curve, (EphemeralKey, HashMap<PublicKey, SharedSecret>)>);

impl KnownSecrets {
    /// The candidate whose Z is the one that the token derives.
    fn agreeing(&mut self, session: &Session, driver: Driver<'_>, key: &FoundKey) -> CallResult<Option<PublicKey>> {
        let (ephemeral, secrets) = match self.0.entry(key.curve) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let Some(ephemeral) = EphemeralKey::generate(key.curve) else { return Ok(None) };
                vacant.insert((ephemeral, HashMap::new()))
            }
        };
        for encoding in &driver.profile.agreement.points {
            let z = match derive(session, driver, key.private, ephemeral.public(), *encoding) {
                Ok(z) => z,
                Err(error) => {
                    ignore_unless_lost(error)?;
                    continue;
                }
            };
            for (public, _) in &key.halves {
                if !secrets.contains_key(public) {
                    secrets.extend(ephemeral.agree(public).map(|secret| (public.clone(), secret)));
                }
                // The secret of a key pair that is used for nothing else, so its comparison may take any time.
                if secrets.get(public).is_some_and(|secret| *secret.as_bytes() == **z) {
                    return Ok(Some(public.clone()));
                }
            }
        }
        Ok(None)
    }
}

/// Derives Z of a private key in the token and a peer's key, and reads it.
fn derive(
    session: &Session,
    driver: Driver<'_>,
    private: ObjectHandle,
    peer: &PublicKey,
    encoding: PointEncoding,
) -> CallResult<Zeroizing<Vec<u8>>> {
    let point = match encoding {
        PointEncoding::Raw => peer.as_bytes().to_vec(),
        PointEncoding::Der => octet_string(peer.as_bytes()),
    };
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &point));
    let mut z = Zeroizing::new(vec![0; peer.curve().coordinate_length()]);
    let template = driver.profile.omit.secret.remove_from(readable(z.len(), Visibility::LoggedIn));
    let object = session.derive_key(&mechanism, private, &template).during("C_DeriveKey")?;
    let object = SessionObject::new(session, object);
    driver.raw.read_value(session, object.handle(), &mut z).during("C_GetAttributeValue")?;
    Ok(z)
}

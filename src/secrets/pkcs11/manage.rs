//! Making, importing, listing and deleting keys.

use std::sync::Arc;

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::{
    Pkcs11Token,
    ckr::{During, Fault, Kind, Outcome},
    curves::{self, octet_string},
    find::{find, holds, look_at, read_public},
    object::Object,
    profile::Profile,
    prove::Prover,
    session::Live,
    token::{Entry, lock},
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, Custody, HeldKey, ImportKey, KeyUse, NewKey, Token, TokenError},
};

impl Custodian for Pkcs11Token {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        check_use(key.usage, key.curve)?;
        self.profile.check_makes_keys()?;
        let _changing = lock(&self.changing);
        let mut live = self.open_session(true)?;
        let pair = generate(&live, &self.profile, key, Lives::InToken)?;
        Ok(self.finish(&mut live, pair, None, key.usage)?)
    }

    fn import(&self, mut key: ImportKey) -> Result<HeldKey, TokenError> {
        check_use(key.usage, key.public.curve())?;
        self.profile.check_makes_keys()?;
        if key.private.len() != key.public.curve().coordinate_length() {
            return Err(TokenError::Config("the private key has the wrong length for its curve".into()));
        }
        let _changing = lock(&self.changing);
        let mut live = self.open_session(true)?;
        if holds(&live.session, &key.public)? {
            return Err(TokenError::Config(format!(
                "the token {:?} holds the key {} already",
                self.name(),
                key.public
            )));
        }
        let pair = import(&live, &self.profile, &mut key)?;
        Ok(self.finish(&mut live, pair, Some(&key.public), key.usage)?)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        let _changing = lock(&self.changing);
        let mut live = self.open_session(true)?;
        let (mut gone, mut unproved) = (false, None);
        for found in find(&live.session, &self.uri)? {
            if !found.halves.iter().any(|(half, _)| half == key) {
                continue;
            }
            // An id can lie, and what it would cost here cannot be brought back: the pair is proved first.
            let proved = Prover::new(self.driver(), &Custody::ALL).prove(&mut live, key, found.private, found.usage);
            match proved {
                Ok(_) => {}
                Err(Fault::Token(error)) => {
                    unproved = Some(error);
                    continue;
                }
                Err(fault) => return Err(fault.into()),
            }
            // Before, so that nobody is given it; and after, for a finding that saw it in between.
            self.forget(key);
            // The private half first: if the token stops in between, what is left does no harm.
            live.session.destroy_object(found.private).during("C_DestroyObject")?;
            for public in found.halves.iter().filter(|(half, _)| half == key).filter_map(|(_, object)| *object) {
                live.session.destroy_object(public).during("C_DestroyObject")?;
            }
            self.forget(key);
            gone = true;
        }
        match unproved {
            _ if gone => Ok(()),
            Some(error) => Err(TokenError::KnownAnswer(format!(
                "the private key that has the id of {key} is not proved to be its other half ({error}), so it is not \
                 deleted: use the tools that came with the token"
            ))),
            None => Err(TokenError::KeyGone),
        }
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        Ok(self.find_again()?.1)
    }

    /// All programs that share [`OpenOptions::pin_guard`](super::OpenOptions::pin_guard) log out too, within about a
    /// second; without it, this process alone.
    fn lock(&self) -> Result<(), TokenError> {
        self.lock_now()
    }

    fn unlock(&self) -> Result<(), TokenError> {
        self.unlock_now()
    }
}

fn check_use(usage: KeyUse, curve: Curve) -> Result<(), TokenError> {
    if usage.fits(curve) {
        Ok(())
    } else {
        Err(TokenError::Config(format!("a {curve} key cannot be used so: {usage:?}")))
    }
}

/// A pair that was made just now, and is destroyed unless it proves good.
pub(super) struct Pair {
    pub(super) private: ObjectHandle,
    pub(super) public: ObjectHandle,
}

/// How long a pair is there (CKA_TOKEN).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lives {
    InToken,
    /// As long as the session.
    InSession,
}

impl Pkcs11Token {
    /// Looks at a new pair as if it had been there, uses it, and keeps it only if all is as it should be.
    fn finish(&self, live: &mut Live, pair: Pair, wanted: Option<&PublicKey>, usage: KeyUse) -> Outcome<HeldKey> {
        let finished = self.check(live, &pair, wanted, usage);
        if finished.is_err() {
            for object in [pair.private, pair.public] {
                if let Err(error) = live.session.destroy_object(object) {
                    tracing::error!(token = self.name(), %error, "a key that failed its test could not be deleted");
                }
            }
        }
        finished
    }

    fn check(&self, live: &mut Live, pair: &Pair, wanted: Option<&PublicKey>, usage: KeyUse) -> Outcome<HeldKey> {
        let read = read_public(&live.session, pair.public)?;
        let (id, public) = read.ok_or_else(|| TokenError::KnownAnswer("the new public key cannot be read".into()))?;
        if wanted.is_some_and(|wanted| *wanted != public) {
            return Err(TokenError::KnownAnswer("the token changed the public key".into()).into());
        }
        let named = key_id(&public);
        if id != named {
            // Both halves by the key they are, so that they pair for any program. Not every token lets it be written.
            let rename = |object| live.session.update_attributes(object, &[Attribute::Id(named.clone())]);
            if let Err(error) = rename(pair.private).and_then(|()| rename(pair.public)) {
                tracing::debug!(token = self.name(), %error, "CKA_ID cannot be changed");
            }
        }
        // Read back: a token may ignore the template.
        let found = look_at(&live.session, pair.private, pair.public)?;
        let found = found.ok_or_else(|| TokenError::KnownAnswer("the new private key cannot be read".into()))?;
        if !found.halves.iter().any(|(half, _)| *half == public) {
            return Err(TokenError::KnownAnswer("the halves of the new key do not pair".into()).into());
        }
        if !found.protected {
            return Err(TokenError::Unprotected(public.to_multikey()).into());
        }
        let proved =
            Prover::new(self.driver(), &self.profile.agreement.tiers).prove(live, &public, pair.private, usage)?;
        if usage.agrees() && !proved.usage.agrees() || usage.signs() && !proved.usage.signs() {
            let reason = format!("the new key does not do all of {usage:?}, only {:?}", proved.usage);
            return Err(TokenError::KnownAnswer(reason).into());
        }
        let mut held = self.held(&found, &public);
        held.usage = proved.usage;
        held.custody = proved.method.map(|method| method.custody);
        self.add(Entry::new(pair.private, proved.method, held.clone()));
        Ok(held)
    }
}

/// CKA_ID: the first 20 bytes of the point's SHA-256, as long as the SHA-1 that others use.
fn key_id(public: &PublicKey) -> Vec<u8> {
    Sha256::digest(public.as_bytes())[..20].to_vec()
}

pub(super) fn generate(live: &Live, profile: &Profile, key: &NewKey, lives: Lives) -> Outcome<Pair> {
    // Unique until the point is known.
    let id = uuid::Uuid::new_v4().as_bytes().to_vec();
    first_that_works(live, profile, key.curve, |key_type| {
        let public = public_template(profile, lives, key_type, key.curve, key.usage, &id, key.label.as_ref());
        let private = private_template(profile, lives, key_type, key.usage, &id, key.label.as_ref());
        let mechanism = curves::generator(key_type);
        let made = live.session.generate_key_pair(&mechanism, &public, &private).during("C_GenerateKeyPair");
        made.map(|(public, private)| Pair { private, public })
    })
}

fn import(live: &Live, profile: &Profile, key: &mut ImportKey) -> Outcome<Pair> {
    let (curve, id) = (key.public.curve(), key_id(&key.public));
    first_that_works(live, profile, curve, |key_type| {
        let mut template = private_template(profile, Lives::InToken, key_type, key.usage, &id, key.label.as_ref());
        template.push(Attribute::Class(ObjectClass::PRIVATE_KEY));
        template.push(Attribute::EcParams(profile.ec_params(curve)));
        // The raw scalar, and no point: SoftHSM takes DER or seed || public too, and fails when the key is used.
        template.push(Attribute::Value(key.private.to_vec()));
        let private = live.session.create_object(&template).during("C_CreateObject");
        if let Some(Attribute::Value(value)) = template.last_mut() {
            value.zeroize();
        }
        let private = private?;
        match put_public(live, profile, key_type, key, &id) {
            Ok(public) => Ok(Pair { private, public }),
            Err(fault) => {
                live.session.destroy_object(private).during("C_DestroyObject")?;
                Err(fault)
            }
        }
    })
}

/// The public half as an object, its point in the first form that the token takes.
fn put_public(live: &Live, profile: &Profile, key_type: KeyType, key: &ImportKey, id: &[u8]) -> Outcome<ObjectHandle> {
    let put = |point: Vec<u8>| {
        let (curve, label) = (key.public.curve(), key.label.as_ref());
        let mut template = public_template(profile, Lives::InToken, key_type, curve, key.usage, id, label);
        template.push(Attribute::Class(ObjectClass::PUBLIC_KEY));
        template.push(Attribute::EcPoint(point));
        live.session.create_object(&template).during("C_CreateObject")
    };
    let raw_is_right = key_type == KeyType::EC_MONTGOMERY;
    let (raw, der) = (key.public.as_bytes().to_vec(), octet_string(key.public.as_bytes()));
    let (first, second) = if raw_is_right { (raw, der) } else { (der, raw) };
    put(first).or_else(|fault| if fault.no_answer() { Err(fault) } else { put(second) })
}

/// Tries the key types that a token may know the curve by. If none works, that is told which says more than that the
/// type is not known.
fn first_that_works<T>(
    live: &Live,
    profile: &Profile,
    curve: Curve,
    make: impl FnMut(KeyType) -> Outcome<T>,
) -> Outcome<T> {
    let mut told = Fault::Token(TokenError::Unsupported(format!("the curve {curve}")));
    for result in profile.key_types(curve).into_iter().map(make) {
        match result {
            Err(Fault::Call(failure)) if !matches!(failure.kind, Kind::Lost | Kind::Gone | Kind::Pin) => {
                if failure.kind != Kind::Unsupported || matches!(told, Fault::Token(_)) {
                    told = Fault::Call(failure);
                }
            }
            result => return result,
        }
    }
    Err(whose_fault(live, profile, curve, told))
}

/// A token may answer a curve that it does not know as if it were sick (CKR_GENERAL_ERROR, Kryoptic 1.5.4), or as if what
/// it was given were wrong (CKR_DOMAIN_PARAMS_INVALID, NSS 3.87). So a pair of session objects is made: on a curve that
/// every token has, which a sick one cannot; on this curve, whose parameters are right.
fn whose_fault(live: &Live, profile: &Profile, curve: Curve, fault: Fault) -> Fault {
    let makes = |curve| {
        let key_type = profile.key_types(curve)[0];
        let public = [Attribute::Token(false), Attribute::EcParams(profile.ec_params(curve))];
        let private = [Attribute::Token(false), Attribute::Private(true), Attribute::Sensitive(true)];
        let made = live.session.generate_key_pair(&curves::generator(key_type), &public, &private);
        made.map(|(public, private)| drop([public, private].map(|handle| Object::new(&live.session, handle)))).is_ok()
    };
    let lacks = match fault.kind() {
        Some(Kind::Vague) => curve != Curve::P256 && makes(Curve::P256),
        Some(Kind::Input) => !makes(curve),
        _ => false,
    };
    if lacks { TokenError::Unsupported(format!("the curve {curve} ({fault})")).into() } else { fault }
}

fn private_template(
    profile: &Profile,
    lives: Lives,
    key_type: KeyType,
    usage: KeyUse,
    id: &[u8],
    label: Option<&Arc<str>>,
) -> Vec<Attribute> {
    let mut template = common_template(lives, key_type, id, label);
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(usage.agrees()),
        Attribute::Sign(usage.signs()),
    ]);
    profile.omit.private_key.from(template)
}

fn public_template(
    profile: &Profile,
    lives: Lives,
    key_type: KeyType,
    curve: Curve,
    usage: KeyUse,
    id: &[u8],
    label: Option<&Arc<str>>,
) -> Vec<Attribute> {
    let mut template = common_template(lives, key_type, id, label);
    template.extend([
        Attribute::Private(false),
        Attribute::EcParams(profile.ec_params(curve)),
        Attribute::Verify(usage.signs()),
    ]);
    profile.omit.public_key.from(template)
}

fn common_template(lives: Lives, key_type: KeyType, id: &[u8], label: Option<&Arc<str>>) -> Vec<Attribute> {
    let mut template =
        vec![Attribute::Token(lives == Lives::InToken), Attribute::KeyType(key_type), Attribute::Id(id.to_vec())];
    template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template
}

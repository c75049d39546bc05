//! Making, importing, listing and deleting keys.

use std::sync::Arc;

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::{
    Pkcs11Token,
    ckr::{During, Fault, Kind, Outcome},
    curves::{self, ec_params, key_types, octet_string},
    find::{find, holds, look_at, read_public},
    object::Object,
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
        let _changing = lock(&self.changing);
        let mut live = self.open_session(true)?;
        let pair = generate(&live, key)?;
        Ok(self.finish(&mut live, pair, None, key.usage)?)
    }

    fn import(&self, mut key: ImportKey) -> Result<HeldKey, TokenError> {
        check_use(key.usage, key.public.curve())?;
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
        let pair = import(&live, &mut key)?;
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
            let proved = Prover::new(&self.module.raw, &Custody::ALL).prove(&mut live, key, found.private, found.usage);
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
}

fn check_use(usage: KeyUse, curve: Curve) -> Result<(), TokenError> {
    if usage.fits(curve) {
        Ok(())
    } else {
        Err(TokenError::Config(format!("a {curve} key cannot be used so: {usage:?}")))
    }
}

/// A pair that was made just now, and is destroyed unless it proves good.
struct Pair {
    private: ObjectHandle,
    public: ObjectHandle,
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
        let proved = Prover::new(&self.module.raw, &self.options.tiers).prove(live, &public, pair.private, usage)?;
        if usage.agrees() && !proved.usage.agrees() || usage.signs() && !proved.usage.signs() {
            let reason = format!("the new key does not do all of {usage:?}, only {:?}", proved.usage);
            return Err(TokenError::KnownAnswer(reason).into());
        }
        let mut held = found.held(&public, self.name());
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

fn generate(live: &Live, key: &NewKey) -> Outcome<Pair> {
    // Unique until the point is known.
    let id = uuid::Uuid::new_v4().as_bytes().to_vec();
    first_that_works(live, key.curve, |key_type| {
        let public = public_template(key_type, key.curve, key.usage, &id, key.label.as_ref());
        let private = private_template(key_type, key.usage, &id, key.label.as_ref());
        let mechanism = curves::generator(key_type);
        let made = live.session.generate_key_pair(&mechanism, &public, &private).during("C_GenerateKeyPair");
        made.map(|(public, private)| Pair { private, public })
    })
}

fn import(live: &Live, key: &mut ImportKey) -> Outcome<Pair> {
    let (curve, id) = (key.public.curve(), key_id(&key.public));
    first_that_works(live, curve, |key_type| {
        let mut template = private_template(key_type, key.usage, &id, key.label.as_ref());
        template.push(Attribute::Class(ObjectClass::PRIVATE_KEY));
        template.push(Attribute::EcParams(ec_params(curve).to_vec()));
        // The raw scalar, and no point: SoftHSM takes DER or seed || public too, and fails when the key is used.
        template.push(Attribute::Value(key.private.to_vec()));
        let private = live.session.create_object(&template).during("C_CreateObject");
        if let Some(Attribute::Value(value)) = template.last_mut() {
            value.zeroize();
        }
        let private = private?;
        match put_public(live, key_type, key, &id) {
            Ok(public) => Ok(Pair { private, public }),
            Err(fault) => {
                live.session.destroy_object(private).during("C_DestroyObject")?;
                Err(fault)
            }
        }
    })
}

/// The public half as an object, its point in the first form that the token takes.
fn put_public(live: &Live, key_type: KeyType, key: &ImportKey, id: &[u8]) -> Outcome<ObjectHandle> {
    let put = |point: Vec<u8>| {
        let mut template = public_template(key_type, key.public.curve(), key.usage, id, key.label.as_ref());
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
fn first_that_works<T>(live: &Live, curve: Curve, make: impl FnMut(KeyType) -> Outcome<T>) -> Outcome<T> {
    let mut told = Fault::Token(TokenError::Unsupported(format!("the curve {curve}")));
    for result in key_types(curve).iter().copied().map(make) {
        match result {
            Err(Fault::Call(failure)) if !matches!(failure.kind, Kind::Lost | Kind::Gone | Kind::Pin) => {
                if failure.kind != Kind::Unsupported || matches!(told, Fault::Token(_)) {
                    told = Fault::Call(failure);
                }
            }
            result => return result,
        }
    }
    Err(whose_fault(live, curve, told))
}

/// Kryoptic 1.5.4 answers a curve that it does not know with CKR_GENERAL_ERROR, as a sick token would. So a curve that
/// every token has is tried as well, as session objects: if that works, it is the curve.
fn whose_fault(live: &Live, curve: Curve, fault: Fault) -> Fault {
    if fault.kind() != Some(Kind::Vague) || curve == Curve::P256 {
        return fault;
    }
    let public = [Attribute::Token(false), Attribute::EcParams(ec_params(Curve::P256).to_vec())];
    let private = [Attribute::Token(false), Attribute::Private(true), Attribute::Sensitive(true)];
    match live.session.generate_key_pair(&curves::generator(KeyType::EC), &public, &private) {
        Ok((public, private)) => {
            drop([public, private].map(|handle| Object::new(&live.session, handle)));
            TokenError::Unsupported(format!("the curve {curve} ({fault})")).into()
        }
        Err(_) => fault,
    }
}

fn private_template(key_type: KeyType, usage: KeyUse, id: &[u8], label: Option<&Arc<str>>) -> Vec<Attribute> {
    let mut template = common_template(key_type, id, label);
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(usage.agrees()),
        Attribute::Sign(usage.signs()),
    ]);
    template
}

fn public_template(
    key_type: KeyType,
    curve: Curve,
    usage: KeyUse,
    id: &[u8],
    label: Option<&Arc<str>>,
) -> Vec<Attribute> {
    let mut template = common_template(key_type, id, label);
    template.extend([
        Attribute::Private(false),
        Attribute::EcParams(ec_params(curve).to_vec()),
        Attribute::Verify(usage.signs()),
    ]);
    template
}

fn common_template(key_type: KeyType, id: &[u8], label: Option<&Arc<str>>) -> Vec<Attribute> {
    let mut template = vec![Attribute::Token(true), Attribute::KeyType(key_type), Attribute::Id(id.to_vec())];
    template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template
}

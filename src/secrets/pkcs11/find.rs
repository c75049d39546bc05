//! The key pairs in a token, all found at once: C_FindObjects for a single key costs SoftHSM 2.6.1 9.5 ms when it holds
//! 1,000, so nothing is ever searched for a message.

use std::collections::HashMap;

use cryptoki::{
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    Uri,
    ckr::{During, Fault, Kind, Outcome},
    curves,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, Origin},
};

/// A private key and what may be its public half.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) private: ObjectHandle,
    /// The public keys with the same CKA_ID and curve, and their objects. Which is the right one, a known answer tells:
    /// an id can be written by anyone who may write objects.
    pub(super) halves: Vec<(PublicKey, Option<ObjectHandle>)>,
    pub(super) curve: Curve,
    pub(super) label: Option<String>,
    pub(super) usage: KeyUse,
    pub(super) origin: Origin,
    /// Sensitive and not extractable, as the token says.
    pub(super) protected: bool,
    /// CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE, of those that say so.
    pub(super) always_sensitive: Option<bool>,
    pub(super) never_extractable: Option<bool>,
    /// CKA_ALWAYS_AUTHENTICATE: a PIN for each operation.
    pub(super) always_authenticate: bool,
}

impl Found {
    pub(super) fn held(&self, public: &PublicKey, token: &str) -> HeldKey {
        let mut held = HeldKey::new(public.clone(), token, self.usage);
        held.label.clone_from(&self.label);
        held.origin = self.origin;
        held.protected = self.protected;
        held.always_sensitive = self.always_sensitive;
        held.never_extractable = self.never_extractable;
        held.asks_pin = self.always_authenticate;
        held
    }
}

/// All key pairs of our curves, or those that the URI's `object` and `id` name.
pub(super) fn find(session: &Session, uri: &Uri) -> Outcome<Vec<Found>> {
    let mut publics: HashMap<Vec<u8>, Vec<(PublicKey, ObjectHandle)>> = HashMap::new();
    let every = |class| [Attribute::Class(class), Attribute::Token(true)];
    for object in session.find_objects(&every(ObjectClass::PUBLIC_KEY)).during("C_FindObjects")? {
        if let Some((id, key)) = read_public(session, object)? {
            publics.entry(id).or_default().push((key, object));
        }
    }
    let mut template = every(ObjectClass::PRIVATE_KEY).to_vec();
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    template.extend(uri.id.clone().map(Attribute::Id));
    let mut found = Vec::new();
    for object in session.find_objects(&template).during("C_FindObjects")? {
        found.extend(read_private(session, object, &publics)?);
    }
    Ok(found)
}

/// One pair whose objects are known.
pub(super) fn look_at(session: &Session, private: ObjectHandle, public: ObjectHandle) -> Outcome<Option<Found>> {
    let publics = read_public(session, public)?.map(|(id, key)| (id, vec![(key, public)]));
    read_private(session, private, &publics.into_iter().collect())
}

/// Whether a public key is in the token, by its point: two searches, however many keys there are.
pub(super) fn holds(session: &Session, key: &PublicKey) -> Outcome<bool> {
    for point in [key.as_bytes().to_vec(), curves::octet_string(key.as_bytes())] {
        let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Token(true), Attribute::EcPoint(point)];
        for object in session.find_objects(&template).during("C_FindObjects")? {
            if read_public(session, object)?.is_some_and(|(_, found)| found == *key) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// CKA_ID and the key of a public object; none if it is none of ours.
pub(super) fn read_public(session: &Session, object: ObjectHandle) -> Outcome<Option<(Vec<u8>, PublicKey)>> {
    let (mut id, mut params, mut point) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in read(session, object, &[AttributeType::Id, AttributeType::EcParams, AttributeType::EcPoint])? {
        match attribute {
            Attribute::Id(value) => id = value,
            Attribute::EcParams(value) => params = value,
            Attribute::EcPoint(value) => point = value,
            _ => {}
        }
    }
    let key = curves::curve(&params).and_then(|curve| curves::read_point(curve, &point));
    Ok(key.map(|key| (id, key)))
}

fn read_private(
    session: &Session,
    object: ObjectHandle,
    publics: &HashMap<Vec<u8>, Vec<(PublicKey, ObjectHandle)>>,
) -> Outcome<Option<Found>> {
    let wanted = [
        AttributeType::EcParams,
        AttributeType::Id,
        AttributeType::Label,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Derive,
        AttributeType::Sign,
        AttributeType::Local,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::AlwaysAuthenticate,
        // Not an attribute of a private key; some have it, and those need no public object.
        AttributeType::EcPoint,
    ];
    let (mut id, mut params, mut own_point, mut label) = (Vec::new(), Vec::new(), Vec::new(), None);
    let (mut sensitive, mut extractable) = (false, true);
    let (mut derives, mut signs, mut always_authenticate) = (false, false, false);
    let (mut always_sensitive, mut never_extractable) = (None, None);
    let mut origin = Origin::Unknown;
    for attribute in read(session, object, &wanted)? {
        match attribute {
            Attribute::EcParams(value) => params = value,
            Attribute::Id(value) => id = value,
            Attribute::Label(value) => label = String::from_utf8(value).ok().filter(|label| !label.is_empty()),
            Attribute::Sensitive(value) => sensitive = value,
            Attribute::Extractable(value) => extractable = value,
            Attribute::Derive(value) => derives = value,
            Attribute::Sign(value) => signs = value,
            Attribute::Local(value) => origin = if value { Origin::Generated } else { Origin::Imported },
            Attribute::AlwaysSensitive(value) => always_sensitive = Some(value),
            Attribute::NeverExtractable(value) => never_extractable = Some(value),
            Attribute::AlwaysAuthenticate(value) => always_authenticate = value,
            Attribute::EcPoint(value) => own_point = value,
            _ => {}
        }
    }
    let Some(curve) = curves::curve(&params) else { return Ok(None) };
    let same_id = publics.get(&id).into_iter().flatten().filter(|(key, _)| key.curve() == curve);
    let mut halves: Vec<_> = same_id.map(|(key, object)| (key.clone(), Some(*object))).collect();
    if let Some(own) = curves::read_point(curve, &own_point)
        && !halves.iter().any(|(key, _)| *key == own)
    {
        halves.push((own, None));
    }
    // Only P-256 has a choice. ykcs11 says CKA_DERIVE = false of keys that derive, so the flags decide nothing else.
    let usage = match (KeyUse::of(curve), derives, signs) {
        (KeyUse::Both, true, false) => KeyUse::Agreement,
        (KeyUse::Both, false, true) => KeyUse::Signing,
        (widest, ..) => widest,
    };
    let protected = sensitive && !extractable;
    Ok(Some(Found {
        private: object,
        halves,
        curve,
        label,
        usage,
        origin,
        protected,
        always_sensitive,
        never_extractable,
        always_authenticate,
    }))
}

/// How often an object is read before it counts as one that cannot be.
const TRIES: usize = 3;

/// The attributes that an object has. One that cannot be read at all is passed over, unless the session is at fault: it
/// may have been deleted since it was found. A token that is sick for a moment is asked again, else a key would be lost.
fn read(session: &Session, object: ObjectHandle, wanted: &[AttributeType]) -> Outcome<Vec<Attribute>> {
    let mut attempts = (0..TRIES).map(|_| session.get_attributes(object, wanted).during("C_GetAttributeValue"));
    let sick = |answer: &Outcome<_>| {
        answer.as_ref().is_err_and(|fault: &Fault| matches!(fault.kind(), Some(Kind::Vague | Kind::Device)))
    };
    match attempts.find(|answer| !sick(answer)) {
        Some(Ok(attributes)) => Ok(attributes),
        Some(Err(fault)) if fault.no_answer() => Err(fault),
        passed_over => {
            tracing::debug!(fault = ?passed_over.and_then(Result::err), "an object of the token cannot be read");
            Ok(Vec::new())
        }
    }
}

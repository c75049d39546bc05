//! Finding the key pairs in a token. One search finds all of them, and no message causes a search: with 1,000 keys in
//! SoftHSM 2.6.1, C_FindObjects for a single key takes 9.5 ms.

use std::collections::HashMap;

use cryptoki::{
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    ckr::{CallResult, During, FailureKind},
    curves,
    uri::Uri,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, Origin},
};

/// A private key, and the public keys that may be its other half.
#[derive(Debug, Clone)]
pub(super) struct FoundKey {
    pub(super) private: ObjectHandle,
    /// The public keys with the same CKA_ID and curve, and their objects. A known answer decides which is the right
    /// one: anyone who may write objects can write a CKA_ID.
    pub(super) halves: Vec<(PublicKey, Option<ObjectHandle>)>,
    pub(super) curve: Curve,
    pub(super) label: Option<String>,
    pub(super) usage: KeyUse,
    pub(super) origin: Origin,
    /// Whether the token reports the key as sensitive and not extractable.
    pub(super) protected: bool,
    /// CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE; none if the token does not report them.
    pub(super) always_sensitive: Option<bool>,
    pub(super) never_extractable: Option<bool>,
    /// CKA_ALWAYS_AUTHENTICATE: each operation needs the PIN.
    pub(super) always_authenticate: bool,
}

impl FoundKey {
    /// The description of the key with this public half. `token` is the token's name.
    pub(super) fn held_key(&self, public: &PublicKey, token: &str) -> HeldKey {
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

/// All key pairs on supported curves, restricted to the URI's `object` and `id` if it has them.
pub(super) fn find_keys(session: &Session, uri: &Uri) -> CallResult<Vec<FoundKey>> {
    let mut publics: HashMap<Vec<u8>, Vec<(PublicKey, ObjectHandle)>> = HashMap::new();
    let in_token = |class| [Attribute::Class(class), Attribute::Token(true)];
    for object in session.find_objects(&in_token(ObjectClass::PUBLIC_KEY)).during("C_FindObjects")? {
        if let Some((id, key)) = read_public(session, object)? {
            publics.entry(id).or_default().push((key, object));
        }
    }
    let mut template = in_token(ObjectClass::PRIVATE_KEY).to_vec();
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    template.extend(uri.id.clone().map(Attribute::Id));
    let mut found = Vec::new();
    for object in session.find_objects(&template).during("C_FindObjects")? {
        found.extend(read_private(session, object, &publics)?);
    }
    Ok(found)
}

/// Reads one pair whose object handles are known.
pub(super) fn read_pair(
    session: &Session,
    private: ObjectHandle,
    public: ObjectHandle,
) -> CallResult<Option<FoundKey>> {
    let publics = read_public(session, public)?.map(|(id, key)| (id, vec![(key, public)]));
    read_private(session, private, &publics.into_iter().collect())
}

/// Whether the token holds a public key, by its point: two searches, however many keys there are.
pub(super) fn contains_public(session: &Session, key: &PublicKey) -> CallResult<bool> {
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

/// CKA_ID and public key of a public key object; none if its curve is not supported.
pub(super) fn read_public(session: &Session, object: ObjectHandle) -> CallResult<Option<(Vec<u8>, PublicKey)>> {
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
) -> CallResult<Option<FoundKey>> {
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
        // By the specification, this is not an attribute of a private key. A token that has it needs no
        // public key object.
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
    // CKA_DERIVE and CKA_SIGN decide only for a curve that can do both. ykcs11 reports CKA_DERIVE = false for
    // keys that derive.
    let usage = match (KeyUse::of(curve), derives, signs) {
        (KeyUse::Both, true, false) => KeyUse::Agreement,
        (KeyUse::Both, false, true) => KeyUse::Signing,
        (widest, ..) => widest,
    };
    let protected = sensitive && !extractable;
    Ok(Some(FoundKey {
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

/// How often an object is read before it counts as unreadable.
const READ_ATTEMPTS: usize = 3;

/// Reads attributes of an object. Returns no attributes if the object cannot be read, since it may have been
/// deleted after it was found; fails only if the session or the token is lost. Retries transient failures, so that
/// they hide no key.
fn read(session: &Session, object: ObjectHandle, wanted: &[AttributeType]) -> CallResult<Vec<Attribute>> {
    let mut failure = None;
    for _ in 0..READ_ATTEMPTS {
        match session.get_attributes(object, wanted).during("C_GetAttributeValue") {
            Ok(attributes) => return Ok(attributes),
            Err(error) if error.is_session_or_token_lost() => return Err(error),
            Err(error) => {
                let may_pass =
                    matches!(error.kind(), Some(FailureKind::Ambiguous | FailureKind::Full | FailureKind::Device));
                failure = Some(error);
                if !may_pass {
                    break;
                }
            }
        }
    }
    if let Some(error) = failure {
        match error.kind() {
            Some(FailureKind::Stale) => tracing::debug!(%object, %error, "object deleted while it was read"),
            _ => tracing::warn!(%object, %error, "object left out: it cannot be read"),
        }
    }
    Ok(Vec::new())
}

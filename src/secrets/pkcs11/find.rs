//! Finding the key pairs in a token. One search finds all of them, and no message causes a search unless it asks for a key
//! that was not found (`Secrets::look_for`): with 1,000 keys in SoftHSM 2.6.1, C_FindObjects for a single key takes 9.5 ms.

use std::collections::{HashMap, HashSet};

use cryptoki::{
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    ckr::{CallResult, During, FailureKind},
    curves, der,
    slot_token::trim_padding,
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
    /// The public keys that may be the other half, and their objects: those with the same CKA_ID and curve, or else those
    /// that [`add_halves_from_elsewhere`] finds. A known answer decides which is the right one: anyone who may write
    /// objects can write a CKA_ID.
    pub(super) halves: Vec<(PublicKey, Option<ObjectHandle>)>,
    /// Whether a half may be any key's: public key objects whose CKA_ID is no private key's are among the halves.
    pub(super) guessed: bool,
    /// CKA_ID.
    id: Vec<u8>,
    pub(super) curve: Curve,
    pub(super) label: Option<String>,
    pub(super) usage: KeyUse,
    /// CKA_DERIVE and CKA_SIGN; none if the token does not report them.
    pub(super) derives: Option<bool>,
    pub(super) signs: Option<bool>,
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

/// An elliptic-curve key on a curve that is not supported.
#[derive(Debug, Clone)]
pub(super) struct OtherKey {
    pub(super) label: Option<String>,
    /// The curve, in words.
    pub(super) curve: String,
}

/// The private keys in a token.
#[derive(Debug, Default)]
pub(super) struct FoundKeys {
    pub(super) keys: Vec<FoundKey>,
    pub(super) others: Vec<OtherKey>,
}

/// What a private key object is.
enum PrivateObject {
    Key(Box<FoundKey>),
    Other(OtherKey),
    /// No elliptic-curve key, or deleted.
    None,
}

/// The public keys in a token, by their CKA_ID.
type PublicKeys = HashMap<Vec<u8>, Vec<(PublicKey, ObjectHandle)>>;

fn in_token(class: ObjectClass) -> Vec<Attribute> {
    vec![Attribute::Class(class), Attribute::Token(true)]
}

/// All private keys on elliptic curves, restricted to the URI's `object` and `id` if it has them.
pub(super) fn find_keys(session: &Session, uri: &Uri) -> CallResult<FoundKeys> {
    let mut publics = PublicKeys::new();
    for object in session.find_objects(&in_token(ObjectClass::PUBLIC_KEY)).during("C_FindObjects")? {
        if let Some((id, key)) = read_public(session, object)? {
            publics.entry(id).or_default().push((key, object));
        }
    }
    let mut template = in_token(ObjectClass::PRIVATE_KEY);
    template.extend(uri.id.clone().map(Attribute::Id));
    let mut found = FoundKeys::default();
    for object in find_labelled(session, &template, uri.object.as_deref())? {
        match read_private(session, object, &publics)? {
            PrivateObject::Key(key) => found.keys.push(*key),
            PrivateObject::Other(other) => found.others.push(other),
            PrivateObject::None => {}
        }
    }
    add_halves_from_elsewhere(session, &mut found.keys, &publics)?;
    Ok(found)
}

/// The objects that match a template and have a label, which may be padded with blanks or zeros in the token.
fn find_labelled(session: &Session, template: &[Attribute], label: Option<&str>) -> CallResult<Vec<ObjectHandle>> {
    let find = |template: &[Attribute]| session.find_objects(template).during("C_FindObjects");
    let Some(label) = label else { return find(template) };
    let exact = find(&[template, &[Attribute::Label(label.as_bytes().to_vec())]].concat())?;
    if !exact.is_empty() {
        return Ok(exact);
    }
    let mut padded = Vec::new();
    for object in find(template)? {
        let read = read(session, object, &[AttributeType::Label])?;
        let is_same = |it| matches!(it, Attribute::Label(found) if read_label(&found).as_deref() == Some(label));
        padded.extend(read.into_iter().any(is_same).then_some(object));
    }
    Ok(padded)
}

/// Finds candidates for the public halves of keys of which no public key object has the CKA_ID: CKA_PUBLIC_KEY_INFO of
/// the private key, the certificates with its CKA_ID (Java stores no public key objects), and the public keys whose
/// CKA_ID is no private key's.
fn add_halves_from_elsewhere(session: &Session, keys: &mut [FoundKey], publics: &PublicKeys) -> CallResult<()> {
    if keys.iter().all(|key| !key.halves.is_empty()) {
        return Ok(());
    }
    let mut certified: HashMap<Vec<u8>, Vec<PublicKey>> = HashMap::new();
    for object in session.find_objects(&in_token(ObjectClass::CERTIFICATE)).during("C_FindObjects")? {
        let (mut id, mut key) = (Vec::new(), None);
        for attribute in read(session, object, &[AttributeType::Id, AttributeType::Value])? {
            match attribute {
                Attribute::Id(value) => id = value,
                Attribute::Value(value) => {
                    key = der::public_key_info_of_certificate(&value).and_then(curves::read_public_key_info);
                }
                _ => {}
            }
        }
        certified.entry(id).or_default().extend(key);
    }
    let private_ids: HashSet<Vec<u8>> = keys.iter().map(|key| key.id.clone()).collect();
    let unclaimed: Vec<_> =
        publics.iter().filter(|(id, _)| !private_ids.contains(*id)).flat_map(|(_, it)| it).collect();
    for key in keys.iter_mut().filter(|key| key.halves.is_empty()) {
        let own = read(session, key.private, &[AttributeType::PublicKeyInfo])?.into_iter().find_map(|it| match it {
            Attribute::PublicKeyInfo(info) => curves::read_public_key_info(&info),
            _ => None,
        });
        let certified = certified.get(&key.id).into_iter().flatten().cloned();
        let without_object = own.into_iter().chain(certified).map(|public| (public, None));
        let unclaimed = unclaimed.iter().map(|(public, object)| (public.clone(), Some(*object)));
        for (public, object) in without_object.chain(unclaimed).filter(|(public, _)| public.curve() == key.curve) {
            if !key.halves.iter().any(|(known, _)| *known == public) {
                key.guessed |= object.is_some();
                key.halves.push((public, object));
            }
        }
    }
    Ok(())
}

/// A CKA_LABEL as text, without padding; none if it is empty.
fn read_label(label: &[u8]) -> Option<String> {
    Some(trim_padding(&String::from_utf8_lossy(label))).filter(|label| !label.is_empty())
}

/// Reads one pair whose object handles are known.
pub(super) fn read_pair(
    session: &Session,
    private: ObjectHandle,
    public: ObjectHandle,
) -> CallResult<Option<FoundKey>> {
    let publics = read_public(session, public)?.map(|(id, key)| (id, vec![(key, public)]));
    match read_private(session, private, &publics.into_iter().collect())? {
        PrivateObject::Key(key) => Ok(Some(*key)),
        PrivateObject::Other(_) | PrivateObject::None => Ok(None),
    }
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

fn read_private(session: &Session, object: ObjectHandle, publics: &PublicKeys) -> CallResult<PrivateObject> {
    let wanted = [
        AttributeType::KeyType,
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
    let (mut sensitive, mut extractable, mut always_authenticate) = (false, true, false);
    let (mut derives, mut signs, mut is_local) = (None, None, None);
    let (mut always_sensitive, mut never_extractable) = (None, None);
    let mut on_a_curve = false;
    for attribute in read(session, object, &wanted)? {
        match attribute {
            Attribute::EcParams(value) => params = value,
            Attribute::Id(value) => id = value,
            Attribute::KeyType(value) => {
                on_a_curve = [KeyType::EC, KeyType::EC_EDWARDS, KeyType::EC_MONTGOMERY].contains(&value);
            }
            Attribute::Label(value) => label = read_label(&value),
            Attribute::Sensitive(value) => sensitive = value,
            Attribute::Extractable(value) => extractable = value,
            Attribute::Derive(value) => derives = Some(value),
            Attribute::Sign(value) => signs = Some(value),
            Attribute::Local(value) => is_local = Some(value),
            Attribute::AlwaysSensitive(value) => always_sensitive = Some(value),
            Attribute::NeverExtractable(value) => never_extractable = Some(value),
            Attribute::AlwaysAuthenticate(value) => always_authenticate = value,
            Attribute::EcPoint(value) => own_point = value,
            _ => {}
        }
    }
    let Some(curve) = curves::curve(&params) else {
        let other = OtherKey { label, curve: curves::describe_params(&params) };
        return Ok(if on_a_curve { PrivateObject::Other(other) } else { PrivateObject::None });
    };
    let same_id = publics.get(&id).into_iter().flatten().filter(|(key, _)| key.curve() == curve);
    let mut halves: Vec<_> = same_id.map(|(key, object)| (key.clone(), Some(*object))).collect();
    if let Some(own) = curves::read_point(curve, &own_point)
        && !halves.iter().any(|(key, _)| *key == own)
    {
        halves.push((own, None));
    }
    // CKA_DERIVE and CKA_SIGN decide only for a curve that can do both. ykcs11 reports CKA_DERIVE = false for
    // keys that derive.
    let usage = match (KeyUse::of(curve), derives == Some(true), signs == Some(true)) {
        (KeyUse::Both, true, false) => KeyUse::Agreement,
        (KeyUse::Both, false, true) => KeyUse::Signing,
        (widest, ..) => widest,
    };
    let protected = sensitive && !extractable;
    Ok(PrivateObject::Key(Box::new(FoundKey {
        private: object,
        halves,
        guessed: false,
        id,
        curve,
        label,
        usage,
        derives,
        signs,
        origin: origin(is_local, protected, always_sensitive, never_extractable),
        protected,
        always_sensitive,
        never_extractable,
        always_authenticate,
    })))
}

/// Where a key was made. CKA_LOCAL is not believed of a protected key that was neither always sensitive nor never
/// extractable: that is what an imported key reports (PKCS#11 v3.1 section 4.9).
fn origin(
    is_local: Option<bool>,
    protected: bool,
    always_sensitive: Option<bool>,
    never_extractable: Option<bool>,
) -> Origin {
    match is_local {
        None => Origin::Unknown,
        Some(false) => Origin::Imported,
        Some(true) if protected && always_sensitive == Some(false) && never_extractable == Some(false) => {
            Origin::Unknown
        }
        Some(true) => Origin::Generated,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_looks_imported_is_not_called_generated() {
        let of =
            |is_local, always_sensitive, never_extractable| origin(is_local, true, always_sensitive, never_extractable);
        assert_eq!(of(Some(true), Some(true), Some(true)), Origin::Generated);
        assert_eq!(of(Some(true), None, None), Origin::Generated);
        assert_eq!(of(Some(false), Some(false), Some(false)), Origin::Imported);
        assert_eq!(of(Some(true), Some(false), Some(false)), Origin::Unknown, "CKA_LOCAL alone says it was generated");
        assert_eq!(of(None, Some(true), Some(true)), Origin::Unknown);
        // A generated key that is not protected was never protected, and is shown as that.
        assert_eq!(origin(Some(true), false, Some(false), Some(false)), Origin::Generated);
    }

    #[test]
    fn labels_lose_their_padding() {
        assert_eq!(read_label(b"name  \0\0").as_deref(), Some("name"));
        assert_eq!(read_label(b"caf\xe9").as_deref(), Some("caf\u{fffd}"));
        assert_eq!(read_label(b"  \0"), None);
    }
}

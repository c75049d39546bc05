//! [`Custodian`] for PKCS#11 tokens: making, importing, listing and deleting keys.

use cryptoki::{mechanism::MechanismType, object::Attribute};

use super::{
    ckr::{CallError, CallResult, During, FailureKind},
    find::{contains_public, find_keys, read_pair, read_public},
    key_pair::{KeyLifetime, KeyPair, generate, import, key_id},
    key_set::UsableKey,
    known_answer::KnownAnswerTester,
    session::OpenSession,
    token::Pkcs11Token,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, Custody, HeldKey, ImportKey, KeyUse, NewKey, Token, TokenError, UnpairedKey},
};

impl Custodian for Pkcs11Token {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        check_use(key.usage, key.curve)?;
        self.profile().check_makes_keys()?;
        self.connection.uri.check_finds_new_key(key.label.as_deref())?;
        let _changing = self.keys.lock_changes();
        let mut session = self.connection.open_session(true)?;
        let pair = generate(&session.handle, self.profile(), key, KeyLifetime::Token);
        let pair = pair.map_err(|error| self.explain_refused_key(error, key.usage))?;
        Ok(self.accept_new_key(&mut session, pair, None, key.usage)?)
    }

    fn import(&self, mut key: ImportKey) -> Result<HeldKey, TokenError> {
        check_use(key.usage, key.public.curve())?;
        self.profile().check_makes_keys()?;
        self.connection.uri.check_finds_new_key(key.label.as_deref())?;
        if key.private.len() != key.public.curve().coordinate_length() {
            return Err(TokenError::Config("the private key has the wrong length for its curve".into()));
        }
        let _changing = self.keys.lock_changes();
        let mut session = self.connection.open_session(true)?;
        if contains_public(&session.handle, &key.public)? {
            let reason = format!("the token {:?} holds the key {} already", self.name(), key.public);
            return Err(TokenError::Config(reason));
        }
        let pair = import(&session.handle, self.profile(), &mut key)?;
        Ok(self.accept_new_key(&mut session, pair, Some(&key.public), key.usage)?)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        let _changing = self.keys.lock_changes();
        let mut session = self.connection.open_session(true)?;
        let (mut deleted, mut failed_test) = (false, None);
        for found in find_keys(&session.handle, &self.connection.uri)?.keys {
            if !found.halves.iter().any(|(half, _)| half == key) {
                continue;
            }
            // A CKA_ID can be wrong, and a deleted key cannot be brought back: the pair is tested first.
            let mut tester = KnownAnswerTester::new(self.connection.driver(), &Custody::ALL);
            match tester.test(&mut session, key, found.private, found.usage) {
                Ok(_) => {}
                Err(CallError::Token(error)) => {
                    failed_test = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            // The key is removed from the table before the deletion, so that no operation gets it, and again after the
            // deletion, in case a search has found it in between.
            self.keys.remove(key);
            // The private half first: if the token stops in between, a public key that is left does no harm.
            session.handle.destroy_object(found.private).during("C_DestroyObject")?;
            for public in found.halves.iter().filter(|(half, _)| half == key).filter_map(|(_, object)| *object) {
                session.handle.destroy_object(public).during("C_DestroyObject")?;
            }
            self.keys.remove(key);
            deleted = true;
        }
        match failed_test {
            _ if deleted => Ok(()),
            Some(error) => Err(TokenError::KnownAnswer(format!(
                "the private key with the id of {key} was not deleted, since the test did not show that it is the \
                 other half of that key ({error}); use the vendor's tools"
            ))),
            None => Err(TokenError::KeyGone),
        }
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        Ok(self.search_all()?.1)
    }

    fn unpaired_keys(&self) -> Vec<UnpairedKey> {
        self.keys.unpaired()
    }

    /// Logs out. Every other program that shares [`OpenOptions::pin_guard`](super::OpenOptions::pin_guard) stops using
    /// the token within about a second, and logs out at its next request. Without a guard, only this process does.
    fn lock(&self) -> Result<(), TokenError> {
        self.connection.lock_token()
    }

    fn unlock(&self) -> Result<(), TokenError> {
        self.connection.unlock_token()
    }
}

fn check_use(usage: KeyUse, curve: Curve) -> Result<(), TokenError> {
    if usage.fits(curve) {
        Ok(())
    } else {
        Err(TokenError::Config(format!("a {curve} key cannot be used for {usage:?}")))
    }
}

impl Pkcs11Token {
    /// A token without key agreement may refuse a key for it with a code for a failing device (CKR_GENERAL_ERROR,
    /// tpm2-pkcs11 1.9.0). That it lists no mechanism shows what is meant.
    fn explain_refused_key(&self, error: CallError, usage: KeyUse) -> CallError {
        let connection = &self.connection;
        let lacks_ecdh = || {
            let listed = connection.module.context.get_mechanism_list(connection.slot());
            listed.is_ok_and(|listed| !listed.contains(&MechanismType::ECDH1_DERIVE))
        };
        match error.kind() {
            Some(FailureKind::Ambiguous) if usage.allows_key_agreement() && lacks_ecdh() => {
                TokenError::Unsupported(format!("key agreement: it lists no CKM_ECDH1_DERIVE ({error})")).into()
            }
            _ => error,
        }
    }

    /// Checks and tests a new pair like a pair that a search found, and adds it to the known keys. Deletes the pair if
    /// a check fails.
    fn accept_new_key(
        &self,
        session: &mut OpenSession,
        pair: KeyPair,
        expected: Option<&PublicKey>,
        usage: KeyUse,
    ) -> CallResult<HeldKey> {
        let accepted = self.check_new_key(session, &pair, expected, usage);
        if accepted.is_err() {
            for object in [pair.private, pair.public] {
                if let Err(error) = session.handle.destroy_object(object) {
                    tracing::error!(token = self.name(), %error, "new key failed its test and cannot be deleted");
                }
            }
        }
        accepted
    }

    fn check_new_key(
        &self,
        session: &mut OpenSession,
        pair: &KeyPair,
        expected: Option<&PublicKey>,
        usage: KeyUse,
    ) -> CallResult<HeldKey> {
        let read = read_public(&session.handle, pair.public)?;
        let (id, public) = read.ok_or_else(|| TokenError::KnownAnswer("the new public key cannot be read".into()))?;
        if expected.is_some_and(|expected| *expected != public) {
            return Err(TokenError::KnownAnswer("the token changed the public key".into()).into());
        }
        let wanted_id = key_id(&public);
        if id != wanted_id {
            // Both halves get the id of the key, so that every program pairs them. Not every token allows the change.
            let set_id = |object| session.handle.update_attributes(object, &[Attribute::Id(wanted_id.clone())]);
            if let Err(error) = set_id(pair.private).and_then(|()| set_id(pair.public)) {
                tracing::debug!(token = self.name(), %error, "CKA_ID cannot be changed");
            }
        }
        // The attributes are read back: a token may ignore the template.
        let found = read_pair(&session.handle, pair.private, pair.public)?;
        let found = found.ok_or_else(|| TokenError::KnownAnswer("the new private key cannot be read".into()))?;
        if !found.halves.iter().any(|(half, _)| *half == public) {
            return Err(TokenError::KnownAnswer("the halves of the new key do not pair".into()).into());
        }
        if !found.protected {
            return Err(TokenError::Unprotected(public.to_multikey()).into());
        }
        let mut tester = KnownAnswerTester::new(self.connection.driver(), &self.profile().agreement.tiers);
        let tested = tester.test(session, &public, pair.private, usage)?;
        if usage.allows_key_agreement() && !tested.usage.allows_key_agreement()
            || usage.allows_signing() && !tested.usage.allows_signing()
        {
            return Err(tester.partial_failure(&public, usage).into());
        }
        let held = self.search_context().tested_key(&found, &public, tested);
        self.keys.add(UsableKey::new(pair.private, tested.method, held.clone()));
        Ok(held)
    }
}

//! One PKCS#11 token: its keys are found and tested, its operations run, and a lost session is opened again once.

use cryptoki::object::AttributeType;

use super::{
    agree,
    ckr::{CallError, CallResult, During, FailureKind},
    connection::Connection,
    key_set::KeySet,
    key_table::{KeyTable, SearchContext},
    known_answer::{KnownAnswerTester, TestedKey},
    object::objects_made,
    options::OpenOptions,
    profile::{Probe, Profile, Recovery},
    session::{OpenSession, SessionLease},
    sign::sign,
    uri::Uri,
};
use crate::{
    crypto::{self, Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{HeldKey, Purpose, Token, TokenError, TokenInfo, UnwrapRequest, WrapRequest},
};

/// A token behind a PKCS#11 module, opened and logged in.
///
/// Dropping the token closes its sessions. The module stays loaded.
pub struct Pkcs11Token {
    pub(super) connection: Connection,
    pub(super) keys: KeyTable,
}

impl OpenOptions {
    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// - [`TokenError::Config`]: the URI, the module or the PIN's source is wrong, or several tokens match; the error
    ///   lists them.
    /// - [`TokenError::Away`]: no token matches; the error lists those that are present.
    /// - [`TokenError::Pin`]: there is no PIN, the token refuses it, or it must not be tried.
    pub fn open(self, uri: &str) -> Result<Pkcs11Token, TokenError> {
        let connection = Connection::open(Uri::parse(uri)?, self)?;
        Ok(Pkcs11Token { connection, keys: KeyTable::default() })
    }
}

impl Pkcs11Token {
    /// The device's profile, with the tiers, sessions and kept secrets that are in use.
    pub fn profile(&self) -> &Profile {
        &self.connection.profile
    }

    /// Runs an operation with a session and the known keys. If the session, the login or an object handle is lost, all
    /// three are renewed and the operation is run once more. Of the known keys, only `key` is tested then; the others are
    /// tested at their next use.
    fn run<T>(
        &self,
        key: &PublicKey,
        operation: impl Fn(&mut OpenSession, &KeySet) -> CallResult<T>,
    ) -> Result<T, TokenError> {
        self.connection.check_not_locked_by_person()?;
        let search = |session: &mut OpenSession, last_search| {
            let context = SearchContext { needed: Some(key), ..self.search_context() };
            self.keys.search(&context, session, last_search)
        };
        let mut lease = self.connection.lease()?;
        let attempt = |lease: &mut SessionLease<'_>| {
            let Some(session) = &mut lease.session else { return Err(CallError::logged_out()) };
            let mut keys = self.keys.current();
            if keys.version.searches == 0 {
                keys = self.search(session, 0)?.0;
            } else if session.new_login {
                keys = search(session, keys.version.searches)?.0;
            }
            session.new_login = false;
            session.use_key_set(keys.version);
            self.test_at_first_use(session, &keys, key)?;
            operation(session, &keys)
        };
        let is_full = |error: &CallError| error.kind() == Some(FailureKind::Full);
        match attempt(&mut lease) {
            Err(error)
                if is_full(&error)
                    && lease.session.as_mut().is_some_and(|session| self.connection.free_memory(session)) =>
            {
                Ok(attempt(&mut lease)?)
            }
            Err(error) if error.may_succeed_in_new_session() => {
                tracing::warn!(token = self.name(), %error, "session lost; opening another");
                let last_search = match lease.session.take() {
                    Some(session) if !session.new_login => session.key_set_version.searches,
                    // No search was made with this session.
                    _ => self.keys.current().version.searches,
                };
                let mut lease = self.connection.open_in(lease)?;
                if let Some(session) = &mut lease.session {
                    search(session, last_search)?;
                    session.new_login = false;
                }
                Ok(attempt(&mut lease)?)
            }
            result => Ok(result?),
        }
    }

    /// Tests a key that was found again after a session was lost: its halves may have been changed meanwhile.
    fn test_at_first_use(&self, session: &mut OpenSession, keys: &KeySet, key: &PublicKey) -> CallResult<()> {
        let Some(usable) = keys.by_public.get(key).filter(|usable| usable.is_untested()) else { return Ok(()) };
        let mut tester = KnownAnswerTester::new(self.connection.driver(), &self.profile().agreement.tiers);
        let tested = TestedKey { usage: usable.held.usage, method: usable.method };
        if !tester.still_matches(session, key, usable.private, tested, true)? {
            return Err(TokenError::KeyGone.into());
        }
        usable.set_tested();
        Ok(())
    }

    /// Searches for all keys and tests them. Returns the usable keys, and all pairs in the token.
    pub(super) fn search_all(&self) -> Result<(Vec<HeldKey>, Vec<HeldKey>), TokenError> {
        self.connection.check_not_locked_by_person()?;
        let mut lease = self.connection.lease()?;
        let attempt = |lease: &mut SessionLease<'_>| match &mut lease.session {
            Some(session) => {
                let found = self.search(session, u64::MAX)?;
                session.new_login = false;
                Ok(found)
            }
            None => Err(CallError::logged_out()),
        };
        let found = match attempt(&mut lease) {
            Err(error) if error.may_succeed_in_new_session() => {
                tracing::warn!(token = self.name(), %error, "session lost; opening another");
                lease.session = None;
                attempt(&mut self.connection.open_in(lease)?)
            }
            found => found,
        };
        let (keys, inventory) = found?;
        let is_usable = |held: &&HeldKey| keys.by_public.get(&held.public).is_some_and(|key| key.held == **held);
        Ok((inventory.iter().filter(is_usable).cloned().collect(), inventory))
    }

    fn search(
        &self,
        session: &mut OpenSession,
        last_search: u64,
    ) -> CallResult<(std::sync::Arc<KeySet>, Vec<HeldKey>)> {
        self.keys.search(&self.search_context(), session, last_search)
    }

    pub(super) fn search_context(&self) -> SearchContext<'_> {
        SearchContext {
            name: &self.connection.name,
            uri: &self.connection.uri,
            driver: self.connection.driver(),
            allow_unprotected: &self.connection.options.allow_unprotected,
            login_required: self.connection.login_required(),
            needed: None,
        }
    }
}

impl Token for Pkcs11Token {
    fn name(&self) -> &str {
        &self.connection.name
    }

    fn info(&self) -> TokenInfo {
        self.connection.info()
    }

    fn concurrency(&self) -> usize {
        self.connection.profile.sessions.usual
    }

    fn needs_new_process_after_absence(&self) -> bool {
        self.connection.profile.recovery == Recovery::Process
    }

    /// Always false for a token whose PIN a person enters: a new process would ask for the PIN again.
    fn is_exhausted(&self) -> bool {
        let Connection { options, uri, profile, .. } = &self.connection;
        let max = profile.process.most_objects;
        max.is_some_and(|max| objects_made() > max) && !options.pin.asks_a_person(uri.pin(), options.prompt.as_ref())
    }

    fn probe(&self) -> Result<(), TokenError> {
        let asked = self.connection.probe(|session| match self.profile().probe {
            Probe::Session => Ok(()),
            Probe::Random => {
                session.handle.generate_random_slice(&mut [0; 8]).during("C_GenerateRandom")?;
                Ok(())
            }
            // After a new login, older handles may be invalid: the next operation searches for the keys again.
            Probe::Key if session.new_login => Ok(()),
            Probe::Key => match self.keys.current().by_public.values().next() {
                Some(key) => {
                    let class = [AttributeType::Class];
                    session.handle.get_attributes(key.private, &class).during("C_GetAttributeValue")?;
                    Ok(())
                }
                None => Ok(()),
            },
        });
        Ok(asked?)
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        let (keys, _) = self.search_all()?;
        let minimum = self.connection.options.minimum_custody;
        for key in &keys {
            if let (Some(custody), Some(minimum)) = (key.custody, minimum)
                && custody < minimum
            {
                return Err(TokenError::Custody(format!(
                    "the key {} has custody {custody}, and minimum_custody is {minimum}",
                    key.public
                )));
            }
        }
        Ok(keys)
    }

    fn refused_keys(&self) -> Vec<HeldKey> {
        self.keys.refused()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], _purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.run(key, |session, keys| {
            let usable = keys.get(key)?;
            if !usable.held.usage.allows_signing() {
                return Err(TokenError::Unsupported(format!("the key {key} cannot sign")).into());
            }
            let signature = sign(&session.handle, key, usable.private, input)?;
            crypto::verify(key, input, &signature)
                .map_err(|_| TokenError::KnownAnswer(format!("the signature of {key} is wrong")))?;
            Ok(signature)
        })
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, _purpose: &Purpose) -> Result<Cek, TokenError> {
        self.run(key, |session, keys| {
            agree::unwrap(self.connection.driver(), session, keys.agreement_key(key)?, request)
                .map_err(CallError::of_proved_operation)
        })
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        _purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.run(key, |session, keys| {
            agree::wrap(self.connection.driver(), session, keys.agreement_key(key)?, request)
                .map_err(CallError::of_proved_operation)
        })
    }
}

//! Searching the token for keys, testing them, and remembering which may be used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, RwLock},
};

use super::{
    agree::Driver,
    ckr::{CallError, CallResult},
    find::{FoundKey, FoundKeys, find_keys},
    key_set::{KeySet, UsableKey},
    known_answer::{KnownAnswerTester, TestedKey},
    login::is_logged_in,
    pair::pair,
    session::{KeySetVersion, OpenSession},
    uri::Uri,
};
use crate::{
    keys::PublicKey,
    secrets::{HeldKey, Origin, TokenError, UnpairedKey, mutex::lock},
};

/// The usable keys of one token.
#[derive(Default)]
pub(super) struct KeyTable {
    keys: RwLock<Arc<KeySet>>,
    /// The pairs that the last search found and that must not be used.
    refused: Mutex<Vec<HeldKey>>,
    /// What the last search ignored. A key is logged once, and not at each search.
    ignored: Mutex<Vec<IgnoredKey>>,
    /// Held by the thread that searches.
    searching: Mutex<()>,
    /// Held by the thread that makes or deletes keys.
    changing: Mutex<()>,
}

/// What a search needs to know about the token.
pub(super) struct SearchContext<'a> {
    pub(super) name: &'a str,
    pub(super) uri: &'a Uri,
    pub(super) driver: Driver<'a>,
    /// Keys that may be used though they are not protected, by label or multikey.
    pub(super) allow_unprotected: &'a [String],
    pub(super) login_required: bool,
    /// The key that an operation needs now, if the session was lost. The other known keys are only found again, and tested
    /// at their next use, so that one operation does not pay for all keys. Unknown keys are left to the next full search.
    pub(super) needed: Option<&'a PublicKey>,
}

/// The result of one search.
struct SearchResult {
    usable: HashMap<PublicKey, Arc<UsableKey>>,
    /// All pairs, including those that must not be used.
    inventory: Vec<HeldKey>,
    ignored: Vec<IgnoredKey>,
}

/// What one test says of a pair that a search has found.
enum Recognition {
    /// An earlier search has tested the key, and its halves still match.
    Known(UsableKey),
    /// No earlier search has tested the key, or its attributes have changed.
    Unknown,
    /// An earlier search has tested the key with this public half, and it gives a wrong result now. If all keys for
    /// key agreement do, or all that only sign, it is the token that fails: it must not lose its keys.
    Wrong(PublicKey),
}

/// A private key that must not be used, and why.
#[derive(PartialEq)]
struct IgnoredKey {
    label: Option<String>,
    /// The curve, in words.
    curve: String,
    /// Its public half, if there is one.
    key: Option<PublicKey>,
    reason: String,
}

impl KeyTable {
    /// The keys as the last search found them.
    pub(super) fn current(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Searches for the keys and tests them, unless another thread has done so since search number `last_search`.
    /// Returns the usable keys, and all pairs in the token if it searched.
    pub(super) fn search(
        &self,
        context: &SearchContext<'_>,
        session: &mut OpenSession,
        last_search: u64,
    ) -> CallResult<(Arc<KeySet>, Vec<HeldKey>)> {
        let _searching = lock(&self.searching);
        let mut hold_changes = None;
        loop {
            let before = self.current();
            if before.version.searches > last_search {
                return Ok((before, Vec::new()));
            }
            let SearchResult { usable, inventory, ignored } = context.search(session, &before)?;
            // The login is checked after the search: it may end during the search, and then private objects
            // are not found.
            if context.login_required && !is_logged_in(&session.handle)? {
                return Err(CallError::logged_out());
            }
            let mut keys = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if keys.version == before.version {
                context.check_not_vanished(&before, &usable, &inventory)?;
                let version = KeySetVersion { searches: before.version.searches + 1, ..before.version };
                *keys = Arc::new(KeySet { version, by_public: usable });
                if context.needed_in(&before).is_none() {
                    *lock(&self.refused) = inventory.iter().filter(|held| held.refused.is_some()).cloned().collect();
                    self.log_ignored(context.name, ignored);
                }
                return Ok((keys.clone(), inventory));
            }
            drop(keys);
            // A key was made or deleted during the search. The next search keeps other threads from changing keys;
            // otherwise this loop might never end. A thread that changes keys does not wait for a search, so this
            // cannot deadlock.
            hold_changes.get_or_insert_with(|| lock(&self.changing));
        }
    }

    /// Logs the keys that the last search did not ignore.
    fn log_ignored(&self, token: &str, ignored: Vec<IgnoredKey>) {
        let mut logged = lock(&self.ignored);
        for new in ignored.iter().filter(|key| !logged.contains(key)) {
            let IgnoredKey { label, curve, key, reason } = new;
            let label = label.as_deref().unwrap_or_default();
            match key {
                Some(key) => tracing::warn!(token, label, %key, curve, reason, "key ignored"),
                // No DID can name it. `key list` and `token doctor` do.
                None => tracing::info!(token, label, curve, reason, "private key without a public half ignored"),
            }
        }
        *logged = ignored;
    }

    /// The pairs that the last search found and that must not be used.
    pub(super) fn refused(&self) -> Vec<HeldKey> {
        lock(&self.refused).clone()
    }

    /// The private keys whose public halves the last search did not find.
    pub(super) fn unpaired(&self) -> Vec<UnpairedKey> {
        let ignored = lock(&self.ignored);
        let unpaired = ignored.iter().filter(|ignored| ignored.key.is_none());
        unpaired
            .map(|IgnoredKey { label, curve, reason, .. }| UnpairedKey {
                label: label.clone(),
                curve: curve.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    /// Waits until no other thread makes or deletes keys.
    pub(super) fn lock_changes(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }

    /// Adds a new key, if a search was made before.
    pub(super) fn add(&self, key: UsableKey) {
        self.change(|keys| {
            keys.insert(key.held.public.clone(), Arc::new(key));
        });
    }

    /// Removes a deleted key. At its next use, each session drops what it caches.
    pub(super) fn remove(&self, public: &PublicKey) {
        self.change(|keys| {
            keys.remove(public);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<PublicKey, Arc<UsableKey>>)) {
        let mut keys = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let version = KeySetVersion { changes: keys.version.changes + 1, ..keys.version };
        let mut changed = KeySet { version, by_public: keys.by_public.clone() };
        if version.searches > 0 {
            change(&mut changed.by_public);
        }
        *keys = Arc::new(changed);
    }
}

impl SearchContext<'_> {
    fn search(&self, session: &mut OpenSession, before: &KeySet) -> CallResult<SearchResult> {
        let mut result = SearchResult { usable: HashMap::new(), inventory: Vec::new(), ignored: Vec::new() };
        let mut tester = KnownAnswerTester::new(self.driver, &self.driver.profile.agreement.tiers);
        let needed = self.needed_in(before);
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        let FoundKeys { keys: mut pairs, others } = find_keys(&session.handle, self.uri)?;
        // The half that is known is tried first, and stays if there are too many candidates.
        for found in &mut pairs {
            let is_known = |known: &Arc<UsableKey>| known.private == found.private;
            let known = found.halves.iter().position(|(public, _)| before.by_public.get(public).is_some_and(is_known));
            if let Some(at) = known {
                found.halves[..=at].rotate_right(1);
            }
        }
        pair(&session.handle, self.driver, &mut pairs)?;
        for found in pairs {
            if needed.is_some_and(|needed| !found.halves.iter().any(|(public, _)| public == needed)) {
                let known = known_halves(before, &found);
                // Otherwise one test shows which key it is.
                if known.first().is_none_or(|(_, known)| is_certain(&found, known)) {
                    result.usable.extend(self.carry_over(before, &found));
                    continue;
                }
            }
            // A key that was usable before gets one test only, so that a token with a short failure loses neither a key
            // nor a custody tier.
            let usable = match self.recognise(session, &mut tester, before, &found)? {
                Recognition::Known(key) => Ok(key),
                Recognition::Unknown => self.test(session, &mut tester, &found)?,
                Recognition::Wrong(public) => {
                    let tested = self.test(session, &mut tester, &found)?;
                    wrong.extend(tested.is_err().then_some((found.usage.allows_key_agreement(), public)));
                    tested
                }
            };
            match usable {
                Ok(key) => {
                    right.push(found.usage.allows_key_agreement());
                    result.inventory.push(key.held.clone());
                    result.usable.entry(key.held.public.clone()).or_insert(Arc::new(key));
                }
                Err(reason) => {
                    let public = found.halves.first().map(|(public, _)| public);
                    if let Some(public) = public {
                        let refused = Some(reason.as_str().into());
                        result.inventory.push(HeldKey { refused, ..self.held_key(&found, public) });
                    }
                    let (label, curve) = (found.label.clone(), found.curve.to_string());
                    result.ignored.push(IgnoredKey { label, curve, key: public.cloned(), reason });
                }
            }
        }
        if let Some((_, public)) = wrong.iter().find(|(agrees, _)| !right.contains(agrees)) {
            return Err(TokenError::Device {
                operation: "the known-answer test".into(),
                reason: format!("no key gives the right result any more, {public} for example"),
            }
            .into());
        }
        result.ignored.extend(others.into_iter().map(|other| IgnoredKey {
            label: other.label,
            reason: "DIDComm has no such curve: make a key on X25519, P-256, P-384, P-521 or Ed25519".to_owned(),
            curve: other.curve,
            key: None,
        }));
        Ok(result)
    }

    /// The key that is needed, if the search may leave the others untested: not the first search.
    fn needed_in(&self, before: &KeySet) -> Option<&PublicKey> {
        self.needed.filter(|_| before.version.searches > 0)
    }

    /// A key that an earlier search has tested, and whose attributes are the same as then.
    fn carry_over(&self, before: &KeySet, found: &FoundKey) -> Option<(PublicKey, Arc<UsableKey>)> {
        let (public, known) = known_halves(before, found).into_iter().next()?;
        let tested = TestedKey { usage: known.held.usage, method: known.method };
        (self.tested_key(found, public, tested) == known.held)
            .then(|| (public.clone(), Arc::new(UsableKey::untested(found.private, known))))
    }

    /// Recognises a key that an earlier search has tested, by one test. The test is needed, since the CKA_ID that pairs
    /// the key's halves may have been changed. More tests would take long, and a token that has not fully recovered
    /// would lose its keys.
    fn recognise(
        &self,
        session: &mut OpenSession,
        tester: &mut KnownAnswerTester<'_>,
        before: &KeySet,
        found: &FoundKey,
    ) -> CallResult<Recognition> {
        let mut wrong = None;
        for (public, known) in known_halves(before, found) {
            let tested = TestedKey { usage: known.held.usage, method: known.method };
            if self.tested_key(found, public, tested) != known.held {
                continue;
            }
            if tester.still_matches(session, public, found.private, tested, is_certain(found, known))? {
                return Ok(Recognition::Known(UsableKey::new(found.private, known.method, known.held.clone())));
            }
            wrong = Some(public.clone());
        }
        Ok(wrong.map_or(Recognition::Unknown, Recognition::Wrong))
    }

    /// Tests a key that is seen for the first time. Returns the key if it may be used, or else why not.
    fn test(
        &self,
        session: &mut OpenSession,
        tester: &mut KnownAnswerTester<'_>,
        found: &FoundKey,
    ) -> CallResult<Result<UsableKey, String>> {
        if found.always_authenticate {
            return Ok(Err("each operation needs the PIN".to_owned()));
        }
        let mut refused = NO_PUBLIC_HALF.to_owned();
        for (public, _) in &found.halves {
            if !found.protected && !self.may_be_unprotected(found, public) {
                "it is extractable or not sensitive".clone_into(&mut refused);
                continue;
            }
            match tester.test(session, public, found.private, found.usage) {
                Ok(tested) => {
                    let held = self.tested_key(found, public, tested);
                    return Ok(Ok(UsableKey::new(found.private, tested.method, held)));
                }
                Err(CallError::Token(error)) => refused = found.explain(error),
                Err(error) => return Err(error),
            }
        }
        Ok(Err(refused))
    }

    /// The description of a key, with the use and custody tier that its test has found.
    pub(super) fn tested_key(&self, found: &FoundKey, public: &PublicKey, tested: TestedKey) -> HeldKey {
        let mut held = self.held_key(found, public);
        held.usage = tested.usage;
        held.custody = tested.method.map(|method| method.custody);
        held.anoncrypt_only = tested.method.is_some_and(|method| !method.authcrypt);
        held
    }

    /// The description of a key by its attributes, without those that the device is known not to keep.
    fn held_key(&self, found: &FoundKey, public: &PublicKey) -> HeldKey {
        let mut held = found.held_key(public, self.name);
        if self.driver.profile.forgets_origin {
            held.origin = Origin::Unknown;
        }
        held
    }

    fn may_be_unprotected(&self, found: &FoundKey, public: &PublicKey) -> bool {
        let names = [found.label.clone().unwrap_or_default(), public.to_multikey()];
        self.allow_unprotected.iter().any(|allowed| !allowed.is_empty() && names.contains(allowed))
    }

    /// Checks that not all known keys have disappeared, which happens when a token is removed. For example, if the
    /// token folder of SoftHSM 2.6.1 is moved away, the open sessions find no objects and report no error, and only a
    /// new process sees the token again.
    fn check_not_vanished(
        &self,
        before: &KeySet,
        now: &HashMap<PublicKey, Arc<UsableKey>>,
        inventory: &[HeldKey],
    ) -> Result<(), TokenError> {
        let count = before.by_public.len();
        if count == 0 || !now.is_empty() {
            return Ok(());
        }
        if inventory.is_empty() {
            return Err(TokenError::Away(format!(
                "the token {:?} answers but shows none of the {count} keys that it held: it was removed; after it is \
                 back, only a new process sees it",
                self.name
            )));
        }
        Err(TokenError::Device {
            operation: "the known-answer test".into(),
            reason: format!("none of the {count} keys that were usable before gives the right answers any more"),
        })
    }
}

/// Why a private key without a public half is not served.
const NO_PUBLIC_HALF: &str = "its public key is not in the token, neither as an object nor in a certificate: write it there \
                              with the CKA_ID of the private key (`pkcs11-tool --write-object FILE --type pubkey --id ID`)";

/// The halves that an earlier search has tested, that of the same private key first.
fn known_halves<'a>(before: &'a KeySet, found: &'a FoundKey) -> Vec<(&'a PublicKey, &'a UsableKey)> {
    let known = found.halves.iter().filter_map(|(public, _)| Some((public, &**before.by_public.get(public)?)));
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|(_, known)| known.private != found.private);
    known
}

/// Whether a known key is this one without a test that shows it.
fn is_certain(found: &FoundKey, known: &UsableKey) -> bool {
    known.private == found.private || (!found.guessed && found.halves.len() == 1)
}

impl FoundKey {
    /// Why the key is not served, after `error` was the result of its tests, and what to do about it.
    fn explain(&self, error: TokenError) -> String {
        let TokenError::Unsupported(refusals) = error else {
            return format!(
                "{error}: the two halves do not belong together, or the device is faulty; make a new key, and find out who may \
                 write to the token"
            );
        };
        let denied = [
            ("CKA_DERIVE", self.derives == Some(false) && self.usage.allows_key_agreement()),
            ("CKA_SIGN", self.signs == Some(false) && self.usage.allows_signing()),
        ];
        let denied: Vec<_> = denied.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        match denied.as_slice() {
            [] => format!("{refusals}: the token, its policy or the tool that made the key does not allow it"),
            denied => {
                let (names, are) = (denied.join(" and "), if denied.len() == 1 { "is" } else { "are" });
                format!("{refusals}: {names} {are} false; make a key with it, or set it with the token's own tools")
            }
        }
    }
}

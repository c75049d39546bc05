//! One PKCS#11 token: sessions leased, keys found and proved, what is lost opened again once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use cryptoki::{object::ObjectHandle, slot::Slot};

use super::{
    OpenOptions, PinOutcome, SeenToken, Uri,
    agree::{self, Driver, Method, OurKey},
    ckr::{During, Fault, Kind, Outcome},
    find::{Found, find},
    login::{Door, is_logged_in},
    module::Module,
    object::objects_made,
    profile::{Cure, Profile},
    prove::{Proved, Prover},
    session::{Kept, Lease, Live, Pool},
    sign::sign,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, Origin, Token, TokenError, TokenInfo, Unwrap, Wrap, pin::Refusal},
};

/// A token behind a PKCS#11 module, opened and logged in.
///
/// Dropping it closes its sessions; the module stays loaded.
pub struct Pkcs11Token {
    name: Arc<str>,
    pub(super) uri: Uri,
    pub(super) options: OpenOptions,
    /// With what the options say in its place.
    pub(super) profile: Profile,
    pub(super) module: Arc<Module>,
    /// Where it is: slots are not stable.
    pub(super) place: Mutex<(Slot, SeenToken)>,
    pool: Pool,
    keys: RwLock<Arc<Keys>>,
    /// One thread finds the keys at a time.
    finding: Mutex<()>,
    /// One thread changes keys at a time.
    pub(super) changing: Mutex<()>,
    /// A person has locked it.
    locked: AtomicBool,
    opened: Instant,
    /// When to look again whether a person has: milliseconds after it was opened.
    look: AtomicU64,
}

/// How often it is looked whether a person has locked the token in another program, in milliseconds.
const LOOK_EVERY: u64 = 1000;

/// Of when the keys are. What a session keeps is of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    /// How often they were found; 0 is never.
    findings: u64,
    /// How many were made or deleted here: a finding during which one was is not to be trusted.
    changes: u64,
}

/// The keys, as they were found last.
#[derive(Default)]
pub(super) struct Keys {
    epoch: Epoch,
    by_public: HashMap<PublicKey, Arc<Entry>>,
}

/// What one finding gives.
struct Looked {
    by_public: HashMap<PublicKey, Arc<Entry>>,
    /// All pairs, those too that are not to be used.
    inventory: Vec<HeldKey>,
}

/// A key that may be used.
pub(super) struct Entry {
    /// Its own, never used again: what is kept by it cannot be another key's.
    number: u64,
    private: ObjectHandle,
    method: Option<Method>,
    held: HeldKey,
}

impl Entry {
    pub(super) fn new(private: ObjectHandle, method: Option<Method>, held: HeldKey) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        Self { number: NUMBERS.fetch_add(1, Ordering::Relaxed), private, method, held }
    }
}

impl Pkcs11Token {
    pub(super) fn open(uri: Uri, options: OpenOptions) -> Result<Self, TokenError> {
        let module = Module::of(&uri, options.base_dir.as_deref())?;
        let place = module.find(&uri)?;
        let profile = options.profile_of(&module, &place.1)?;
        let name = options.name.clone().unwrap_or_else(|| place.1.info.label.clone());
        let vouched = options.vouched;
        let token = Self {
            name: name.into(),
            pool: Pool::new(profile.sessions.usual),
            uri,
            module,
            place: Mutex::new(place),
            keys: RwLock::default(),
            finding: Mutex::default(),
            changing: Mutex::default(),
            locked: AtomicBool::new(false),
            opened: Instant::now(),
            look: AtomicU64::new(LOOK_EVERY),
            options,
            profile,
        };
        token.pool.lease().put(token.open_as(false, vouched)?);
        Ok(token)
    }

    /// [`Custodian::lock`](crate::secrets::Custodian::lock).
    pub(super) fn lock_now(&self) -> Result<(), TokenError> {
        let (_, seen) = lock(&self.place).clone();
        self.door(&seen).mark_locked()?;
        self.locked.store(true, Ordering::Relaxed);
        Ok(self.log_out()?)
    }

    /// [`Custodian::unlock`](crate::secrets::Custodian::unlock).
    pub(super) fn unlock_now(&self) -> Result<(), TokenError> {
        let live = self.open_as(false, true)?;
        self.locked.store(false, Ordering::Relaxed);
        // Kept, for with the last session the login ends.
        self.pool.lease().put(live);
        Ok(())
    }

    /// A session that is logged in. If the token is not where it was, it is looked for by its URI.
    pub(super) fn open_session(&self, writing: bool) -> Outcome<Live> {
        match self.open_as(writing, false) {
            // The token gives no more. To read, a session of the pool will do; to write, those that do nothing now are
            // given up.
            Err(fault) if fault.kind() == Some(Kind::Exhausted) && writing && self.pool.close_idle() => {
                self.open_as(writing, false)
            }
            opened => opened,
        }
    }

    fn open_as(&self, writing: bool, vouched: bool) -> Outcome<Live> {
        // Afresh: the token may have moved. Not held on to, for a login may take its time.
        let place = self.module.find(&self.uri)?;
        lock(&self.place).clone_from(&place);
        let (slot, seen) = place;
        let context = &self.module.context;
        let session = if writing { context.open_rw_session(slot) } else { context.open_ro_session(slot) };
        let session = session.during("C_OpenSession")?;
        let new_login = self.door(&seen).log_in(&session, vouched)?;
        Ok(Live { session, kept: Kept::new(self.profile.agreement.kept_secrets), epoch: Epoch::default(), new_login })
    }

    fn door<'a>(&'a self, token: &'a SeenToken) -> Door<'a> {
        Door { module: &self.module, token, uri: &self.uri, options: &self.options }
    }

    /// All sessions of this process are logged out, and those of the pool that are idle closed. Those at work end with
    /// their operations.
    fn log_out(&self) -> Outcome<()> {
        let (slot, seen) = lock(&self.place).clone();
        let out = match self.module.context.open_ro_session(slot).during("C_OpenSession") {
            Ok(session) => self.door(&seen).log_out(&session),
            Err(fault) => Err(fault),
        };
        self.pool.close_idle();
        out
    }

    /// That no person has locked the token: here, or in another program, which is seen about a second later.
    fn check_unlocked(&self) -> Outcome<()> {
        if self.options.pin_guard.is_some() {
            let now = self.opened.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            let due = self.look.load(Ordering::Relaxed);
            let next = now.saturating_add(LOOK_EVERY);
            if now >= due && self.look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.look_at_guard();
            }
        }
        if self.locked.load(Ordering::Relaxed) {
            let (_, seen) = lock(&self.place).clone();
            return self.door(&seen).refuse(Refusal::ByPerson);
        }
        Ok(())
    }

    fn look_at_guard(&self) {
        let info = self.info();
        match self.options.guard(&info).map(|guard| guard.read()) {
            Some(Ok(memory)) => {
                let locked = memory.state == PinOutcome::Locked;
                if locked && !self.locked.swap(true, Ordering::Relaxed) {
                    tracing::warn!(token = %self.name, "a person has locked the token: logging out");
                    if let Err(fault) = self.log_out() {
                        tracing::error!(token = %self.name, %fault, "the token is not logged out");
                    }
                } else if !locked {
                    self.locked.store(false, Ordering::Relaxed);
                }
            }
            // No PIN is used on what cannot be read; the login that there is goes on.
            Some(Err(error)) => tracing::warn!(token = %self.name, %error, "the PIN's guard"),
            None => {}
        }
    }

    /// A place in the pool with an open session. If the token gives no more of them, the next that is returned.
    pub(super) fn lease(&self) -> Outcome<Lease<'_>> {
        let lease = self.pool.lease();
        if lease.live.is_some() { Ok(lease) } else { self.open_in(lease) }
    }

    fn open_in<'p>(&'p self, mut lease: Lease<'p>) -> Outcome<Lease<'p>> {
        match self.open_session(false) {
            Ok(live) => {
                lease.put(live);
                Ok(lease)
            }
            Err(fault) if fault.kind() == Some(Kind::Exhausted) => {
                drop(lease);
                self.pool.lease_open().ok_or(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Does an operation with a session and the keys found. If the session, the login or a handle is lost, all three are
    /// got again and the operation is tried once more.
    fn run<T>(&self, operation: impl Fn(&mut Live, &Keys) -> Outcome<T>) -> Result<T, TokenError> {
        self.check_unlocked()?;
        let mut lease = self.lease()?;
        let attempt = |lease: &mut Lease<'_>| {
            let Some(live) = &mut lease.live else { return Err(Fault::logged_out()) };
            let mut keys = self.found();
            if keys.epoch.findings == 0 {
                keys = self.find_keys(live, 0)?.0;
            } else if live.new_login {
                keys = self.find_keys(live, keys.epoch.findings)?.0;
            }
            live.new_login = false;
            if live.epoch != keys.epoch {
                live.kept.clear(&live.session);
                live.epoch = keys.epoch;
            }
            operation(live, &keys)
        };
        match attempt(&mut lease) {
            Err(fault) if fault.curable() => {
                tracing::warn!(token = %self.name, %fault, "opening the session again");
                let findings = match lease.live.take() {
                    Some(live) if !live.new_login => live.epoch.findings,
                    // The keys have not been found with it.
                    _ => self.found().epoch.findings,
                };
                let mut lease = self.open_in(lease)?;
                if let Some(live) = &mut lease.live {
                    self.find_keys(live, findings)?;
                    live.new_login = false;
                }
                Ok(attempt(&mut lease)?)
            }
            result => Ok(result?),
        }
    }

    /// What is known of the device. Its tiers, sessions and kept secrets are those in use.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A key on a curve that may be used: of several one that does all that the curve can do.
    pub(super) fn key_on(&self, curve: Curve) -> Option<(PublicKey, ObjectHandle, KeyUse)> {
        let keys = self.found();
        let of_curve = keys.by_public.iter().filter(|(public, _)| public.curve() == curve);
        let best = of_curve.max_by_key(|(_, entry)| entry.held.usage == KeyUse::of(curve));
        best.map(|(public, entry)| (public.clone(), entry.private, entry.held.usage))
    }

    pub(super) fn driver(&self) -> Driver<'_> {
        Driver { raw: &self.module.raw, profile: &self.profile }
    }

    fn found(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Finds the keys and proves them, unless another thread has done so since the finding `seen`.
    fn find_keys(&self, live: &mut Live, seen: u64) -> Outcome<(Arc<Keys>, Vec<HeldKey>)> {
        let _finding = lock(&self.finding);
        let mut still = None;
        loop {
            let before = self.found();
            if before.epoch.findings > seen {
                return Ok((before, Vec::new()));
            }
            let looked = self.look(live, &before)?;
            // After it, as a login may end while objects are looked at.
            if lock(&self.place).1.login_required && !is_logged_in(&live.session)? {
                return Err(Fault::logged_out());
            }
            let Looked { by_public, inventory } = looked;
            let mut found = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if found.epoch == before.epoch {
                self.check_not_vanished(&before, &by_public, &inventory)?;
                let epoch = Epoch { findings: before.epoch.findings + 1, ..before.epoch };
                *found = Arc::new(Keys { epoch, by_public });
                return Ok((found.clone(), inventory));
            }
            drop(found);
            // Those who make keys would go on for ever; they wait for the second look. None of them waits for a finding.
            still.get_or_insert_with(|| lock(&self.changing));
        }
    }

    /// A token that shows none of the keys that it held is no empty token. SoftHSM 2.6.1, its folder moved away, finds
    /// nothing in the sessions that it has, without an error, and sees the token again only in a new process.
    fn check_not_vanished(
        &self,
        before: &Keys,
        now: &HashMap<PublicKey, Arc<Entry>>,
        inventory: &[HeldKey],
    ) -> Result<(), TokenError> {
        let count = before.by_public.len();
        if count == 0 || !now.is_empty() {
            return Ok(());
        }
        if inventory.is_empty() {
            return Err(TokenError::Away(format!(
                "the token {:?} answers and shows none of the {count} keys that it held: it was taken out, and if it is \
                 back, only a new process sees it",
                self.name
            )));
        }
        Err(TokenError::Device {
            operation: "the known-answer test".into(),
            reason: format!("none of the {count} keys that served gives what it should any more"),
        })
    }

    fn look(&self, live: &mut Live, before: &Keys) -> Outcome<Looked> {
        let (mut by_public, mut inventory) = (HashMap::new(), Vec::new());
        let mut prover = Prover::new(self.driver(), &self.profile.agreement.tiers);
        for found in find(&live.session, &self.uri)? {
            // What served before is asked one question: a token that is sick for a moment loses no key, and no custody.
            let entry = match self.recognise(live, &mut prover, before, &found)? {
                Some(entry) => Some(entry),
                None => self.admit(live, &mut prover, &found)?,
            };
            if let Some(entry) = entry {
                inventory.push(entry.held.clone());
                by_public.entry(entry.held.public.clone()).or_insert(Arc::new(entry));
            } else if let Some((public, _)) = found.halves.first() {
                inventory.push(self.held(&found, public));
            }
        }
        Ok(Looked { by_public, inventory })
    }

    /// A key that was proved before the session was lost. It is asked one question, for the id that pairs its halves may
    /// have been written since; all of them would take long, and a token that is not well yet would lose its keys.
    fn recognise(
        &self,
        live: &mut Live,
        prover: &mut Prover<'_>,
        before: &Keys,
        found: &Found,
    ) -> Outcome<Option<Entry>> {
        for (public, _) in &found.halves {
            let Some(entry) = before.by_public.get(public) else { continue };
            let proved = Proved { usage: entry.held.usage, method: entry.method };
            if self.proved(found, public, proved) == entry.held
                && prover.is_still(live, public, found.private, proved)?
            {
                return Ok(Some(Entry::new(found.private, entry.method, entry.held.clone())));
            }
        }
        Ok(None)
    }

    fn proved(&self, found: &Found, public: &PublicKey, proved: Proved) -> HeldKey {
        let mut held = self.held(found, public);
        held.usage = proved.usage;
        held.custody = proved.method.map(|method| method.custody);
        held
    }

    /// A key that may be used, or none and a word in the log.
    fn admit(&self, live: &mut Live, prover: &mut Prover<'_>, found: &Found) -> Outcome<Option<Entry>> {
        let (token, label) = (&*self.name, found.label.as_deref().unwrap_or_default());
        if found.halves.is_empty() {
            tracing::warn!(token, label, curve = %found.curve, "a private key is left out: its public half is not in the token");
            return Ok(None);
        }
        if found.always_authenticate {
            tracing::warn!(token, label, "a key is left out: it wants the PIN for each operation");
            return Ok(None);
        }
        for (public, _) in &found.halves {
            if !found.protected && !self.may_be_unprotected(found, public) {
                tracing::warn!(token, label, key = %public, "a key is left out: it is extractable or not sensitive");
                continue;
            }
            match prover.prove(live, public, found.private, found.usage) {
                Ok(proved) => {
                    let held = self.proved(found, public, proved);
                    return Ok(Some(Entry::new(found.private, proved.method, held)));
                }
                Err(Fault::Token(error)) => tracing::warn!(token, label, key = %public, %error, "a key is left out"),
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    /// What the token says of a key, without what it is known not to remember.
    pub(super) fn held(&self, found: &Found, public: &PublicKey) -> HeldKey {
        let mut held = found.held(public, &self.name);
        if self.profile.forgets_origin {
            held.origin = Origin::Unknown;
        }
        held
    }

    fn may_be_unprotected(&self, found: &Found, public: &PublicKey) -> bool {
        let names = [found.label.clone().unwrap_or_default(), public.to_multikey()];
        self.options.allow_unprotected.iter().any(|allowed| !allowed.is_empty() && names.contains(allowed))
    }

    /// Finds and proves all keys; those that may be used, and all that are there.
    pub(super) fn find_again(&self) -> Result<(Vec<HeldKey>, Vec<HeldKey>), TokenError> {
        self.check_unlocked()?;
        let mut lease = self.lease()?;
        let attempt = |lease: &mut Lease<'_>| match &mut lease.live {
            Some(live) => {
                let found = self.find_keys(live, u64::MAX)?;
                live.new_login = false;
                Ok(found)
            }
            None => Err(Fault::logged_out()),
        };
        let found = match attempt(&mut lease) {
            Err(fault) if fault.curable() => {
                tracing::warn!(token = %self.name, %fault, "opening the session again");
                lease.live = None;
                attempt(&mut self.open_in(lease)?)
            }
            found => found,
        };
        let (keys, inventory) = found?;
        let usable =
            inventory.iter().filter(|held| keys.by_public.get(&held.public).is_some_and(|entry| entry.held == **held));
        Ok((usable.cloned().collect(), inventory))
    }

    /// Adds a key that was made just now, if the keys have been found before.
    pub(super) fn add(&self, entry: Entry) {
        self.change(|keys| {
            keys.insert(entry.held.public.clone(), Arc::new(entry));
        });
    }

    /// Forgets a key that was deleted just now; what is kept of it in sessions goes at their next use.
    pub(super) fn forget(&self, public: &PublicKey) {
        self.change(|keys| {
            keys.remove(public);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<PublicKey, Arc<Entry>>)) {
        let mut keys = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let epoch = Epoch { changes: keys.epoch.changes + 1, ..keys.epoch };
        let mut changed = Keys { epoch, by_public: keys.by_public.clone() };
        if epoch.findings > 0 {
            change(&mut changed.by_public);
        }
        *keys = Arc::new(changed);
    }
}

impl Keys {
    fn get(&self, key: &PublicKey) -> Outcome<&Entry> {
        Ok(self.by_public.get(key).ok_or(TokenError::KeyGone)?)
    }

    fn agreeing<'a>(&'a self, key: &'a PublicKey) -> Outcome<OurKey<'a>> {
        let entry = self.get(key)?;
        let method = entry.method.ok_or_else(|| TokenError::Unsupported(format!("the key {key} does not agree")))?;
        Ok(OurKey { number: entry.number, public: key, private: entry.private, method })
    }
}

impl Token for Pkcs11Token {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> TokenInfo {
        lock(&self.place).1.info.clone()
    }

    fn concurrency(&self) -> usize {
        self.profile.sessions.usual
    }

    fn needs_new_process(&self) -> bool {
        self.profile.cure == Cure::Process
    }

    /// A person who types the PIN is not asked for it again and again.
    fn is_used_up(&self) -> bool {
        let most = self.profile.process.most_objects;
        most.is_some_and(|most| objects_made() > most)
            && !self.options.pin.asks(self.uri.pin(), self.options.prompt.as_ref())
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        let (keys, _) = self.find_again()?;
        let minimum = self.options.minimum_custody;
        for key in &keys {
            if let (Some(custody), Some(minimum)) = (key.custody, minimum)
                && custody < minimum
            {
                return Err(TokenError::Custody(format!(
                    "the key {} is served with custody {custody}, and minimum_custody is {minimum}",
                    key.public
                )));
            }
        }
        Ok(keys)
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.run(|live, keys| {
            let entry = keys.get(key)?;
            if !entry.held.usage.signs() {
                return Err(TokenError::Unsupported(format!("the key {key} does not sign")).into());
            }
            sign(&live.session, key, entry.private, input)
        })
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.run(|live, keys| agree::unwrap(self.driver(), live, keys.agreeing(key)?, request))
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.run(|live, keys| agree::wrap(self.driver(), live, keys.agreeing(key)?, request))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a panicking thread left behind is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

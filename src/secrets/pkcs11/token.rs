//! One PKCS#11 token: sessions leased, keys found and proved, what is lost opened again once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cryptoki::{object::ObjectHandle, slot::Slot};

use super::{
    OpenOptions, SeenToken, Uri,
    agree::{self, Method, OurKey},
    ckr::{During, Fault, Outcome},
    find::{Found, find},
    login::{is_logged_in, log_in},
    module::Module,
    prove::Prover,
    session::{Kept, Lease, Live, Pool},
    sign::sign,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{HeldKey, Token, TokenError, TokenInfo, Unwrap, Wrap},
};

/// A token behind a PKCS#11 module, opened and logged in.
///
/// Dropping it closes its sessions; the module stays loaded.
pub struct Pkcs11Token {
    name: Arc<str>,
    pub(super) uri: Uri,
    pub(super) options: OpenOptions,
    pub(super) module: Arc<Module>,
    /// Where it is: slots are not stable.
    place: Mutex<(Slot, SeenToken)>,
    pool: Pool,
    keys: RwLock<Arc<Keys>>,
    /// One thread finds the keys at a time.
    finding: Mutex<()>,
    /// One thread changes keys at a time.
    pub(super) changing: Mutex<()>,
    vouched: AtomicBool,
}

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
        let name = options.name.clone().unwrap_or_else(|| place.1.info.label.clone());
        let token = Self {
            name: name.into(),
            pool: Pool::new(options.sessions),
            vouched: options.vouched.into(),
            uri,
            module,
            place: Mutex::new(place),
            keys: RwLock::default(),
            finding: Mutex::default(),
            changing: Mutex::default(),
            options,
        };
        let mut lease = token.pool.lease();
        lease.live = Some(token.open_session(false)?);
        drop(lease);
        Ok(token)
    }

    /// A session that is logged in. If the token is not where it was, it is looked for by its URI.
    pub(super) fn open_session(&self, writing: bool) -> Outcome<Live> {
        let mut place = lock(&self.place);
        // Afresh, for the state of the PIN; and the token may have moved.
        *place = self.module.find(&self.uri)?;
        let context = &self.module.context;
        let session = if writing { context.open_rw_session(place.0) } else { context.open_ro_session(place.0) };
        let session = session.during("C_OpenSession")?;
        // A person's word is good for one try.
        let vouched = self.vouched.swap(false, Ordering::Relaxed);
        log_in(&self.module, &place.1, &session, &self.uri, &self.options, vouched)?;
        Ok(Live { session, kept: Kept::new(self.options.kept_secrets), epoch: Epoch::default() })
    }

    /// Does an operation with a session and the keys found. If the session, the login or a handle is lost, all three are
    /// got again and the operation is tried once more.
    fn run<T>(&self, operation: impl Fn(&mut Live, &Keys) -> Outcome<T>) -> Result<T, TokenError> {
        let mut lease = self.pool.lease();
        let attempt = |lease: &mut Lease<'_>| {
            let live = match &mut lease.live {
                Some(live) => live,
                none => none.insert(self.open_session(false)?),
            };
            let mut keys = self.found();
            if keys.epoch.findings == 0 {
                keys = self.find_keys(live, 0)?.0;
            }
            if live.epoch != keys.epoch {
                live.kept.clear(&live.session);
                live.epoch = keys.epoch;
            }
            operation(live, &keys)
        };
        match attempt(&mut lease) {
            Err(fault) if fault.curable() => {
                tracing::warn!(token = %self.name, %fault, "opening the session again");
                let findings = lease.live.take().map_or(0, |live| live.epoch.findings);
                let mut live = self.open_session(false)?;
                self.find_keys(&mut live, findings)?;
                lease.live = Some(live);
                Ok(attempt(&mut lease)?)
            }
            result => Ok(result?),
        }
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
            let looked = self.look(live)?;
            // After it, as a login may end while objects are looked at.
            if lock(&self.place).1.login_required && !is_logged_in(&live.session)? {
                return Err(Fault::logged_out());
            }
            let Looked { by_public, inventory } = looked;
            let mut found = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if found.epoch == before.epoch {
                let epoch = Epoch { findings: before.epoch.findings + 1, ..before.epoch };
                *found = Arc::new(Keys { epoch, by_public });
                return Ok((found.clone(), inventory));
            }
            drop(found);
            // Those who make keys would go on for ever; they wait for the second look. None of them waits for a finding.
            still.get_or_insert_with(|| lock(&self.changing));
        }
    }

    fn look(&self, live: &mut Live) -> Outcome<Looked> {
        let (mut by_public, mut inventory) = (HashMap::new(), Vec::new());
        let mut prover = Prover::new(&self.module.raw, &self.options.tiers);
        for found in find(&live.session, &self.uri)? {
            if let Some(entry) = self.admit(live, &mut prover, &found)? {
                inventory.push(entry.held.clone());
                by_public.entry(entry.held.public.clone()).or_insert(Arc::new(entry));
            } else if let Some((public, _)) = found.halves.first() {
                inventory.push(found.held(public, &self.name));
            }
        }
        Ok(Looked { by_public, inventory })
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
                    let mut held = found.held(public, token);
                    held.usage = proved.usage;
                    held.custody = proved.method.map(|method| method.custody);
                    return Ok(Some(Entry::new(found.private, proved.method, held)));
                }
                Err(Fault::Token(error)) => tracing::warn!(token, label, key = %public, %error, "a key is left out"),
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    fn may_be_unprotected(&self, found: &Found, public: &PublicKey) -> bool {
        let names = [found.label.clone().unwrap_or_default(), public.to_multikey()];
        self.options.allow_unprotected.iter().any(|allowed| !allowed.is_empty() && names.contains(allowed))
    }

    /// Finds and proves all keys anew; those that may be used, and all that are there.
    pub(super) fn find_again(&self) -> Result<(Vec<HeldKey>, Vec<HeldKey>), TokenError> {
        let mut lease = self.pool.lease();
        let attempt = |lease: &mut Lease<'_>| {
            let live = match &mut lease.live {
                Some(live) => live,
                none => none.insert(self.open_session(false)?),
            };
            self.find_keys(live, u64::MAX)
        };
        let found = match attempt(&mut lease) {
            Err(fault) if fault.curable() => {
                tracing::warn!(token = %self.name, %fault, "opening the session again");
                lease.live = None;
                attempt(&mut lease)
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
        self.options.sessions
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
        self.run(|live, keys| agree::unwrap(&self.module.raw, live, keys.agreeing(key)?, request))
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.run(|live, keys| agree::wrap(&self.module.raw, live, keys.agreeing(key)?, request))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a panicking thread left behind is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

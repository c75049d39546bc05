//! A software token for tests.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use claviger::{
    crypto::{Cek, EncryptedKey, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, HeldKey, ImportError, ImportKey, KeyUse, NewKey, Origin, Purpose, Token, TokenError,
        TokenInfo, UnwrapRequest, WrapRequest,
    },
};

use crate::{
    control::{Control, Hold},
    counts::{Counters, Counts},
    software::PrivateKey,
};

/// A [`Token`] and [`Custodian`] whose keys are in this process's memory. For tests only, never for real keys.
///
/// A clone is the same token: a test gives one to a [`Keyring`](claviger::secrets::Keyring), and counts and causes
/// faults with the other.
///
/// ```
/// use claviger::{keys::Curve, secrets::{Custodian, KeyUse, NewKey, Token}};
/// use claviger_testkit::SoftToken;
///
/// let token = SoftToken::new("alice");
/// let key = token.generate(&NewKey { curve: Curve::X25519, usage: KeyUse::Agreement, label: None })?;
/// assert_eq!(token.keys()?, [key]);
/// # Ok::<(), claviger::secrets::TokenError>(())
/// ```
#[derive(Clone)]
pub struct SoftToken {
    shared: Arc<Shared>,
    custody: Custody,
    concurrency: usize,
    /// How many Zs are kept; 0 by default.
    zs_kept: usize,
    lacks: Vec<Curve>,
}

struct Shared {
    name: Arc<str>,
    state: Mutex<State>,
    counters: Counters,
    control: Control,
}

#[derive(Default)]
struct State {
    /// In the order in which they were added.
    keys: Vec<(HeldKey, Arc<PrivateKey>)>,
    zs: ZsCache,
}

impl SoftToken {
    /// An empty token. Its keys report [`Custody::SharedSecretInProcess`].
    pub fn new(name: &str) -> Self {
        let shared = Shared {
            name: name.into(),
            state: Mutex::default(),
            counters: Counters::default(),
            control: Control::default(),
        };
        Self {
            shared: Arc::new(shared),
            custody: Custody::SharedSecretInProcess,
            concurrency: 1,
            zs_kept: 0,
            lacks: Vec::new(),
        }
    }

    /// Keys that are made or imported from now on report this custody, although their real custody stays the same.
    pub fn reporting_custody(mut self, custody: Custody) -> Self {
        self.custody = custody;
        self
    }

    /// Reports that the token performs this many operations at once, so that a keyring gives it as many threads.
    pub fn with_concurrency(mut self, threads: usize) -> Self {
        self.concurrency = threads;
        self
    }

    /// Keeps the Zs of up to this many pairs of keys, and forgets the oldest first, like a token that keeps them
    /// inside. To unwrap an authcrypt message from a known sender then costs one derivation. To wrap one for a known
    /// recipient costs none.
    pub fn keeping_zs(mut self, pairs: usize) -> Self {
        self.zs_kept = pairs;
        self
    }

    /// Makes the token lack a curve: keys on it can neither be made nor imported.
    pub fn lacking(mut self, curve: Curve) -> Self {
        self.lacks.push(curve);
        self
    }

    /// The operations since the token was made.
    pub fn counts(&self) -> Counts {
        self.shared.counters.now()
    }

    /// Makes the next `calls` operations fail with `error` before they do anything. Only the operations of [`Token`]
    /// that use a private key count.
    pub fn fail_next(&self, calls: usize, error: TokenError) {
        self.shared.control.fail_next(calls, error);
    }

    /// Makes every operation take this much longer.
    pub fn delay(&self, delay: Duration) {
        self.shared.control.delay(delay);
    }

    /// Takes the token away or brings it back. While it is away, everything fails with [`TokenError::Away`].
    pub fn set_away(&self, away: bool) {
        self.shared.control.set_away(away);
    }

    /// Makes operations wait at their beginning until the returned value is dropped. They count as begun.
    pub fn hold(&self) -> Hold<'_> {
        self.shared.control.hold()
    }

    /// Makes a key that may do everything its curve can.
    pub fn make(&self, curve: Curve) -> PublicKey {
        let key = NewKey { curve, usage: KeyUse::of(curve), label: None };
        self.generate(&key).expect("the use fits the curve").public
    }

    /// Imports a private JWK. Its `kid` becomes the label.
    pub fn import_jwk(&self, jwk: &serde_json::Value) -> Result<HeldKey, ImportError> {
        let (key, _kid) = ImportKey::from_jwk(jwk)?;
        Ok(self.import(key).expect("a valid key that is not in the token"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn check_present(&self) -> Result<(), TokenError> {
        if self.shared.control.is_away() { Err(self.away()) } else { Ok(()) }
    }

    fn away(&self) -> TokenError {
        TokenError::Away(format!("the token {:?} is away", self.shared.name))
    }

    /// The private key, if `may` allows its use.
    fn find(&self, key: &PublicKey, may: fn(KeyUse) -> bool) -> Result<Arc<PrivateKey>, TokenError> {
        let state = self.state();
        let (held, private) = state.keys.iter().find(|(held, _)| held.public == *key).ok_or(TokenError::KeyGone)?;
        if !may(held.usage) {
            return Err(TokenError::Unsupported(format!("the key {key} was not made for this")));
        }
        Ok(private.clone())
    }

    fn add(
        &self,
        key: PrivateKey,
        usage: KeyUse,
        label: Option<Arc<str>>,
        origin: Origin,
    ) -> Result<HeldKey, TokenError> {
        let mut held = HeldKey::new(key.public().clone(), self.shared.name.clone(), usage);
        held.label = label.map(|label| label.to_string());
        held.custody = usage.allows_key_agreement().then_some(self.custody);
        held.origin = origin;
        held.always_sensitive = Some(origin == Origin::Generated);
        held.never_extractable = Some(origin == Origin::Generated);
        let mut state = self.state();
        if state.keys.iter().any(|(there, _)| there.public == held.public) {
            return Err(TokenError::Config(format!("the key {} is in the token already", held.public)));
        }
        state.keys.push((held.clone(), Arc::new(key)));
        Ok(held)
    }

    fn can_hold(&self, usage: KeyUse, curve: Curve) -> Result<(), TokenError> {
        if usage.fits(curve) && !self.lacks.contains(&curve) {
            return Ok(());
        }
        Err(TokenError::Unsupported(format!("a key on {curve} for {usage:?}")))
    }

    fn derive(&self, key: &PrivateKey, peer: &PublicKey) -> Result<SharedSecret, TokenError> {
        self.shared.counters.derivation();
        key.agree(peer).ok_or_else(|| TokenError::Refused(format!("it is on {}", peer.curve())))
    }

    /// Derives Zs, or takes it from the cache. Ze is never kept, since it is different in each message.
    fn derive_static(&self, key: &PrivateKey, peer: &PublicKey) -> Result<SharedSecret, TokenError> {
        let pair = (key.public().clone(), peer.clone());
        if let Some(zs) = self.state().zs.kept.get(&pair) {
            return Ok(zs.clone());
        }
        let zs = self.derive(key, peer)?;
        self.state().zs.keep(pair, zs.clone(), self.zs_kept);
        Ok(zs)
    }
}

impl Token for SoftToken {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn info(&self) -> TokenInfo {
        TokenInfo {
            longest_eddsa: None,
            label: self.shared.name.to_string(),
            serial: "0".into(),
            manufacturer: "Claviger".into(),
            model: "software".into(),
            firmware: env!("CARGO_PKG_VERSION").into(),
        }
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.inventory()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], _purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.shared.counters.signature();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::allows_signing)?;
        key.sign(input).ok_or_else(|| TokenError::Unsupported(format!("{} does not sign", key.public().curve())))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, _purpose: &Purpose) -> Result<Cek, TokenError> {
        self.shared.counters.unwrap();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::allows_key_agreement)?;
        let ze = self.derive(&key, &request.epk)?;
        let kek = match &request.sender {
            None => concat_kdf(&[&ze], &KdfInfo { apu: &request.apu, apv: &request.apv, tag: None }),
            Some(sender) => {
                let zs = self.derive_static(&key, &sender.key)?;
                kek_1pu(&ze, &zs, &request.apu, &request.apv, &sender.tag)
            }
        };
        unwrap_key(&kek, &request.encrypted_key).map_err(|_| TokenError::Unwrap)
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        _purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.shared.counters.wrap();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::allows_key_agreement)?;
        let wrap = |(recipient, ze): &(PublicKey, SharedSecret)| {
            let zs = self.derive_static(&key, recipient)?;
            Ok(wrap_key(&kek_1pu(ze, &zs, &request.apu, &request.apv, &request.tag), &request.cek))
        };
        request.recipients.iter().map(wrap).collect()
    }
}

fn kek_1pu(ze: &SharedSecret, zs: &SharedSecret, apu: &[u8], apv: &[u8], tag: &[u8]) -> Kek {
    concat_kdf(&[ze, zs], &KdfInfo { apu, apv, tag: Some(tag) })
}

impl Custodian for SoftToken {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.check_present()?;
        self.can_hold(key.usage, key.curve)?;
        self.add(PrivateKey::generate(key.curve), key.usage, key.label.clone(), Origin::Generated)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.check_present()?;
        self.can_hold(key.usage, key.public.curve())?;
        let private = PrivateKey::from_bytes(key.public.curve(), &key.private)
            .ok_or_else(|| TokenError::Config("the private key is not on its curve".into()))?;
        if *private.public() != key.public {
            return Err(TokenError::Config(format!("the private key is not that of {}", key.public)));
        }
        self.add(private, key.usage, key.label, Origin::Imported)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.check_present()?;
        let mut state = self.state();
        let there = state.keys.iter().position(|(held, _)| held.public == *key).ok_or(TokenError::KeyGone)?;
        state.keys.remove(there);
        state.zs.forget(key);
        Ok(())
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.check_present()?;
        Ok(self.state().keys.iter().map(|(held, _)| held.clone()).collect())
    }
}

/// The kept Zs, by our key and the peer's key.
#[derive(Default)]
struct ZsCache {
    kept: HashMap<(PublicKey, PublicKey), SharedSecret>,
    order: VecDeque<(PublicKey, PublicKey)>,
}

impl ZsCache {
    fn keep(&mut self, pair: (PublicKey, PublicKey), zs: SharedSecret, most: usize) {
        if most == 0 || self.kept.insert(pair.clone(), zs).is_some() {
            return;
        }
        self.order.push_back(pair);
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    fn forget(&mut self, key: &PublicKey) {
        self.kept.retain(|(ours, _), _| ours != key);
        self.order.retain(|(ours, _)| ours != key);
    }
}

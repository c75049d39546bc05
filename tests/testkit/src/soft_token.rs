//! A token in software.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use claviger::{
    crypto::{Cek, EncryptedKey, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, HeldKey, ImportError, ImportKey, KeyUse, NewKey, Origin, Token, TokenError, TokenInfo,
        Unwrap, Wrap,
    },
};

use crate::{
    control::{Control, Hold},
    counts::{Counters, Counts},
    software::PrivateKey,
};

/// A [`Token`] and [`Custodian`] whose keys are in this process's memory: for tests, never for keys that matter.
///
/// A clone is the same token, so a test keeps one to count and to break what it gave to a
/// [`Keyring`](claviger::secrets::Keyring).
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
    /// How many Zs are kept; none by default.
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
    /// In the order in which they were made.
    keys: Vec<(HeldKey, Arc<PrivateKey>)>,
    zs: ZsCache,
}

impl SoftToken {
    /// An empty token. It reports the custody of its kind, [`Custody::SharedSecretInProcess`].
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

    /// Has the keys that are made or imported from now on report a custody. It is not true, of course.
    pub fn reporting_custody(mut self, custody: Custody) -> Self {
        self.custody = custody;
        self
    }

    /// Has a keyring give it so many threads.
    pub fn with_concurrency(mut self, threads: usize) -> Self {
        self.concurrency = threads;
        self
    }

    /// Keeps up to so many Zs, the oldest forgotten first, as a token does that keeps them inside: an authcrypt from a
    /// known sender then costs one derivation, and one to a known recipient none.
    pub fn keeping_zs(mut self, pairs: usize) -> Self {
        self.zs_kept = pairs;
        self
    }

    /// Lacks a curve: keys on it are neither made nor imported.
    pub fn lacking(mut self, curve: Curve) -> Self {
        self.lacks.push(curve);
        self
    }

    /// What it was asked since it was made.
    pub fn counts(&self) -> Counts {
        self.shared.counters.now()
    }

    /// Has the next `calls` operations fail so, before they do anything. Operations are those of [`Token`] that use a
    /// private key.
    pub fn fail_next(&self, calls: usize, error: TokenError) {
        self.shared.control.fail_next(calls, error);
    }

    /// Has every operation take this much longer.
    pub fn delay(&self, delay: Duration) {
        self.shared.control.delay(delay);
    }

    /// Takes the token away, or brings it back: everything fails with [`TokenError::Away`] meanwhile.
    pub fn set_away(&self, away: bool) {
        self.shared.control.set_away(away);
    }

    /// Has operations stop at their beginning until the hold is dropped. They count as begun.
    pub fn hold(&self) -> Hold<'_> {
        self.shared.control.hold()
    }

    /// A key of the widest use its curve has.
    pub fn make(&self, curve: Curve) -> PublicKey {
        let key = NewKey { curve, usage: KeyUse::of(curve), label: None };
        self.generate(&key).expect("a fitting use").public
    }

    /// Imports a private JWK; its `kid` is the label.
    pub fn import_jwk(&self, jwk: &serde_json::Value) -> Result<HeldKey, ImportError> {
        let (key, _kid) = ImportKey::from_jwk(jwk)?;
        Ok(self.import(key).expect("a checked key that is not there yet"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn here(&self) -> Result<(), TokenError> {
        if self.shared.control.is_away() { Err(self.away()) } else { Ok(()) }
    }

    fn away(&self) -> TokenError {
        TokenError::Away(format!("the token {:?} is away", self.shared.name))
    }

    /// The private key, if it may be used so.
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
        held.custody = usage.agrees().then_some(self.custody);
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
        key.agree(peer).ok_or_else(|| TokenError::PeerKey(format!("it is on {}", peer.curve())))
    }

    /// Zs: of all that is derived the only thing that is the same again.
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

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.shared.counters.signature();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::signs)?;
        key.sign(input).ok_or_else(|| TokenError::Unsupported(format!("{} does not sign", key.public().curve())))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.shared.counters.unwrap();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::agrees)?;
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

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.shared.counters.wrap();
        self.shared.control.begin(|| self.away())?;
        let key = self.find(key, KeyUse::agrees)?;
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
        self.here()?;
        self.can_hold(key.usage, key.curve)?;
        self.add(PrivateKey::generate(key.curve), key.usage, key.label.clone(), Origin::Generated)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.here()?;
        self.can_hold(key.usage, key.public.curve())?;
        let private = PrivateKey::from_bytes(key.public.curve(), &key.private)
            .ok_or_else(|| TokenError::Config("the private key is none of its curve".into()))?;
        if *private.public() != key.public {
            return Err(TokenError::Config(format!("the private key is not that of {}", key.public)));
        }
        self.add(private, key.usage, key.label, Origin::Imported)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.here()?;
        let mut state = self.state();
        let there = state.keys.iter().position(|(held, _)| held.public == *key).ok_or(TokenError::KeyGone)?;
        state.keys.remove(there);
        state.zs.forget(key);
        Ok(())
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.here()?;
        Ok(self.state().keys.iter().map(|(held, _)| held.clone()).collect())
    }
}

/// The Zs that are kept, by our key and the peer's.
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

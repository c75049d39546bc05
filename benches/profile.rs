//! Where the time of a message goes, apart from the token's own derivations.
//!
//! Every round performs each step once, so that other load on the machine affects all steps alike and the ratios of the
//! medians are valid on a busy machine too. Criterion measures one step after another and cannot do this.

#[path = "setup/mod.rs"]
mod setup;

use std::{
    hint::black_box,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    crypto::{Cek, ContentEncryption, EncryptedKey, EphemeralKey, KdfInfo, concat_kdf},
    did::{Relationship, Resolver},
    didcomm::{Identities, Message},
    jose::{Envelope, Limits},
    keys::{Curve, Jwk, PublicKey},
    secrets::{
        Context, Ecdh1puSender, HeldKey, KeyUse, Keyring, Purpose, Secrets, Token, TokenError, TokenInfo,
        UnwrapRequest, WrapRequest, pkcs11::Pkcs11Token,
    },
};
use serde::Deserialize;
use serde_json::Value;
use setup::{CURVES, Kind, Letter, PEERS, Party, Peers, Raw, me, peer, quick, smoke};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    setup::with_tokens(|runtime, tokens| {
        let peers = Peers::new();
        let didcomm = Party::didcomm(&peers);
        for (name, uri) in &tokens.devices {
            let (party, token) = Party::claviger(runtime, name, uri, &peers);
            for curve in CURVES {
                let raw = Raw::new(uri, curve);
                let profile = Profile { runtime, peers: &peers, party: &party, didcomm: &didcomm, token: &token, raw };
                profile.unpack(curve);
                profile.pack(curve);
            }
        }
    })
}

fn rounds() -> usize {
    match () {
        () if smoke() => 2,
        () if quick() => 400,
        () => 2000,
    }
}

struct Profile<'a> {
    runtime: &'a Runtime,
    peers: &'a Peers,
    party: &'a Party,
    didcomm: &'a Party,
    token: &'a Arc<Pkcs11Token>,
    raw: Raw,
}

impl Profile<'_> {
    fn unpack(&self, curve: Curve) {
        let to = me(curve, 1);
        let mail = |party: &Party| self.peers.write(self.runtime, &to, &party.documents[&to], PEERS, curve, true);
        let (packed, theirs) = (mail(self.party), mail(self.didcomm));
        let opened = JweParts::new(&packed[0]);
        let Kind::Claviger { me, resolver } = &self.party.kind else { unreachable!("of a device") };
        let own = me.key(&opened.kid, Relationship::KeyAgreement).expect("ours").key.clone();
        let document = self.runtime.block_on(resolver.resolve(&peer(curve, 0))).expect("a peer");
        let sender = document.method(&opened.skid, Relationship::KeyAgreement).expect("its key").key.clone();
        let request = opened.unwrap(sender.expect("a key"));
        let cx = Context::default();
        let limits = Limits::default();
        let cek = self.token.unwrap_cek(&own, &request, &Purpose::KeyTest).expect("it unwraps");
        let plain = opened.open(&cek);
        let plain = std::str::from_utf8(&plain).expect("JSON").to_owned();
        let mut new = packed.iter().cycle();

        let idle = self.idle_keyring(curve);
        let jwk = opened.epk.to_jwk();

        let mut steps = Steps::default();
        for _ in 0..rounds() {
            steps.time("one raw derivation", || self.raw.derive_and_destroy());
            steps.time("one raw derivation and read", || self.raw.derive_read_and_destroy());
            steps.time("parse the envelope", || Envelope::parse(packed[0].as_bytes(), &limits).is_ok());
            steps.time("- of that, JSON alone", || serde_json::from_str::<Value>(&packed[0]).is_ok());
            steps.time("- of that, the ephemeral key's check", || PublicKey::from_jwk(&jwk).is_ok());
            steps.time("to a worker thread and back", || {
                self.runtime.block_on(idle.unwrap_cek(&own, &request, &cx)).is_ok()
            });
            steps.time("the token, called directly", || {
                self.token.unwrap_cek(&own, &request, &Purpose::KeyTest).is_ok()
            });
            steps.time("the token, through the keyring", || self.unwrap(me, &own, &request, &cx));
            steps.time("open the content", || opened.open(&cek));
            steps.time("read the plaintext", || Message::from_json(&plain).is_ok());
            steps.time("**all: known sender**", || self.runtime.block_on(self.party.unpack(&packed[0])));
            steps.time("all: new sender", || {
                self.runtime.block_on(self.party.unpack(new.next().expect("a cycle has no end")))
            });
            steps.time("`didcomm`", || self.runtime.block_on(self.didcomm.unpack(&theirs[0])));
        }
        steps.print(&format!("{}: authcrypt unpack {curve}", self.party.name));
    }

    /// A keyring over a token that holds the same key and does nothing.
    fn idle_keyring(&self, curve: Curve) -> Keyring {
        let Kind::Claviger { me: identities, .. } = &self.party.kind else { unreachable!("of a device") };
        let kid = format!("{}#key-1", me(curve, 1));
        let own = identities.key(&kid, Relationship::KeyAgreement).expect("ours").key.clone();
        self.runtime.block_on(Keyring::start([Idle(own)])).expect("it starts")
    }

    fn unwrap(&self, me: &Identities, key: &PublicKey, request: &UnwrapRequest, cx: &Context) -> bool {
        self.runtime.block_on(me.secrets().unwrap_cek(key, request, cx)).is_ok()
    }

    fn pack(&self, curve: Curve) {
        let from = me(curve, 1);
        let letters: Vec<Letter> = (0..PEERS).map(|number| Letter::new(&from, &peer(curve, number))).collect();
        let Kind::Claviger { me, resolver } = &self.party.kind else { unreachable!("of a device") };
        let own = me.key(&format!("{from}#key-1"), Relationship::KeyAgreement).expect("ours").key.clone();
        let document = self.runtime.block_on(resolver.resolve(&peer(curve, 0))).expect("a peer");
        let theirs = document.methods(Relationship::KeyAgreement).next().expect("one").key.clone().expect("a key");
        let (enc, plain) = (ContentEncryption::A256CbcHs512, letters[0].ours.to_json());
        let cek = Cek::generate(enc);
        let ephemeral = EphemeralKey::generate(curve).expect("it agrees");
        let ze = ephemeral.agree(&theirs).expect("one curve");
        let info = KdfInfo { apu: b"", apv: b"", tag: None };
        let aad = [b'A'; 500];
        let request = WrapRequest {
            cek: cek.clone(),
            apu: from.clone().into_bytes(),
            apv: vec![0; 32],
            tag: vec![0; 32],
            recipients: vec![(theirs.clone(), ze.clone())],
        };
        let cx = Context::default();
        let mut new = letters.iter().cycle();

        let mut steps = Steps::default();
        for _ in 0..rounds() {
            steps.time("one raw derivation", || self.raw.derive_and_destroy());
            steps.time("make the ephemeral key", || EphemeralKey::generate(curve).is_some());
            steps.time("Ze", || ephemeral.agree(&theirs).is_some());
            steps.time("one Concat KDF in software", || concat_kdf(&[&ze], &info));
            steps.time("the token, called directly", || self.token.wrap_cek(&own, &request, &Purpose::KeyTest).is_ok());
            steps.time("the token, through the keyring", || {
                self.runtime.block_on(me.secrets().wrap_cek(&own, &request, &cx)).is_ok()
            });
            steps.time("encrypt the content", || enc.seal(&cek, &aad, plain.as_bytes()));
            steps.time("write the plaintext", || letters[0].ours.to_json());
            steps.time("**all: known recipient**", || self.runtime.block_on(self.party.pack(&letters[0], Some(&from))));
            steps.time("all: new recipient", || {
                self.runtime.block_on(self.party.pack(new.next().expect("a cycle has no end"), Some(&from)))
            });
            steps.time("`didcomm`", || self.runtime.block_on(self.didcomm.pack(&letters[0], Some(&from))));
        }
        steps.print(&format!("{}: authcrypt pack {curve}", self.party.name));
    }
}

/// A token that does nothing, to measure the keyring alone.
struct Idle(PublicKey);

impl Token for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn info(&self) -> TokenInfo {
        TokenInfo::default()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        Ok(vec![HeldKey::new(self.0.clone(), "idle", KeyUse::Agreement)])
    }

    fn sign(&self, _: &PublicKey, _: &[u8], _: &Purpose) -> Result<Vec<u8>, TokenError> {
        Err(TokenError::KeyGone)
    }

    fn unwrap_cek(&self, _: &PublicKey, _: &UnwrapRequest, _: &Purpose) -> Result<Cek, TokenError> {
        Ok(Cek::new(vec![0; 64]))
    }

    fn wrap_cek(&self, _: &PublicKey, _: &WrapRequest, _: &Purpose) -> Result<Vec<EncryptedKey>, TokenError> {
        Err(TokenError::KeyGone)
    }
}

/// The parts of a JWE, to perform the steps one by one.
struct JweParts {
    kid: String,
    skid: String,
    epk: PublicKey,
    apv: Vec<u8>,
    encrypted_key: Vec<u8>,
    protected: String,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

impl JweParts {
    fn new(packed: &str) -> Self {
        let jwe: Value = serde_json::from_str(packed).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let bytes = |value: &Value| URL_SAFE_NO_PAD.decode(text(value)).expect("base64url");
        let header: Value = serde_json::from_slice(&bytes(&jwe["protected"])).expect("JSON");
        let recipient = &jwe["recipients"][0];
        Self {
            kid: text(&recipient["header"]["kid"]),
            skid: text(&header["skid"]),
            epk: PublicKey::from_jwk(&Jwk::deserialize(&header["epk"]).expect("a JWK")).expect("a key"),
            apv: bytes(&header["apv"]),
            encrypted_key: bytes(&recipient["encrypted_key"]),
            protected: text(&jwe["protected"]),
            iv: bytes(&jwe["iv"]),
            ciphertext: bytes(&jwe["ciphertext"]),
            tag: bytes(&jwe["tag"]),
        }
    }

    fn unwrap(&self, sender: PublicKey) -> UnwrapRequest {
        UnwrapRequest {
            epk: self.epk.clone(),
            sender: Some(Ecdh1puSender { key: sender, tag: self.tag.clone() }),
            apu: self.skid.clone().into_bytes(),
            apv: self.apv.clone(),
            encrypted_key: self.encrypted_key.clone(),
        }
    }

    fn open(&self, cek: &Cek) -> Vec<u8> {
        let enc = ContentEncryption::A256CbcHs512;
        enc.open(cek, self.protected.as_bytes(), &self.iv, &self.ciphertext, &self.tag).expect("it opens")
    }
}

/// The times of each step, in the order of the first round.
#[derive(Default)]
struct Steps(Vec<(&'static str, Vec<Duration>)>);

impl Steps {
    /// Performs a step twice and records the second time. The first fills the caches.
    fn time<T>(&mut self, step: &'static str, mut work: impl FnMut() -> T) {
        black_box(work());
        let start = Instant::now();
        black_box(work());
        let took = start.elapsed();
        match self.0.iter_mut().find(|(name, _)| *name == step) {
            Some((_, times)) => times.push(took),
            None => self.0.push((step, vec![took])),
        }
    }

    /// Prints a table: the median and the tenth percentile of each step in microseconds, and the median relative to
    /// that of the first step, the raw derivation.
    fn print(mut self, title: &str) {
        println!("\n{title}\n\n| step | median, µs | 10th percentile, µs | raw derivations |\n|---|---:|---:|---:|");
        let mut unit = None;
        for (step, times) in &mut self.0 {
            times.sort_unstable();
            let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
            let (median, low) = (at(50), at(10));
            let unit = *unit.get_or_insert(median);
            println!("| {step} | {median:.1} | {low:.1} | {:.2} |", median / unit);
        }
    }
}

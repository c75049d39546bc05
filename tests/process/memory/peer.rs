//! The agent's peer. It knows every secret of both sides.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout},
    sync::{Condvar, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    crypto::{Cek, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key},
    did::{Document, LocalResolver, Relationship, peer},
    didcomm::{Identities, Message, UnpackOptions},
    keys::{Curve, Jwk, PublicKey},
    secrets::{Custodian, KeyUse, Keyring},
};
use claviger_testkit::{PrivateKey, SoftToken};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::Needles;

/// The curves of each side's keys. The first three are for key agreement.
pub const CURVES: [Curve; 4] = [Curve::X25519, Curve::P256, Curve::P384, Curve::Ed25519];
const AGREEMENT_KEYS: usize = 3;
/// The name of a set of needles. A needle is a byte string that the test searches for. The agent may hold these while
/// it works; if the search never finds one, the search does not work.
pub const PLAINTEXT: &str = "plaintext of a message in progress";
/// The number of messages, in progress or finished, whose secrets are remembered. Each message adds two sets
/// of needles.
const REMEMBERED: usize = 32;

/// A party's private keys, and the document of its DID.
pub struct Party {
    pub keys: Vec<PrivateKey>,
    pub document: Document,
}

impl Party {
    pub fn new() -> Self {
        let keys: Vec<PrivateKey> = CURVES.map(PrivateKey::generate).into();
        let named = keys.iter().enumerate().map(|(number, key)| {
            let relationship =
                if number < AGREEMENT_KEYS { Relationship::KeyAgreement } else { Relationship::Authentication };
            (relationship, key.public().clone())
        });
        let document = peer::create_2(&named.collect::<Vec<_>>(), &[]).expect("four keys make a DID");
        Self { keys, document }
    }

    /// The private key of a key id.
    fn key(&self, kid: &str) -> &PrivateKey {
        let public = self.document.methods(Relationship::KeyAgreement).find(|method| method.id == kid);
        let public = public.and_then(|method| method.key.as_ref().ok()).expect("one of its keys");
        self.keys.iter().find(|key| key.public() == public).expect("the private half")
    }

    /// The ids of the agreement keys.
    fn kids(&self) -> Vec<String> {
        self.document.methods(Relationship::KeyAgreement).map(|method| method.id.clone()).collect()
    }
}

/// The secrets of one message, as its recipient computes them.
struct Opened {
    ze: SharedSecret,
    kek: Kek,
    cek: Cek,
}

fn open(packed: &str, recipient: &Party, sender: &Party) -> Opened {
    let jwe: Value = serde_json::from_str(packed).expect("a JWE");
    let bytes = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().expect("base64url")).expect("base64url");
    let header: Value = serde_json::from_slice(&bytes(&jwe["protected"])).expect("a header");
    let slot = &jwe["recipients"][0];
    let private = recipient.key(slot["header"]["kid"].as_str().expect("a key id"));
    let epk: Jwk = serde_json::from_value(header["epk"].clone()).expect("a JWK");
    let epk = PublicKey::from_jwk(&epk).expect("a public key");
    let ze = private.agree(&epk).expect("one curve");
    let zs = private.agree(sender.key(header["skid"].as_str().expect("a key id")).public()).expect("one curve");
    let (apu, apv, tag) = (bytes(&header["apu"]), bytes(&header["apv"]), bytes(&jwe["tag"]));
    let kek = concat_kdf(&[&ze, &zs], &KdfInfo { apu: &apu, apv: &apv, tag: Some(&tag) });
    let cek = unwrap_key(&kek, &bytes(&slot["encrypted_key"])).expect("it is unpacked");
    Opened { ze, kek, cek }
}

/// The secrets that the agent must never have: its scalars, the PIN, and each Zs. The second set, which the keeper must
/// contain, is the scalars only.
pub fn permanent(agent: &Party, peer: &Party, pin: &str) -> (Needles, Needles) {
    let (mut all, mut scalars) = (Needles::default(), Needles::default());
    for key in &agent.keys {
        let curve = key.public().curve();
        scalars.add(format!("{curve} scalar"), &key.to_bytes());
        if curve == Curve::Ed25519 {
            // The hash of the seed (RFC 8032 section 5.1.5), before bits are set and cleared.
            let expanded = Sha512::digest(&*key.to_bytes());
            scalars.add("Ed25519 expanded", &expanded);
        }
    }
    all.extend(&scalars);
    all.add("PIN", pin.as_bytes());
    for (agent_key, peer_key) in agent.keys.iter().zip(&peer.keys).take(AGREEMENT_KEYS) {
        let zs = agent_key.agree(peer_key.public()).expect("one curve");
        all.add(format!("{} Zs", agent_key.public().curve()), zs.as_bytes());
    }
    (all, scalars)
}

/// The messages between the agent and its peer.
pub struct Traffic {
    agent: Party,
    peer: Party,
    me: Identities,
    state: Mutex<State>,
    progress: Condvar,
}

#[derive(Default)]
struct State {
    /// Secrets of the last messages that the agent must not have.
    forbidden: VecDeque<Needles>,
    /// The content keys of messages in progress, by message id.
    open: HashMap<String, Cek>,
    answered: usize,
    stopped: bool,
}

impl Traffic {
    pub async fn new(agent: Party, peer: Party) -> Self {
        let token = SoftToken::new("peer");
        for key in &peer.keys {
            token
                .import(key.to_import(KeyUse::of(key.public().curve()), None))
                .expect("a software token imports any key");
        }
        let keyring = Keyring::start([token]).await.expect("a software token starts");
        let me = Identities::new(keyring, [peer.document.clone()]).await.expect("the token holds the keys");
        Self { agent, peer, me, state: Mutex::default(), progress: Condvar::new() }
    }

    /// Waits until fewer than `max_in_progress` messages are in progress. Returns true if the traffic was stopped.
    fn wait_for_room(&self, max_in_progress: usize) -> bool {
        let state = self.state.lock().expect("no panic");
        self.progress
            .wait_while(state, |state| state.open.len() >= max_in_progress && !state.stopped)
            .expect("no panic")
            .stopped
    }

    /// Sends messages to the agent, with at most `max_in_progress` unanswered, until the traffic is stopped.
    pub async fn write(&self, mut agent: ChildStdin, max_in_progress: usize) {
        let (agent_kids, peer_kids) = (self.agent.kids(), self.peer.kids());
        for number in 0.. {
            if self.wait_for_room(max_in_progress) {
                return;
            }
            let curve = number % AGREEMENT_KEYS;
            let body = json!({"answer": peer_kids[curve], "signed": number % 2 == 0});
            let message = Message::build(Message::new_id(), "https://example.org/gate/1.0/ask", body)
                .from(self.peer.document.id())
                .to(self.agent.document.id())
                .finalize();
            let resolver = LocalResolver::new();
            let packed =
                message.encrypt_to(&agent_kids[curve]).from(self.peer.document.id()).pack(&resolver, &self.me).await;
            let (packed, _) = packed.expect("it is packed");

            let opened = open(&packed, &self.agent, &self.peer);
            let mut needles = Needles::default();
            needles.add("Ze of a message received", opened.ze.as_bytes());
            needles.add("KEK of a message received", opened.kek.as_bytes());
            let mut state = self.state.lock().expect("no panic");
            state.forbid(needles);
            state.open.insert(message.id.clone(), opened.cek);
            drop(state);
            // The agent has ended if it has panicked. The reader reports that.
            if writeln!(agent, "{packed}").is_err() {
                return;
            }
        }
    }

    /// Reads the agent's answers until they end.
    pub async fn read(&self, agent: BufReader<ChildStdout>) {
        for packed in agent.lines() {
            let packed = packed.expect("a line");
            let (message, provenance) =
                Message::unpack(&packed, &LocalResolver::new(), &self.me, &UnpackOptions::default())
                    .await
                    .expect("it is unpacked");
            assert!(provenance.authenticated);
            let opened = open(&packed, &self.peer, &self.agent);
            let mut state = self.state.lock().expect("no panic");
            let received = state.open.remove(message.thread()).expect("an answer to one of these");
            let mut needles = Needles::default();
            needles.add("KEK of a message sent", opened.kek.as_bytes());
            needles.add("CEK of a message sent", opened.cek.as_bytes());
            needles.add("CEK of a message received", received.as_bytes());
            state.forbid(needles);
            state.answered += 1;
            self.progress.notify_all();
        }
        self.stop();
        self.progress.notify_all();
    }

    pub fn stop(&self) {
        self.state.lock().expect("no panic").stopped = true;
        self.progress.notify_all();
    }

    /// Waits until more than `answered` messages have been answered. Returns the new number, the needles that the agent
    /// must not have now, and those that it may have: the plaintexts. Returns `None` when the traffic has stopped.
    pub fn since(&self, answered: usize) -> Option<(usize, Needles, Needles)> {
        let mut state = self.state.lock().expect("no panic");
        while state.answered <= answered && !state.stopped {
            state = self.progress.wait(state).expect("no panic");
        }
        if state.stopped {
            return None;
        }
        let mut needles = Needles::default();
        state.forbidden.iter().for_each(|message| needles.extend(message));
        let mut plaintexts = Needles::default();
        state.open.keys().for_each(|id| plaintexts.add(PLAINTEXT, id.as_bytes()));
        Some((state.answered, needles, plaintexts))
    }
}

impl State {
    fn forbid(&mut self, needles: Needles) {
        self.forbidden.push_back(needles);
        if self.forbidden.len() > 2 * REMEMBERED {
            self.forbidden.pop_front();
        }
    }
}

/// A child process that does not outlive its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process ends when its input does.
        if !std::thread::panicking() {
            let status = self.0.wait().expect("the child can be waited for");
            assert!(status.success(), "the agent: {status}");
            return;
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

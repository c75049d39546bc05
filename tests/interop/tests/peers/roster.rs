//! The peers, and what is tried with each.

use std::fs;
use std::path::Path;

use claviger::crypto::ContentEncryption::{A256CbcHs512, A256Gcm, Xc20P};
use claviger::keys::{Curve, SignatureAlgorithm};
use serde_json::Value;

use crate::operation::{Method, Operation};

pub struct Peer {
    pub package: &'static str,
    /// The module of its driver.
    pub driver: &'static str,
    pub program: Program,
    pub operations: Vec<Operation>,
}

/// What runs a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Python,
    /// Python with the older packages that some peers need.
    OlderPython,
    JavaScript,
    /// This process.
    Rust,
}

/// All peers, in the order of the table.
pub fn peers() -> Vec<Peer> {
    use Method::{Key, Peer0, Peer2, Peer4, Webvh};
    use Program::{JavaScript, OlderPython, Python, Rust};
    let nested = || vec![Operation::AnoncryptSigned, Operation::AnoncryptAuthcrypt];
    let didcomm = || [vec![Operation::Plain], signed(), encrypted()].concat();
    let jose = || [signed(), encrypted()].concat();
    let over_peer_2 = || vec![Operation::AnoncryptOverPeer2, Operation::AuthcryptOverPeer2];
    let dids = |methods: &[Method]| methods.iter().copied().map(Operation::Did).collect::<Vec<_>>();
    let peer = |package, driver, program, operations| Peer { package, driver, program, operations };
    vec![
        peer("didcomm", "didcomm", Rust, [didcomm(), nested()].concat()),
        peer("didcomm", "didcomm", OlderPython, [didcomm(), nested()].concat()),
        peer(
            "didcomm-messaging",
            "didcomm_messaging",
            Python,
            [encrypted(), over_peer_2(), dids(&[Peer2, Peer4])].concat(),
        ),
        peer("@veramo/did-comm", "veramo", JavaScript, [didcomm(), over_peer_2(), dids(&[Key, Peer0, Peer2])].concat()),
        peer("@hyperledger/identus-sdk", "identus", JavaScript, [over_peer_2(), dids(&[Peer2])].concat()),
        peer("jose", "jose", JavaScript, jose()),
        peer("josekit", "josekit", Rust, jose()),
        peer("joserfc", "joserfc", Python, jose()),
        peer("authlib", "authlib", Python, jose()),
        peer("jwcrypto", "jwcrypto", Python, jose()),
        peer("peerdid", "peerdid", OlderPython, dids(&[Peer0, Peer2])),
        peer("did-peer-2", "did_peer_2", Python, dids(&[Peer2])),
        peer("did-peer-4", "did_peer_4", Python, dids(&[Peer4])),
        peer("@aviarytech/did-peer", "did_peer", JavaScript, dids(&[Peer0, Peer2])),
        peer("didwebvh-rs", "webvh", Rust, dids(&[Webvh])),
        peer("did-webvh", "did_webvh", Python, dids(&[Webvh])),
        peer("didwebvh-ts", "webvh", JavaScript, dids(&[Webvh])),
    ]
}

fn signed() -> Vec<Operation> {
    [SignatureAlgorithm::EdDsa, SignatureAlgorithm::Es256, SignatureAlgorithm::Es256k].map(Operation::Signed).into()
}

fn encrypted() -> Vec<Operation> {
    let curves = [Curve::X25519, Curve::P256, Curve::P384, Curve::P521];
    let mut operations = vec![];
    operations.extend([A256CbcHs512, A256Gcm, Xc20P].map(|enc| Operation::Anoncrypt(Curve::X25519, enc)));
    operations.extend(curves[1..].iter().map(|curve| Operation::Anoncrypt(*curve, A256CbcHs512)));
    operations.push(Operation::AnoncryptToTwo);
    operations.extend(curves.map(Operation::Authcrypt));
    operations.push(Operation::AuthcryptToTwo);
    operations
}

impl Peer {
    /// Package, language and version, as the table has it.
    pub fn title(&self) -> String {
        let language = match self.program {
            Program::Python | Program::OlderPython => "Python",
            Program::JavaScript => "JavaScript",
            Program::Rust => "Rust",
        };
        format!("`{}` ({language}) | {}", self.package, self.version())
    }

    /// The version in the lock file.
    fn version(&self) -> String {
        let read = |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let found = match self.program {
            Program::Python => requirement(&read("peers/python/requirements.txt"), self.package),
            Program::OlderPython => requirement(&read("peers/python/requirements-didcomm.txt"), self.package),
            Program::JavaScript => {
                let lock: Value = serde_json::from_str(&read("peers/javascript/package-lock.json")).unwrap();
                let path = format!("node_modules/{}", self.package);
                lock["packages"][path]["version"].as_str().map(str::to_owned)
            }
            Program::Rust => {
                let lock = read("Cargo.lock");
                let (_, rest) = lock.split_once(&format!("\nname = \"{}\"\nversion = \"", self.package)).unwrap();
                rest.split_once('"').map(|(version, _)| version.to_owned())
            }
        };
        found.unwrap_or_else(|| panic!("no lock file has {}", self.package))
    }
}

fn requirement(lock: &str, package: &str) -> Option<String> {
    let pinned = lock.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="))?;
    Some(pinned.trim_end_matches(" \\").to_owned())
}

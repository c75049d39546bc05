//! `claviger attestation verify`: says what an attestation proves, and what it does not.

use std::path::PathBuf;

use claviger::{
    did::{DidUrl, Document, Resolver, is_did},
    keys::PublicKey,
    secrets::piv::Attestation,
};

use super::{certificates, report::Report};
use crate::cli::{
    arguments::not_a_did, config::Config, failure::Failure, key_name::KeyName, output::Out, own_dids::OwnDids,
    runtime::block_on,
};

/// Verifies the attestation of a key in a YubiKey, and says what it proves and what it does not
///
/// FILE has the certificates that `claviger key attest` prints: in PEM, that of the key first. With Yubico's tools they
/// are what `ykman piv keys attest` and `ykman piv certificates export f9` write, one after the other. They must lead to
/// one of Yubico's root certificates, which the program has, or to one of --root. With --key or --did the attested key
/// must be that key, or a key in the document of the DID. No token is opened. The document of a did:web or did:webvh is
/// fetched from its server, with the settings of [net].
///
/// Exit status 1: the attestation is refused, or is of another key. Anyone may copy an attestation: who sends one does
/// not prove thereby that he has the YubiKey.
///
/// With `--json`: {"key", "jwk", "thumbprint", "algorithm", "made_in_device", "serial", "firmware", "form", "slot",
/// "pin_policy", "touch_policy", "root", "root_is_yubicos", "did", "methods", "other_methods", "not_proved"}. "methods"
/// are the verification methods of the DID with the attested key, with their relationships; "other_methods" are those
/// with other keys. "not_proved" lists {"id", "message"}.
#[derive(clap::Args)]
pub struct Args {
    /// The file with the certificates; - is standard input
    file: PathBuf,
    /// The key that must be attested: its multikey, JWK thumbprint or DID URL
    #[arg(long)]
    key: Option<String>,
    /// The DID of whose document the attested key must be
    #[arg(long, conflicts_with = "key")]
    did: Option<String>,
    /// A file with root certificates in PEM that are trusted beside Yubico's; may be given several times
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
    /// Asks no server: a did:web or did:webvh resolves only if its document is on this machine
    #[arg(long)]
    offline: bool,
}

/// What the attested key is compared with.
enum Expected {
    Nothing,
    Key(PublicKey),
    Thumbprint(String),
    Method(DidUrl),
    Did(String),
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let expected = expected(args)?;
    let roots = certificates::roots(&args.root)?;
    let content = certificates::content(&args.file)?;
    let asks_servers = matches!(expected, Expected::Method(_) | Expected::Did(_)) && !args.offline;
    let own = OwnDids::load_with_servers(config, !asks_servers)?;
    // A stranger wrote the certificates.
    own.enter_sandbox_without_keepers();
    let file = args.file.display().to_string();
    let refused = |message: &str| Failure::new("attestation-refused", format!("{file}: {message}"));
    let chain = certificates::parse(&content).map_err(refused)?;
    let attested = Attestation::verify(&chain, &roots).map_err(|error| certificates::refused(&file, &error))?;
    let document = match &expected {
        Expected::Method(url) => Some(url.did()),
        Expected::Did(did) => Some(did.as_str()),
        _ => None,
    };
    let document = document.map(|did| block_on(async { Ok(own.resolver.resolve(did).await?) })).transpose()?;
    let document: Option<&Document> = document.as_deref();
    let is_expected = match (&expected, document) {
        (Expected::Key(key), _) => *key == attested.public,
        (Expected::Thumbprint(thumbprint), _) => *thumbprint == attested.public.thumbprint(),
        (Expected::Method(url), Some(_)) => {
            let named = block_on(KeyName::DidUrl(url.clone()).resolve(&own.resolver))?;
            matches!(named, KeyName::Public(key) if key == attested.public)
        }
        (Expected::Did(_), Some(document)) => {
            document.all_methods().iter().any(|method| method.key.as_ref() == Ok(&attested.public))
        }
        _ => true,
    };
    if !is_expected {
        let expected = args.key.as_deref().or(args.did.as_deref()).unwrap_or_default();
        let what = if args.did.is_some() { "no key of" } else { "another key than" };
        return Err(refused(&format!("the attestation is of {what} {expected}: it is of {}", attested.public)));
    }
    Report::new(&attested, document, !matches!(expected, Expected::Nothing)).print(out)
}

/// Parses `--key` and `--did`.
fn expected(args: &Args) -> Result<Expected, Failure> {
    if let Some(did) = &args.did {
        let failure = || match DidUrl::parse(did) {
            Ok(_) => not_a_did(did).hint("--key takes the DID URL of a key"),
            Err(_) => not_a_did(did),
        };
        return if is_did(did) { Ok(Expected::Did(did.clone())) } else { Err(failure()) };
    }
    let Some(text) = &args.key else { return Ok(Expected::Nothing) };
    match KeyName::parse(text)? {
        KeyName::Public(key) => Ok(Expected::Key(key)),
        KeyName::DidUrl(url) => Ok(Expected::Method(url)),
        // Base64url of SHA-256 (RFC 7638 section 3).
        KeyName::Text(text) if text.len() == 43 => Ok(Expected::Thumbprint(text)),
        KeyName::Text(text) => {
            let message = format!("{text:?} is not the multikey, JWK thumbprint or DID URL of a key");
            Err(Failure::usage("bad-key-name", message).hint("no token is opened, so a name in a token is not known"))
        }
    }
}

//! `claviger key attest`.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

use claviger::secrets::piv::{Attestation, AttestationError};

use crate::cli::{config::Config, failure::Failure, keys::KeyName, output::Out, own::Own, tokens, wait};

/// Prints what proves that a key was made in a YubiKey, verified up to one of Yubico's roots.
///
/// The certificates name the YubiKey's serial number, by which all that it is used for can be linked: they are for whom you
/// give them to, and are never sent by themselves.
#[derive(clap::Args)]
pub struct Args {
    /// The key: its name, multikey, JWK thumbprint or DID URL
    key: String,
    /// A certificate in PEM that is trusted as Yubico's roots are, for an attestation key of one's own in slot F9; may be
    /// given several times
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let name = KeyName::parse(&args.key)?;
    let mut roots = Vec::new();
    for file in &args.root {
        roots.extend(certificates(file)?);
    }
    let own = Own::load(config)?;
    let name = wait(name.clone().resolve(&own)).unwrap_or(name);
    let (token, held) = tokens::holding(config, &name, &args.key)?;
    let chain = token.attest(&held.public).map_err(|error| Failure::of_token(token.name(), &error))?;
    let attested = Attestation::verify(&chain, &roots).map_err(|error| refused(token.name(), &error))?;
    if attested.public != held.public {
        let said = format!("the token {:?} attests another key than {}", token.name(), held.public);
        return Err(Failure::new("attestation-refused", said));
    }
    let serial = attested.serial.map(|serial| serial.to_string()).unwrap_or_default();
    let form = attested.form.map(|form| form.to_string());
    if out.json {
        return out.document(&json!({
            "key": held.public.to_multikey(),
            "token": token.name(),
            "serial": serial,
            "firmware": attested.firmware.to_string(),
            "form": form,
            "slot": attested.slot.to_string(),
            "pin_policy": attested.pin,
            "touch_policy": attested.touch,
            "root": attested.root,
            "chain": attested.chain_pem(),
        }));
    }
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    out.say(&format!(
        "{} was made in the slot {} of the YubiKey {serial} (firmware {}, {}); it wants the PIN {} and a touch {}.",
        held.public,
        attested.slot,
        attested.firmware,
        form.unwrap_or_else(|| "form unknown".to_owned()),
        word(json!(attested.pin)),
        word(json!(attested.touch)),
    ));
    out.say(&format!(
        "{:?} stands behind that. The certificates name the serial number: give them to whom you mean to.",
        attested.root
    ));
    out.line(attested.chain_pem().concat().trim_end())
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let wrong = |said: &dyn std::fmt::Display| Failure::words("bad-arguments", format!("{}: {said}", file.display()));
    let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let read = read.map(|der| der.map(|der| der.to_vec())).collect::<Result<Vec<_>, _>>();
    match read.map_err(|error| wrong(&error))? {
        certificates if certificates.is_empty() => Err(wrong(&"no certificate in PEM is in it")),
        certificates => Ok(certificates),
    }
}

fn refused(token: &str, error: &AttestationError) -> Failure {
    let failure = Failure::new("attestation-refused", format!("the token {token:?}: {error}"));
    match error {
        AttestationError::Untrusted(_) => failure.hint(
            "an attestation key of one's own in slot F9 is no longer Yubico's: --root FILE names who stands behind it",
        ),
        _ => failure,
    }
}

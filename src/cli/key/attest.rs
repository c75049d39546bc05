//! `claviger key attest`: prints the proof that a key was made in a YubiKey.

use std::path::PathBuf;

use serde_json::json;

use claviger::secrets::piv::Attestation;

use crate::cli::{
    attestation::certificates, config::Config, failure::Failure, key_name::KeyName, output::Out, own_dids::OwnDids,
    runtime::block_on, tokens::custodian,
};

/// Prints the certificates which prove that a key was made in a YubiKey.
///
/// They are verified up to one of Yubico's root certificates, which the program has, and printed in PEM. They name the
/// YubiKey's serial number, so whoever sees them can link all uses of the YubiKey. Claviger never sends them to anyone.
/// `claviger attestation verify` tells their receiver what they prove.
#[derive(clap::Args)]
pub struct Args {
    /// The key: its name, multikey, JWK thumbprint or DID URL
    key: String,
    /// A file with root certificates in PEM that are trusted beside Yubico's, for an attestation key of your own in
    /// slot F9; may be given several times
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let name = KeyName::parse(&args.key)?;
    let roots = certificates::roots(&args.root)?;
    let own = OwnDids::load(config)?;
    let name = block_on(name.clone().resolve(&own.resolver)).unwrap_or(name);
    let (token, held) = custodian::open_holder(config, &name, &args.key)?;
    let chain = token.attest(&held.public).map_err(|error| Failure::from_token(token.name(), &error))?;
    let from = format!("the token {:?}", token.name());
    let attested = Attestation::verify(&chain, &roots).map_err(|error| certificates::refused(&from, &error))?;
    if attested.public != held.public {
        let message = format!("the token {:?} attests another key than {}", token.name(), held.public);
        return Err(Failure::new("attestation-refused", message));
    }
    let serial = attested.serial.map(|serial| serial.to_string()).unwrap_or_default();
    let form = attested.form_factor.map(|form| form.to_string());
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
        "{} was made in slot {} of the YubiKey {serial} (firmware {}, {}); it needs the PIN {} and a touch {}.",
        held.public,
        attested.slot,
        attested.firmware,
        form.unwrap_or_else(|| "form factor unknown".to_owned()),
        word(json!(attested.pin)),
        word(json!(attested.touch)),
    ));
    out.say(&format!(
        "The root certificate {:?} vouches for that. The certificates name the YubiKey's serial number: give them \
         only to those who may know it.",
        attested.root
    ));
    out.line(attested.chain_pem().concat().trim_end())
}

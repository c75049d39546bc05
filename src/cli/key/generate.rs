//! `claviger key generate`: makes a key pair in a token.

use clap::ValueEnum;

use claviger::{
    keys,
    secrets::{KeyUse, NewKey, PinPolicy, Slot, SlotOptions, TokenError, TouchPolicy},
};

use crate::cli::{
    config::Config,
    failure::Failure,
    key_name::held_key_json,
    output::Out,
    shell::quoted,
    tokens::custodian::{self, ManagementKeyArgs},
};

/// Makes a key pair in a token. The private key never leaves the token.
///
/// Prints the public JWK and the multikey.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; without it, the only token
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The algorithm
    #[arg(long, visible_alias = "curve", ignore_case = true)]
    alg: Curve,
    /// What the key is used for; if not given, all that its curve allows
    #[arg(long = "use")]
    usage: Option<Use>,
    /// A label for the key
    #[arg(long)]
    name: Option<String>,
    /// The slot of a YubiKey: 9a, 9c, 9d, 9e, or 82 to 95; if not given, the first empty slot from 82 to 95
    #[arg(long)]
    slot: Option<Slot>,
    /// When the key in a YubiKey needs the PIN; once if not given
    #[arg(long, value_name = "POLICY")]
    pin_policy: Option<PinPolicyArg>,
    /// When the key in a YubiKey needs a touch; never if not given
    #[arg(long, value_name = "POLICY")]
    touch_policy: Option<TouchPolicyArg>,
    /// Overwrites the key in the slot
    #[arg(long, requires = "slot")]
    force: bool,
    #[command(flatten)]
    management: ManagementKeyArgs,
}

/// When a key needs the PIN.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PinPolicyArg {
    /// Never
    Never,
    /// Once, until the YubiKey loses its power or is reset
    Once,
    /// Before each operation
    Always,
}

/// When a key needs a touch.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum TouchPolicyArg {
    /// Never: for a machine without a person
    Never,
    /// For each operation; an authcrypted message needs two
    Always,
    /// Unless there was a touch in the last 15 seconds
    Cached,
}

impl From<PinPolicyArg> for PinPolicy {
    fn from(policy: PinPolicyArg) -> Self {
        match policy {
            PinPolicyArg::Never => Self::Never,
            PinPolicyArg::Once => Self::Once,
            PinPolicyArg::Always => Self::Always,
        }
    }
}

impl From<TouchPolicyArg> for TouchPolicy {
    fn from(policy: TouchPolicyArg) -> Self {
        match policy {
            TouchPolicyArg::Never => Self::Never,
            TouchPolicyArg::Always => Self::Always,
            TouchPolicyArg::Cached => Self::Cached,
        }
    }
}

/// A curve by its JWK name.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Curve {
    #[value(name = "X25519")]
    X25519,
    #[value(name = "P-256")]
    P256,
    #[value(name = "P-384")]
    P384,
    #[value(name = "P-521")]
    P521,
    #[value(name = "Ed25519")]
    Ed25519,
    #[value(name = "secp256k1")]
    Secp256k1,
}

/// The use of a key.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Use {
    /// Key agreement, for encryption
    Agreement,
    /// Signatures
    Signing,
    /// Key agreement and signatures
    Both,
}

impl From<Curve> for keys::Curve {
    fn from(curve: Curve) -> Self {
        match curve {
            Curve::X25519 => Self::X25519,
            Curve::P256 => Self::P256,
            Curve::P384 => Self::P384,
            Curve::P521 => Self::P521,
            Curve::Ed25519 => Self::Ed25519,
            Curve::Secp256k1 => Self::Secp256k1,
        }
    }
}

impl From<Use> for KeyUse {
    fn from(usage: Use) -> Self {
        match usage {
            Use::Agreement => Self::Agreement,
            Use::Signing => Self::Signing,
            Use::Both => Self::Both,
        }
    }
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let curve = keys::Curve::from(args.alg);
    let usage = args.usage.map_or(KeyUse::of(curve), KeyUse::from);
    if !usage.fits(curve) {
        let can = if curve.supports_key_agreement() {
            "agrees on keys and does not sign"
        } else {
            "signs and does not agree on keys"
        };
        return Err(Failure::usage("use-unfit", format!("a key on {curve} {can}"))
            .hint("P-256 does both; separate keys are better, X25519 and Ed25519"));
    }
    let configured = config.token(args.token.as_deref())?;
    let management_key = args.management.read()?;
    let token = custodian::open_or_wait(config, configured)?.with_management_key(management_key.as_ref());
    let new = NewKey { curve, usage, label: args.name.as_deref().map(Into::into) };
    let slot_options = SlotOptions {
        slot: args.slot,
        force: args.force,
        pin: args.pin_policy.map(Into::into),
        touch: args.touch_policy.map(Into::into),
    };
    let held = token.generate(&new, slot_options).map_err(|error| {
        let failure = Failure::from_token(token.name(), &error);
        match error {
            TokenError::Unsupported(_) => failure.hint(format!(
                "choose another --alg or --use: `claviger token doctor {}` shows what the token can do with each \
                 algorithm",
                quoted(token.name())
            )),
            _ => failure,
        }
    })?;
    if out.json {
        return out.document(&held_key_json(&held));
    }
    let custody = held.custody.map(|custody| format!(", custody {custody}")).unwrap_or_default();
    let slot = held.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    out.say(&format!("Made in the token {:?}{slot}{custody}; the private key does not leave it.", token.name()));
    out.line(&serde_json::to_string(&held.public.to_jwk()).expect("a JWK is JSON"))?;
    out.line(&held.public.to_multikey())
}

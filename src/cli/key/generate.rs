//! `claviger key generate`.

use clap::ValueEnum;

use claviger::{
    keys,
    secrets::{KeyUse, NewKey, PinPolicy, Place, Slot, TouchPolicy},
};

use crate::cli::{
    config::Config,
    failure::Failure,
    keys::to_json,
    output::Out,
    tokens::{self, Management},
};

/// Makes a key pair in a token; its private half never leaves it.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The algorithm
    #[arg(long, ignore_case = true)]
    alg: Curve,
    /// What it is for; without, all that its curve can
    #[arg(long = "use")]
    usage: Option<Use>,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// The slot of a YubiKey: 9a, 9c, 9d, 9e, or 82 to 95; without it the first of 82 to 95 that is empty
    #[arg(long)]
    slot: Option<Slot>,
    /// When a YubiKey's key wants the PIN; once if not said
    #[arg(long, value_name = "POLICY")]
    pin_policy: Option<WantsPin>,
    /// When a YubiKey's key wants a touch; never if not said
    #[arg(long, value_name = "POLICY")]
    touch_policy: Option<WantsTouch>,
    /// Overwrites what is in the slot
    #[arg(long, requires = "slot")]
    force: bool,
    #[command(flatten)]
    management: Management,
}

/// When a key wants a PIN.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum WantsPin {
    /// Not at all
    Never,
    /// Once, until the YubiKey is unplugged or reset
    Once,
    /// Right before each operation
    Always,
}

/// When a key wants a touch.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum WantsTouch {
    /// Not at all: for what nobody sits at
    Never,
    /// For each operation; a message from a sender takes two
    Always,
    /// Unless there was one in the last 15 seconds
    Cached,
}

impl From<WantsPin> for PinPolicy {
    fn from(wants: WantsPin) -> Self {
        match wants {
            WantsPin::Never => Self::Never,
            WantsPin::Once => Self::Once,
            WantsPin::Always => Self::Always,
        }
    }
}

impl From<WantsTouch> for TouchPolicy {
    fn from(wants: WantsTouch) -> Self {
        match wants {
            WantsTouch::Never => Self::Never,
            WantsTouch::Always => Self::Always,
            WantsTouch::Cached => Self::Cached,
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

/// What a key is for.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Use {
    /// To agree on keys: encryption
    Agreement,
    /// To sign
    Signing,
    /// To agree on keys and to sign
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
        let can = if curve.agrees() { "agrees on keys and does not sign" } else { "signs and does not agree on keys" };
        return Err(Failure::words("use-unfit", format!("a key on {curve} {can}"))
            .hint("P-256 does both; separate keys are better, X25519 and Ed25519"));
    }
    let configured = config.token(args.token.as_deref())?;
    let management_key = args.management.read()?;
    let token = tokens::open_patiently(config, configured)?.with(management_key.as_ref());
    let new = NewKey { curve, usage, label: args.name.as_deref().map(Into::into) };
    let place = Place {
        slot: args.slot,
        force: args.force,
        pin: args.pin_policy.map(Into::into),
        touch: args.touch_policy.map(Into::into),
    };
    let held = token.generate(&new, place).map_err(|error| Failure::of_token(token.name(), &error))?;
    if out.json {
        return out.document(&to_json(&held));
    }
    let custody = held.custody.map(|custody| format!(", custody {custody}")).unwrap_or_default();
    let slot = held.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    out.say(&format!("Made in the token {:?}{slot}{custody}; the private half does not leave it.", token.name()));
    out.line(&serde_json::to_string(&held.public.to_jwk()).expect("a JWK is JSON"))?;
    out.line(&held.public.to_multikey())
}

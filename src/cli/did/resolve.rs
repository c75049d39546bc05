//! `claviger did resolve`.

use claviger::did::{Resolver, is_did};

use crate::cli::{
    config::Config,
    failure::Failure,
    output::Out,
    own::{Own, bad_did},
    wait,
};

/// Prints the document of a DID. No token is touched.
#[derive(clap::Args)]
pub struct Args {
    /// The DID
    did: String,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    if !is_did(&args.did) {
        let failure = bad_did(&args.did);
        return Err(if args.did.contains('#') { failure.hint("a DID ends before the #") } else { failure });
    }
    let own = Own::load(config)?;
    let document = wait(async { Ok(own.resolver.resolve(&args.did).await?) })?;
    out.document(document.as_value())
}

//! `claviger did resolve`: prints the document of a DID.

use claviger::did::{Resolver, is_did};

use crate::cli::{
    arguments::not_a_did, config::Config, failure::Failure, output::Out, own_dids::OwnDids, runtime::block_on,
    servers::is_on_server,
};

/// Prints the document of a DID
///
/// No token is opened. The document of a did:web or did:webvh is fetched from its server, with the settings of [net]. The
/// long form of a did:peer:4 is stored, so that its short form resolves from then on.
#[derive(clap::Args)]
pub struct Args {
    /// The DID
    did: String,
    /// Asks no server: a did:web or did:webvh resolves only if its document is on this machine
    #[arg(long)]
    offline: bool,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    if !is_did(&args.did) {
        let failure = not_a_did(&args.did);
        return Err(if args.did.contains('#') { failure.hint("leave out the part from the # on") } else { failure });
    }
    let own = match is_on_server(&args.did) {
        true => OwnDids::load_with_servers(config, args.offline)?,
        false => OwnDids::load(config)?,
    };
    // Strangers write what a server returns.
    if is_on_server(&args.did) {
        own.enter_sandbox_without_keepers();
    }
    let document = block_on(async { Ok(own.resolver.resolve(&args.did).await?) })?;
    own.keep_long_form(&args.did);
    out.document(document.as_value())
}

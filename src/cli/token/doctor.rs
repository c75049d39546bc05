//! `claviger token doctor`.

use crate::cli::{config::Config, failure::Failure, output::Out};

/// Tests what a token can do.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: Option<String>,
}

pub fn run(_: &Args, _: &Config, _: &Out) -> Result<(), Failure> {
    Ok(())
}

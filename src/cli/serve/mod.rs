//! `claviger serve`: the daemon.

mod check;
mod daemon;
mod health;
mod logging;
mod prepared;
mod reload;
#[cfg(feature = "otel")]
mod spans;
mod systemd;
mod tasks;

use claviger::{agent::api, secrets::keeper::Role};

use super::{
    config::{Config, TokenConfig},
    daemon_options::store_limits,
    failure::Failure,
    keeper_process::start_supervisor,
    output::Out,
    own_dids::OwnDids,
    service_log::LogFormat,
    store_location,
};
use prepared::Prepared;

/// Runs the agent, until SIGTERM: it receives, unpacks, answers, sends and retries messages.
///
/// A received message is stored before its sender gets an answer. While the token is not ready, the message waits in
/// the store, encrypted. SIGTERM and SIGINT end the agent after it has finished the work in progress; a second signal
/// ends it at once. SIGHUP reads the configuration again (docs/settings.md), and the documents of our DIDs.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --check and --json: {"dids", "listens", "api_remote", "store", "running"}. "api_remote" is the address for applications on other machines. "running" is the version of the agent that runs with this configuration; "unknown" if it refuses to tell, because it has another token before SIGHUP."#
)]
pub struct Args {
    /// Checks whether the agent could run, and prints what it would serve, without running it
    #[arg(long)]
    check: bool,
    /// Prints the description of the application's API (OpenAPI 3.1), without running the agent and without a
    /// configuration
    #[arg(long, conflicts_with = "check")]
    pub openapi: bool,
    /// The format of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,
}

impl Args {
    /// Starts the daemon's log, which has another format than the log of other commands.
    pub fn start_log(&self, verbose: u8) {
        logging::start(self.log, verbose);
    }
}

/// Prints the description of the API, which does not depend on the configuration.
pub fn print_openapi(out: &Out) -> Result<(), Failure> {
    out.line(&api::openapi())
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    config.daemon.check()?;
    logging::set_level(config.daemon.ops.log_level);
    let documents = OwnDids::load(config)?.documents;
    // A node has the documents of the other nodes.
    if documents.is_empty() && config.daemon.store.node.is_none() {
        return Err(Failure::usage("no-did", "there is no DID of ours to serve")
            .hint("`claviger init` makes a first DID; `claviger did create --method peer:2 --service URL` another"));
    }
    if config.tokens.is_empty() {
        return Err(config.no_token());
    }
    if config.in_process() {
        let message = "in_process = true: a daemon that anyone may connect to must not hold keys in its own process";
        return Err(Failure::usage("bad-config", message)
            .hint("remove `in_process` from [keeper]: the daemon starts its own keepers"));
    }
    config.tokens.iter().try_for_each(TokenConfig::check)?;
    if args.check {
        return check::run(config, &documents, out);
    }
    let prepared = Prepared::new(config)?;
    raise_open_file_limit();
    // Start the supervisor before the process has a second thread, and before it enters its sandbox.
    let supervisor = start_supervisor(config, Role::Agent)?;
    prepared.enter_sandbox(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime", &error))?;
    runtime.block_on(async {
        let store = store_location::open(&prepared.store, store_limits(config)).await?;
        daemon::run(prepared, config, documents, supervisor, store, out).await
    })
}

/// Raises the limit of open files to its maximum. Each connection needs a file descriptor, and the usual limit is 1024.
fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files, which limits the number of connections");
    }
}

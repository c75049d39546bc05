//! `claviger token doctor`: tests what a token can do, and reports problems of the token, its PIN, its keys and this
//! machine.

mod examination;
mod findings;
mod machine;
mod report;

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    tokens::open::pkcs11_uri,
};

use examination::ExaminedToken;
use machine::Machine;
pub use machine::report_sandbox;
use report::Report;

/// Tests what a token can do, and reports problems and what to do about them
///
/// The command tests each algorithm with known answers, how far the secrets of a key agreement stay in the token
/// (docs/custody.md), and the speed. It also checks the token's keys, its PIN and this machine. Nothing in the token is
/// changed.
///
/// The verdict for each algorithm is sign-only, anoncrypt (it can decrypt anoncrypted messages) or authcrypt (it can
/// send and decrypt authenticated messages as well). The tests use session keys, which a read-only session makes, and
/// which disappear with the session, however the program ends. A token that makes no session keys is tested with the
/// keys that it holds.
///
/// If the token is not ready, the report has what is visible without a login, and the exit status is 3. Only PKCS#11
/// tokens are examined: of all configured tokens, YubiKeys are skipped with a warning.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json each finding is {"id", "level", "about", "message", "hint"}. "level" is bad, warning, note or good; "about" lists the algorithms, keys or measures that the finding is about; "hint" says what to do, and may be null. docs/cli.md lists the findings."#
)]
pub struct Args {
    /// The token's name in the configuration; without it, all tokens
    #[arg(conflicts_with = "uri")]
    name: Option<String>,
    /// The PKCS#11 URI (RFC 7512) of a token that no configuration names
    #[arg(long)]
    uri: Option<String>,
    /// Enters the agent's sandbox, and reports which restrictions hold. Needs a process of its own, because no process
    /// can leave the sandbox
    #[arg(long, hide = true)]
    pub sandbox: bool,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let unconfigured = args.uri.as_deref().map(TokenConfig::from_uri);
    let tokens: Vec<&TokenConfig> = match (&unconfigured, &args.name) {
        (Some(token), _) => vec![token],
        (None, Some(name)) => vec![config.token(Some(name))?],
        (None, None) if config.tokens.is_empty() => return Err(config.no_token()),
        (None, None) => {
            // A YubiKey that was named is an error. Among all tokens it is skipped.
            let (pkcs11, yubikeys): (Vec<&TokenConfig>, Vec<_>) =
                config.tokens.iter().partition(|token| !token.is_yubikey());
            for token in yubikeys.iter().filter(|_| !pkcs11.is_empty()) {
                let message = "is a YubiKey, and is not examined: `claviger token list` shows its PIN and keys";
                out.warn(&format!("the token {:?} {message}", token.name));
            }
            if pkcs11.is_empty() { yubikeys } else { pkcs11 }
        }
    };
    for token in &tokens {
        pkcs11_uri(token)?;
    }
    // Harden the process before a module starts threads, as a keeper does. So the measures that hold here also hold in
    // a keeper.
    let machine = Machine::harden_and_examine();
    let (mut documents, mut not_ready) = (Vec::new(), None);
    for token in tokens {
        let report = Report::new(ExaminedToken::examine(config, token, out)?, token, &machine);
        match out.json {
            true => documents.push(report.to_json()),
            false => report.print(out)?,
        }
        not_ready = not_ready.or(report.failure());
    }
    if out.json {
        out.document(&documents)?;
    }
    not_ready.map_or(Ok(()), Err)
}

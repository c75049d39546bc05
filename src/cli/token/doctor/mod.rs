//! `claviger token doctor`: tests what a token can do, and reports problems of the token, its PIN, its keys and this
//! machine.

#[cfg(feature = "yubikey")]
mod card;
mod device_report;
mod examination;
mod findings;
mod machine;
mod report;

use std::path::PathBuf;

use claviger::secrets::Slot;

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    tokens::{
        custodian::ManagementKeyArgs,
        open::{check_uri, pkcs11_uri},
    },
};

use examination::ExaminedToken;
use machine::Machine;
pub use machine::report_sandbox;
use report::Report;

/// Tests what a token can do, and reports problems and what to do about them
///
/// The command tests each algorithm with known answers, how far the secrets of a key agreement stay in the token
/// (docs/custody.md), and the speed. It also checks the token's keys, its PIN and this machine. Nothing in a PKCS#11
/// token is changed.
///
/// The verdict for each algorithm is sign-only, anoncrypt (it can decrypt anoncrypted messages) or authcrypt (it can
/// send and decrypt authenticated messages as well). The tests use session keys, which a read-only session makes, and
/// which disappear with the session, however the program ends. A token that makes no session keys is tested with the
/// keys that it holds.
///
/// A YubiKey has no session keys, so by itself the command tests only the keys that it holds and that ask nobody. With
/// --report or --slot the YubiKey makes throw-away keys in one empty slot, and deletes them; this needs its management
/// key, as `key generate` does. No key or certificate is overwritten. Firmware before 5.7 cannot delete keys: it needs
/// --slot, and that slot keeps a key that is marked as deleted, until another key is made there.
///
/// If the token is not ready, the report has what is visible without a login, and the exit status is 3.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json each finding is {"id", "level", "about", "message", "hint"}. "level" is bad, warning, note or good; "about" lists the algorithms, keys or measures that the finding is about; "hint" says what to do, and may be null. docs/cli.md lists the findings."#
)]
pub struct Args {
    /// The token's name in the configuration; without it, all tokens
    #[arg(conflicts_with = "uri")]
    pub name: Option<String>,
    /// The URI of a token that no configuration names: pkcs11: (RFC 7512) or yubikey:
    #[arg(long)]
    uri: Option<String>,
    /// Writes what the device can do to this file, for others who have such a device
    ///
    /// The report has the names and versions of module and device, its mechanisms, and the results of the tests. It has
    /// no label, serial number, PIN, key or path. It is shown before it is written. docs/devices.md says where to send it.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The empty slot of a YubiKey for throw-away keys: 9a, 9c, 9d, 9e, or 82 to 95; if not given, the last empty one
    /// from 82 to 95
    #[arg(long)]
    slot: Option<Slot>,
    #[command(flatten)]
    management: ManagementKeyArgs,
    /// Writes the file of --report without asking
    #[arg(long, short, requires = "report")]
    yes: bool,
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
        (None, None) => config.tokens.iter().collect(),
    };
    let several = tokens.len() > 1;
    let (mut examined, mut not_ready) = (Vec::new(), None);
    for token in tokens {
        // Behind a separate keeper there may be either.
        let checked =
            check_uri(token).and_then(|()| if token.is_yubikey() { Ok(()) } else { pkcs11_uri(token).map(drop) });
        match checked {
            Ok(()) => examined.push(token),
            // The others are examined, and the failure is returned at the end.
            Err(failure) if several => {
                out.warn(&failure.message);
                not_ready.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    let tokens = examined;
    let for_one = [(args.report.is_some(), "--report"), (args.slot.is_some(), "--slot")];
    if let Some((_, option)) = for_one.into_iter().find(|(given, _)| *given && several) {
        let message = format!("{option} is about one token, and several are configured");
        return Err(Failure::usage("bad-arguments", message).hint("add the token's name"));
    }
    if !tokens.iter().any(|token| token.is_yubikey()) && (args.slot.is_some() || args.management.is_given()) {
        let message = "--slot and --management-key are for YubiKeys, and the token is none";
        return Err(Failure::usage("bad-arguments", message));
    }
    if args.management.is_given() && args.report.is_none() && args.slot.is_none() {
        let message = "--management-key is for throw-away keys, which the command makes only with --report or --slot";
        return Err(Failure::usage("bad-arguments", message));
    }
    #[cfg(feature = "yubikey")]
    let management_key = args.management.read()?;
    if args.report.is_some() {
        device_report::check_can_ask(args.yes)?;
    }
    // Harden the process before a module starts threads, as a keeper does. So the measures that hold here also hold in
    // a keeper.
    let machine = Machine::harden_and_examine();
    let mut documents = Vec::new();
    for token in tokens {
        #[cfg(feature = "yubikey")]
        if token.is_yubikey() {
            let wanted = card::Wanted { slot: args.slot, report: args.report.is_some() };
            let examined = card::ExaminedYubiKey::examine(config, token, wanted, management_key.clone(), out)?;
            let findings = examined.findings(token, &machine);
            match out.json {
                true => documents.push(examined.to_json(&findings, &machine)),
                false => examined.print(&findings, out)?,
            }
            let report = args.report.as_deref().zip(examined.device_report());
            let written = report.map_or(Ok(()), |(path, report)| device_report::write(&report, path, args.yes, out));
            not_ready = not_ready.or(examined.failure()).or(written.err());
            continue;
        }
        let report = Report::new(ExaminedToken::examine(config, token, out)?, token, &machine);
        match out.json {
            true => documents.push(report.to_json()),
            false => report.print(out)?,
        }
        // A token that is not ready is reported by its own failure.
        let mut written = Ok(());
        if let (Some(path), ExaminedToken { opened: Ok(opened), overview: Some(_), .. }) =
            (&args.report, report.token())
        {
            written = device_report::report(report.token(), opened)
                .and_then(|report| device_report::write(&report, path, args.yes, out));
        }
        // The JSON document is printed, whether the file was written or not.
        not_ready = not_ready.or(report.failure()).or(written.err());
    }
    if out.json {
        out.document(&documents)?;
    }
    not_ready.map_or(Ok(()), Err)
}

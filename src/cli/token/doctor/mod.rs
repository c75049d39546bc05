//! `claviger token doctor`: what a token can do, shown by having it do it; and what is not as it should be around it.

mod findings;
mod machine;
mod report;

use std::sync::Arc;

use claviger::{
    keys::Curve,
    secrets::{
        Custodian, HeldKey, Token, TokenError,
        pkcs11::{Examination, Look, PinMemory, Pkcs11Token, Step},
    },
};

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{Out, Progress},
    tokens,
};

use machine::Machine;
pub use machine::try_sandbox;
use report::Report;

/// Tests what a token can do, how far its shared secrets come out of it, and how fast it is; looks at its keys, its PIN
/// and this machine; and says what to do. Nothing in the token is changed.
///
/// The verdict for each algorithm is sign-only, anoncrypt (it reads what is encrypted to it) or authcrypt (it reads and
/// sends authenticated messages as well). It is tested with keys that are made for it in a session that can only read,
/// and that are gone with the session, however the program ends. A token that makes no such keys is tested with those
/// that it holds.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; all tokens without it
    #[arg(conflicts_with = "uri")]
    name: Option<String>,
    /// A token that no configuration names, by its PKCS#11 URI (RFC 7512)
    #[arg(long)]
    uri: Option<String>,
    /// Enters the agent's sandbox and says what holds of it: a process of its own, as no one comes out again
    #[arg(long, hide = true)]
    pub sandbox: bool,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let named = args.uri.as_deref().map(TokenConfig::of_uri);
    let configured: Vec<&TokenConfig> = match (&named, &args.name) {
        (Some(token), _) => vec![token],
        (None, Some(name)) => vec![config.token(Some(name))?],
        (None, None) if config.tokens.is_empty() => return Err(config.no_token()),
        (None, None) => {
            // Told apart only where nobody has named one: they show without an examination what they can do.
            let (modules, yubikeys): (Vec<&TokenConfig>, Vec<_>) =
                config.tokens.iter().partition(|token| !tokens::is_yubikey(token));
            for token in yubikeys.iter().filter(|_| !modules.is_empty()) {
                let said = "is a YubiKey, and is not examined: `claviger token list` shows its PIN and keys";
                out.warn(&format!("the token {:?} {said}", token.name));
            }
            if modules.is_empty() { yubikeys } else { modules }
        }
    };
    for token in &configured {
        tokens::check_uri(token)?;
    }
    // Before a module starts threads, and as a keeper does it: what holds here, holds there.
    let machine = Machine::harden_and_look();
    let (mut documents, mut not_ready) = (Vec::new(), None);
    for token in configured {
        let report = Report::new(Patient::examine(config, token, out)?, token, &machine);
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

/// What was found out of a token.
struct Patient {
    name: String,
    /// How its module and the token look without a login; none if it is not there.
    look: Option<Look>,
    /// What is remembered of its PIN.
    remembered: Option<PinMemory>,
    /// What it showed once it was opened.
    inside: Result<Inside, Failure>,
}

/// What a login shows.
struct Inside {
    token: Arc<Pkcs11Token>,
    /// All keys, those too that are not used.
    inventory: Vec<HeldKey>,
    usable: Vec<HeldKey>,
    examination: Examination,
}

impl Patient {
    /// A token that is not ready is told with all that can be said of it; one that cannot be configured so is an error.
    fn examine(config: &Config, token: &TokenConfig, out: &Out) -> Result<Self, Failure> {
        let name = token.name.clone();
        let options = tokens::options(config, token)?;
        let opened = tokens::open_module(config, token);
        // Behind the login: what it says of its PIN may have changed.
        let look = options.look(&token.uri);
        let inside = match (opened, &look) {
            (Err(failure), Err(TokenError::Config(_))) => return Err(failure),
            (Err(failure), _) => Err(failure),
            (Ok(opened), _) => Inside::examine(opened, out).map_err(|error| Failure::of_token(&name, &error)),
        };
        let look = look.ok();
        // What cannot be read was told when the token was not opened.
        let remembered = look.as_ref().and_then(|look| options.pin_memory(&look.token.info).ok()?);
        Ok(Self { name, look, remembered, inside })
    }
}

impl Inside {
    fn examine(token: Arc<Pkcs11Token>, out: &Out) -> Result<Self, TokenError> {
        let progress = Progress::new(out);
        progress.tell(&format!("{}: its keys", token.name()));
        let inventory = token.inventory()?;
        let usable = token.keys()?;
        let examination = token.examine(|curve, step| progress.tell(&line(token.name(), curve, step)))?;
        Ok(Self { token, inventory, usable, examination })
    }
}

/// What is done now, and how far it is.
fn line(token: &str, curve: Curve, step: Step) -> String {
    let does = match step {
        Step::Key => "a key for the test",
        Step::Sign => "signing",
        Step::Agree => "key agreement",
        Step::TimeSign => "how long signing takes",
        Step::TimeAnoncrypt => "how long anoncrypt in takes",
        Step::TimeAuthcrypt => "how long authcrypt in takes",
    };
    let number = Step::ALL.iter().position(|it| *it == step).map_or(0, |at| at + 1);
    format!("{token}: {curve}: {does} [{number}/{}]", Step::ALL.len())
}

//! `claviger token doctor`: what a token can do, shown by doing it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use claviger::{
    crypto::ContentEncryption,
    jose::{self, Envelope, Limits, Recipient},
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, Custody, HeldKey, KeyUse, Keyring, NewKey, Secrets, Token, TokenError, pkcs11::Pkcs11Token,
    },
};

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{BOLD, Out},
    table::Table,
    tokens, wait,
};

/// Tests what a token can do, how far its shared secrets come out of it, and how fast it is.
///
/// The verdict for each algorithm is sign-only, anoncrypt (it reads what is encrypted to it) or authcrypt (it reads and
/// sends authenticated messages as well). An algorithm is tested with a key that the token holds, or with --make-keys
/// with a new one, which is deleted after.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; all tokens without it
    #[arg(conflicts_with = "uri")]
    name: Option<String>,
    /// A token that no configuration names, by its PKCS#11 URI (RFC 7512)
    #[arg(long)]
    uri: Option<String>,
    /// Makes a key for each algorithm that has none, and deletes it after
    #[arg(long)]
    make_keys: bool,
}

/// How often an operation is timed; the median is told.
const ROUNDS: usize = 9;

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let named = args.uri.as_deref().map(TokenConfig::of_uri);
    let configured: Vec<&TokenConfig> = match (&named, &args.name) {
        (Some(token), _) => vec![token],
        (None, Some(name)) => vec![config.token(Some(name))?],
        (None, None) if config.tokens.is_empty() => return Err(config.no_token()),
        (None, None) => config.tokens.iter().collect(),
    };
    for token in &configured {
        tokens::check_uri(token)?;
    }
    let mut reports = Vec::new();
    for token in configured {
        let token = tokens::open(config, token)?;
        let report = wait(examine(token, args.make_keys))?;
        if !out.json {
            report.print(out)?;
        }
        reports.push(report.to_json());
    }
    if out.json { out.document(&reports) } else { Ok(()) }
}

/// What was found out of a token.
struct Report {
    token: Arc<Pkcs11Token>,
    algorithms: Vec<Finding>,
    /// Keys that it holds and that are not used.
    refused: Vec<HeldKey>,
}

/// What was found out of an algorithm.
struct Finding {
    curve: Curve,
    verdict: Option<&'static str>,
    custody: Option<Custody>,
    unwrap: Option<Duration>,
    sign: Option<Duration>,
    /// Why there is no verdict, or not a better one.
    note: Option<String>,
}

async fn examine(token: Arc<Pkcs11Token>, make_keys: bool) -> Result<Report, Failure> {
    let failed = |error: TokenError| Failure::of_token(token.name(), &error);
    let all = token.inventory().map_err(failed)?;
    let usable = token.keys().map_err(failed)?;
    let mut algorithms = Vec::new();
    for curve in Curve::ALL {
        let held = usable
            .iter()
            .filter(|held| held.public.curve() == curve)
            .max_by_key(|held| held.usage == KeyUse::of(curve));
        algorithms.push(match held {
            Some(held) => test(&token, held).await?,
            None if make_keys => test_new(&token, curve).await?,
            None => Finding::untested(curve, "no key on it; --make-keys makes one for the test".to_owned()),
        });
    }
    let refused = all.into_iter().filter(|held| !usable.contains(held)).collect();
    Ok(Report { token, algorithms, refused })
}

/// Tests a curve with a key that is deleted after.
async fn test_new(token: &Arc<Pkcs11Token>, curve: Curve) -> Result<Finding, Failure> {
    let new = NewKey { curve, usage: KeyUse::of(curve), label: Some("claviger doctor".into()) };
    let held = match token.generate(&new) {
        Ok(held) => held,
        Err(error) => return Ok(Finding::untested(curve, error.to_string())),
    };
    let finding = test(token, &held).await;
    token.delete(&held.public).map_err(|error| Failure::of_token(token.name(), &error))?;
    finding
}

async fn test(token: &Arc<Pkcs11Token>, held: &HeldKey) -> Result<Finding, Failure> {
    let key = &held.public;
    let mut finding = Finding { custody: held.custody, ..Finding::untested(key.curve(), String::new()) };
    finding.note = None;
    if held.usage.signs() {
        match median(|| token.sign(key, b"claviger token doctor")) {
            Ok(took) => (finding.verdict, finding.sign) = (Some("sign-only"), Some(took)),
            Err(error) => finding.note = Some(error.to_string()),
        }
    }
    if held.usage.agrees() {
        let keyring = Keyring::builder().shared_token(token.clone()).start().await?;
        match messages(&keyring, key).await {
            (Some(took), None) => (finding.verdict, finding.unwrap) = (Some("authcrypt"), Some(took)),
            (Some(took), note) => {
                (finding.verdict, finding.unwrap, finding.note) = (Some("anoncrypt"), Some(took), note);
            }
            (None, note) => finding.note = note,
        }
    }
    Ok(finding)
}

/// Reads messages encrypted to the key, then sends itself an authenticated one: how long reading took, and what failed.
async fn messages(keyring: &Keyring, key: &PublicKey) -> (Option<Duration>, Option<String>) {
    let kid = "did:example:doctor#key";
    let to = [Recipient { kid, key }];
    let cx = Context::default();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let read = async {
            let packed = jose::anoncrypt(b"{}", ContentEncryption::A256CbcHs512, &to)?;
            let start = Instant::now();
            open(&packed, kid, key, None, keyring, &cx).await?;
            Ok::<_, jose::JoseError>(start.elapsed())
        };
        match read.await {
            Ok(took) => times.push(took),
            Err(error) => return (None, Some(error.to_string())),
        }
    }
    times.sort();
    let both = async {
        let packed = jose::authcrypt(b"{}", kid, key, &to, keyring, &cx).await?;
        open(&packed, kid, key, Some(key), keyring, &cx).await
    };
    (Some(times[ROUNDS / 2]), both.await.err().map(|error| error.to_string()))
}

async fn open(
    packed: &str,
    kid: &str,
    key: &PublicKey,
    sender: Option<&PublicKey>,
    secrets: &dyn Secrets,
    cx: &Context,
) -> Result<(), jose::JoseError> {
    match Envelope::parse(packed.as_bytes(), &Limits::default())? {
        Envelope::Encrypted(jwe) => jwe.decrypt(kid, key, sender, secrets, cx).await.map(|_| ()),
        _ => Err(jose::JoseError::Unrecognised),
    }
}

fn median<T>(operation: impl Fn() -> Result<T, TokenError>) -> Result<Duration, TokenError> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        operation()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[ROUNDS / 2])
}

impl Finding {
    fn untested(curve: Curve, note: String) -> Self {
        Self { curve, verdict: None, custody: None, unwrap: None, sign: None, note: Some(note) }
    }
}

impl Report {
    fn print(&self, out: &Out) -> Result<(), Failure> {
        let info = self.token.info();
        let name = self.token.name();
        out.line(&format!("{BOLD}{name}{BOLD:#}: {} {}, serial {}", info.manufacturer, info.model, info.serial))?;
        let time = |took: Option<Duration>| took.map(|took| format!("{:.2} ms", took.as_secs_f64() * 1e3));
        let mut table = Table::new(&["ALGORITHM", "VERDICT", "CUSTODY", "UNWRAP", "SIGN", "NOTE"]);
        for finding in &self.algorithms {
            table.row([
                finding.curve.to_string(),
                finding.verdict.unwrap_or_default().to_owned(),
                finding.custody.map(|custody| custody.to_string()).unwrap_or_default(),
                time(finding.unwrap).unwrap_or_default(),
                time(finding.sign).unwrap_or_default(),
                finding.note.clone().unwrap_or_default(),
            ]);
        }
        out.line(&table.render())?;
        for held in &self.refused {
            let why = if held.protected { "it failed its test" } else { "it is extractable or not sensitive" };
            out.warn(&format!("the key {} is not used: {why}", held.public));
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let micros = |took: Option<Duration>| took.map(|took| took.as_micros() as u64);
        let algorithms = self.algorithms.iter().map(|finding| {
            json!({
                "algorithm": finding.curve.name(),
                "verdict": finding.verdict,
                "custody": finding.custody,
                "unwrap_microseconds": micros(finding.unwrap),
                "sign_microseconds": micros(finding.sign),
                "note": finding.note,
            })
        });
        json!({
            "name": self.token.name(),
            "token": self.token.info(),
            "algorithms": algorithms.collect::<Vec<_>>(),
            "refused": self.refused.iter().map(|held| held.public.to_multikey()).collect::<Vec<_>>(),
        })
    }
}

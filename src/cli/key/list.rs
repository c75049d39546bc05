//! `claviger key list`.

use serde_json::json;

use claviger::secrets::{HeldKey, Origin};

use crate::cli::{
    config::Config,
    failure::{Failure, Status},
    keys::{kids, to_json},
    output::{Out, short},
    own::Own,
    table::Table,
    tokens,
};

/// Lists the keys in the tokens, with the DIDs that use each, and what the token vouches for: that a key was made in it,
/// that it was never readable (always sensitive) and that it never could leave (never extractable).
#[derive(clap::Args)]
pub struct Args {
    /// Only this token, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let tokens: Vec<_> = match &args.token {
        Some(name) => vec![config.token(Some(name))?],
        None if config.tokens.is_empty() => return Err(config.no_token()),
        None => config.tokens.iter().collect(),
    };
    let own = Own::load(config)?;
    let (mut keys, mut not_ready) = (Vec::new(), None);
    let several = tokens.len() > 1;
    for token in tokens {
        match tokens::open(config, token).and_then(|token| token.inventory()) {
            Ok(held) => keys.extend(held),
            // One of several YubiKeys lies in a drawer: what there is is listed, and that it is not all is told at the end.
            Err(failure) if several && failure.status == Status::TokenNotReady => {
                not_ready.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    match not_ready {
        Some(failure) if keys.is_empty() => Err(failure),
        Some(failure) => listed(keys, &own, out).and(Err(failure)),
        None => listed(keys, &own, out),
    }
}

fn listed(mut keys: Vec<HeldKey>, own: &Own<'_>, out: &Out) -> Result<(), Failure> {
    // Tokens give them in no order.
    keys.sort_by_cached_key(|held| (held.token.clone(), held.label.is_none(), held.label.clone(), held.public.clone()));
    warn(&keys, out);
    if out.json {
        let rows = keys.iter().map(|held| {
            let mut row = to_json(held);
            row["dids"] = json!(kids(&own.documents, &held.public));
            row
        });
        return out.document(&rows.collect::<Vec<_>>());
    }
    // Only YubiKeys have slots.
    let slots = keys.iter().any(|held| held.slot.is_some());
    let mut head =
        vec!["NAME", "KEY", "ALGORITHM", "USE", "TOKEN", "ORIGIN", "SENSITIVE", "EXTRACTABLE", "CUSTODY", "DIDS"];
    if slots {
        head.insert(5, "SLOT");
    }
    let mut table = Table::new(&head);
    for held in &keys {
        let kids: Vec<String> = kids(&own.documents, &held.public).iter().map(|kid| short(kid)).collect();
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let custody = match held.custody {
            _ if !held.protected => "UNPROTECTED".to_owned(),
            Some(custody) => custody.to_string(),
            None => String::new(),
        };
        let mut row = vec![
            held.label.clone().unwrap_or_default(),
            held.public.to_multikey(),
            held.public.curve().to_string(),
            word(json!(held.usage)),
            held.token.to_string(),
            word(json!(held.origin)),
            evidence(held.always_sensitive, "always", "not-always"),
            evidence(held.never_extractable, "never", "not-never"),
            custody,
            kids.join(","),
        ];
        if slots {
            row.insert(5, held.slot.map(|slot| slot.to_string()).unwrap_or_default());
        }
        table.row(row);
    }
    if keys.is_empty() {
        out.say("No keys. `claviger key generate` or `claviger did create` makes some.");
        return Ok(());
    }
    out.line(&table.render())
}

fn evidence(says: Option<bool>, yes: &str, no: &str) -> String {
    says.map(|says| if says { yes } else { no }).unwrap_or_default().to_owned()
}

/// Says which keys lack what: once for all that lack the same.
fn warn(keys: &[HeldKey], out: &Out) {
    let of = |lacks: fn(&HeldKey) -> bool| {
        let named = keys.iter().filter(|held| lacks(held));
        named.map(|held| held.label.clone().unwrap_or_else(|| held.public.to_multikey())).collect::<Vec<_>>()
    };
    for (names, what) in [
        (of(|held| !held.protected), "can leave the token now: extractable, or not sensitive"),
        (
            of(|held| held.origin == Origin::Imported),
            "existed outside the token before they were imported: a copy may exist, and no token can prove otherwise",
        ),
        (
            of(|held| {
                let denied = [held.always_sensitive, held.never_extractable].contains(&Some(false));
                held.protected && held.origin != Origin::Imported && denied
            }),
            "could leave the token at some time, so a copy may exist: make new ones in their place",
        ),
        (
            of(|held| {
                let says =
                    held.origin != Origin::Unknown && held.always_sensitive.and(held.never_extractable).is_some();
                held.protected && held.origin != Origin::Imported && !says
            }),
            "the token does not say whether they could ever leave it",
        ),
    ] {
        if !names.is_empty() {
            out.warn(&format!("{}: {what}", names.join(", ")));
        }
    }
}

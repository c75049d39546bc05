//! `claviger key list`: lists the keys in the tokens, and the DIDs that use them.

use serde_json::json;

use claviger::secrets::{HeldKey, Origin, UnpairedKey};

use crate::cli::{
    config::Config,
    failure::Failure,
    key_name::{held_key_json, key_ids},
    output::{Out, short},
    own_dids::OwnDids,
    table::Table,
    tokens::custodian,
};

/// Lists the keys in the tokens, and the DIDs that use them
///
/// For each key the token says whether it was generated there or imported, whether it was always sensitive, and whether
/// it was never extractable. The custody is how far the secrets of a key agreement stay in the token (docs/custody.md).
/// Keys of which a copy may exist cause a warning, and so does each key that is not served: its halves do not belong
/// together, its attributes do not permit its use, or it is not protected. No DID may name such a key. A private key
/// whose public half is not in the token has no row, only a warning that says what to do. If a token is not ready, the
/// keys of the others are listed, and the exit status is 3.
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
    let own = OwnDids::load(config)?;
    let (mut keys, mut failed) = (Vec::new(), None);
    let several = tokens.len() > 1;
    for token in tokens {
        let listed = custodian::open(config, token).and_then(|it| {
            let keys = it.inventory()?;
            warn_of_unpaired_keys(&token.name, &it.unpaired_keys()?, out);
            Ok(keys)
        });
        match listed {
            Ok(held) => keys.extend(held),
            // A spare YubiKey may be unplugged, or a token's configuration wrong. The keys of the other tokens are listed,
            // and the failure is returned at the end.
            Err(failure) if several => {
                failed.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    match failed {
        Some(failure) if keys.is_empty() => Err(failure),
        Some(failure) => print(keys, &own, out).and(Err(failure)),
        None => print(keys, &own, out),
    }
}

fn print(mut keys: Vec<HeldKey>, own: &OwnDids<'_>, out: &Out) -> Result<(), Failure> {
    // Tokens list their keys in no particular order.
    keys.sort_by_cached_key(|held| (held.token.clone(), held.label.is_none(), held.label.clone(), held.public.clone()));
    warn_of_exposed_keys(&keys, out);
    if out.json {
        let rows = keys.iter().map(|held| {
            let mut row = held_key_json(held);
            row["dids"] = json!(key_ids(&own.documents, &held.public));
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
        let kids: Vec<String> = key_ids(&own.documents, &held.public).iter().map(|kid| short(kid)).collect();
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let custody = match held.custody {
            _ if !held.protected => "UNPROTECTED".to_owned(),
            _ if held.refused.is_some() => "NOT-SERVED".to_owned(),
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
            attribute(held.always_sensitive, "always", "not-always"),
            attribute(held.never_extractable, "never", "not-never"),
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

/// Warns of private keys that have no row, because their public halves are not known.
fn warn_of_unpaired_keys(token: &str, keys: &[UnpairedKey], out: &Out) {
    for key in keys {
        let label = key.label.as_deref().map_or("without a label".to_owned(), |label| format!("{label:?}"));
        out.warn(&format!(
            "the token {token:?} holds a private key {label} ({}) that is not served: {}",
            key.curve, key.reason
        ));
    }
}

/// The word for an attribute of a key. Empty if the token does not say.
fn attribute(value: Option<bool>, yes: &str, no: &str) -> String {
    value.map(|value| if value { yes } else { no }).unwrap_or_default().to_owned()
}

/// Warns of keys that a copy may exist of: one warning for all keys with the same reason.
fn warn_of_exposed_keys(keys: &[HeldKey], out: &Out) {
    let names_of = |is_exposed: fn(&HeldKey) -> bool| {
        let named = keys.iter().filter(|held| is_exposed(held));
        named.map(|held| held.label.clone().unwrap_or_else(|| held.public.to_multikey())).collect::<Vec<_>>()
    };
    for held in keys {
        if let Some(reason) = &held.refused {
            let label = held.label.as_deref().map(|label| format!(" ({label})")).unwrap_or_default();
            out.warn(&format!("the key {}{label} is not served: {reason}", held.public));
        }
    }
    for (names, what) in [
        (names_of(|held| !held.protected), "can leave the token now: extractable, or not sensitive"),
        (
            names_of(|held| held.origin == Origin::Imported),
            "existed outside the token before the import: a copy may exist, and no token can prove otherwise",
        ),
        (
            names_of(|held| {
                let denied = [held.always_sensitive, held.never_extractable].contains(&Some(false));
                held.protected && held.origin != Origin::Imported && denied
            }),
            "could leave the token at some time, so a copy may exist: make new keys in their place",
        ),
        (
            names_of(|held| {
                let says =
                    held.origin != Origin::Unknown && held.always_sensitive.and(held.never_extractable).is_some();
                held.protected && held.origin != Origin::Imported && !says
            }),
            "the token does not say whether a key could ever leave it",
        ),
    ] {
        if !names.is_empty() {
            out.warn(&format!("{}: {what}", names.join(", ")));
        }
    }
}

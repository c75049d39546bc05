//! `claviger key list`.

use serde_json::json;

use crate::cli::{
    config::Config,
    failure::Failure,
    keys::{kids, to_json},
    output::{Out, short},
    own::Own,
    table::Table,
    tokens,
};

/// Lists the keys in the tokens, with the DIDs that use each.
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
    let mut keys = Vec::new();
    for token in tokens {
        keys.extend(tokens::inventory(&*tokens::open(config, token)?)?);
    }
    // Tokens give them in no order.
    keys.sort_by_cached_key(|held| (held.token.clone(), held.label.is_none(), held.label.clone(), held.public.clone()));
    if out.json {
        let rows = keys.iter().map(|held| {
            let mut row = to_json(held);
            row["dids"] = json!(kids(&own.documents, &held.public));
            row
        });
        return out.document(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "KEY", "ALGORITHM", "USE", "TOKEN", "ORIGIN", "CUSTODY", "DIDS"]);
    for held in &keys {
        let kids: Vec<String> = kids(&own.documents, &held.public).iter().map(|kid| short(kid)).collect();
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let custody = match held.custody {
            _ if !held.protected => "UNPROTECTED".to_owned(),
            Some(custody) => custody.to_string(),
            None => String::new(),
        };
        table.row([
            held.label.clone().unwrap_or_default(),
            held.public.to_multikey(),
            held.public.curve().to_string(),
            word(json!(held.usage)),
            held.token.to_string(),
            word(json!(held.origin)),
            custody,
            kids.join(","),
        ]);
    }
    if keys.is_empty() {
        out.say("No keys. `claviger key generate` or `claviger did create` makes some.");
        return Ok(());
    }
    out.line(&table.render())
}

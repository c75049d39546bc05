//! `claviger init`: a configuration, keys in the token, a first DID.

mod arguments;
mod created_files;
mod softhsm;
mod template;
mod units;

use std::path::Path;

use serde_json::json;

use claviger::did::peer;

use super::{
    config::Config,
    did::create::{self, Method},
    failure::Failure,
    output::Out,
    shell::quoted,
};
pub use arguments::Args;
use arguments::{PublicUrl, local_address};
use created_files::CreatedFiles;
use template::{Api, Settings, Token, TokenSettings};

pub fn run(args: &Args, out: &Out) -> Result<(), Failure> {
    let url = match &args.public_url {
        Some(url) => PublicUrl::parse(url)?,
        None => PublicUrl::parse(&format!("http://{}", local_address(args.listen)))?,
    };
    if args.method == Method::Key {
        return Err(Failure::usage("bad-arguments", "a did:key has no service, so no peer could send messages to it")
            .hint("use --method peer:2, peer:4, web or webvh"));
    }
    let url = Some(url).filter(|_| !args.no_port);
    if args.method.has_host() && args.public_url.is_none() {
        let message = "--method web and --method webvh need --public-url: its host becomes part of the DID";
        return Err(Failure::usage("bad-arguments", message));
    }
    if let Some(name) = &args.units.keeper {
        return units::run(name, args, url.as_ref(), out);
    }
    let mut files = CreatedFiles::begin(&args.folder)?;
    make(args, url.as_ref(), &mut files, out)?;
    files.keep();
    Ok(())
}

fn make(args: &Args, url: Option<&PublicUrl>, files: &mut CreatedFiles, out: &Out) -> Result<(), Failure> {
    let (token, soft) = match &args.token_uri {
        Some(uri) => (TokenSettings { environment: args.environment.clone(), ..TokenSettings::from_uri(uri)? }, None),
        None => {
            let soft = softhsm::SoftToken::prepare(files)?;
            (soft.settings(), Some(soft))
        }
    };
    let settings = Settings {
        state_dir: "state",
        token: Token::Own(token),
        http: url.map(|url| (args.listen, url.text.as_str())),
        peers_are_local: args.local_peers,
        api: Api::InState,
    };
    let file = files.write_configuration(&settings.render())?;
    let config = Config::load(Some(&file))?;
    if let Some(soft) = &soft {
        soft.initialise(&file)?;
    }
    let created = create::make(&args.first_did(url), &config, out)?;
    print(args, url, &file, created.document.id(), soft.as_ref(), out)
}

/// Prints what was made, and the next commands.
fn print(
    args: &Args,
    url: Option<&PublicUrl>,
    file: &Path,
    did: &str,
    soft: Option<&softhsm::SoftToken>,
    out: &Out,
) -> Result<(), Failure> {
    let mut notes = Vec::new();
    if soft.is_some() {
        notes.push(format!(
            "the private keys are in files, under {}: SoftHSM is not hardware, and only for trying claviger out. \
             --token-uri names another token",
            softhsm::folder(file).display()
        ));
    }
    if let Some(url) = url.filter(|url| url.is_local()) {
        let hint = match args.local_peers {
            true => "",
            false => ", and --local-peers allows peers on this machine",
        };
        notes.push(format!("only this machine reaches {}; --public-url names a URL that peers reach{hint}", url.text));
    }
    let flag = match file == Path::new("./claviger.toml") && std::env::var_os("CLAVIGER_CONFIG").is_none() {
        true => String::new(),
        false => format!(" --config {}", quoted(file.display())),
    };
    let (next_command, effect) = match url {
        Some(_) => ("invite", "prints an invitation for a peer"),
        None => ("mediator use DID", "registers with a mediator, by its DID"),
    };
    let next = [format!("claviger{flag} serve"), format!("claviger{flag} {next_command}")];
    if out.json {
        let mut made = json!({
            "configuration": file, "did": did, "software_token": soft.is_some(), "next": next, "notes": notes,
        });
        if let Some(short) = peer::short_form(did) {
            made["short"] = short.into();
        }
        return out.document(&made);
    }
    for note in notes {
        out.say(&format!("Note: {note}."));
    }
    out.say(&format!("Made {}, keys in the token, and a DID:", file.display()));
    out.line(did)?;
    if args.method.has_host() {
        out.say("The agent serves the DID's document; a proxy in front of the agent must terminate TLS for the host.");
    }
    out.say(&format!(
        "Next:\n    {:width$}    runs the agent\n    {}    {effect}, in another terminal",
        next[0],
        next[1],
        width = next[1].len()
    ));
    Ok(())
}

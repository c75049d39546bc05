//! `claviger init`: a configuration, keys in the token, a first DID.

mod created_files;
mod softhsm;
mod template;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::json;

use claviger::did::peer;

use super::{
    config::Config,
    did::create::{self, Method},
    failure::Failure,
    output::Out,
};
use created_files::CreatedFiles;
use template::{Settings, TokenSettings};

/// Makes what `claviger serve` needs: a configuration, keys in the token, and a first DID.
///
/// Without --token-uri it makes a SoftHSM token in the state folder, to try claviger out: the keys are in files, and
/// the PINs are random, in files of mode 0600. An existing configuration is not overwritten. If the command fails, it
/// removes what it made.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json: {"configuration", "did", "software_token", "next"}, and "short" for a did:peer:4."#
)]
pub struct Args {
    /// The folder for claviger.toml
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The URI of a token that is initialised already: pkcs11: (RFC 7512) or yubikey:; a path in it is relative to
    /// claviger.toml
    #[arg(long, value_name = "URI")]
    token_uri: Option<String>,
    /// The URL by which peers reach the agent; without it, only this machine reaches it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Allows peers on this machine, for trials: strangers can then have the agent connect to any port of this machine
    #[arg(long)]
    local_peers: bool,
    /// Opens no port, for an agent behind a mediator: the first DID has no service, and `claviger mediator use` makes a
    /// DID with one
    #[arg(long, conflicts_with_all = ["public_url", "listen"])]
    no_port: bool,
    /// The DID method; web and webvh take the host and the path of --public-url
    #[arg(long, default_value = "peer:2")]
    method: Method,
}

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
    let mut files = CreatedFiles::begin(&args.folder)?;
    make(args, url.as_ref(), &mut files, out)?;
    files.keep();
    Ok(())
}

fn make(args: &Args, url: Option<&PublicUrl>, files: &mut CreatedFiles, out: &Out) -> Result<(), Failure> {
    let (token, soft) = match &args.token_uri {
        Some(uri) => (TokenSettings::from_uri(uri)?, None),
        None => {
            let soft = softhsm::SoftToken::prepare(files)?;
            (soft.settings(), Some(soft))
        }
    };
    let settings =
        Settings { token, http: url.map(|url| (args.listen, url.text.as_str())), peers_are_local: args.local_peers };
    let file = files.write_configuration(&settings.render())?;
    let config = Config::load(Some(&file))?;
    if let Some(soft) = &soft {
        soft.initialise(&file)?;
    }
    let created = create::make(&args.first_did(url), &config, out)?;
    print(args, url, &file, created.document.id(), soft.as_ref(), out)
}

impl Args {
    fn first_did(&self, url: Option<&PublicUrl>) -> create::Args {
        let services = url.map(|url| url.text.clone());
        let mut first = create::Args::with_new_keys(self.method, &[], services.into_iter().collect());
        if let Some(url) = url.filter(|_| self.method.has_host()) {
            first.host = Some(url.host.clone());
            first.path = Some(url.path.clone()).filter(|path| !path.is_empty());
        }
        first
    }
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
    if soft.is_some() {
        out.warn(&format!(
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
        out.warn(&format!("only this machine reaches {}; --public-url names a URL that peers reach{hint}", url.text));
    }
    let flag = match file == Path::new("./claviger.toml") && std::env::var_os("CLAVIGER_CONFIG").is_none() {
        true => String::new(),
        false => format!(" --config {}", shell_quoted(file)),
    };
    let (next_command, effect) = match url {
        Some(_) => ("invite", "prints an invitation for a peer"),
        None => ("mediator use DID", "registers with a mediator, by its DID"),
    };
    let next = [format!("claviger{flag} serve"), format!("claviger{flag} {next_command}")];
    if out.json {
        let mut made = json!({ "configuration": file, "did": did, "software_token": soft.is_some(), "next": next });
        if let Some(short) = peer::short_form(did) {
            made["short"] = short.into();
        }
        return out.document(&made);
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

/// Quotes a path for a shell.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The address by which this machine reaches a listener: an unspecified address becomes the loopback address.
fn local_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

/// The URL by which peers reach the agent.
struct PublicUrl {
    text: String,
    /// Includes the port, if the URL has one.
    host: String,
    /// Without leading and trailing slashes.
    path: String,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = || {
            Failure::usage("bad-arguments", format!("{text:?} is not an http or https URL"))
                .hint("for example https://agent.example.org")
        };
        let uri: axum::http::Uri = text.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() || text.contains(['@', '#']) {
            return Err(invalid());
        }
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: authority.as_str().to_owned(),
            path: uri.path().trim_matches('/').to_owned(),
        })
    }

    /// Whether the host is localhost or a loopback address.
    fn is_local(&self) -> bool {
        // An IPv6 address is in brackets, and has colons of its own.
        let host = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        let address: Result<std::net::IpAddr, _> = host.parse();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

//! `claviger init`: a configuration, keys in the token, a first DID.

mod place;
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
use place::Place;
use template::{Settings, TokenSettings};

/// Makes a configuration, the keys in the token and a first DID: what `claviger serve` needs.
///
/// Without --token-uri the keys are in a new SoftHSM token in the state folder, which is in files: for trying out. What is
/// there already is not overwritten.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of claviger.toml
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The token, which is initialised already: a PKCS#11 URI (RFC 7512), or yubikey:
    #[arg(long, value_name = "URI")]
    token_uri: Option<String>,
    /// The URL by which peers reach the agent; without it only this machine does
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Opens no port, as behind a mediator: the DID leads nowhere yet, and `claviger mediator use` makes one that does
    #[arg(long, conflicts_with_all = ["public_url", "listen"])]
    no_port: bool,
    /// The DID method
    #[arg(long, default_value = "peer:2")]
    method: Method,
}

pub fn run(args: &Args, out: &Out) -> Result<(), Failure> {
    let url = match &args.public_url {
        Some(url) => PublicUrl::parse(url)?,
        None => PublicUrl::parse(&format!("http://{}", reachable(args.listen)))?,
    };
    if args.method == Method::Key {
        return Err(Failure::words("bad-arguments", "a did:key names no place to send messages to")
            .hint("--method peer:2 does, and peer:4, web and webvh"));
    }
    let url = Some(url).filter(|_| !args.no_port);
    if args.method.has_host() && args.public_url.is_none() {
        let said = "--method web and --method webvh want --public-url: the DID has its host";
        return Err(Failure::words("bad-arguments", said));
    }
    let mut place = Place::take(&args.folder)?;
    make(args, url.as_ref(), &mut place, out)?;
    place.keep();
    Ok(())
}

fn make(args: &Args, url: Option<&PublicUrl>, place: &mut Place, out: &Out) -> Result<(), Failure> {
    let (token, soft) = match &args.token_uri {
        Some(uri) => (TokenSettings::of_uri(uri)?, None),
        None => {
            let soft = softhsm::SoftToken::prepare(place)?;
            (soft.settings(), Some(soft))
        }
    };
    let settings = Settings {
        token,
        place: url.map(|url| (args.listen, url.text.as_str())),
        private: url.is_some_and(PublicUrl::is_private),
    };
    let file = place.write_configuration(&settings.render())?;
    let config = Config::load(Some(&file))?;
    if let Some(soft) = &soft {
        soft.initialise(&file)?;
    }
    let made = create::make(&args.first_did(url), &config, out)?;
    told(args, url, &file, made.document.id(), soft.as_ref(), out)
}

impl Args {
    fn first_did(&self, url: Option<&PublicUrl>) -> create::Args {
        let services = url.map(|url| url.text.clone());
        let mut first = create::Args::plain(self.method, &[], services.into_iter().collect());
        if let Some(url) = url.filter(|_| self.method.has_host()) {
            first.host = Some(url.host.clone());
            first.path = Some(url.path.clone()).filter(|path| !path.is_empty());
        }
        first
    }
}

/// Says what was made, and what comes next.
fn told(
    args: &Args,
    url: Option<&PublicUrl>,
    file: &Path,
    did: &str,
    soft: Option<&softhsm::SoftToken>,
    out: &Out,
) -> Result<(), Failure> {
    if soft.is_some() {
        out.warn(&format!(
            "the private keys are in files, under {}: SoftHSM is no hardware, and this is for trying out. --token-uri names \
             a token",
            softhsm::folder(file).display()
        ));
    }
    if let Some(url) = url.filter(|url| url.is_private()) {
        out.warn(&format!(
            "{} is reached from this machine or its network only; --public-url says where peers reach it",
            url.text
        ));
    }
    let flag = match file == Path::new("./claviger.toml") && std::env::var_os("CLAVIGER_CONFIG").is_none() {
        true => String::new(),
        false => format!(" --config {}", quoted(file)),
    };
    let (then, what) = match url {
        Some(_) => ("invite", "an invitation for a peer"),
        None => ("mediator use DID", "a mediator, by its DID"),
    };
    let next = [format!("claviger{flag} serve"), format!("claviger{flag} {then}")];
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
        out.say("Its document is served by the agent; a proxy in front must have TLS for that host.");
    }
    out.say(&format!(
        "Next:\n    {:width$}    runs the agent\n    {}    in another terminal: {what}",
        next[0],
        next[1],
        width = next[1].len()
    ));
    Ok(())
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The address at which one that listens on all of them is reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

/// Where peers reach the agent.
struct PublicUrl {
    text: String,
    /// With the port, if there is one.
    host: String,
    /// Without slashes at its ends.
    path: String,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::words("bad-arguments", format!("{text:?} is no URL of http or https"))
                .hint("as https://agent.example.org")
        };
        let uri: axum::http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() || text.contains(['@', '#']) {
            return Err(wrong());
        }
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: authority.as_str().to_owned(),
            path: uri.path().trim_matches('/').to_owned(),
        })
    }

    /// Whether it is on this machine, as far as can be seen.
    fn is_private(&self) -> bool {
        let host = self.host.rsplit_once(':').map_or(self.host.as_str(), |(host, _)| host);
        let address: Result<std::net::IpAddr, _> = host.trim_matches(['[', ']']).parse();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

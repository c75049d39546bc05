//! The arguments of `claviger init`.

use std::{net::SocketAddr, path::PathBuf};

use crate::cli::{
    did::create::{self, Method},
    failure::Failure,
};

/// Makes what `claviger serve` needs: a configuration, keys in the token, and a first DID.
///
/// Without --token-uri it makes a SoftHSM token in the state folder, to try claviger out: the keys are in files, and
/// the PINs are random, in files of mode 0600. An existing configuration is not overwritten. If the command fails, it
/// removes what it made.
///
/// With --keeper it sets up a server, as root: the users, folders and units that the package has not made, the keeper of
/// the token with its PIN, the agent, and a first DID. Both units then run, and start with the machine.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json: {"configuration", "did", "software_token", "next", "notes"}, and "short" for a did:peer:4. With
--keeper, "software_token" is false, and "units" and "files" list what was made."#
)]
pub struct Args {
    /// The folder for claviger.toml
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// The URI of a token that is initialised already: pkcs11: (RFC 7512) or yubikey:; a path in it is relative to
    /// claviger.toml
    #[arg(long, value_name = "URI")]
    pub token_uri: Option<String>,
    /// The URL by which peers reach the agent; without it, only this machine reaches it
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Allows peers on this machine, for trials: strangers can then have the agent connect to any port of this machine
    #[arg(long)]
    pub local_peers: bool,
    /// Opens no port, for an agent behind a mediator: the first DID has no service, and `claviger mediator use` makes a
    /// DID with one
    #[arg(long, conflicts_with_all = ["public_url", "listen"])]
    pub no_port: bool,
    /// The DID method; web and webvh take the host and the path of --public-url
    #[arg(long, default_value = "peer:2")]
    pub method: Method,
    /// An environment variable for the token's module; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = environment_variable, requires = "token_uri")]
    pub environment: Vec<(String, String)>,
    #[command(flatten)]
    pub units: UnitArgs,
}

/// Splits NAME=VALUE.
fn environment_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("the form is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The options for a server with systemd.
#[derive(clap::Args)]
#[command(next_help_heading = "A server with systemd")]
pub struct UnitArgs {
    /// Sets up the units of a server, with a keeper of this name for the token; files are in /etc/claviger
    #[arg(long, value_name = "NAME", requires = "token_uri", conflicts_with = "folder")]
    pub keeper: Option<String>,
    /// The source of the token's PIN: prompt or file:PATH. The PIN is copied to /etc/claviger/keeper-NAME.pin, which
    /// only root reads, and systemd passes it to the keeper
    #[arg(long, value_name = "SOURCE", default_value = "prompt", requires = "keeper")]
    pub pin_source: String,
    /// A user whose programs may use the agent's API; may be given several times
    #[arg(long, value_name = "USER", requires = "keeper")]
    pub api_user: Vec<String>,
    /// The address, or the network, of an HSM that the token's module reaches by itself; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "keeper")]
    pub hsm_address: Vec<String>,
    /// A device that the token's module opens by itself; may be given several times. A YubiKey needs none
    #[arg(long, value_name = "PATH", requires = "keeper")]
    pub hsm_device: Vec<String>,
}

impl Args {
    /// The arguments that make the first DID.
    pub fn first_did(&self, url: Option<&PublicUrl>) -> create::Args {
        let services = url.map(|url| url.text.clone());
        let mut first = create::Args::with_new_keys(self.method, &[], services.into_iter().collect());
        if let Some(url) = url.filter(|_| self.method.has_host()) {
            first.host = Some(url.host.clone());
            first.path = Some(url.path.clone()).filter(|path| !path.is_empty());
        }
        first
    }
}

/// The address by which this machine reaches a listener: an unspecified address becomes the loopback address.
pub fn local_address(mut address: SocketAddr) -> SocketAddr {
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
pub struct PublicUrl {
    pub text: String,
    /// Includes the port, if the URL has one.
    host: String,
    /// Without leading and trailing slashes.
    path: String,
}

impl PublicUrl {
    pub fn parse(text: &str) -> Result<Self, Failure> {
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
    pub fn is_local(&self) -> bool {
        // An IPv6 address is in brackets, and has colons of its own.
        let host = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        let address: Result<std::net::IpAddr, _> = host.parse();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

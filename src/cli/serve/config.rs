//! The daemon's part of the configuration.

use std::{net::SocketAddr, path::PathBuf};

use claviger::agent::store::SqliteOptions;
use serde::Deserialize;

use crate::cli::{config::Config, failure::Failure};

/// The sections that only the daemon reads.
#[derive(Debug, Default, Clone)]
pub struct DaemonConfig {
    pub agent: AgentSection,
    pub http: HttpSection,
    pub net: NetSection,
    pub mediation: MediationSection,
    pub store: StoreSection,
    pub api: ApiSection,
    pub ops: OpsSection,
}

/// `[agent]`: what is taken and how long it is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSection {
    /// The largest message that is taken, in bytes.
    pub max_message_bytes: usize,
    /// Messages that are opened at once.
    pub workers: usize,
    /// A message that does not expire is refused when it is older, and remembered for so long.
    pub longest_age_days: u32,
    /// A message that does not expire is tried for so long.
    pub send_for_days: u32,
    /// Whether a person is asked for a PIN or a touch for a message from one with whom there is no connection.
    pub prompt_strangers: bool,
    /// Goal codes that discover-features tells of.
    pub goal_codes: Vec<String>,
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            max_message_bytes: 1_000_000,
            workers: 64,
            longest_age_days: 30,
            send_for_days: 7,
            prompt_strangers: false,
            goal_codes: Vec::new(),
        }
    }
}

/// `[http]`: where peers bring messages. Without `listen` there is no port: a desktop receives by way of a mediator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSection {
    /// Addresses and ports.
    pub listen: OneOrMore,
    /// The URL by which peers reach it.
    pub public_url: Option<String>,
    /// The server's certificate and those that vouch for it, in PEM. Without: in the clear, behind a proxy.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// Connections in all, and of one address.
    pub connections: usize,
    pub connections_per_address: usize,
    /// Messages a second from one address; 0 for no limit, as behind a proxy.
    pub rate_per_address: u32,
    /// How long headers may take, and a connection be idle; how long a body may take.
    pub header_seconds: u64,
    pub body_seconds: u64,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: OneOrMore::default(),
            public_url: None,
            tls_certificate: None,
            tls_key: None,
            connections: 20_000,
            connections_per_address: 1_000,
            rate_per_address: 0,
            header_seconds: 30,
            body_seconds: 30,
        }
    }
}

/// `[net]`: what the daemon may ask of others' servers.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetSection {
    /// Ranges of private addresses that it may connect to, as `10.0.0.0/8`.
    pub allow_private: Vec<String>,
    /// Certificates that are trusted beside the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// Hosts whose did:web is asked for without TLS: for tests.
    pub did_web_plain_http_for: Vec<String>,
}

/// `[mediation]`: how messages are fetched from mediators.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediationSection {
    /// Whether they come at once, on a WebSocket, where the mediator has one.
    pub live: bool,
    /// How often a mediator is asked otherwise, in seconds.
    pub poll_seconds: u64,
}

impl Default for MediationSection {
    fn default() -> Self {
        Self { live: true, poll_seconds: 30 }
    }
}

/// `[store]`: what outlives the process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// The database; without, in the state folder.
    pub path: Option<PathBuf>,
    /// Bytes of messages that wait to be opened; beyond, none is taken.
    pub max_waiting_bytes: u64,
    /// Messages that wait to be opened for one DID of ours.
    pub max_waiting_for: u64,
    /// Their bytes.
    pub max_waiting_bytes_for: u64,
    /// Bytes that the application has not acknowledged; beyond, nothing is taken.
    pub max_unread_bytes: u64,
    /// What of one sender the application has not acknowledged, in messages; beyond, none of it is taken.
    pub max_unread_from: u64,
    /// The same in bytes.
    pub max_unread_bytes_from: u64,
    /// Messages that wait to be sent to one peer before it gets no more replies.
    pub max_replies_to: u64,
    /// What the application has not acknowledged is forgotten after so many days; never if 0.
    pub unread_days: u32,
    /// What is known of what is done with is forgotten after so many days.
    pub history_days: u32,
}

impl Default for StoreSection {
    fn default() -> Self {
        let limits = SqliteOptions::default();
        Self {
            path: None,
            max_waiting_bytes: limits.max_envelope_bytes,
            max_waiting_for: limits.max_envelopes_for,
            max_waiting_bytes_for: limits.max_envelope_bytes_for,
            max_unread_bytes: limits.max_unread_bytes,
            max_unread_from: limits.max_unread_from,
            max_unread_bytes_from: limits.max_unread_bytes_from,
            max_replies_to: limits.max_replies_to,
            unread_days: 0,
            history_days: 30,
        }
    }
}

/// `[api]`: the application's side.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// `unix:PATH`, or an address and port of the loopback interface. Without: `unix:api.sock` in the state folder.
    pub listen: Option<String>,
    /// The users whose processes may use the Unix socket, beside root and the daemon's own.
    pub users: Vec<String>,
    /// The file with the bearer token that a loopback address wants.
    pub token_file: Option<PathBuf>,
    /// Where messages are brought.
    pub webhook: Option<WebhookSection>,
}

/// `[api.webhook]`: where messages are brought.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// https, or http on the loopback interface.
    pub url: String,
    /// The file with the secret under which they are signed.
    pub secret_file: PathBuf,
    /// The types of messages that are brought; all if there are none.
    #[serde(default)]
    pub types: Vec<String>,
}

/// `[ops]`: health and figures.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsSection {
    /// An address and port for /live, /ready, /ready/token and /metrics.
    pub listen: Option<SocketAddr>,
    /// The URL to which spans are brought, as OTLP over HTTP; it wants the feature `otel`.
    pub otlp: Option<String>,
    /// How much the log says; `--verbose` has it say more.
    pub log_level: LogLevel,
}

/// How much the log says, the least first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// One value, or an array of them.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(from = "One")]
pub struct OneOrMore(pub Vec<SocketAddr>);

#[derive(Deserialize)]
#[serde(untagged)]
enum One {
    One(SocketAddr),
    More(Vec<SocketAddr>),
}

impl From<One> for OneOrMore {
    fn from(value: One) -> Self {
        match value {
            One::One(address) => Self(vec![address]),
            One::More(addresses) => Self(addresses),
        }
    }
}

impl DaemonConfig {
    /// What can be seen to be wrong before anything is opened.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |said: &str| Failure::words("bad-config", said.to_owned());
        if self.http.tls_certificate.is_some() != self.http.tls_key.is_some() {
            return Err(wrong("[http] has one of tls_certificate and tls_key: TLS wants both"));
        }
        if let Some(url) = &self.http.public_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(wrong("public_url in [http] is no URL of http or https"));
        }
        if self.mediation.poll_seconds == 0 {
            return Err(wrong("poll_seconds in [mediation] is 0: the mediator would be asked without a pause"));
        }
        if self.ops.otlp.is_some() && !cfg!(feature = "otel") {
            return Err(wrong("otlp in [ops]: this claviger was built without the feature otel"));
        }
        if self.agent.workers == 0 {
            return Err(wrong("workers in [agent] is 0: nothing would be opened"));
        }
        Ok(())
    }
}

impl Config {
    /// The daemon's folder: all that its process may write.
    pub fn agent_dir(&self) -> PathBuf {
        self.state_dir.join("agent")
    }

    /// The database.
    pub fn store_path(&self) -> PathBuf {
        self.daemon.store.path.as_ref().map_or_else(|| self.agent_dir().join("agent.db"), |path| self.base.join(path))
    }

    /// Where the application's API listens.
    pub fn api_address(&self) -> ApiAddress {
        match self.daemon.api.listen.as_deref() {
            None => ApiAddress::Unix(self.state_dir.join("api.sock")),
            Some(listen) => match listen.strip_prefix("unix:") {
                Some(path) => ApiAddress::Unix(self.base.join(path)),
                None => ApiAddress::Tcp(listen.to_owned()),
            },
        }
    }
}

/// Where the application's API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAddress {
    Unix(PathBuf),
    Tcp(String),
}

//! The tables that only `claviger serve` reads.

use std::{net::SocketAddr, path::PathBuf};

use claviger::agent::store::SqliteOptions;
use serde::Deserialize;

use crate::cli::failure::Failure;

/// The settings that SIGHUP reads again. Their new values take effect at once; all other settings need a restart.
pub const RELOADABLE: [&str; 9] = [
    "api.webhook",
    "http.body_seconds",
    "http.connections",
    "http.connections_per_address",
    "http.header_seconds",
    "http.rate_per_address",
    "ops.log_level",
    "store.history_days",
    "store.unread_days",
];

/// The tables that only the daemon reads.
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

/// The messages that the agent accepts, and how long it tries to send its own.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct AgentSection {
    /// The largest message that is accepted, in bytes.
    pub max_message_bytes: usize,
    /// The number of messages that are unpacked at once.
    pub workers: usize,
    /// A message is refused if, when it is opened, its `created_time` is older than this many days, or its
    /// `expires_time` has passed. Message IDs are remembered for as long, so that no message is handled twice.
    pub longest_age_days: u32,
    /// The agent tries to send a message for this many days, or until its `expires_time` if that is earlier.
    pub send_for_days: u32,
    /// Whether a person is asked for a PIN or a touch for a message from a DID with which there is no connection.
    pub prompt_strangers: bool,
    /// The goal codes that discover-features discloses.
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

/// The HTTP server that receives messages from peers.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct HttpSection {
    /// The address and port to listen on, or an array of them. Without it no port is opened, and messages come through
    /// a mediator.
    pub listen: SocketAddrs,
    /// The URL by which peers reach the server, for invitations. A DID names its own URL in its document.
    pub public_url: Option<String>,
    /// The server's certificate chain, a file in PEM. The file is read again when it changes and on SIGHUP. Without it
    /// the server speaks plain HTTP, behind a proxy with TLS.
    pub tls_certificate: Option<PathBuf>,
    /// The private key of the certificate, a file in PEM, read again together with the certificate.
    pub tls_key: Option<PathBuf>,
    /// The maximum number of connections.
    pub connections: usize,
    /// The maximum number of connections from one address. Behind a proxy all connections come from one address.
    pub connections_per_address: usize,
    /// The maximum number of messages per second from one address. 0: no limit; use it behind a proxy.
    pub rate_per_address: u32,
    /// The time for the headers of a request, in seconds; also the time after which an idle connection is closed.
    pub header_seconds: u64,
    /// The time for the body of a request, in seconds.
    pub body_seconds: u64,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: SocketAddrs::default(),
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

/// The daemon's own connections to other servers.
#[derive(Debug, Default, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct NetSection {
    /// Private address ranges that the daemon may connect to, such as `10.0.0.0/8`. All others are refused.
    pub allow_private: Vec<String>,
    /// Certificates that are trusted in addition to those of the system, a file in PEM.
    pub ca: Option<PathBuf>,
    /// Hosts whose did:web and did:webvh documents are fetched without TLS: for trials on one machine. `allow_private`
    /// must allow their addresses.
    pub did_web_plain_http_for: Vec<String>,
}

/// How messages are fetched from mediators (`claviger mediator use`).
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct MediationSection {
    /// Whether mediators that offer a WebSocket deliver messages on it at once (live delivery).
    pub live: bool,
    /// How often a mediator without live delivery is asked for messages, in seconds.
    pub poll_seconds: u64,
}

impl Default for MediationSection {
    fn default() -> Self {
        Self { live: true, poll_seconds: 30 }
    }
}

/// The store: the database with received and outgoing messages.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// The file of the database. Without it: `agent/agent.db` in `state_dir`.
    pub path: Option<PathBuf>,
    /// Bytes of received messages that wait to be unpacked, at most. Beyond this limit, no message is accepted.
    pub max_waiting_bytes: u64,
    /// Received messages for one of our DIDs that wait to be unpacked, at most.
    pub max_waiting_for: u64,
    /// Bytes of received messages for one of our DIDs that wait to be unpacked, at most.
    pub max_waiting_bytes_for: u64,
    /// Bytes of messages that the application has not acknowledged, at most. Beyond this limit, no message is accepted.
    pub max_unread_bytes: u64,
    /// Messages of one sender that the application has not acknowledged, at most. Beyond this limit, no message of that
    /// sender is accepted.
    pub max_unread_from: u64,
    /// Bytes of messages of one sender that the application has not acknowledged, at most.
    pub max_unread_bytes_from: u64,
    /// Messages that wait to be sent to one peer, at most, before the peer gets no more replies.
    pub max_replies_to: u64,
    /// A message that the application does not acknowledge is deleted after this many days. 0: never.
    pub unread_days: u32,
    /// The record of a message that was handled or sent is deleted after this many days.
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

/// The application's API (docs/api.md).
#[derive(Debug, Default, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// `unix:PATH`, or an address and port of the loopback interface, which needs `token_file`. Without it:
    /// `unix:api.sock` in `state_dir`.
    pub listen: Option<String>,
    /// The users, by name or number, whose processes may use the Unix socket, beside root and the daemon's user.
    pub users: Vec<String>,
    /// The file with the bearer token that clients on the loopback interface must present.
    pub token_file: Option<PathBuf>,
    pub webhook: Option<WebhookSection>,
}

/// The webhook to which received messages are posted.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// The webhook's URL: https, or http on the loopback interface.
    pub url: String,
    /// The file whose first line is the secret that signs the requests.
    pub secret_file: PathBuf,
    /// The types of the messages that are posted. Empty: all.
    #[serde(default)]
    pub types: Vec<String>,
}

/// Health checks, metrics and the log.
#[derive(Debug, Default, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct OpsSection {
    /// The address and port for `/live`, `/ready`, `/ready/token` and `/metrics`. Without it they are not served.
    pub listen: Option<SocketAddr>,
    /// The URL of an OpenTelemetry collector to which spans are exported, as OTLP over HTTP. Needs a build with the
    /// feature `otel`.
    pub otlp: Option<String>,
    /// The least severe events that are logged: `error`, `warn`, `info`, `debug` or `trace`. `-v` logs at least
    /// `debug`, `-vv` `trace`.
    pub log_level: LogLevel,
}

/// The least severe events that are logged, most severe first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Addresses, written as one string or as an array.
#[derive(Debug, Default, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(from = "OneOrMore")]
pub struct SocketAddrs(pub Vec<SocketAddr>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(SocketAddr),
    More(Vec<SocketAddr>),
}

impl From<OneOrMore> for SocketAddrs {
    fn from(value: OneOrMore) -> Self {
        match value {
            OneOrMore::One(address) => Self(vec![address]),
            OneOrMore::More(addresses) => Self(addresses),
        }
    }
}

impl DaemonConfig {
    /// Checks what can be checked before a file or a socket is opened.
    pub fn check(&self) -> Result<(), Failure> {
        let invalid = |message: &str| Failure::usage("bad-config", message.to_owned());
        if self.http.tls_certificate.is_some() != self.http.tls_key.is_some() {
            return Err(invalid("[http] has only one of tls_certificate and tls_key: TLS needs both"));
        }
        if let Some(url) = &self.http.public_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(invalid("public_url in [http] is not an http or https URL"));
        }
        if self.mediation.poll_seconds == 0 {
            return Err(invalid("poll_seconds in [mediation] is 0: mediators would be asked without a pause"));
        }
        if self.ops.otlp.is_some() && !cfg!(feature = "otel") {
            return Err(invalid("otlp in [ops]: this claviger was built without the feature `otel`"));
        }
        if self.agent.workers == 0 {
            return Err(invalid("workers in [agent] is 0: no message would be unpacked"));
        }
        Ok(())
    }
}

//! The tables that only `claviger serve` reads.

use std::{net::SocketAddr, path::PathBuf};

use claviger::{
    agent::{AgentOptions, EventKind, MediationOptions, OutboxOptions},
    did::CacheLimits,
};
use serde::Deserialize;

use super::{
    access::{ApiClientSection, ApiRemoteSection, ApiTokenSection, ApiUserSection},
    store::StoreSection,
    webhook::{WebhookSection, one_or_more},
};

/// The settings that SIGHUP reads again. Their new values take effect at once; all other settings need a restart.
pub const RELOADABLE: [&str; 18] = [
    "api.client",
    "api.token",
    "api.token_file",
    "api.user",
    "api.users",
    "api.webhook",
    "http.body_seconds",
    "http.connections",
    "http.connections_per_address",
    "http.header_seconds",
    "http.name",
    "http.rate_per_address",
    "http.return_route_seconds",
    "ops.log_level",
    "store.history_days",
    "store.strangers_minutes",
    "store.unread_days",
    "store.waiting_days",
];

/// The tables that only the daemon reads.
#[derive(Debug, Default, Clone)]
pub struct DaemonConfig {
    pub agent: AgentSection,
    pub http: HttpSection,
    pub net: NetSection,
    pub mediation: MediationSection,
    pub outbox: OutboxSection,
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
    /// The number of JSON values in a message, and in each layer of its encryption: objects, arrays, texts, numbers. A
    /// value takes up to 250 bytes of memory, however short it is.
    pub max_json_values: usize,
    /// The number of messages that are unpacked at once.
    pub workers: usize,
    /// The memory for messages that are being unpacked, in bytes. Large messages are unpacked a few at a time.
    pub max_opening_bytes: usize,
    /// The number of DID documents of senders that are fetched at once. Half of them are for peers with a connection.
    pub max_fetches: usize,
    /// How long a message waits for the DID document of its sender, in hours, from when the document was first found to
    /// be unavailable.
    pub wait_for_sender_hours: u32,
    /// The same for a sender without a connection whose DID was not known on arrival, in minutes.
    pub wait_for_stranger_minutes: u32,
    /// How often a message is tried, if a token has opened its outer layer but the rest cannot be opened now, or the
    /// agent fails while it handles the message.
    pub max_attempts: u32,
    /// A message is refused if, when it arrives, its `created_time` is older than this many days, or its `expires_time`
    /// has passed. Message IDs are remembered for as long, so that no message is handled twice.
    pub longest_age_days: u32,
    /// The agent tries to send a message for this many days, or until its `expires_time` if that is earlier.
    pub send_for_days: u32,
    /// The agent tries to send a reply that is of no use later for this many minutes: a ping response, disclosed
    /// features, a problem report, and any automatic reply to a stranger.
    pub reply_minutes: u32,
    /// A message is refused if it does not open this many times, although the token answers known-answer checks rightly.
    pub open_attempts: u32,
    /// A message that a token refuses without a known cause, although it answers known-answer checks rightly, is given
    /// up after this many attempts and `refused_minutes`.
    pub refused_attempts: u32,
    /// See `refused_attempts`.
    pub refused_minutes: u32,
    /// Whether a person is asked for a PIN or a touch for a message from a DID with which there is no connection.
    pub prompt_strangers: bool,
    /// Whether the inbox has basic messages without a proved sender, which anyone may have written. They have no `sender`, and
    /// cannot be answered.
    pub accept_anonymous: bool,
    /// The goal codes that discover-features discloses.
    pub goal_codes: Vec<String>,
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            max_message_bytes: 1_000_000,
            max_json_values: 20_000,
            workers: 64,
            max_opening_bytes: 64 << 20,
            max_fetches: 16,
            wait_for_sender_hours: 24,
            wait_for_stranger_minutes: 10,
            max_attempts: 5,
            longest_age_days: 30,
            send_for_days: 7,
            reply_minutes: 10,
            open_attempts: 2,
            refused_attempts: 8,
            refused_minutes: 10,
            prompt_strangers: false,
            accept_anonymous: false,
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
    /// The name of the agent's owner, which the web pages of invitations show to everyone who has the link. Nobody verifies it.
    pub name: Option<String>,
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
    /// How long the response to a message waits for a reply that may go back with it (`return_route`), in seconds.
    pub return_route_seconds: u64,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: SocketAddrs::default(),
            public_url: None,
            name: None,
            tls_certificate: None,
            tls_key: None,
            connections: 20_000,
            connections_per_address: 1_000,
            rate_per_address: 0,
            header_seconds: 30,
            body_seconds: 30,
            return_route_seconds: 5,
        }
    }
}

/// Connections to other servers: of the daemon, and of `did resolve`, `pack` and `unpack`, which fetch the documents of did:web
/// and did:webvh.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct NetSection {
    /// Private address ranges where peers may be, such as `10.0.0.0/8`. All others are refused. Anyone can have the agent
    /// connect to any address and port in these ranges. The webhook, the span collector and the agent's own mediators need
    /// no range: their URLs are settings.
    pub allow_private: Vec<String>,
    /// Certificates that are trusted in addition to those of the system, a file in PEM.
    pub ca: Option<PathBuf>,
    /// Hosts whose did:web and did:webvh documents are fetched without TLS: for trials on one machine. `allow_private`
    /// must allow their addresses.
    pub did_web_plain_http_for: Vec<String>,
    /// A DID document that lacks a key, or has a key that does not serve, is fetched again, at most once in this many
    /// seconds. A message that does not open is tried twice, a second apart: a larger value may lose the first message
    /// after a peer has replaced a key and kept its id.
    pub did_refetch_seconds: u64,
    /// The number of DID documents that are fetched again within a minute, at most, because they lack a key.
    pub did_refetches_per_minute: u32,
}

impl Default for NetSection {
    fn default() -> Self {
        let limits = CacheLimits::default();
        Self {
            allow_private: Vec::new(),
            ca: None,
            did_web_plain_http_for: Vec::new(),
            did_refetch_seconds: limits.refetch_interval.as_secs(),
            did_refetches_per_minute: limits.refetches_per_minute,
        }
    }
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
    /// The most bytes that a mediator may send at once, in one delivery. Some mediators send all waiting messages in one,
    /// whatever they are asked for. At least four messages of `max_message_bytes` are read in any case.
    pub max_delivery_bytes: usize,
    /// The servers of the agent's own mediators that have private addresses, such as `https://mediator.lan:8443`: only
    /// the agent's requests to its mediators may go there.
    pub private_servers: Vec<String>,
}

impl Default for MediationSection {
    fn default() -> Self {
        let options = MediationOptions::default();
        Self {
            live: options.websocket,
            poll_seconds: options.poll_interval.as_secs(),
            max_delivery_bytes: options.max_delivery_bytes,
            private_servers: Vec::new(),
        }
    }
}

/// How many messages are sent at the same time, and to whom.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct OutboxSection {
    /// Messages that are sent at the same time, at most. A quarter of them is kept for messages of the application and
    /// replies to known peers.
    pub messages: usize,
    /// Messages that are sent to one peer at the same time, at first and while others have messages for the peer's server. As
    /// long as the server has room, it becomes up to `messages_per_server`. The messages of one thread are sent one after the
    /// other.
    pub messages_per_peer: usize,
    /// Messages that are sent to one server at the same time, at most. A server begins with 2, and gets one more with each
    /// message that it accepts. A server that fails gets half as many, then grows more slowly, and is paused for up to a minute.
    pub messages_per_server: usize,
    /// Replies to strangers that are sent at the same time to servers that have not accepted a message yet, at most. Servers
    /// in one network (/24 or /48) or one domain share 4.
    pub messages_to_new_servers: usize,
    /// Replies to strangers per second for which a private key is used, at most. Further replies wait.
    pub stranger_replies_per_second: u32,
}

impl Default for OutboxSection {
    fn default() -> Self {
        let limits = OutboxOptions::default();
        Self {
            messages: limits.concurrent,
            messages_per_peer: limits.concurrent_per_peer,
            messages_per_server: limits.concurrent_per_origin,
            messages_to_new_servers: limits.concurrent_unknown,
            stranger_replies_per_second: limits.stranger_replies_per_second,
        }
    }
}

/// The application's API (docs/api.md).
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// `unix:PATH`, or an address and port of the loopback interface, which needs `token_file`. Without it:
    /// `unix:api.sock` in `state_dir`.
    pub listen: Option<String>,
    /// The users, by name or number, whose processes may use the whole API on the Unix socket, beside root and the daemon's
    /// user.
    pub users: Vec<String>,
    /// The file with the bearer token for the whole API on the loopback interface. The commands of `claviger` present it.
    pub token_file: Option<PathBuf>,
    /// The most bytes of messages in one answer of `/v1/inbox`. A larger message is returned alone.
    pub max_page_bytes: usize,
    /// The kinds of events that are recorded for `/v1/events`. Each costs a row in the store.
    pub events: Vec<EventKind>,
    pub user: Vec<ApiUserSection>,
    pub token: Vec<ApiTokenSection>,
    pub remote: Option<ApiRemoteSection>,
    pub client: Vec<ApiClientSection>,
    #[serde(deserialize_with = "one_or_more")]
    pub webhook: Vec<WebhookSection>,
}

impl Default for ApiSection {
    fn default() -> Self {
        let options = AgentOptions::default();
        Self {
            listen: None,
            users: Vec::new(),
            token_file: None,
            max_page_bytes: options.max_page_bytes,
            events: options.recorded_events.into_iter().collect(),
            user: Vec::new(),
            token: Vec::new(),
            remote: None,
            client: Vec::new(),
            webhook: Vec::new(),
        }
    }
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
#[serde(untagged, expecting = "this is no IP address with a port, such as 127.0.0.1:8443, and no array of them")]
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

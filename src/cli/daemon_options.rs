//! The daemon's settings as options of the library.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use claviger::{
    agent::{
        AgentOptions, MediationOptions, ServerOptions,
        api::{Webhook, WebhookError},
        store::{Retention, StoreLimits},
    },
    jose::Limits,
    net::{AddressGuard, Dialer, HttpClient, HttpOptions, Target, client_config},
};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{
    config::{ApiAddress, Config, HttpSection, StoreSection, WebhookSection},
    failure::Failure,
};

/// One day in milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Returns the options of the agent.
pub fn agent_options(config: &Config) -> AgentOptions {
    let daemon = &config.daemon;
    let agent = &daemon.agent;
    let mut options = AgentOptions::default();
    options.inbox.limits =
        Limits { bytes: agent.max_message_bytes, json_values: agent.max_json_values, ..Limits::default() };
    options.inbox.max_opening_bytes = agent.max_opening_bytes;
    options.inbox.max_fetches = agent.max_fetches;
    options.inbox.wait_for_sender = DAY / 24 * i64::from(agent.wait_for_sender_hours);
    options.inbox.wait_for_stranger = 60_000 * i64::from(agent.wait_for_stranger_minutes);
    options.inbox.max_attempts = agent.max_attempts.max(1);
    options.inbox.workers = agent.workers;
    options.inbox.max_age = DAY * i64::from(agent.longest_age_days);
    options.inbox.reply_lifetime = DAY * i64::from(agent.send_for_days);
    options.inbox.momentary_lifetime = 60_000 * i64::from(agent.reply_minutes);
    options.inbox.open_attempts = agent.open_attempts;
    options.inbox.refused_attempts = agent.refused_attempts;
    options.inbox.refused_time = 60_000 * i64::from(agent.refused_minutes);
    options.inbox.prompt_strangers = agent.prompt_strangers;
    options.inbox.accept_anonymous = agent.accept_anonymous;
    options.outbox.message_lifetime = options.inbox.reply_lifetime;
    options.outbox.unresolved_lifetime = options.inbox.wait_for_sender;
    options.outbox.concurrent = daemon.outbox.messages;
    options.outbox.concurrent_per_peer = daemon.outbox.messages_per_peer;
    options.outbox.concurrent_per_origin = daemon.outbox.messages_per_server;
    options.outbox.concurrent_unknown = daemon.outbox.messages_to_new_servers;
    options.outbox.stranger_replies_per_second = daemon.outbox.stranger_replies_per_second;
    options.goal_codes.clone_from(&agent.goal_codes);
    options.mediation = MediationOptions {
        websocket: daemon.mediation.live,
        poll_interval: Duration::from_secs(daemon.mediation.poll_seconds),
        max_delivery_bytes: daemon.mediation.max_delivery_bytes,
    };
    options.server = server_options(&daemon.http);
    options.max_page_bytes = daemon.api.max_page_bytes;
    options.recorded_events = daemon.api.events.iter().copied().collect();
    options.retention = retention(&daemon.store);
    // Checked with the configuration.
    options.store_keys = daemon.store.trusted_keys().unwrap_or_default();
    options
}

/// Returns the options of the server for peers.
pub fn server_options(http: &HttpSection) -> ServerOptions {
    ServerOptions {
        max_connections: http.connections,
        max_connections_per_address: http.connections_per_address,
        max_messages_per_second: http.rate_per_address,
        header_timeout: Duration::from_secs(http.header_seconds),
        body_timeout: Duration::from_secs(http.body_seconds),
        return_route_timeout: Duration::from_secs(http.return_route_seconds),
        public_url: http.public_url.clone(),
        name: http.name.clone(),
        ..ServerOptions::default()
    }
}

/// Returns how long the store keeps data.
pub fn retention(store: &StoreSection) -> Retention {
    Retention {
        envelopes: DAY * i64::from(store.waiting_days),
        deliveries: DAY * i64::from(store.unread_days),
        history: DAY * i64::from(store.history_days),
        strangers: 60_000 * i64::from(store.strangers_minutes),
        ..Retention::default()
    }
}

/// Returns the limits of the store.
pub fn store_limits(config: &Config) -> StoreLimits {
    let store = &config.daemon.store;
    StoreLimits {
        max_envelope_bytes: store.max_waiting_bytes,
        max_envelopes_for: store.max_waiting_for,
        max_envelope_bytes_for: store.max_waiting_bytes_for,
        strangers_percent: store.strangers_percent,
        known_peer_percent: store.known_peer_percent,
        max_unresolved: store.max_unresolved,
        max_unresolved_bytes: store.max_unresolved_bytes,
        max_unread_bytes: store.max_unread_bytes,
        max_unread_from: store.max_unread_from,
        max_unread_bytes_from: store.max_unread_bytes_from,
        max_replies_to: store.max_replies_to,
        max_stranger_unread: store.max_unread_of_strangers,
        max_stranger_replies: store.max_replies_to_strangers,
        max_stranger_unread_bytes: store.max_unread_bytes_of_strangers,
        max_stranger_bytes: store.max_bytes_of_strangers,
        max_stranger_marks: store.max_marks_of_strangers,
        max_events: store.max_events,
        ..StoreLimits::default()
    }
}

/// Returns the configured webhooks, each with its secret. Fails for mistakes that would otherwise only be logged later.
pub fn webhooks(config: &Config) -> Result<Vec<(Webhook, Zeroizing<String>)>, Failure> {
    let webhook = |section: &WebhookSection| {
        let (table, options) = (format!("[[api.webhook]] {:?}", section.options().name), section.options());
        let invalid = |message: String| Failure::usage("bad-config", message);
        let path = config.base.join(&section.secret_file);
        let secret = Webhook::read_secret(&path)
            .map_err(|error| invalid(format!("secret_file in {table}, {}: {error}", path.display())))?;
        let webhook = Webhook::new(&section.url, secret.clone(), options).map_err(|error| match error {
            WebhookError::Name(_) => invalid(format!("name in {table}: {error}")),
            WebhookError::Event(_) => invalid(format!("events in {table}: {error}")),
            error => invalid(format!("url in {table}: {error}")),
        })?;
        Ok((webhook, secret))
    };
    config.daemon.api.webhook.iter().map(webhook).collect()
}

/// Makes the guard against connections to private addresses. The services of the operator, and the addresses in `database`,
/// are refused to peers' URLs even where `allow_private` allows their addresses.
pub fn address_guard(config: &Config, database: Vec<SocketAddr>) -> Result<AddressGuard, Failure> {
    let parse = |range: &String| {
        range.parse::<IpNet>().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
            let message = format!("allow_private in [net]: {range:?} is not a range of addresses");
            Failure::usage("bad-config", message).hint("for example 10.0.0.0/8 or fd00::/8")
        })
    };
    let daemon = &config.daemon;
    let ranges = daemon.net.allow_private.iter().map(parse).collect::<Result<_, _>>()?;
    let urls = daemon.api.webhook.iter().map(|webhook| webhook.url.as_str()).chain(daemon.ops.otlp.as_deref());
    let mut services = database;
    services.extend(urls.flat_map(literal_addresses));
    services.extend(daemon.ops.listen);
    services.extend(daemon.api.remote.as_ref().map(|remote| remote.listen));
    if let ApiAddress::Tcp(text) = config.api_address() {
        services.extend(text.parse::<SocketAddr>());
    }
    Ok(AddressGuard::new(ranges).refuse_services(services))
}

/// Returns the addresses of the server of a URL that are known without the DNS.
fn literal_addresses(url: &str) -> Vec<SocketAddr> {
    let Ok(origin) = Target::parse(url).map(|target| target.origin()) else { return Vec::new() };
    let addresses = match origin.host() {
        "localhost" => vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)],
        host => host.parse().into_iter().collect(),
    };
    addresses.into_iter().map(|address| SocketAddr::new(address, origin.port())).collect()
}

/// Returns a dialer for the servers of these URLs, which the operator names for one purpose. It connects to them also at
/// private addresses.
pub fn dialer_for<'a>(dialer: &Dialer, urls: impl IntoIterator<Item = &'a str>) -> Dialer {
    let origins = urls.into_iter().filter_map(|url| Some(Target::parse(url).ok()?.origin()));
    dialer.allow_named(origins.collect())
}

/// Makes the dialer, through which all connections to other servers go.
pub fn dialer(config: &Config, guard: AddressGuard) -> Result<Dialer, Failure> {
    let ca = config.daemon.net.ca.as_ref().map(|ca| config.base.join(ca));
    let tls = client_config(ca.as_deref()).map_err(|error| Failure::usage("bad-certificate", error.to_string()))?;
    Ok(Dialer::new(guard, tls))
}

/// Makes the client for servers that peers name, such as those of DID documents.
pub fn http_client(config: &Config, dialer: Dialer) -> HttpClient {
    let did_web_plain_http_for = config.daemon.net.did_web_plain_http_for.clone();
    HttpClient::new(dialer, HttpOptions { did_web_plain_http_for, ..HttpOptions::default() })
}

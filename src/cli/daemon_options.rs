//! The daemon's settings as options of the library.

use std::{net::IpAddr, time::Duration};

use claviger::{
    agent::{
        AgentOptions, MediationOptions, ServerOptions,
        api::Webhook,
        store::{Retention, SqliteOptions},
    },
    jose::Limits,
    net::{AddressGuard, Dialer, client_config},
};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{
    config::{Config, HttpSection, StoreSection},
    failure::Failure,
};

/// One day in milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Returns the options of the agent.
pub fn agent_options(config: &Config) -> AgentOptions {
    let daemon = &config.daemon;
    let agent = &daemon.agent;
    let mut options = AgentOptions::default();
    options.inbox.limits = Limits { bytes: agent.max_message_bytes, ..Limits::default() };
    options.inbox.workers = agent.workers;
    options.inbox.max_age = DAY * i64::from(agent.longest_age_days);
    options.inbox.reply_lifetime = DAY * i64::from(agent.send_for_days);
    options.inbox.prompt_strangers = agent.prompt_strangers;
    options.outbox.message_lifetime = options.inbox.reply_lifetime;
    options.goal_codes.clone_from(&agent.goal_codes);
    options.mediation = MediationOptions {
        websocket: daemon.mediation.live,
        poll_interval: Duration::from_secs(daemon.mediation.poll_seconds),
    };
    options.server = server_options(&daemon.http);
    options.retention = retention(&daemon.store);
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
        public_url: http.public_url.clone(),
        ..ServerOptions::default()
    }
}

/// Returns how long the store keeps data.
pub fn retention(store: &StoreSection) -> Retention {
    Retention {
        deliveries: DAY * i64::from(store.unread_days),
        history: DAY * i64::from(store.history_days),
        ..Retention::default()
    }
}

/// Returns the options of the store.
pub fn store_options(config: &Config) -> SqliteOptions {
    let store = &config.daemon.store;
    SqliteOptions {
        max_envelope_bytes: store.max_waiting_bytes,
        max_envelopes_for: store.max_waiting_for,
        max_envelope_bytes_for: store.max_waiting_bytes_for,
        max_unread_bytes: store.max_unread_bytes,
        max_unread_from: store.max_unread_from,
        max_unread_bytes_from: store.max_unread_bytes_from,
        max_replies_to: store.max_replies_to,
        ..SqliteOptions::default()
    }
}

/// Returns the configured webhook and its secret. Fails for mistakes that would otherwise only be logged later.
pub fn webhook(config: &Config, guard: &AddressGuard) -> Result<Option<(Webhook, Zeroizing<String>)>, Failure> {
    let Some(section) = &config.daemon.api.webhook else { return Ok(None) };
    let invalid = |message: String| Failure::usage("bad-config", message);
    let path = config.base.join(&section.secret_file);
    let secret = Webhook::read_secret(&path)
        .map_err(|error| invalid(format!("secret_file in [api.webhook], {}: {error}", path.display())))?;
    let webhook = Webhook::new(&section.url, secret.clone(), section.types.clone())
        .map_err(|error| invalid(format!("url in [api.webhook]: {error}")))?;
    let host = webhook.host().trim_start_matches('[').trim_end_matches(']');
    if host.parse().is_ok_and(|address| guard.check(address).is_err()) {
        return Err(invalid(format!(
            "url in [api.webhook]: {host} is a private address, and connections to it are refused"
        ))
        .hint(format!("allow_private = [\"{host}\"] in [net] allows them")));
    }
    Ok(Some((webhook, secret)))
}

/// Makes the guard against connections to private addresses.
pub fn address_guard(config: &Config) -> Result<AddressGuard, Failure> {
    let parse = |range: &String| {
        range.parse::<IpNet>().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
            let message = format!("allow_private in [net]: {range:?} is not a range of addresses");
            Failure::usage("bad-config", message).hint("for example 10.0.0.0/8 or fd00::/8")
        })
    };
    Ok(AddressGuard::new(config.daemon.net.allow_private.iter().map(parse).collect::<Result<_, _>>()?))
}

/// Makes the dialer, through which all connections to other servers go.
pub fn dialer(config: &Config, guard: AddressGuard) -> Result<Dialer, Failure> {
    let ca = config.daemon.net.ca.as_ref().map(|ca| config.base.join(ca));
    let tls = client_config(ca.as_deref()).map_err(|error| Failure::usage("bad-certificate", error.to_string()))?;
    Ok(Dialer::new(guard, tls))
}

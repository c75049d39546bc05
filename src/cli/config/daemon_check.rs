//! Checks the settings that only the daemon reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use claviger::net::Target;

use super::{daemon::DaemonConfig, webhook::WebhookSection};
use crate::cli::failure::Failure;

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
        if let Some(url) = self.mediation.private_servers.iter().find(|url| Target::parse(url).is_err()) {
            return Err(invalid(&format!("private_servers in [mediation]: {url:?} is not a URL of a server")));
        }
        if self.ops.otlp.is_some() && !cfg!(feature = "otel") {
            return Err(invalid("otlp in [ops]: this claviger was built without the feature `otel`"));
        }
        if self.store.url.is_some() && self.store.path.is_some() {
            return Err(invalid("[store] has both path and url: the store is either a file or a database"));
        }
        for (name, is_set, why) in [
            ("listen_url", self.store.listen_url.is_some(), "it is for a database behind a pooler"),
            ("node", self.store.node.is_some(), "only a database in PostgreSQL is shared by several agents"),
            ("keys", !self.store.keys.is_empty(), "only a database in PostgreSQL is shared by several agents"),
            ("password_file", self.store.password_file.is_some(), "a file needs no password"),
        ] {
            if is_set && self.store.url.is_none() {
                return Err(invalid(&format!("[store] has {name} without url: {why}")));
            }
        }
        self.store.trusted_keys().map_err(|why| invalid(&format!("keys in [store]: {why}")))?;
        if self.store.strangers_percent > 100 || self.store.known_peer_percent > 100 {
            return Err(invalid("strangers_percent or known_peer_percent in [store] is more than 100"));
        }
        let mut sockets = BTreeMap::new();
        for (address, section) in self.sockets().filter(|(address, _)| address.port() != 0) {
            if let Some(other) = sockets.insert(address, section) {
                return Err(invalid(&format!(
                    "`listen` in [{other}] and [{section}] name the same address, {address}"
                )));
            }
        }
        self.check_webhooks()?;
        match self.zeros().into_iter().find(|(_, is_zero, _)| *is_zero) {
            Some((name, _, why)) => Err(invalid(&format!("{name} is 0: {why}"))),
            None => Ok(()),
        }
    }

    /// The addresses of all sockets but that of `[api]`, with their sections.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, &'static str)> {
        let peers = self.http.listen.0.iter().map(|address| (*address, "http"));
        let ops = self.ops.listen.map(|address| (address, "ops"));
        peers.chain(ops).chain(self.api.remote.as_ref().map(|remote| (remote.listen, "api.remote")))
    }

    fn check_webhooks(&self) -> Result<(), Failure> {
        let invalid = |message: String| Err(Failure::usage("bad-config", message));
        let webhooks = &self.api.webhook;
        if webhooks.len() > 1 && webhooks.iter().any(|webhook| webhook.name.is_none()) {
            return invalid("of several [[api.webhook]], one has no `name`".to_owned());
        }
        let mut names = BTreeSet::new();
        for options in webhooks.iter().map(WebhookSection::options) {
            let zeros = [
                (
                    "refused_attempts",
                    options.refused_attempts == 0,
                    "letters would be set aside before they are posted",
                ),
                ("max_dead_letters", options.max_dead_letters == 0, "no letter could be set aside"),
            ];
            if options.events.is_empty() {
                return invalid(format!(
                    "events in [[api.webhook]] {:?} is empty: nothing would be posted",
                    options.name
                ));
            }
            if let Some((name, _, why)) = zeros.into_iter().find(|(_, is_zero, _)| *is_zero) {
                return invalid(format!("{name} in [[api.webhook]] {:?} is 0: {why}", options.name));
            }
            if let Some(name) = names.replace(options.name) {
                return invalid(format!("two [[api.webhook]] have the name {name:?}"));
            }
        }
        Ok(())
    }

    /// The settings that must not be 0: the name, whether it is 0, and what 0 would mean.
    fn zeros(&self) -> [(&'static str, bool, &'static str); 34] {
        let (agent, http, net, outbox, store) = (&self.agent, &self.http, &self.net, &self.outbox, &self.store);
        let (unpacked, accepted, sent) =
            ("no message would be unpacked", "no message would be accepted", "no message would be sent");
        [
            ("max_message_bytes in [agent]", agent.max_message_bytes == 0, accepted),
            ("max_json_values in [agent]", agent.max_json_values == 0, unpacked),
            ("workers in [agent]", agent.workers == 0, unpacked),
            ("max_opening_bytes in [agent]", agent.max_opening_bytes == 0, unpacked),
            ("max_fetches in [agent]", agent.max_fetches == 0, "no sender's DID document would be fetched"),
            ("max_attempts in [agent]", agent.max_attempts == 0, "messages would be given up before they are tried"),
            ("open_attempts in [agent]", agent.open_attempts == 0, "messages would be refused before they are tried"),
            ("refused_attempts in [agent]", agent.refused_attempts == 0, "messages would be given up at once"),
            ("longest_age_days in [agent]", agent.longest_age_days == 0, accepted),
            ("send_for_days in [agent]", agent.send_for_days == 0, sent),
            ("reply_minutes in [agent]", agent.reply_minutes == 0, "no reply would be sent"),
            ("header_seconds in [http]", http.header_seconds == 0, "no request would be in time"),
            ("body_seconds in [http]", http.body_seconds == 0, "no request would be in time"),
            (
                "did_refetches_per_minute in [net]",
                net.did_refetches_per_minute == 0,
                "a changed key would not be found",
            ),
            (
                "poll_seconds in [mediation]",
                self.mediation.poll_seconds == 0,
                "mediators would be asked without a pause",
            ),
            ("messages in [outbox]", outbox.messages == 0, sent),
            ("messages_per_peer in [outbox]", outbox.messages_per_peer == 0, sent),
            ("messages_per_server in [outbox]", outbox.messages_per_server == 0, sent),
            (
                "messages_to_new_servers in [outbox]",
                outbox.messages_to_new_servers == 0,
                "strangers would get no reply",
            ),
            (
                "stranger_replies_per_second in [outbox]",
                outbox.stranger_replies_per_second == 0,
                "strangers would get no reply",
            ),
            ("max_waiting_bytes in [store]", store.max_waiting_bytes == 0, accepted),
            ("max_waiting_for in [store]", store.max_waiting_for == 0, accepted),
            ("max_waiting_bytes_for in [store]", store.max_waiting_bytes_for == 0, accepted),
            ("max_unresolved in [store]", store.max_unresolved == 0, "no message of a new sender would be accepted"),
            (
                "max_unresolved_bytes in [store]",
                store.max_unresolved_bytes == 0,
                "no message of a new sender would be accepted",
            ),
            ("waiting_days in [store]", store.waiting_days == 0, "messages would be deleted before they are unpacked"),
            ("max_unread_bytes in [store]", store.max_unread_bytes == 0, accepted),
            ("max_unread_from in [store]", store.max_unread_from == 0, accepted),
            ("max_unread_bytes_from in [store]", store.max_unread_bytes_from == 0, accepted),
            ("max_replies_to in [store]", store.max_replies_to == 0, "no reply would be sent"),
            (
                "max_bytes_of_strangers in [store]",
                store.max_bytes_of_strangers == 0,
                "strangers would be forgotten at once",
            ),
            (
                "max_marks_of_strangers in [store]",
                store.max_marks_of_strangers == 0,
                "repeated messages would not be known",
            ),
            (
                "max_events in [store]",
                store.max_events == 0,
                "no event would be kept: leave `events` of [api] empty instead",
            ),
            ("max_page_bytes in [api]", self.api.max_page_bytes == 0, "each answer would have one message"),
        ]
    }
}

//! SIGHUP: the configuration is read again, and what may change while the daemon runs counts from then on.
//!
//! The agent's process opens no file of the operator's any more: it has closed itself in, and PINs may lie beside the
//! configuration. Its supervisor, which has not, reads and examines it, and passes on what the agent may change.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
};

use claviger::{
    agent::{Agent, ServerTls, api::Webhook, net::HttpClient},
    secrets::keeper::Supervisor,
};
use figment::value::Dict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use zeroize::Zeroizing;

use super::{
    config::{HttpSection, OpsSection, StoreSection, WebhookSection},
    guard, logging, retention, server_options, webhook,
};
use crate::cli::{config::Config, failure::Failure};

/// What the supervisor is asked for: no token has an empty name.
pub const CONFIGURATION: &str = "";

/// More than a socket takes at once, so that a buffer of this size never grows, and leaves no copy of a secret behind.
const LARGEST: usize = 1 << 20;

/// What counts at once. Everything else wants a restart: it is built into what runs.
const LIVE: [&str; 9] = [
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

/// Members by section and name, as they are written.
type Written = BTreeMap<String, Value>;

/// What the supervisor passes on, behind a line with the webhook's secret, which is empty without one.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// The members of [`LIVE`] that are written.
    live: Written,
    /// What has another value than what counts now.
    changed: BTreeSet<String>,
    /// Of that what has one only after a restart.
    restart: BTreeSet<String>,
}

/// The supervisor's side.
pub struct Rereader {
    file: Option<PathBuf>,
    /// The members as they count in the agent, by what is enough to tell that one has changed: a `pin-value` may be among them.
    now: RefCell<BTreeMap<String, u64>>,
    hasher: RandomState,
}

impl Rereader {
    /// One for an agent that has read this configuration.
    pub fn new(config: &Config) -> Self {
        // What cannot be read any more has changed.
        let written = Config::load_as_written(config.file.as_deref()).map(|(_, written)| members(written));
        let hasher = RandomState::new();
        let now =
            written.unwrap_or_default().iter().map(|(name, value)| (name.clone(), mark(&hasher, value))).collect();
        Self { file: config.file.clone(), now: RefCell::new(now), hasher }
    }

    /// Reads the configuration, and answers on a connection.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn answer(&self) -> io::Result<UnixStream> {
        let (secret, answer) = self.read().map_err(|failure| {
            let hint = failure.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let words: Vec<&str> = failure.message.split_whitespace().collect();
            io::Error::other(words.join(" ") + &hint)
        })?;
        let (mut ours, theirs) = UnixStream::pair()?;
        // It has room for any configuration; nobody reads yet.
        ours.set_nonblocking(true)?;
        ours.write_all(secret.as_bytes())?;
        ours.write_all(b"\n")?;
        ours.write_all(&serde_json::to_vec(&answer)?)?;
        Ok(theirs)
    }

    fn read(&self) -> Result<(Zeroizing<String>, Answer), Failure> {
        let (config, written) = Config::load_as_written(self.file.as_deref())?;
        config.daemon.check()?;
        let secret = webhook(&config, &guard(&config)?)?.map(|(_, secret)| secret).unwrap_or_default();
        let written = members(written);
        let mark = |value: &Value| mark(&self.hasher, value);
        let mut now = self.now.borrow_mut();
        let names: BTreeSet<&String> = now.keys().chain(written.keys()).collect();
        let is_changed = |name: &&String| now.get(*name).copied() != written.get(*name).map(mark);
        let changed: BTreeSet<String> = names.into_iter().filter(is_changed).cloned().collect();
        let restart = changed.iter().filter(|name| !LIVE.contains(&name.as_str())).cloned().collect();
        for name in LIVE {
            now.remove(name);
        }
        let live: Written = written.into_iter().filter(|(name, _)| LIVE.contains(&name.as_str())).collect();
        now.extend(live.iter().map(|(name, value)| (name.clone(), mark(value))));
        Ok((secret, Answer { live, changed, restart }))
    }
}

fn mark(hasher: &RandomState, value: &Value) -> u64 {
    hasher.hash_one(value.to_string())
}

/// A table's members by `table.member`, all else by its own name.
fn members(written: Dict) -> Written {
    let mut members = Written::new();
    for (section, value) in written {
        match serde_json::to_value(value) {
            Ok(Value::Object(table)) => {
                members.extend(table.into_iter().map(|(name, value)| (format!("{section}.{name}"), value)));
            }
            value => drop(members.insert(section, value.unwrap_or_default())),
        }
    }
    members
}

/// The agent's side: what may change while it runs.
pub struct Live {
    pub supervisor: Arc<Supervisor>,
    pub agent: Arc<Agent>,
    pub tls: Option<Arc<ServerTls>>,
    pub brought: Bringer,
}

impl Live {
    /// Reads again whenever it is told to, until it is to end.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return tracing::error!("SIGHUP cannot be heard: nothing is read again");
        };
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|now| *now) => break,
                _ = hangup.recv() => {}
            }
            match self.tls.as_ref().map(|tls| tls.reload()) {
                Some(Ok(true)) => tracing::info!("a new certificate is used"),
                Some(Err(error)) => tracing::warn!(%error, "the new certificate is not used"),
                _ => {}
            }
            if let Err(error) = self.reread().await {
                tracing::error!(%error, "the configuration is not read again: what counted goes on");
            }
        }
        self.brought.end().await;
    }

    async fn reread(&mut self) -> io::Result<()> {
        let supervisor = self.supervisor.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = Zeroizing::new(Vec::with_capacity(LARGEST));
            supervisor.keeper(CONFIGURATION)?.read_to_end(&mut answer)?;
            Ok::<_, io::Error>(answer)
        });
        let answer = answer.await??;
        let (secret, answer) = std::str::from_utf8(&answer).ok().and_then(|it| it.split_once('\n')).unwrap_or_default();
        let Answer { live, changed, restart } = serde_json::from_str(answer)?;
        let secret = Zeroizing::new(secret.to_owned());
        // All of it is read before any of it counts.
        let server = server_options(&section::<HttpSection>(&live, "http")?);
        let retention = retention(&section::<StoreSection>(&live, "store")?);
        let level = section::<OpsSection>(&live, "ops")?.log_level;
        let hook = match live.get("api.webhook") {
            Some(hook) => {
                let WebhookSection { url, types, .. } = serde_json::from_value(hook.clone())?;
                Some(Webhook::new(&url, secret, types).map_err(io::Error::other)?)
            }
            None => None,
        };
        self.agent.adjust(server, retention);
        logging::set_level(level);
        self.brought.end().await;
        if let Some(hook) = hook {
            self.brought.start(hook, &self.agent);
        }
        let counts: Vec<&String> = changed.difference(&restart).collect();
        match (counts.as_slice(), restart.is_empty()) {
            ([], true) => tracing::info!("the configuration was read again: nothing has changed"),
            ([], false) => {}
            (counts, _) => tracing::info!(?counts, "the configuration was read again: this counts from now on"),
        }
        if !restart.is_empty() {
            tracing::warn!(?restart, "this has changed in the configuration, and counts after a restart");
        }
        Ok(())
    }
}

/// A section with those of its members that may change, and of the others the defaults.
fn section<T: for<'a> Deserialize<'a>>(live: &Written, section: &str) -> io::Result<T> {
    let of_section = |(name, value): (&String, &Value)| {
        let (_, member) = name.split_once('.').filter(|(first, _)| *first == section)?;
        Some((member.to_owned(), value.clone()))
    };
    Ok(serde_json::from_value(live.iter().filter_map(of_section).collect::<Value>())?)
}

/// Has messages brought to the webhook that counts now.
pub struct Bringer {
    client: HttpClient,
    now: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Bringer {
    /// None are brought yet.
    pub fn new(client: HttpClient) -> Self {
        Self { client, now: None }
    }

    /// To this one from now on.
    pub fn start(&mut self, webhook: Webhook, agent: &Arc<Agent>) {
        let (stop, told) = watch::channel(false);
        self.now = Some((stop, tokio::spawn(webhook.run(agent.clone(), self.client.clone(), told))));
    }

    /// No more are brought; one that was under way may have been taken, and comes again.
    async fn end(&mut self) {
        let Some((stop, task)) = self.now.take() else { return };
        stop.send_replace(true);
        if task.await.is_err() {
            tracing::error!("the webhook ended by a fault of this program");
        }
    }
}

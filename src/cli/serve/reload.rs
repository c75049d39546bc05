//! SIGHUP: the agent asks its supervisor for the configuration, and applies the settings that may change while it runs. It also
//! reads the documents of our DIDs again.

use std::{
    io::{self, Read},
    sync::Arc,
};

use claviger::{
    agent::{
        Agent, ServerTls,
        api::{Access, Webhook, Webhooks},
    },
    net::{Dialer, HttpClient, HttpOptions},
    secrets::keeper::Supervisor,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{signal::unix::Signal, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{logging, tasks::Tasks};
use crate::cli::{
    config::{HttpSection, OpsSection, StoreSection, WebhookSection, one_or_more},
    daemon_options::{dialer_for, retention, server_options},
    reload::{CONFIGURATION, ReloadedSettings, Settings},
};

/// The most bytes of the answer, and the capacity of the buffer for it. A growing buffer would leave copies of the secrets
/// behind.
const MAX_ANSWER: usize = 1 << 20;

/// The parts of the daemon that SIGHUP changes.
pub struct Reloader {
    /// SIGHUP.
    pub hangup: Signal,
    pub supervisor: Arc<Supervisor>,
    pub agent: Arc<Agent>,
    pub tls: Vec<Arc<ServerTls>>,
    pub access: Access,
    pub webhooks: WebhookTasks,
}

impl Reloader {
    /// Reloads on each SIGHUP until `shutdown`, then stops the webhooks.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = self.hangup.recv() => {}
            }
            for tls in &self.tls {
                match tls.reload() {
                    Ok(true) => tracing::info!("certificate reloaded"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "certificate not reloaded"),
                }
            }
            // Also if the configuration is refused.
            self.access.check_connections();
            if let Err(error) = self.reload().await {
                tracing::error!(%error, "configuration not reloaded; the present settings stay");
            }
            tokio::select! {
                // A token may take some seconds to show new keys.
                () = shutdown.cancelled() => break,
                reloaded = self.agent.reload_dids(None) => if let Err(error) = reloaded {
                    tracing::error!(%error, "documents of our DIDs not reloaded");
                },
            }
        }
        self.webhooks.stop().await;
    }

    async fn reload(&mut self) -> io::Result<()> {
        let supervisor = self.supervisor.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
            supervisor.keeper(CONFIGURATION)?.take(MAX_ANSWER as u64).read_to_end(&mut answer)?;
            if answer.len() == MAX_ANSWER {
                return Err(io::Error::other("the settings are longer than 1 MiB: restart the agent"));
            }
            Ok(answer)
        });
        let answer = answer.await??;
        let (secrets, answer) =
            std::str::from_utf8(&answer).ok().and_then(|it| it.split_once('\n')).unwrap_or_default();
        let (tokens, answer) = answer.split_once('\n').unwrap_or_default();
        let ReloadedSettings { reloadable, changed, needs_restart, callers } = serde_json::from_str(answer)?;
        let permissions = callers.with_tokens(tokens).permissions().map_err(io::Error::other)?;
        // All settings are parsed before the first is applied.
        let server = server_options(&section::<HttpSection>(&reloadable, "http")?);
        let retention = retention(&section::<StoreSection>(&reloadable, "store")?);
        let level = section::<OpsSection>(&reloadable, "ops")?.log_level;
        let webhooks = reloadable.get("api.webhook").map(one_or_more).transpose()?.unwrap_or_default();
        let webhook = |(section, secret): (WebhookSection, &str)| {
            Webhook::new(&section.url, Zeroizing::new(secret.to_owned()), section.options()).map_err(io::Error::other)
        };
        let webhooks = webhooks.into_iter().zip(secrets.split_whitespace()).map(webhook).collect::<io::Result<_>>()?;
        let access_changed = self.access.replace(permissions);
        self.agent.update_options(server, retention);
        logging::set_level(level);
        self.webhooks.stop().await;
        self.webhooks.start(webhooks);
        let applied: Vec<&String> = changed.difference(&needs_restart).collect();
        match (applied.as_slice(), needs_restart.is_empty()) {
            ([], true) if access_changed => tracing::info!("configuration reloaded: a token of [api] has changed"),
            ([], true) => tracing::info!("configuration reloaded: nothing has changed"),
            ([], false) => {}
            (applied, _) => tracing::info!(?applied, "configuration reloaded"),
        }
        if !needs_restart.is_empty() {
            tracing::warn!(?needs_restart, "changed settings need a restart");
        }
        Ok(())
    }
}

/// A section with the reloadable settings, and the defaults for the others.
fn section<T: for<'a> Deserialize<'a>>(reloadable: &Settings, section: &str) -> io::Result<T> {
    let of_section = |(name, value): (&String, &Value)| {
        let (_, member) = name.split_once('.').filter(|(first, _)| *first == section)?;
        Some((member.to_owned(), value.clone()))
    };
    Ok(serde_json::from_value(reloadable.iter().filter_map(of_section).collect::<Value>())?)
}

/// The tasks that post to the current webhooks.
pub struct WebhookTasks {
    webhooks: Arc<Webhooks>,
    dialer: Dialer,
    tasks: Tasks,
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl WebhookTasks {
    /// Tasks that post to no webhook yet.
    pub fn new(webhooks: Arc<Webhooks>, dialer: Dialer, tasks: Tasks) -> Self {
        Self { webhooks, dialer, tasks, stop: CancellationToken::new(), running: Vec::new() }
    }

    /// Posts to these webhooks from now on.
    pub fn start(&mut self, webhooks: Vec<Webhook>) {
        self.stop = CancellationToken::new();
        let with_client = |webhook: Webhook| {
            let client = HttpClient::new(dialer_for(&self.dialer, [webhook.url()]), HttpOptions::default());
            (webhook, client)
        };
        let webhooks = webhooks.into_iter().map(with_client).collect();
        let running = self.webhooks.replace(webhooks, &self.stop).into_iter();
        self.running = running.map(|task| self.tasks.spawn("webhook", self.stop.clone(), task)).collect();
    }

    /// Posts no more. A message that was being posted may have arrived, and is posted again later.
    async fn stop(&mut self) {
        self.stop.cancel();
        for task in self.running.drain(..) {
            // The task that watches another one does not panic.
            let _ = task.await;
        }
    }
}

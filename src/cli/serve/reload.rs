//! SIGHUP: the agent asks its supervisor for the configuration, and applies the settings that may change while it runs.

use std::{
    io::{self, Read},
    sync::Arc,
};

use claviger::{
    agent::{Agent, ServerTls, api::Webhook},
    net::{Dialer, HttpClient, HttpOptions},
    secrets::keeper::Supervisor,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{logging, tasks::Tasks};
use crate::cli::{
    config::{HttpSection, OpsSection, StoreSection, WebhookSection},
    daemon_options::{dialer_for, retention, server_options},
    reload::{CONFIGURATION, ReloadedSettings, Settings},
};

/// The capacity of the buffer for the answer, in bytes. A socket holds less, so the buffer never grows. A growing
/// buffer would leave copies of the secret behind.
const MAX_ANSWER: usize = 1 << 20;

/// The parts of the daemon that SIGHUP changes.
pub struct Reloader {
    pub supervisor: Arc<Supervisor>,
    pub agent: Arc<Agent>,
    pub tls: Option<Arc<ServerTls>>,
    pub webhook: WebhookTask,
}

impl Reloader {
    /// Reloads on each SIGHUP until `shutdown`, then stops the webhook.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return tracing::error!("cannot listen for SIGHUP: the configuration is never reloaded");
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = hangup.recv() => {}
            }
            match self.tls.as_ref().map(|tls| tls.reload()) {
                Some(Ok(true)) => tracing::info!("certificate reloaded"),
                Some(Err(error)) => tracing::warn!(%error, "certificate not reloaded"),
                _ => {}
            }
            if let Err(error) = self.reload().await {
                tracing::error!(%error, "configuration not reloaded; the present settings stay");
            }
        }
        self.webhook.stop().await;
    }

    async fn reload(&mut self) -> io::Result<()> {
        let supervisor = self.supervisor.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
            supervisor.keeper(CONFIGURATION)?.read_to_end(&mut answer)?;
            Ok::<_, io::Error>(answer)
        });
        let answer = answer.await??;
        let (secret, answer) = std::str::from_utf8(&answer).ok().and_then(|it| it.split_once('\n')).unwrap_or_default();
        let ReloadedSettings { reloadable, changed, needs_restart } = serde_json::from_str(answer)?;
        let secret = Zeroizing::new(secret.to_owned());
        // All settings are parsed before the first is applied.
        let server = server_options(&section::<HttpSection>(&reloadable, "http")?);
        let retention = retention(&section::<StoreSection>(&reloadable, "store")?);
        let level = section::<OpsSection>(&reloadable, "ops")?.log_level;
        let webhook = match reloadable.get("api.webhook") {
            Some(webhook) => {
                let WebhookSection { url, types, .. } = serde_json::from_value(webhook.clone())?;
                Some(Webhook::new(&url, secret, types).map_err(io::Error::other)?)
            }
            None => None,
        };
        self.agent.update_options(server, retention);
        logging::set_level(level);
        self.webhook.stop().await;
        if let Some(webhook) = webhook {
            self.webhook.start(webhook, &self.agent);
        }
        let applied: Vec<&String> = changed.difference(&needs_restart).collect();
        match (applied.as_slice(), needs_restart.is_empty()) {
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

/// The task that posts messages to the current webhook.
pub struct WebhookTask {
    dialer: Dialer,
    tasks: Tasks,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl WebhookTask {
    /// A task that posts to no webhook yet.
    pub fn new(dialer: Dialer, tasks: Tasks) -> Self {
        Self { dialer, tasks, running: None }
    }

    /// Posts messages to this webhook from now on.
    pub fn start(&mut self, webhook: Webhook, agent: &Arc<Agent>) {
        let stop = CancellationToken::new();
        let client = HttpClient::new(dialer_for(&self.dialer, [webhook.url()]), HttpOptions::default());
        let running = webhook.run(agent.clone(), client, stop.clone());
        let task = self.tasks.spawn("webhook", stop.clone(), running);
        self.running = Some((stop, task));
    }

    /// Posts no more messages. A message that was being posted may have arrived, and is posted again later.
    async fn stop(&mut self) {
        let Some((stop, task)) = self.running.take() else { return };
        stop.cancel();
        // The task that watches another one does not panic.
        let _ = task.await;
    }
}

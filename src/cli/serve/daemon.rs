//! The running daemon: the agent, its servers, and the tasks that shut them down.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use claviger::{
    agent::{
        Agent, OwnDocuments, ReadTokenStates, RefreshKeys, ReloadDocuments, Server, TokenProblem, TokenReport,
        Transports,
        api::{self, ApiListener, Webhooks},
        store::Store,
    },
    did::{
        CacheLimits, CachedResolver, Document, LoadError, LocalResolver, Resolver, ResolverChain, WebResolver,
        WebvhResolver, read_documents,
    },
    net::{HttpClient, HttpOptions, WebSocketClient, WebSocketOptions},
    secrets::{
        FailoverSecrets, Secrets,
        keeper::{KeeperClient, Supervisor},
    },
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "otel")]
use super::spans;
use super::{
    health,
    prepared::Prepared,
    reload::{Reloader, WebhookTasks},
    systemd::Notifier,
    tasks::Tasks,
};
use crate::cli::{
    config::Config,
    daemon_options::{agent_options, dialer_for, http_client},
    failure::Failure,
    output::Out,
    state_dir::StateDir,
};

/// How often to check that the supervisor still runs.
const SUPERVISOR_CHECK: Duration = Duration::from_secs(1);

/// Runs the agent until it is shut down.
pub async fn run(
    prepared: Prepared,
    config: &Config,
    documents: Vec<Document>,
    supervisor: Arc<Supervisor>,
    store: Arc<dyn Store>,
    out: &Out,
) -> Result<(), Failure> {
    let own_documents = own_documents(&StateDir::new(config.state_dir.clone()), &config.documents)?;
    let client = http_client(config, prepared.dialer.clone());
    let keepers = keepers(config, &supervisor);
    let secrets = keepers.iter().map(|keeper| keeper.clone() as Arc<dyn Secrets>);
    let agent = Agent::builder(
        Arc::new(FailoverSecrets::new(secrets)),
        own_documents,
        resolver(config, documents, client.clone()),
        store.clone(),
    );
    #[cfg(feature = "otel")]
    if let Some(url) = &config.daemon.ops.otlp {
        let client = HttpClient::new(dialer_for(&prepared.dialer, [url.as_str()]), HttpOptions::default());
        spans::export(url, client)?;
        out.say("Spans are exported to the collector.");
    }
    let shutdown = CancellationToken::new();
    tokio::spawn(expect_end_of_keepers(keepers.clone(), shutdown.clone()));
    let tasks = Tasks::new(shutdown.clone());
    let (http, to_webhooks) = (client.clone(), prepared.dialer.clone());
    let to_mediators = dialer_for(&prepared.dialer, config.daemon.mediation.private_servers.iter().map(String::as_str));
    let mediator_http = HttpClient::new(to_mediators.clone(), HttpOptions::default());
    let mediator_websockets = WebSocketClient::new(to_mediators, WebSocketOptions::default());
    let websockets = WebSocketClient::new(prepared.dialer, WebSocketOptions::default());
    let agent = agent
        .transports(Transports::default().with(client).with(websockets))
        .mediators(mediator_http, mediator_websockets)
        .http(http)
        .read_token_states(read_token_states(keepers.clone()))
        .refresh_keys(refresh_keys(keepers.clone()))
        .on_reload(reload_documents(config, keepers))
        .options(agent_options(config))
        .build();
    let agent = agent.map_err(|error| Failure::new("failed", error.to_string()))?;
    let (mut servers, mut listens) = (Vec::new(), Vec::new());
    for listener in prepared.peers {
        let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
        let tls = if prepared.tls.is_some() { " with TLS" } else { "" };
        out.say(&format!("Peers are served on {address}{tls}."));
        listens.push(address);
        servers.push(Server::new(listener, prepared.tls.clone()));
    }
    let remote_tls = prepared.remote_api.as_ref().map(|(_, tls)| tls.clone());
    let tls: Vec<_> = prepared.tls.into_iter().chain(remote_tls).collect();
    for tls in &tls {
        tasks.spawn("TLS certificates", shutdown.clone(), tls.clone().watch());
    }
    // Whoever gets an answer from the health checks or the API finds that the webhooks are there and signals are heard.
    let webhooks = Arc::new(Webhooks::new(agent.clone()));
    let posted_to: Vec<String> = prepared.webhooks.iter().map(|webhook| webhook.host().to_owned()).collect();
    let mut webhook_tasks = WebhookTasks::new(webhooks.clone(), to_webhooks, tasks.clone());
    webhook_tasks.start(prepared.webhooks);
    let reloader = Reloader {
        hangup: listen_for(SignalKind::hangup())?,
        supervisor: supervisor.clone(),
        agent: agent.clone(),
        tls,
        access: prepared.access.clone(),
        webhooks: webhook_tasks,
    };
    let mut to_end = vec![tasks.spawn("reload", shutdown.clone(), reloader.run(shutdown.clone()))];
    let ends = [listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?];
    tasks.spawn("signals", shutdown.clone(), shut_down_on_signal(ends, shutdown.clone(), prepared.notifier.clone()));
    if let Some(listener) = prepared.ops {
        let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
        out.say(&format!("Health and metrics are served on {address}."));
        listens.push(address);
        tasks.spawn("health checks", shutdown.clone(), health::serve(listener, agent.clone(), shutdown.clone()));
    }
    out.say(&format!("The API is served on {}.", config.api_address()));
    let mut apis = vec![prepared.api];
    if let Some((listener, tls)) = prepared.remote_api {
        let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
        out.say(&format!("Applications on other machines are served on {address}, with a certificate."));
        listens.push(address);
        apis.push(ApiListener::Remote(listener, tls));
    }
    let serve_api = |listener| {
        let (access, webhooks) = (prepared.access.clone(), webhooks.clone());
        let api = api::serve(listener, access, agent.clone(), webhooks, listens.clone(), shutdown.clone());
        tasks.spawn("API", shutdown.clone(), async {
            if let Err(error) = api.await {
                tracing::error!(%error, "API server failed");
            }
        })
    };
    to_end.extend(apis.into_iter().map(serve_api));
    for host in posted_to {
        out.say(&format!("Messages are posted to the webhook on {host}."));
    }
    let supervision =
        tokio::spawn(shut_down_without_supervisor(supervisor, shutdown.clone(), prepared.notifier.clone()));
    prepared.notifier.ready();
    let ended = tokio::select! {
        ended = agent.run(servers, shutdown.clone()) => ended,
        () = prepared.notifier.watchdog(agent.clone()) => Ok(()),
    };
    shutdown.cancel();
    for task in to_end {
        // The task that watches another one does not panic.
        let _ = task.await;
    }
    // All work is committed: nothing is lost if the process is killed before the store is closed.
    store.close().await?;
    ended.map_err(|error| Failure::io("the server", &error))?;
    if let Some(task) = tasks.lost() {
        return Err(Failure::new("failed", format!("the agent ended because its task for {task} ended"))
            .hint("start the agent again: it has stored every message that it accepted"));
    }
    match supervision.is_finished() && supervision.await.unwrap_or(false) {
        true => Err(Failure::new("failed", "the agent ended because the keepers' supervisor ended")
            .hint("start the agent again: it has stored every message that it accepted")),
        false => Ok(()),
    }
}

/// Listens for a signal from now on. Before that, the signal would end the process at once.
fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::io("listening for signals", &error))
}

/// Ends the agent on SIGTERM or SIGINT, and the process at once on the second signal.
async fn shut_down_on_signal(
    [mut terminate, mut interrupt]: [Signal; 2],
    shutdown: CancellationToken,
    notifier: Arc<Notifier>,
) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if shutdown.is_cancelled() {
            std::process::exit(1);
        }
        shutdown.cancel();
        notifier.stopping();
        tracing::info!("shutting down; a second signal ends the process at once");
    }
}

/// Shuts the agent down when the supervisor has ended, because no keeper could be started any more. The service manager
/// can start the agent again. Returns `false` if the agent was already shutting down.
async fn shut_down_without_supervisor(
    supervisor: Arc<Supervisor>,
    shutdown: CancellationToken,
    notifier: Arc<Notifier>,
) -> bool {
    while !supervisor.has_ended() {
        tokio::time::sleep(SUPERVISOR_CHECK).await;
    }
    if shutdown.is_cancelled() {
        return false;
    }
    shutdown.cancel();
    notifier.stopping();
    tracing::error!("keepers' supervisor ended; shutting down");
    true
}

/// Clients of the keepers, which may not run yet.
fn keepers(config: &Config, supervisor: &Arc<Supervisor>) -> Vec<Arc<KeeperClient>> {
    let start = |name: &str| Arc::new(KeeperClient::start_in_background(name, supervisor.connector(name)));
    config.tokens.iter().map(|token| start(&token.name)).collect()
}

/// Keepers that end while the agent shuts down are no failure: systemd sends SIGTERM to them too.
async fn expect_end_of_keepers(keepers: Vec<Arc<KeeperClient>>, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    keepers.iter().for_each(|keeper| keeper.expect_end());
}

/// Reads the states of the tokens, for the API, the metrics and the health checks.
fn read_token_states(keepers: Vec<Arc<KeeperClient>>) -> ReadTokenStates {
    Box::new(move || keepers.iter().map(|keeper| token_report(keeper)).collect())
}

fn token_report(keeper: &KeeperClient) -> TokenReport {
    let problem = keeper.outage().map(|outage| {
        let Failure { code, hint, .. } = Failure::from_token(keeper.name(), &outage.error);
        // Whoever shows the reason names the token beside it.
        TokenProblem { code, reason: outage.error.to_string(), action: hint }
    });
    let elapsed = keeper.since().map(|since| since.elapsed()).unwrap_or_default();
    let since = SystemTime::now().checked_sub(elapsed).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    TokenReport { name: keeper.name().to_owned(), state: keeper.state(), since, problem }
}

/// Reads the documents in the state folder again, and has the keepers look for new keys.
fn reload_documents(config: &Config, keepers: Vec<Arc<KeeperClient>>) -> ReloadDocuments {
    let (state, paths) = (StateDir::new(config.state_dir.clone()), config.documents.clone());
    Box::new(move || {
        let documents = own_documents(&state, &paths).map_err(|error| error.to_string())?;
        keepers.iter().for_each(|keeper| keeper.refresh_keys());
        Ok(documents)
    })
}

/// Has the keepers look for new keys.
fn refresh_keys(keepers: Vec<Arc<KeeperClient>>) -> RefreshKeys {
    Box::new(move || keepers.iter().for_each(|keeper| keeper.refresh_keys()))
}

/// The documents of our DIDs. DIDs that claviger made are ours even without their token; other DIDs are ours only if a
/// token holds their keys.
fn own_documents(state: &StateDir, paths: &[PathBuf]) -> Result<OwnDocuments, LoadError> {
    let by_age = state.documents_by_age()?;
    let millis = |time: &SystemTime| i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok();
    let created_at =
        by_age.iter().filter_map(|(time, document)| Some((document.id().to_owned(), millis(time.as_ref()?)?)));
    let created_at = created_at.collect();
    let created: Vec<Document> = by_age.into_iter().map(|(_, document)| document).collect();
    let known: HashSet<&str> = created.iter().map(Document::id).collect();
    let mut candidates = Vec::new();
    for path in paths {
        let more = read_documents(path)?.into_iter().map(|(_, document)| document);
        candidates.extend(more.filter(|document| !known.contains(document.id())));
    }
    Ok(OwnDocuments { created, candidates, logs: state.logs()?, created_at, retired: state.retired() })
}

fn resolver(config: &Config, documents: Vec<Document>, client: HttpClient) -> Arc<dyn Resolver> {
    let state = StateDir::new(config.state_dir.clone());
    let local = LocalResolver::new().with_long_forms(state.long_forms()).with_documents(documents);
    let methods = ResolverChain::new(local).then(WebResolver::new(client.clone())).then(WebvhResolver::new(client));
    let net = &config.daemon.net;
    let limits = CacheLimits {
        refetch_interval: Duration::from_secs(net.did_refetch_seconds),
        refetches_per_minute: net.did_refetches_per_minute,
        ..CacheLimits::default()
    };
    Arc::new(CachedResolver::with_limits(methods, limits))
}

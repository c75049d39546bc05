//! `claviger serve`: the daemon.

pub mod config;
mod health;
mod logging;
mod notify;
pub mod reread;
#[cfg(feature = "otel")]
mod spans;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use claviger::{
    agent::{
        Agent, AgentOptions, MediationOptions, OwnDocuments, Reload, Server, ServerOptions, ServerTls, Tokens,
        Transports,
        api::{self, Access, ApiListener, BearerToken, Webhook},
        net::{Dialer, Guard, HttpClient, HttpOptions, WebSocketClient, WebSocketOptions, client_config},
        store::{Retention, SqliteOptions, SqliteStore, Store},
    },
    did::{Cached, Document, LoadError, LocalResolver, Methods, Resolver, WebResolver, WebvhResolver, read_documents},
    jose::Limits,
    process::sandbox::Sandbox,
    secrets::{
        Secrets, Several,
        keeper::{KeeperClient, Role, Supervisor},
    },
};
use config::{ApiAddress, HttpSection, StoreSection};
use ipnet::IpNet;
use notify::Notifier;
use reread::{Bringer, Live};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use zeroize::Zeroizing;

use super::{
    config::Config,
    failure::Failure,
    keeper,
    output::{Out, short},
    own::Own,
    state::State,
};

/// Runs the agent: receives, answers, sends and retries, until it is told to end.
///
/// What came is kept before its sender is told so, and opened when the token is ready. SIGTERM ends it once what was begun
/// is done.
#[derive(clap::Args)]
pub struct Args {
    /// Looks whether it could run, and says so, without running
    #[arg(long)]
    check: bool,
    /// Prints the description of the application's API (OpenAPI 3.1), without running
    #[arg(long, conflicts_with = "check")]
    pub openapi: bool,
    /// How the log is written: for people, or one JSON document a line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: logging::Format,
}

impl Args {
    /// A daemon's log is another than that of a command.
    pub fn start_log(&self, verbose: u8) {
        logging::start(self.log, verbose);
    }
}

/// How often it is looked whether keepers can still be started.
const SUPERVISED: Duration = Duration::from_secs(1);
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Prints the description of the API, which is the same whatever the configuration.
pub fn describe(out: &Out) -> Result<(), Failure> {
    out.line(&api::openapi())
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    config.daemon.check()?;
    logging::set_level(config.daemon.ops.log_level);
    let own = Own::load(config)?;
    let documents = own.documents.clone();
    if documents.is_empty() {
        let said = "there is no DID of ours to serve";
        return Err(Failure::words("no-did", said)
            .hint("`claviger init` makes a first one; `claviger did create --method peer:2 --service URL` one more"));
    }
    if config.tokens.is_empty() {
        return Err(config.no_token());
    }
    if config.in_process() {
        let said = "in_process = true: a daemon that anyone may connect to does not hold keys in its own process";
        return Err(
            Failure::words("bad-config", said).hint("leave it out of [keeper]: keepers are started by themselves")
        );
    }
    let prepared = Prepared::new(config)?;
    if args.check {
        return checked(config, &prepared, &documents, out);
    }
    open_many();
    // Before the process has a second thread and before it closes itself in.
    let supervisor = keeper::supervisor(config, Role::Agent)?;
    prepared.close_in(config)?;
    let store = SqliteStore::open(&config.store_path(), store_options(config))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime", &error))?;
    runtime.block_on(prepared.serve(config, documents, supervisor, Arc::new(store), out))
}

/// What is opened before the process closes itself in.
struct Prepared {
    public: Vec<TcpListener>,
    ops: Option<TcpListener>,
    api: (ApiListener, Access),
    webhook: Option<Webhook>,
    tls: Option<Arc<ServerTls>>,
    dialer: Dialer,
    notifier: Arc<Notifier>,
}

impl Prepared {
    fn new(config: &Config) -> Result<Self, Failure> {
        let daemon = &config.daemon;
        let tls = match (&daemon.http.tls_certificate, &daemon.http.tls_key) {
            (Some(certificate), Some(key)) => {
                let tls = ServerTls::open(config.base.join(certificate), config.base.join(key));
                Some(Arc::new(tls.map_err(|error| Failure::words("bad-certificate", error.to_string()))?))
            }
            _ => None,
        };
        let guard = guard(config)?;
        Ok(Self {
            public: daemon.http.listen.0.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?,
            ops: daemon.ops.listen.map(listen).transpose()?,
            api: application(config)?,
            webhook: webhook(config, &guard)?.map(|(webhook, _)| webhook),
            tls,
            dialer: dialer(config, guard)?,
            notifier: Arc::new(Notifier::open()),
        })
    }

    /// Lets the agent do what a daemon does, and nothing else, for good.
    fn close_in(&self, config: &Config) -> Result<(), Failure> {
        let store = config.store_path();
        let folder = store.parent().unwrap_or(Path::new("."));
        let long_forms = State::new(config.state_dir.clone()).long_forms_folder();
        for folder in [folder, &long_forms] {
            make_private(folder).map_err(|error| Failure::io(folder.display(), &error))?;
        }
        let mut sandbox = Sandbox::new().write(folder).write(long_forms).name_resolution();
        let documents = State::new(config.state_dir.clone()).documents_folder();
        for place in config.documents.iter().chain([&documents]).filter(|place| place.exists()) {
            sandbox = sandbox.read(place);
        }
        for path in self.tls.iter().flat_map(|tls| tls.folders()) {
            sandbox = sandbox.read(path);
        }
        let report = sandbox.enforce().map_err(|error| Failure::new("not-closed-in", error.to_string()))?;
        for finding in report.findings.iter().filter(|finding| !finding.holds) {
            tracing::warn!(name = finding.name, why = finding.why, "this kernel does not close the process in");
        }
        Ok(())
    }

    async fn serve(
        self,
        config: &Config,
        documents: Vec<Document>,
        supervisor: Arc<Supervisor>,
        store: Arc<dyn Store>,
        out: &Out,
    ) -> Result<(), Failure> {
        let ours = self::documents(&State::new(config.state_dir.clone()), &config.documents)?;
        let plain = config.daemon.net.did_web_plain_http_for.clone();
        let asks = HttpOptions { did_web_plain_http_for: plain, ..HttpOptions::default() };
        let client = HttpClient::new(self.dialer.clone(), asks);
        let keepers = keepers(config, &supervisor);
        let each = keepers.iter().map(|keeper| keeper.clone() as Arc<dyn Secrets>);
        let agent = Agent::builder(
            Arc::new(Several::new(each)),
            ours,
            resolver(config, documents, client.clone()),
            store.clone(),
        );
        #[cfg(feature = "otel")]
        if let Some(url) = &config.daemon.ops.otlp {
            spans::bring(url, client.clone())?;
            out.say("Spans are brought to the collector.");
        }
        let (http, mut brought) = (client.clone(), Bringer::new(client.clone()));
        let sockets = WebSocketClient::new(self.dialer, WebSocketOptions::default());
        let agent = agent
            .transports(Transports::default().with(client).with(sockets.clone()))
            .sockets(sockets)
            .http(http)
            .tokens(states(keepers.clone()))
            .on_reload(reload(config, keepers))
            .options(options(config))
            .build();
        let agent = agent.map_err(|error| Failure::new("failed", error.to_string()))?;
        let (stop, shutdown) = watch::channel(false);
        let mut servers = Vec::new();
        for listener in self.public {
            let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
            out.say(&format!("Peers are served on {address}{}.", if self.tls.is_some() { " with TLS" } else { "" }));
            servers.push(Server::new(listener, self.tls.clone()));
        }
        if let Some(tls) = &self.tls {
            tokio::spawn(tls.clone().follow());
        }
        if let Some(listener) = self.ops {
            let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
            out.say(&format!("Health and figures are on {address}."));
            tokio::spawn(health::serve(listener, agent.clone(), shutdown.clone()));
        }
        let (listener, access) = self.api;
        let served = tokio::spawn(api::serve(listener, access, agent.clone(), shutdown.clone()));
        if let Some(webhook) = self.webhook {
            out.say(&format!("Messages are brought to {}.", webhook.host()));
            brought.start(webhook, &agent);
        }
        let live = Live { supervisor: supervisor.clone(), agent: agent.clone(), tls: self.tls, brought };
        let live = tokio::spawn(live.run(shutdown.clone()));
        tokio::spawn(signals(stop.clone(), self.notifier.clone()));
        let unsupervised = tokio::spawn(unsupervised(supervisor, stop, self.notifier.clone()));
        self.notifier.ready();
        let ended = tokio::select! {
            ended = agent.run(servers, shutdown) => ended,
            () = self.notifier.live(agent.clone()) => Ok(()),
        };
        if let Ok(Err(error)) = served.await {
            tracing::error!(%error, "the application's side");
        }
        if live.await.is_err() {
            tracing::error!("what may change while it runs ended by a fault of this program");
        }
        // What was begun is done: nothing is lost if this is not reached.
        store.close().await?;
        ended.map_err(|error| Failure::io("the server", &error))?;
        match unsupervised.is_finished() && unsupervised.await.unwrap_or(false) {
            true => Err(Failure::new("failed", "the process that starts keepers has ended, and so did this one")
                .hint("started again, it goes on where it was: what was taken is kept")),
            false => Ok(()),
        }
    }
}

/// Each peer's connection is a descriptor: as many as the system lets a process have, and not the 1024 that it begins with.
fn open_many() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!(%error, "no more connections are taken than the soft limit of open files lets through");
    }
}

/// Ends the agent when it is told to; once more, and it is not waited for.
async fn signals(stop: watch::Sender<bool>, notifier: Arc<Notifier>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard: only SIGKILL ends this process");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.send_replace(true) {
            std::process::exit(1);
        }
        notifier.stopping();
        tracing::info!("what was begun is ended; once more ends at once");
    }
}

/// Ends the agent when no keeper can be started for it any more: it would go on without a token for ever, and whoever
/// started it can do so again. False if it was told to end before that.
async fn unsupervised(supervisor: Arc<Supervisor>, stop: watch::Sender<bool>, notifier: Arc<Notifier>) -> bool {
    while !supervisor.has_ended() {
        tokio::time::sleep(SUPERVISED).await;
    }
    if stop.send_replace(true) {
        return false;
    }
    notifier.stopping();
    tracing::error!("the process that starts keepers has ended: what was begun is ended too");
    true
}

/// The tokens by way of their keepers, which may not be there yet.
fn keepers(config: &Config, supervisor: &Arc<Supervisor>) -> Vec<Arc<KeeperClient>> {
    let start = |name: &str| Arc::new(KeeperClient::start_late(name, supervisor.connect(name)));
    config.tokens.iter().map(|token| start(&token.name)).collect()
}

/// How the tokens are, for the figures.
fn states(keepers: Vec<Arc<KeeperClient>>) -> Tokens {
    Box::new(move || keepers.iter().map(|keeper| (keeper.name().to_owned(), keeper.state())).collect())
}

/// Reads the documents in the state folder again, and has the keepers look for keys that were made meanwhile.
fn reload(config: &Config, keepers: Vec<Arc<KeeperClient>>) -> Reload {
    let (state, places) = (State::new(config.state_dir.clone()), config.documents.clone());
    Box::new(move || {
        let documents = documents(&state, &places).map_err(|error| error.to_string())?;
        keepers.iter().for_each(|keeper| keeper.look_again());
        Ok(documents)
    })
}

/// Those made here are ours whether their token is there or not; those at hand, if a token shows their keys.
fn documents(state: &State, places: &[PathBuf]) -> Result<OwnDocuments, LoadError> {
    let made = state.documents()?;
    let mut at_hand = Vec::new();
    for place in places {
        let more = read_documents(place)?.into_iter().map(|(_, document)| document);
        at_hand.extend(more.filter(|document| !made.iter().any(|own| own.id() == document.id())));
    }
    Ok(OwnDocuments { made, at_hand, logs: state.logs()? })
}

fn resolver(config: &Config, documents: Vec<Document>, client: HttpClient) -> Arc<dyn Resolver> {
    let state = State::new(config.state_dir.clone());
    let local = LocalResolver::new().with_long_forms(state.long_forms()).with_documents(documents);
    let methods = Methods::new(local).then(WebResolver::new(client.clone())).then(WebvhResolver::new(client));
    Arc::new(Cached::new(methods))
}

fn options(config: &Config) -> AgentOptions {
    let daemon = &config.daemon;
    let agent = &daemon.agent;
    let mut options = AgentOptions::default();
    options.inbox.limits = Limits { bytes: agent.max_message_bytes, ..Limits::default() };
    options.inbox.workers = agent.workers;
    options.inbox.longest_age = DAY * i64::from(agent.longest_age_days);
    options.inbox.life = DAY * i64::from(agent.send_for_days);
    options.inbox.prompt_strangers = agent.prompt_strangers;
    options.outbox.life = options.inbox.life;
    options.goal_codes.clone_from(&agent.goal_codes);
    options.mediation =
        MediationOptions { live: daemon.mediation.live, poll: Duration::from_secs(daemon.mediation.poll_seconds) };
    options.server = server_options(&daemon.http);
    options.retention = retention(&daemon.store);
    options
}

fn server_options(http: &HttpSection) -> ServerOptions {
    ServerOptions {
        connections: http.connections,
        per_address: http.connections_per_address,
        rate_per_address: http.rate_per_address,
        header_time: Duration::from_secs(http.header_seconds),
        body_time: Duration::from_secs(http.body_seconds),
        public_url: http.public_url.clone(),
        ..ServerOptions::default()
    }
}

fn retention(store: &StoreSection) -> Retention {
    Retention {
        deliveries: DAY * i64::from(store.unread_days),
        history: DAY * i64::from(store.history_days),
        ..Retention::default()
    }
}

fn store_options(config: &Config) -> SqliteOptions {
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

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure::io(address, &error).hint("`listen` in the configuration: another program may have the port")
    })
}

/// The application's side: on a Unix socket for processes of some users, or on the loopback interface for who has the token.
fn application(config: &Config) -> Result<(ApiListener, Access), Failure> {
    let section = &config.daemon.api;
    match config.api_address() {
        ApiAddress::Unix(path) => {
            if let Some(folder) = path.parent() {
                make_private(folder).map_err(|error| Failure::io(folder.display(), &error))?;
            }
            let listener = ApiListener::unix(&path).map_err(|error| Failure::new("io", error.to_string()))?;
            let mut users = vec![0, rustix::process::getuid().as_raw()];
            for name in &section.users {
                users.push(keeper::user(name)?);
            }
            Ok((listener, Access::Users(users)))
        }
        ApiAddress::Tcp(text) => {
            let wrong = |said: String| Failure::words("bad-config", said);
            let address = text.parse().map_err(|_| {
                wrong(format!("listen in [api]: {text:?} is neither unix:PATH nor an address of the loopback interface with a port"))
            })?;
            if !SocketAddr::ip(&address).is_loopback() {
                return Err(wrong(format!("listen in [api]: {address} is no address of the loopback interface")).hint(
                    "others could connect to it: a proxy that knows who they are stands before it, or a tunnel of ssh",
                ));
            }
            let Some(file) = &section.token_file else {
                return Err(wrong(
                    "[api] listens on the loopback interface, where any program can connect, and has no token_file"
                        .to_owned(),
                )
                .hint("`openssl rand -hex 32 > api.token; chmod 600 api.token` makes one; a Unix socket needs none"));
            };
            let path = config.base.join(file);
            let token = BearerToken::read(&path);
            let token = token.map_err(|error| wrong(format!("token_file in [api], {}: {error}", path.display())))?;
            let listener = ApiListener::loopback(address).map_err(|error| Failure::io(address, &error))?;
            Ok((listener, Access::Token(token)))
        }
    }
}

/// Where messages are brought, and its secret; what can be seen to be wrong with it is said now and not in the log.
fn webhook(config: &Config, guard: &Guard) -> Result<Option<(Webhook, Zeroizing<String>)>, Failure> {
    let Some(section) = &config.daemon.api.webhook else { return Ok(None) };
    let wrong = |said: String| Failure::words("bad-config", said);
    let path = config.base.join(&section.secret_file);
    let secret = Webhook::secret(&path)
        .map_err(|error| wrong(format!("secret_file in [api.webhook], {}: {error}", path.display())))?;
    let webhook = Webhook::new(&section.url, secret.clone(), section.types.clone())
        .map_err(|error| wrong(format!("url in [api.webhook]: {error}")))?;
    let host = webhook.host().trim_start_matches('[').trim_end_matches(']');
    if host.parse().is_ok_and(|address| guard.check(address).is_err()) {
        return Err(wrong(format!("url in [api.webhook]: {host} is a private address, which is not connected to"))
            .hint(format!("allow_private = [\"{host}\"] in [net] lets it be connected to")));
    }
    Ok(Some((webhook, secret)))
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The one way out.
fn dialer(config: &Config, guard: Guard) -> Result<Dialer, Failure> {
    let ca = config.daemon.net.ca.as_ref().map(|ca| config.base.join(ca));
    let tls = client_config(ca.as_deref()).map_err(|error| Failure::words("bad-certificate", error.to_string()))?;
    Ok(Dialer::new(guard, tls))
}

fn guard(config: &Config) -> Result<Guard, Failure> {
    let parse = |range: &String| {
        range.parse::<IpNet>().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
            let said = format!("allow_private in [net]: {range:?} is no range of addresses");
            Failure::words("bad-config", said).hint("such as 10.0.0.0/8 or fd00::/8")
        })
    };
    Ok(Guard::new(config.daemon.net.allow_private.iter().map(parse).collect::<Result<_, _>>()?))
}

/// Says what it would do.
fn checked(config: &Config, prepared: &Prepared, documents: &[Document], out: &Out) -> Result<(), Failure> {
    for document in documents {
        out.say(&format!("A DID of ours: {}", short(document.id())));
    }
    if prepared.public.is_empty() {
        out.say("It listens on no port: messages come by way of a mediator.");
    }
    out.document(&json!({
        "dids": documents.iter().map(Document::id).collect::<Vec<_>>(),
        "listens": prepared.public.iter().filter_map(|it| it.local_addr().ok()).map(|it| it.to_string()).collect::<Vec<_>>(),
        "store": config.store_path(),
    }))
}

//! The sockets, certificates and secrets that the daemon opens before it enters its sandbox.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use claviger::{
    agent::{
        ClientAuthorities, ServerTls,
        api::{Access, ApiListener, Webhook},
        store::StoreLocation,
    },
    net::Dialer,
    process::sandbox::Sandbox,
};

use super::systemd::Notifier;
use crate::cli::{
    api_callers::ApiCallers,
    config::{ApiAddress, Config},
    daemon_options::{address_guard, dialer, webhooks},
    failure::Failure,
    private_folder,
    state_dir::StateDir,
    store_location,
};

/// The open sockets and files of the daemon.
pub struct Prepared {
    /// The listeners of `[http]`, for peers.
    pub peers: Vec<TcpListener>,
    /// The listener of `[ops]`, for health checks and metrics.
    pub ops: Option<TcpListener>,
    pub api: ApiListener,
    /// The listener of `[api.remote]`, for applications on other machines.
    pub remote_api: Option<(TcpListener, Arc<ServerTls>)>,
    pub access: Access,
    pub webhooks: Vec<Webhook>,
    pub tls: Option<Arc<ServerTls>>,
    pub dialer: Dialer,
    pub store: StoreLocation,
    pub notifier: Arc<Notifier>,
}

impl Prepared {
    /// Opens everything that the configuration names.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let daemon = &config.daemon;
        let store = store_location::configured(config)?;
        Ok(Self {
            webhooks: webhooks(config)?.into_iter().map(|(webhook, _)| webhook).collect(),
            tls: tls(config)?.map(Arc::new),
            dialer: dialer(config, address_guard(config, store_location::addresses(&store))?)?,
            store,
            notifier: Arc::new(Notifier::open()),
            access: access(config)?,
            api: open_api(config)?,
            remote_api: match (&daemon.api.remote, remote_tls(config)?) {
                (Some(remote), Some(tls)) => Some((listen(remote.listen, "api.remote")?, Arc::new(tls))),
                _ => None,
            },
            peers: daemon.http.listen.0.iter().map(|address| listen(*address, "http")).collect::<Result<_, _>>()?,
            ops: daemon.ops.listen.map(|address| listen(address, "ops")).transpose()?,
        })
    }

    /// Checks everything that [`new`](Self::new) opens, beside an agent that listens on `taken` and serves the API. Returns
    /// where the store is.
    pub fn check_beside(taken: &[SocketAddr], config: &Config) -> Result<StoreLocation, Failure> {
        let store = store_location::configured(config)?;
        webhooks(config)?;
        tls(config)?;
        dialer(config, address_guard(config, store_location::addresses(&store))?)?;
        remote_tls(config)?;
        access(config)?;
        api_address(config)?;
        let free = config.daemon.sockets().filter(|(address, _)| !taken.contains(address));
        free.map(|(address, section)| listen(address, section)).try_for_each(|listener| listener.map(drop))?;
        Ok(store)
    }

    /// Enters the sandbox, which the process cannot leave. The sandbox allows only what a daemon needs.
    pub fn enter_sandbox(&self, config: &Config) -> Result<(), Failure> {
        let state = StateDir::new(config.state_dir.clone());
        let long_forms = state.long_forms_folder();
        create_folder(&long_forms)?;
        let mut sandbox = Sandbox::new().allow_read(long_forms).allow_name_resolution();
        if let StoreLocation::Sqlite(store) = &self.store {
            let folder = store.parent().unwrap_or(Path::new("."));
            create_folder(folder)?;
            sandbox = sandbox.allow_write(folder);
        }
        let folders = [state.documents_folder(), state.retired_folder()];
        // A node may begin without documents, and read some later.
        if config.daemon.store.node.is_some() {
            folders.iter().try_for_each(|folder| create_folder(folder))?;
        }
        for path in config.documents.iter().chain(&folders).filter(|path| path.exists()) {
            sandbox = sandbox.allow_read(path);
        }
        let remote_tls = self.remote_api.iter().map(|(_, tls)| tls);
        for path in self.tls.iter().chain(remote_tls).flat_map(|tls| tls.folders()) {
            sandbox = sandbox.allow_read(path);
        }
        let report = sandbox.enforce().map_err(|error| Failure::new("not-closed-in", error.to_string()))?;
        for finding in report.findings.iter().filter(|finding| !finding.holds) {
            tracing::warn!(name = finding.name, reason = finding.why, "sandbox incomplete on this kernel");
        }
        Ok(())
    }
}

fn create_folder(folder: &Path) -> Result<(), Failure> {
    private_folder::create(folder).map_err(|error| Failure::io(folder.display(), &error))
}

/// The certificate of `[http]`.
fn tls(config: &Config) -> Result<Option<ServerTls>, Failure> {
    let http = &config.daemon.http;
    let (Some(certificate), Some(key)) = (&http.tls_certificate, &http.tls_key) else { return Ok(None) };
    let tls = ServerTls::open(config.base.join(certificate), config.base.join(key));
    tls.map(Some).map_err(|error| Failure::usage("bad-certificate", error.to_string()))
}

/// Opens a port. `section` is the section of the configuration that names it with `listen`.
fn listen(address: SocketAddr, section: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure::io(address, &error).hint(format!(
            "`listen` in [{section}] of the configuration: another program may have the port, such as another agent"
        ))
    })
}

/// The certificate and the authorities of `[api.remote]`.
fn remote_tls(config: &Config) -> Result<Option<ServerTls>, Failure> {
    let Some(remote) = &config.daemon.api.remote else { return Ok(None) };
    let path = |file: &PathBuf| config.base.join(file);
    let clients = ClientAuthorities { ca: path(&remote.client_ca), crl: remote.client_crl.as_ref().map(path) };
    let tls = ServerTls::open_for_clients(path(&remote.tls_certificate), path(&remote.tls_key), clients);
    tls.map(Some).map_err(|error| Failure::usage("bad-certificate", format!("[api.remote]: {error}")))
}

/// Opens the listener of the application's API.
fn open_api(config: &Config) -> Result<ApiListener, Failure> {
    match api_address(config)? {
        ApiPlace::Unix(path) => {
            if let Some(folder) = path.parent() {
                create_folder(folder)?;
            }
            ApiListener::unix(&path).map_err(|error| Failure::new("io", error.to_string()))
        }
        ApiPlace::Loopback(address) => ApiListener::loopback(address).map_err(|error| Failure::io(address, &error)),
    }
}

/// Where the API listens for programs on this machine.
enum ApiPlace {
    Unix(PathBuf),
    Loopback(SocketAddr),
}

fn api_address(config: &Config) -> Result<ApiPlace, Failure> {
    let text = match config.api_address() {
        ApiAddress::Unix(path) => return Ok(ApiPlace::Unix(path)),
        ApiAddress::Tcp(text) => text,
    };
    let invalid = |message: String| Failure::usage("bad-config", message);
    let address: SocketAddr = text.parse().map_err(|_| {
        invalid(format!(
            "listen in [api]: {text:?} is neither unix:PATH nor an address of the loopback interface with a port"
        ))
    })?;
    if !address.ip().is_loopback() {
        return Err(invalid(format!("listen in [api]: {address} is not an address of the loopback interface"))
            .hint("others could connect to it: [api.remote] is for other machines, with certificates"));
    }
    Ok(ApiPlace::Loopback(address))
}

/// Who may use the API: users of this machine, bearers of tokens, clients with a certificate.
fn access(config: &Config) -> Result<Access, Failure> {
    let permissions = ApiCallers::read(config)?.permissions();
    permissions.map(Access::new).map_err(|error| Failure::usage("bad-config", format!("[api]: {error}")))
}

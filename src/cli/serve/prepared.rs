//! The sockets, certificates and secrets that the daemon opens before it enters its sandbox.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use claviger::{
    agent::{
        ServerTls,
        api::{Access, ApiListener, BearerToken, Webhook},
    },
    net::Dialer,
    process::sandbox::Sandbox,
};

use super::systemd::Notifier;
use crate::cli::{
    config::{ApiAddress, Config},
    daemon_options::{address_guard, dialer, webhook},
    failure::Failure,
    private_folder,
    state_dir::StateDir,
    users::user_id,
};

/// The open sockets and files of the daemon.
pub struct Prepared {
    /// The listeners of `[http]`, for peers.
    pub peers: Vec<TcpListener>,
    /// The listener of `[ops]`, for health checks and metrics.
    pub ops: Option<TcpListener>,
    pub api: (ApiListener, Access),
    pub webhook: Option<Webhook>,
    pub tls: Option<Arc<ServerTls>>,
    pub dialer: Dialer,
    pub notifier: Arc<Notifier>,
}

impl Prepared {
    /// Opens everything that the configuration names.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let daemon = &config.daemon;
        let tls = match (&daemon.http.tls_certificate, &daemon.http.tls_key) {
            (Some(certificate), Some(key)) => {
                let tls = ServerTls::open(config.base.join(certificate), config.base.join(key));
                Some(Arc::new(tls.map_err(|error| Failure::usage("bad-certificate", error.to_string()))?))
            }
            _ => None,
        };
        let guard = address_guard(config)?;
        Ok(Self {
            webhook: webhook(config)?.map(|(webhook, _)| webhook),
            tls,
            dialer: dialer(config, guard)?,
            notifier: Arc::new(Notifier::open()),
            // Last, so that `serve --check` beside a running agent finds every other fault before it finds a socket in use.
            api: open_api(config)?,
            peers: daemon.http.listen.0.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?,
            ops: daemon.ops.listen.map(listen).transpose()?,
        })
    }

    /// Enters the sandbox, which the process cannot leave. The sandbox allows only what a daemon needs.
    pub fn enter_sandbox(&self, config: &Config) -> Result<(), Failure> {
        let store = config.store_path();
        let folder = store.parent().unwrap_or(Path::new("."));
        let state = StateDir::new(config.state_dir.clone());
        let long_forms = state.long_forms_folder();
        for folder in [folder, &long_forms] {
            private_folder::create(folder).map_err(|error| Failure::io(folder.display(), &error))?;
        }
        let mut sandbox = Sandbox::new().allow_write(folder).allow_read(long_forms).allow_name_resolution();
        let documents = state.documents_folder();
        for path in config.documents.iter().chain([&documents]).filter(|path| path.exists()) {
            sandbox = sandbox.allow_read(path);
        }
        for path in self.tls.iter().flat_map(|tls| tls.folders()) {
            sandbox = sandbox.allow_read(path);
        }
        let report = sandbox.enforce().map_err(|error| Failure::new("not-closed-in", error.to_string()))?;
        for finding in report.findings.iter().filter(|finding| !finding.holds) {
            tracing::warn!(name = finding.name, reason = finding.why, "sandbox incomplete on this kernel");
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure::io(address, &error).hint("`listen` in the configuration: another program may have the port")
    })
}

/// Opens the listener of the application's API: a Unix socket for the processes of some users, or a port of the
/// loopback interface for clients with the bearer token.
fn open_api(config: &Config) -> Result<(ApiListener, Access), Failure> {
    match config.api_address() {
        ApiAddress::Unix(path) => {
            if let Some(folder) = path.parent() {
                private_folder::create(folder).map_err(|error| Failure::io(folder.display(), &error))?;
            }
            let mut users = vec![0, rustix::process::getuid().as_raw()];
            for name in &config.daemon.api.users {
                users.push(user_id(name)?);
            }
            let listener = ApiListener::unix(&path).map_err(|error| Failure::new("io", error.to_string()))?;
            Ok((listener, Access::Users(users)))
        }
        ApiAddress::Tcp(text) => {
            let invalid = |message: String| Failure::usage("bad-config", message);
            let address = text.parse().map_err(|_| {
                invalid(format!(
                    "listen in [api]: {text:?} is neither unix:PATH nor an address of the loopback interface with a \
                     port"
                ))
            })?;
            if !SocketAddr::ip(&address).is_loopback() {
                return Err(invalid(format!("listen in [api]: {address} is not an address of the loopback interface"))
                    .hint("others could connect to it: use an authenticating proxy, or an SSH tunnel"));
            }
            let Some(file) = &config.daemon.api.token_file else {
                return Err(invalid(
                    "[api] listens on the loopback interface, where any program can connect, and has no token_file"
                        .to_owned(),
                )
                .hint("`openssl rand -hex 32 > api.token; chmod 600 api.token` makes one; a Unix socket needs none"));
            };
            let path = config.base.join(file);
            let token = BearerToken::read(&path);
            let token = token.map_err(|error| invalid(format!("token_file in [api], {}: {error}", path.display())))?;
            let listener = ApiListener::loopback(address).map_err(|error| Failure::io(address, &error))?;
            Ok((listener, Access::Token(token)))
        }
    }
}

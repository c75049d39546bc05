//! Where the server is, and how it is reached.

use std::{
    fmt, io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::tls::Tls;
use crate::agent::{secret_file, store::error::StoreError};

/// The port of a server whose URL names none.
const DEFAULT_PORT: u16 = 5432;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time without an acknowledgement by the server's machine, the connection counts as lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// The most characters of a node's name.
const LONGEST_NODE: usize = 32;

/// A database in PostgreSQL.
#[derive(Clone)]
pub struct PostgresOptions {
    config: Config,
    /// `None`: the connection is not encrypted.
    tls: Option<Tls>,
    name: String,
    node: Option<String>,
    /// The connection to the server itself, if this one leads to a pooler.
    direct: Option<Box<Self>>,
}

impl PostgresOptions {
    /// Reads a URL, `postgres://USER@HOST:PORT/DATABASE?PARAMETER=VALUE&...`, with the parameters of libpq that the crate
    /// `tokio-postgres` knows; `host=/run/postgresql` as a parameter is a Unix socket. The URL has no password: see
    /// [`with_password`](Self::with_password).
    ///
    /// The parameter `sslmode` is
    /// - `verify-full`: TLS, with a certificate for the host by an authority that `tls` trusts. This is the default, unless
    ///   each host is a loopback address, `localhost` or a Unix socket;
    /// - `require`: the same. (With libpq this accepts any certificate, and so whoever has put a machine in between);
    /// - `disable`: no TLS. Whoever sees the connection sees DIDs, types and times of messages, but no content, and can take
    ///   the session over. This is the default for this machine.
    ///
    /// The others of libpq (`allow`, `prefer`, `verify-ca`) are refused: they fall back to less.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the URL is wrong. The error does not quote the URL.
    pub fn from_url(url: &str, tls: &ClientConfig) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::Unusable(format!("has a wrong URL: {why}"));
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it begins with postgres://"));
        }
        let (url, mode) = without_mode(url);
        // The error may quote a part of the URL.
        let mut config: Config = url.parse().map_err(|_| wrong("use postgres://USER@HOST:PORT/DATABASE"))?;
        if config.get_password().is_some() {
            return Err(wrong(
                "a password in it would be in logs and lists of processes: give the password on its own",
            ));
        }
        let (Some(database), false) = (config.get_dbname(), config.get_hosts().is_empty()) else {
            return Err(wrong("it names a host and a database"));
        };
        let name = format!("{database} at {}", servers(&config));
        let is_local =
            config.get_hosts().iter().all(is_local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let is_encrypted = match mode.as_deref() {
            None => !is_local,
            Some("disable") => false,
            Some("require" | "verify-full") => true,
            Some(_) => return Err(wrong("sslmode is verify-full, require or disable")),
        };
        config.ssl_mode(if is_encrypted { SslMode::Require } else { SslMode::Disable });
        config.application_name("claviger").connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(UNACKNOWLEDGED);
        config.keepalives_idle(UNACKNOWLEDGED);
        let mut tls = tls.clone();
        // The name of the protocol since PostgreSQL 17.
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let tls = is_encrypted.then(|| Tls::new(Arc::new(tls)));
        Ok(Self { config, tls, name, node: None, direct: None })
    }

    /// The same database, with the password of the user, who is the same at the pooler and at the server.
    pub fn with_password(mut self, password: impl AsRef<[u8]>) -> Self {
        let password = password.as_ref();
        self.config.password(password);
        if let Some(direct) = &mut self.direct {
            direct.config.password(password);
        }
        self
    }

    /// The same database, with the password of the user from the first line of a file.
    ///
    /// # Errors
    /// If the file cannot be read, others may read it, or its first line is empty.
    pub fn with_password_file(self, path: &Path) -> io::Result<Self> {
        Ok(self.with_password(secret_file::read_password_line(path)?.as_bytes()))
    }

    /// The same database through a pooler in transaction mode, such as pgbouncer: the URL of these options leads to the pooler,
    /// and `url` to the server itself. Both have the same rules, and the same password.
    ///
    /// The store then relies on nothing that a session keeps from one transaction to the next, but for a lock that it has on a
    /// direct connection. A pooler in session mode needs no direct connection.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the URL is wrong. The error does not quote the URL.
    pub fn with_direct_url(mut self, url: &str, tls: &ClientConfig) -> Result<Self, StoreError> {
        let mut direct = Self::from_url(url, tls)?;
        if let Some(password) = self.config.get_password() {
            direct.config.password(password);
        }
        direct.node.clone_from(&self.node);
        self.direct = Some(Box::new(direct));
        Ok(self)
    }

    /// The same database for several agents, of which this one has a name: 1 to 32 characters of `a-z`, `0-9` and `-`. No two
    /// agents have the same one. Without a name, one agent has the database.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] if the name has other characters or another length.
    pub fn as_node(mut self, name: &str) -> Result<Self, StoreError> {
        let is_right = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
        if name.is_empty() || name.len() > LONGEST_NODE || !name.chars().all(is_right) {
            let why = format!(
                "is shared by nodes whose names have 1 to {LONGEST_NODE} characters of a-z, 0-9 and -, which {name:?} has not"
            );
            return Err(StoreError::Unusable(why));
        }
        self.node = Some(name.to_owned());
        if let Some(direct) = &mut self.direct {
            direct.node.clone_from(&self.node);
        }
        Ok(self)
    }

    /// The name of this agent among those that share the database. `None`: one agent has the database.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Whether the database is reached through a pooler, since there is a direct URL beside the first one.
    pub fn is_pooled(&self) -> bool {
        self.direct.is_some()
    }

    /// The names of the database and of the server or the pooler, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the connections are encrypted, and the server and the pooler proved.
    pub fn is_encrypted(&self) -> bool {
        self.each().all(|it| it.tls.is_some())
    }

    /// Whether a server or a pooler is reached by a Unix socket.
    pub fn has_unix_socket(&self) -> bool {
        self.each().any(|it| it.config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))))
    }

    /// The addresses of the servers and poolers that are known without the DNS.
    pub fn literal_addresses(&self) -> Vec<SocketAddr> {
        self.each().flat_map(Self::own_addresses).collect()
    }

    /// The database without the pooler, if there is one.
    pub(super) fn direct(&self) -> &Self {
        self.direct.as_deref().unwrap_or(self)
    }

    fn each(&self) -> impl Iterator<Item = &Self> {
        iter::once(self).chain(self.direct.as_deref())
    }

    fn own_addresses(&self) -> Vec<SocketAddr> {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate();
        let addresses = hosts.flat_map(|(index, host)| {
            // One port is that of every host (libpq, "Specifying Multiple Hosts").
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
            let address = self.config.get_hostaddrs().get(index).copied();
            let addresses = match (address, host) {
                (Some(address), _) => vec![address],
                (None, Host::Tcp(name)) if name == "localhost" => {
                    vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]
                }
                (None, Host::Tcp(name)) => name.parse().into_iter().collect(),
                (None, Host::Unix(_)) => Vec::new(),
            };
            addresses.into_iter().map(move |address| SocketAddr::new(address, port))
        });
        addresses.collect()
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for PostgresOptions {
    /// Without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("PostgresOptions");
        debug.field("name", &self.name).field("node", &self.node);
        debug.field("direct", &self.direct.as_ref().map(|direct| &direct.name)).finish_non_exhaustive()
    }
}

/// Takes `sslmode` out of a URL, since the crate knows other values. Of several, the last counts.
fn without_mode(url: &str) -> (String, Option<String>) {
    let Some((address, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let (modes, others): (Vec<_>, Vec<_>) = query.split('&').partition(|part| part.starts_with("sslmode="));
    let mode = modes.last().map(|part| part.trim_start_matches("sslmode=").to_owned());
    (format!("{address}?{}", others.join("&")), mode)
}

/// The servers, each with its port unless that is PostgreSQL's own.
fn servers(config: &Config) -> String {
    let ports = config.get_ports();
    let server = |(number, host): (usize, &Host)| {
        // One port is that of all hosts.
        let port = ports.get(number).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match host {
            Host::Tcp(name) if port == DEFAULT_PORT => name.clone(),
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => folder.display().to_string(),
        }
    };
    config.get_hosts().iter().enumerate().map(server).collect::<Vec<_>>().join(", ")
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        Host::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> Result<PostgresOptions, StoreError> {
        PostgresOptions::from_url(url, &crate::net::client_config(None).unwrap())
    }

    #[test]
    fn only_this_machine_is_reached_without_tls() {
        for (url, is_encrypted) in [
            ("postgres://agent@db.example/store", true),
            ("postgres://agent@db.example/store?sslmode=require", true),
            ("postgres://agent@db.example/store?sslmode=disable", false),
            ("postgres://agent@localhost,db.example/store", true),
            ("postgres://agent@localhost/store?hostaddr=192.0.2.1", true),
            ("postgres://agent@localhost/store", false),
            ("postgresql://agent@127.0.0.1:5433/store?application_name=x", false),
            ("postgresql://agent@[::1]/store?sslmode=verify-full", true),
            ("postgres:///store?host=/run/postgresql&user=agent", false),
        ] {
            let options = options(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(options.is_encrypted(), is_encrypted, "{url}");
        }
    }

    #[test]
    fn the_addresses_of_servers_are_known() {
        for (url, addresses) in [
            ("postgres://agent@db.example/store", vec![]),
            ("postgres://agent@192.0.2.1/store", vec!["192.0.2.1:5432"]),
            ("postgres://agent@192.0.2.1:1,[2001:db8::1]:2/store", vec!["192.0.2.1:1", "[2001:db8::1]:2"]),
            ("postgres://agent@db.example:7/store?hostaddr=192.0.2.1", vec!["192.0.2.1:7"]),
            ("postgres://agent@localhost:7/store", vec!["127.0.0.1:7", "[::1]:7"]),
            ("postgres:///store?host=/run/postgresql&user=agent", vec![]),
        ] {
            let options = options(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let expected: Vec<SocketAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
            assert_eq!(
                (options.literal_addresses(), options.has_unix_socket()),
                (expected, url.contains("/run")),
                "{url}"
            );
        }
    }

    #[test]
    fn wrong_urls_are_refused_without_being_quoted() {
        for url in [
            "mysql://agent@db.example/store",
            "postgres://agent:hunter2@db.example/store",
            "postgres://agent@db.example/store?password=hunter2",
            "postgres://agent@db.example/store?hunter2=x",
            "postgres://agent@db.example/store?sslmode=prefer",
            "postgres://agent@db.example",
            "postgres:///store",
        ] {
            let error = options(url).expect_err(url);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let debug = format!("{:?}", options("postgres://agent@db.example/store").unwrap().with_password("hunter2"));
        assert!(debug.contains("store at db.example") && !debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn a_pooler_and_its_server_have_the_same_rules() {
        let tls = crate::net::client_config(None).unwrap();
        let pooled =
            |direct: &str| options("postgres://agent@192.0.2.1:6432/store").unwrap().with_direct_url(direct, &tls);
        let both = pooled("postgres://agent@192.0.2.2/store?sslmode=disable").unwrap();
        let expected: Vec<SocketAddr> = ["192.0.2.1:6432", "192.0.2.2:5432"].map(|it| it.parse().unwrap()).to_vec();
        assert_eq!((both.literal_addresses(), both.is_pooled(), both.is_encrypted()), (expected, true, false));
        assert_eq!((both.name(), both.direct().name()), ("store at 192.0.2.1:6432", "store at 192.0.2.2"));
        assert!(pooled("postgres:///store?host=/run/postgresql&user=agent").unwrap().has_unix_socket());
        for wrong in ["postgres://agent:hunter2@db.example/store", "mysql://db.example/hunter2"] {
            let error = pooled(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        // The password is of both, in either order.
        let alone = options("postgres://agent@192.0.2.1:6432/store").unwrap().with_password("hunter2");
        assert!(!alone.is_pooled() && std::ptr::eq(alone.direct(), &alone));
        let direct = "postgres://agent@192.0.2.2/store";
        for both in [both.with_password("hunter2"), alone.with_direct_url(direct, &tls).unwrap()] {
            assert_eq!(both.config().get_password(), Some(&b"hunter2"[..]));
            assert_eq!(both.direct().config().get_password(), Some(&b"hunter2"[..]));
            let debug = format!("{both:?}");
            assert!(debug.contains("store at 192.0.2.2") && !debug.contains("hunter2"), "{debug}");
        }
    }

    #[test]
    fn a_node_has_a_short_plain_name() {
        let tls = crate::net::client_config(None).unwrap();
        let options = options("postgres://agent@192.0.2.1:6432/store").unwrap();
        assert_eq!(options.node(), None);
        let longest = "a".repeat(LONGEST_NODE);
        for name in ["a", "node-2", &longest] {
            let before = options.clone().as_node(name).unwrap();
            let before = before.with_direct_url("postgres://agent@192.0.2.2/store", &tls).unwrap();
            let after = options.clone().with_direct_url("postgres://agent@192.0.2.2/store", &tls).unwrap();
            for both in [before, after.as_node(name).unwrap()] {
                assert_eq!((both.node(), both.direct().node()), (Some(name), Some(name)));
            }
        }
        for name in ["", "A", "a_b", "ä", "a b", &format!("{longest}a")] {
            assert!(options.clone().as_node(name).is_err(), "{name}");
        }
    }
}

//! pgbouncer in transaction mode before the server of the tests.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Mutex, OnceLock},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::postgres_server::{PASSWORD, ROLE, Server, as_other_user, folder, report_missing, watch};

/// The most sessions that pgbouncer has with the server for one database. A store has up to five with pgbouncer.
pub const SESSIONS: usize = 3;

/// A pooler.
pub struct Pooler {
    folder: PathBuf,
    port: u16,
    process: Mutex<Option<Child>>,
}

impl Pooler {
    /// The pooler before the server that the tests of this program share. `None` if one of the two is not installed and need not
    /// be.
    pub fn shared() -> Option<&'static Self> {
        static POOLER: OnceLock<Option<Pooler>> = OnceLock::new();
        POOLER.get_or_init(|| Server::shared().and_then(Self::start)).as_ref()
    }

    /// Starts a pooler before a server. It ends with this process.
    ///
    /// # Panics
    /// If pgbouncer is missing and `CI` or `CLAVIGER_REQUIRE_TOKENS` is set, or if it does not start.
    pub fn start(server: &Server) -> Option<Self> {
        if program().is_none() {
            report_missing("pgbouncer");
            return None;
        }
        let pooler = Self { folder: folder(), port: claviger_testkit::free_port(), process: Mutex::default() };
        watch(&pooler.folder, "pid");
        let path = |name: &str| pooler.folder.join(name).display().to_string();
        let settings = [
            "[databases]".to_owned(),
            format!("* = {}", server.parameters()),
            "[pgbouncer]".to_owned(),
            "pool_mode = transaction".to_owned(),
            format!("default_pool_size = {SESSIONS}"),
            "max_client_conn = 1000".to_owned(),
            // The tests have many databases, each with its sessions.
            "server_idle_timeout = 2".to_owned(),
            "listen_addr = 127.0.0.1".to_owned(),
            format!("listen_port = {}", pooler.port),
            format!("unix_socket_dir = {}", pooler.folder.display()),
            "auth_type = hba".to_owned(),
            format!("auth_hba_file = {}", path("hba")),
            format!("auth_file = {}", path("users")),
            format!("pidfile = {}", path("pid")),
            format!("logfile = {}", path("log")),
        ];
        pooler.write("settings", &settings.join("\n"));
        pooler.write("hba", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
        pooler.write("users", &format!("\"{ROLE}\" \"{PASSWORD}\"\n"));
        pooler.restart();
        Some(pooler)
    }

    /// Starts the pooler, which does not run.
    pub fn restart(&self) {
        let program = program().expect("pgbouncer");
        let mut command = as_other_user(&program);
        let command = command.current_dir("/").arg("--quiet").arg(self.folder.join("settings"));
        let errors = fs::File::create(self.folder.join("errors")).expect("a file");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        *self.process.lock().unwrap() = Some(command.spawn().expect("it starts"));
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let [errors, log] =
                ["errors", "log"].map(|name| fs::read_to_string(self.folder.join(name)).unwrap_or_default());
            assert!(Instant::now() < end, "pgbouncer does not listen: {errors}{log}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Stops the pooler at once, with all its connections.
    pub fn stop(&self) {
        let mut process = self.process.lock().unwrap().take().expect("it runs");
        process.kill().and_then(|()| process.wait()).expect("it ends");
        // It could not tidy up.
        fs::remove_file(self.folder.join("pid")).expect("the file with its number");
    }

    /// The URL of a database, at a Unix socket.
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&port={}&user={ROLE}", self.folder.display(), self.port)
    }

    /// The URL of a database over TCP, with a password.
    pub fn url_over_tcp(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file of the pooler");
    }
}

fn program() -> Option<PathBuf> {
    // Debian has it with the daemons, which are not in every user's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.exists())
}

//! A server of PostgreSQL for this test program, in a temporary folder and on a Unix socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rcgen::{CertificateParams, KeyPair};

/// The role of the stores, which is no superuser.
pub const ROLE: &str = "agent";

/// The password of the role. It is asked for over TCP only.
pub const PASSWORD: &str = "only the server's";

/// A server.
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// The arguments of `nsenter` for the server's network namespace. Empty: that of this process.
    namespace: Vec<String>,
    databases: AtomicU32,
}

impl Server {
    /// The server that the tests of this program share, which is started when it is first needed. `None` if PostgreSQL is not
    /// installed and need not be.
    pub fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Result<Option<Server>, ()>> = OnceLock::new();
        // If it does not start, the other tests do not try again.
        let started = SERVER.get_or_init(|| std::panic::catch_unwind(Self::start).map_err(drop));
        started.as_ref().expect("the server starts").as_ref()
    }

    /// Starts a server, which ends with this process.
    ///
    /// # Panics
    /// If PostgreSQL is missing and `CI` or `CLAVIGER_REQUIRE_TOKENS` is set, or if the server does not start.
    pub fn start() -> Option<Self> {
        Self::start_at("127.0.0.1", &[])
    }

    /// Like `start`, at this address and in this network namespace: the arguments of `nsenter` for it, or none.
    pub fn start_at(address: &str, namespace: &[String]) -> Option<Self> {
        let Some(programs) = programs() else {
            report_missing("PostgreSQL");
            return None;
        };
        let (folder, port, namespace) = (folder(), claviger_testkit::free_port(), namespace.to_vec());
        let server = Self { programs, folder, port, namespace, databases: AtomicU32::new(0) };
        watch(&server.folder, "data/postmaster.pid");
        server.run("initdb", &["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        let settings = [
            &format!("listen_addresses = '{address}'"),
            &format!("port = {}", server.port),
            &format!("unix_socket_directories = '{}'", server.folder.display()),
            "ssl = on",
            "max_connections = 300",
            "shared_buffers = 32MB",
            // Only the machine's failure would show the difference.
            "fsync = off",
            // A store must not rely on the server's default: with this one, a server that is killed loses commits.
            "synchronous_commit = off",
        ];
        server.write("postgresql.conf", &settings.join("\n"));
        server.write("pg_hba.conf", "local all all trust\nhostssl all all samenet scram-sha-256\n");
        let key = KeyPair::generate().expect("a key");
        // Without a namespace the address is not in it, so that a client must name the right host.
        let names = ["localhost"].into_iter().chain((!server.namespace.is_empty()).then_some(address));
        let names: Vec<String> = names.map(str::to_owned).collect();
        let certificate = CertificateParams::new(names).and_then(|params| params.self_signed(&key));
        server.write("server.crt", &certificate.expect("a certificate").pem());
        server.write("server.key", &key.serialize_pem());
        server.restart();
        server.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD $${PASSWORD}$$"));
        Some(server)
    }

    /// Creates a database for a test. Returns its name.
    pub fn database(&self) -> String {
        let name = format!("store_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
        name
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        self.url_behind(&self.folder, database)
    }

    /// The URL of a database behind another socket, in this folder.
    pub fn url_behind(&self, folder: &Path, database: &str) -> String {
        format!("postgres:///{database}?host={}&port={}&user={ROLE}", folder.display(), self.port)
    }

    /// The URL of a database over TCP, at a host of this machine.
    pub fn url_at(&self, host: &str, database: &str) -> String {
        format!("postgres://{ROLE}@{host}:{}/{database}?sslmode=verify-full", self.port)
    }

    /// The parameters that lead a pooler to the server.
    pub fn parameters(&self) -> String {
        format!("host={} port={}", self.folder.display(), self.port)
    }

    /// The server's own certificate, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("server.crt")
    }

    /// The server's socket, or another one in this folder that takes its place.
    pub fn socket(&self, folder: Option<&Path>) -> PathBuf {
        folder.unwrap_or(&self.folder).join(format!(".s.PGSQL.{}", self.port))
    }

    /// Starts the server, which is not running.
    pub fn restart(&self) {
        let log = self.folder.join("log");
        self.run("pg_ctl", &["start", "--wait", "--timeout=60", "--silent", "--log", &log.display().to_string()]);
    }

    /// Stops the server as if its machine had failed: without a checkpoint, so it recovers at the next start.
    pub fn crash(&self) {
        self.run("pg_ctl", &["stop", "--wait", "--mode=immediate", "--silent"]);
    }

    /// Runs statements as the superuser. Returns what they print.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.sql_at(&self.url(database).replace(&format!("user={ROLE}"), "user=postgres"), statements)
    }

    /// Runs statements at a URL. Returns what they print.
    pub fn sql_at(&self, url: &str, statements: &str) -> String {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        let output = command.args(["--dbname", url, "--command", statements]).output().expect("psql runs");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Writes a file of the server, which only the server's user may read.
    fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file of the server");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        let owner = fs::metadata(self.data()).expect("the data");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("its owner");
        if name == "server.crt" {
            fs::write(self.certificate(), text).expect("a copy");
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Runs a program of the server on its data.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = in_namespace(&self.namespace, as_other_user(&self.programs.join(program)));
        // The user may not enter the folder of this process.
        let command = command.current_dir("/").args(arguments).arg("--pgdata").arg(self.data()).stdin(Stdio::null());
        // The server would keep pipes open.
        let errors = self.folder.join(format!("{program}.err"));
        let file = fs::File::create(&errors).expect("a file");
        let status = command.stdout(Stdio::null()).stderr(file).status().expect("it starts");
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status.success(), "{program}: {}{log}", fs::read_to_string(&errors).unwrap_or_default());
    }
}

/// Says that a program is missing, and that its tests are skipped.
///
/// # Panics
/// If `CI` or `CLAVIGER_REQUIRE_TOKENS` is set.
pub fn report_missing(program: &str) {
    let is_required = ["CLAVIGER_REQUIRE_TOKENS", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!is_required, "{program} is missing: softhsm/install postgres");
    eprintln!("skipped: {program} is missing (softhsm/install postgres)");
}

/// A new folder for a server that runs as another user.
pub fn folder() -> PathBuf {
    // The path of a socket has at most 107 bytes.
    let folder = tempfile::Builder::new().prefix("claviger-pg-").tempdir_in("/tmp").expect("a folder").keep();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("its mode");
    folder
}

/// Starts a process that stops a server and removes its folder when this process has ended, however it ends. A file in the
/// folder has the server's number.
pub fn watch(folder: &Path, pid_file: &str) {
    let script = "while kill -0 \"$1\" 2>/dev/null; do sleep 1; done
        pid=$(head -n 1 \"$2/$3\" 2>/dev/null) && kill -QUIT \"$pid\"; sleep 1; rm -rf \"$2\"";
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", script, "sh", &std::process::id().to_string()]).arg(folder).arg(pid_file);
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut watcher = command.spawn().expect("setsid and sh");
    // It outlives this process, or is gone when the server is.
    std::thread::spawn(move || watcher.wait());
}

/// The folder with the newest server's programs. Debian keeps them out of PATH.
fn programs() -> Option<PathBuf> {
    let is_whole = |folder: &PathBuf| ["initdb", "pg_ctl", "psql"].iter().all(|name| folder.join(name).exists());
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    let folders = versions.iter().map(|version| Path::new("/usr/lib/postgresql").join(format!("{version}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.chain(std::env::split_paths(&path)).find(is_whole)
}

/// A command that runs as a user other than root, since the server refuses to run as root.
pub fn as_other_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command
}

/// The same command in the network namespace of these arguments of `nsenter`, if there are any.
fn in_namespace(namespace: &[String], command: Command) -> Command {
    if namespace.is_empty() {
        return command;
    }
    let mut inside = Command::new("nsenter");
    inside.args(namespace).arg(command.get_program()).args(command.get_args());
    inside
}

//! A temporary folder with a configuration and perhaps a SoftHSM token, and commands that run in it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

pub const PIN: &str = "p1n-of-the-user-48151623";
pub const SO_PIN: &str = "p1n-of-the-officer-42";

/// The path of the SoftHSM module. If it is missing, panics where tokens are required (CI), otherwise returns none, so
/// that the test is skipped.
pub fn softhsm_module() -> Option<PathBuf> {
    let named = std::env::var_os("CLAVIGER_TEST_SOFTHSM").map(PathBuf::from);
    let multiarch = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let default_folders =
        ["/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/lib/pkcs11", "/usr/local/lib/softhsm"].map(PathBuf::from);
    let default_folders = default_folders.into_iter().chain(multiarch.map(|folder| folder.path().join("softhsm")));
    let found = named
        .into_iter()
        .chain(default_folders.map(|folder| folder.join("libsofthsm2.so")))
        .find(|path| path.is_file());
    let set = |name, value| std::env::var(name).is_ok_and(|found| found == value);
    if found.is_none() {
        assert!(!set("CLAVIGER_REQUIRE_TOKENS", "1") && !set("CI", "true"), "SoftHSM is missing, and is required");
        println!("skipped: SoftHSM is not installed");
    }
    found
}

/// The folder of one agent.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// An empty folder for SoftHSM tokens, without a configuration.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tokens")).unwrap();
        fs::write(
            folder.path().join("softhsm2.conf"),
            format!("directories.tokendir = {}\nlog.level = ERROR\n", folder.path().join("tokens").display()),
        )
        .unwrap();
        Self { folder }
    }

    /// A folder with a configuration and an initialised SoftHSM token named `soft`. Returns none if SoftHSM is missing.
    pub fn with_token() -> Option<Self> {
        let home = Self::new();
        home.configure(&softhsm_module()?, "");
        home.write("user.pin", PIN);
        home.write("so.pin", SO_PIN);
        home.run("token init soft --so-pin-source file:so.pin").success();
        Some(home)
    }

    /// Writes claviger.toml. `more` is appended, within `[[token]]`.
    pub fn configure(&self, module: &Path, more: &str) {
        let module = module.display();
        let uri = format!("pkcs11:token=soft?module-path={module}&pin-source=file:user.pin");
        self.write(
            "claviger.toml",
            &format!("state_dir = \"state\"\n[[token]]\nname = \"soft\"\nuri = \"{uri}\"\n{more}"),
        );
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        if name.ends_with("pin") {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// A command in the folder, with an environment of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear();
        command.env("SOFTHSM2_CONF", self.path().join("softhsm2.conf")).env("HOME", self.path());
        let program = claviger_testkit::program!();
        let folder = Path::new(&program).parent().unwrap();
        command.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command
    }

    /// Runs `claviger` with arguments that are separated by spaces.
    pub fn run(&self, args: &str) -> CommandOutput {
        self.run_with_stdin(args, "")
    }

    /// Like `run`, with this text on stdin.
    pub fn run_with_stdin(&self, args: &str, stdin: &str) -> CommandOutput {
        self.run_args(&args.split_whitespace().collect::<Vec<_>>(), stdin)
    }

    /// Runs `claviger` with these arguments, and this text on stdin.
    pub fn run_args(&self, args: &[&str], stdin: &str) -> CommandOutput {
        let mut command = self.command(&claviger_testkit::program!());
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_owned();
        // In a thread of its own, since the program may write before it has read everything, or never read it.
        let feeder = std::thread::spawn(move || drop(input.write_all(stdin.as_bytes())));
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        CommandOutput { args: args.join(" "), output }
    }

    /// Runs `did create` with these arguments, and returns the DID.
    pub fn create_did(&self, args: &str) -> String {
        self.run(&format!("did create {args}")).success().trim().to_owned()
    }
}

/// The status and the output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    args: String,
    output: Output,
}

impl CommandOutput {
    pub fn status(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output.stderr).unwrap()
    }

    /// Asserts the exit status 0, and returns stdout.
    #[track_caller]
    pub fn success(&self) -> &str {
        assert_eq!(self.status(), 0, "{}\n{}", self.args, self.stderr());
        self.stdout()
    }

    /// Asserts the exit status 0, and parses stdout as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.success()).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.args, self.stdout()))
    }

    /// Asserts the exit status, an empty stdout, and the documented form of the error of `--json`. Returns its code.
    #[track_caller]
    pub fn error(&self, status: i32) -> String {
        assert_eq!(self.status(), status, "{}\n{}{}", self.args, self.stdout(), self.stderr());
        assert_eq!(self.stdout(), "", "{}", self.args);
        let last = self.stderr().lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", self.stderr()));
        let error = error["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "hint"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        let code = error["code"].as_str().unwrap();
        assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
        code.to_owned()
    }
}

/// The lines of stderr, or of a log as text or JSON, that are warnings or errors.
pub fn warnings(text: &str) -> Vec<&str> {
    const STARTS: [&str; 4] = ["warning:", "error:", "{\"warning\"", "{\"error\""];
    const MARKS: [&str; 5] = [" WARN ", " ERROR ", "\"level\":\"WARN\"", "\"level\":\"ERROR\"", "panicked at"];
    let is_warning = |line: &&str| {
        STARTS.iter().any(|start| line.starts_with(start)) || MARKS.iter().any(|mark| line.contains(mark))
    };
    text.lines().filter(is_warning).collect()
}

/// A plaintext message.
pub fn plaintext(from: Option<&str>, to: Option<&str>, text: &str) -> String {
    let mut message = serde_json::json!({
        "id": "1", "typ": "application/didcomm-plain+json", "type": "https://example.org/chat/1.0/say",
        "body": { "text": text },
    });
    if let Some(from) = from {
        message["from"] = from.into();
    }
    if let Some(to) = to {
        message["to"] = serde_json::json!([to]);
    }
    message.to_string()
}

//! A folder with a configuration and perhaps a token, and the program run in it.

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

/// SoftHSM's module. Where it must be there, that it is missing fails the test; elsewhere the test is skipped.
pub fn softhsm() -> Option<PathBuf> {
    let named = std::env::var_os("CLAVIGER_TEST_SOFTHSM").map(PathBuf::from);
    let multiarch = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let usual =
        ["/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/lib/pkcs11", "/usr/local/lib/softhsm"].map(PathBuf::from);
    let usual = usual.into_iter().chain(multiarch.map(|folder| folder.path().join("softhsm")));
    let found = named.into_iter().chain(usual.map(|folder| folder.join("libsofthsm2.so"))).find(|path| path.is_file());
    let set = |name, value| std::env::var(name).is_ok_and(|is| is == value);
    if found.is_none() {
        assert!(!set("CLAVIGER_REQUIRE_TOKENS", "1") && !set("CI", "true"), "SoftHSM is missing, and must be there");
        println!("skipped: SoftHSM is not installed");
    }
    found
}

/// A folder of its own for one agent.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// Without a token.
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

    /// With an initialised SoftHSM token named `soft`; none if there is no SoftHSM.
    pub fn with_token() -> Option<Self> {
        let home = Self::new();
        home.configure(&softhsm()?, "");
        home.write("user.pin", PIN);
        home.write("so.pin", SO_PIN);
        home.run("token init soft --so-pin-source file:so.pin").done();
        Some(home)
    }

    /// Writes claviger.toml, with `more` in its [[token]] and behind.
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

    /// A process in the folder that knows nothing of the one who runs the tests.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear();
        command.env("SOFTHSM2_CONF", self.path().join("softhsm2.conf")).env("HOME", self.path());
        let program = Path::new(env!("CARGO_BIN_EXE_claviger")).parent().unwrap();
        command.env("PATH", format!("{}:/usr/bin:/bin", program.display()));
        command
    }

    /// Runs `claviger` with words that are separated by blanks.
    pub fn run(&self, words: &str) -> Ran {
        self.feed(words, "")
    }

    /// The same with stdin.
    pub fn feed(&self, words: &str, stdin: &str) -> Ran {
        self.feed_words(&words.split_whitespace().collect::<Vec<_>>(), stdin)
    }

    pub fn feed_words(&self, words: &[&str], stdin: &str) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_claviger"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_owned();
        // The program may not read it all, and may write before it has.
        let feeder = std::thread::spawn(move || drop(input.write_all(stdin.as_bytes())));
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        Ran { words: words.join(" "), output }
    }

    /// A DID made with new keys.
    pub fn did(&self, words: &str) -> String {
        self.run(&format!("did create {words}")).done().trim().to_owned()
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    words: String,
    output: Output,
}

impl Ran {
    pub fn status(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output.stderr).unwrap()
    }

    /// Stdout of a command that has done what it was asked.
    #[track_caller]
    pub fn done(&self) -> &str {
        assert_eq!(self.status(), 0, "{}\n{}", self.words, self.stderr());
        self.stdout()
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.done()).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.words, self.stdout()))
    }

    /// The code of the error that `--json` gives, with this exit status and nothing on stdout.
    #[track_caller]
    pub fn error(&self, status: i32) -> String {
        assert_eq!(self.status(), status, "{}\n{}{}", self.words, self.stdout(), self.stderr());
        assert_eq!(self.stdout(), "", "{}", self.words);
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

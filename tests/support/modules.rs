//! Throw-away tokens of real modules, for any integration test: `mod support;`.
//!
//! A module reads its configuration from the environment when it is initialised, once in a process, and Rust's tests
//! share one process. So a test that opens a token in its own process runs again in a child, with the environment of a
//! fresh token: see [`on`]. A test that only starts programs gives them [`TestToken::env`].
#![allow(dead_code)] // Each test uses its part.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A PKCS#11 module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// `CLAVIGER_TEST_SOFTHSM`, or where a distribution puts it.
    SoftHsm,
    /// `CLAVIGER_TEST_KRYOPTIC`, as `tests/kryoptic/build` prints it.
    Kryoptic,
    /// tpm2-pkcs11 in a software TPM: `CLAVIGER_TEST_TPM2`, or where a distribution puts it.
    Tpm2,
    /// NSS softokn: `CLAVIGER_TEST_NSS`, or where a distribution puts it.
    Nss,
}

impl Module {
    /// Where it is. None, and a line that says so, if it is missing and may be.
    pub fn path(self) -> Option<PathBuf> {
        let variable = match self {
            Module::SoftHsm => "CLAVIGER_TEST_SOFTHSM",
            Module::Kryoptic => "CLAVIGER_TEST_KRYOPTIC",
            Module::Tpm2 => "CLAVIGER_TEST_TPM2",
            Module::Nss => "CLAVIGER_TEST_NSS",
        };
        let usual = |word: &str| {
            let output = Command::new(root().join("softhsm/module")).arg(word).output().expect("softhsm/module runs");
            output.status.success().then(|| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()))
        };
        let found = match (std::env::var_os(variable), self) {
            (Some(path), _) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
            (None, Module::SoftHsm) => usual("softhsm"),
            (None, Module::Kryoptic) => None,
            (None, Module::Tpm2) => usual("tpm2"),
            (None, Module::Nss) => usual("nss"),
        };
        if found.is_none() {
            let set = |name, value: Option<&str>| {
                std::env::var(name).is_ok_and(|is| value.map_or(!is.is_empty() && is != "false", |value| is == value))
            };
            let required = set("CLAVIGER_REQUIRE_TOKENS", Some("1")) || set("CI", None);
            assert!(!required, "{self:?} is missing, and CI or CLAVIGER_REQUIRE_TOKENS wants it: set {variable}");
            eprintln!("skipped: {self:?} is missing; set {variable} to its module");
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A token in a temporary folder, which goes when this is dropped.
pub struct TestToken {
    folder: tempfile::TempDir,
    module: Module,
    /// What leads the module to the token: a variable and its value.
    pub env: (String, String),
    /// More of them; tpm2-pkcs11 has three.
    pub more_env: Vec<(String, String)>,
    /// The token's URI, with its module and its PIN's file.
    pub uri: String,
    /// Its label.
    pub label: String,
}

impl TestToken {
    /// A token of a module; none if the module is missing and may be.
    pub fn new(module: Module, label: &str) -> Option<Self> {
        let path = module.path()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut more_env, uri) = make(module, &path, folder.path(), label);
        let env = more_env.pop().expect("a variable leads to the token");
        Some(Self { folder, module, env, more_env, uri, label: label.to_owned() })
    }

    /// A SoftHSM token.
    pub fn softhsm(label: &str) -> Option<Self> {
        Self::new(Module::SoftHsm, label)
    }

    /// A Kryoptic token.
    pub fn kryoptic(label: &str) -> Option<Self> {
        Self::new(Module::Kryoptic, label)
    }

    /// Another token behind the same configuration; its URI.
    pub fn add(&self, label: &str) -> String {
        let path = self.module.path().expect("it was there before");
        make(self.module, &path, self.folder.path(), label).1
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that its PIN is in.
    pub fn pin_file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.pin", self.label))
    }
}

impl Drop for TestToken {
    fn drop(&mut self) {
        if self.module == Module::Tpm2 {
            let stopped = Command::new(root().join("softhsm/tpm2-token")).arg("stop").arg(self.folder.path()).status();
            assert!(stopped.is_ok_and(|status| status.success()) || std::thread::panicking(), "the TPM still runs");
        }
    }
}

/// Makes a token; the variables that lead to it, and its URI.
fn make(module: Module, path: &Path, folder: &Path, label: &str) -> (Vec<(String, String)>, String) {
    let script = match module {
        Module::SoftHsm => "softhsm/token",
        Module::Kryoptic => "softhsm/kryoptic-token",
        Module::Tpm2 => "softhsm/tpm2-token",
        Module::Nss => "softhsm/nss-token",
    };
    let output = Command::new(root().join(script)).arg(folder).arg(label).output().expect("the script runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let (exports, uri) = output.trim_end().rsplit_once('\n').expect("two lines or more");
    assert!(uri.contains("module-path="), "{uri} names a module, {path:?}");
    (exports.lines().map(exported).collect(), uri.to_owned())
}

/// The variable of a line `export A=B`, its value as a shell reads it.
fn exported(line: &str) -> (String, String) {
    let (name, _) = line.strip_prefix("export ").and_then(|export| export.split_once('=')).expect("export A=B");
    let command = format!("{line}; printf %s \"${name}\"");
    let output = Command::new("bash").arg("-c").arg(command).output().expect("bash runs");
    (name.to_owned(), String::from_utf8(output.stdout).expect("UTF-8"))
}

/// What a test has when it runs in a process of its own.
#[derive(Debug, Clone)]
pub struct Here {
    /// The token's URI.
    pub uri: String,
    /// The folder of its configuration.
    pub folder: PathBuf,
    /// The module.
    pub module: PathBuf,
}

impl Here {
    /// Another token in the same process. It must be made before the module is loaded.
    pub fn add(&self, module: Module, label: &str) -> String {
        make(module, &self.module, &self.folder, label).1
    }
}

/// Runs the body of the test that calls this in a process of its own, on a fresh token labelled `demo`.
///
/// The test is started again, alone, with the token in its environment; there this calls `body`.
pub fn on(module: Module, body: impl FnOnce(Here)) {
    const URI: &str = "CLAVIGER_TEST_HERE";
    if let (Ok(uri), Some(path)) = (std::env::var(URI), module.path()) {
        let folder = std::env::var_os("CLAVIGER_TEST_FOLDER").expect("set with the URI");
        return body(Here { uri, folder: folder.into(), module: path });
    }
    let Some(token) = TestToken::new(module, "demo") else { return };
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture"])
        .env(&token.env.0, &token.env.1)
        .envs(token.more_env.iter().cloned())
        .env(URI, &token.uri)
        .env("CLAVIGER_TEST_FOLDER", token.folder())
        .output()
        .expect("this program starts again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} on {module:?} ({}):\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{test} was not found by its name:\n{out}");
    // For who wants to see what was measured.
    print!("{out}");
}

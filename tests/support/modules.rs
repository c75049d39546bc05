//! Throw-away tokens of real modules, for any integration test: `mod support;`.
//!
//! A module reads its configuration from the environment when it is initialised, once in a process, and Rust's tests
//! share one process. So a test that opens a token in its own process runs again in a child, with the environment of a
//! fresh token: see [`with_fresh_token`]. A test that only starts programs gives them [`TestToken::env`].
#![allow(dead_code)] // Each test program uses only a part of this module.

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
    /// The path of the module. If it is missing, panics where tokens are required (CI), otherwise prints that and
    /// returns none.
    pub fn path(self) -> Option<PathBuf> {
        let variable = match self {
            Module::SoftHsm => "CLAVIGER_TEST_SOFTHSM",
            Module::Kryoptic => "CLAVIGER_TEST_KRYOPTIC",
            Module::Tpm2 => "CLAVIGER_TEST_TPM2",
            Module::Nss => "CLAVIGER_TEST_NSS",
        };
        let default_path = |word: &str| {
            let output = Command::new(root().join("softhsm/module")).arg(word).output().expect("softhsm/module runs");
            output.status.success().then(|| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()))
        };
        let found = match (std::env::var_os(variable), self) {
            (Some(path), _) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
            (None, Module::SoftHsm) => default_path("softhsm"),
            (None, Module::Kryoptic) => None,
            (None, Module::Tpm2) => default_path("tpm2"),
            (None, Module::Nss) => default_path("nss"),
        };
        if found.is_none() {
            let set = |name, value: Option<&str>| {
                std::env::var(name)
                    .is_ok_and(|found| value.map_or(!found.is_empty() && found != "false", |value| found == value))
            };
            let required = set("CLAVIGER_REQUIRE_TOKENS", Some("1")) || set("CI", None);
            assert!(!required, "{self:?} is missing, and CI or CLAVIGER_REQUIRE_TOKENS requires it: set {variable}");
            eprintln!("skipped: {self:?} is missing; set {variable} to its module");
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A token in a temporary folder. Dropping it deletes the folder.
pub struct TestToken {
    folder: tempfile::TempDir,
    module: Module,
    /// The environment variable by which the module finds the token, and its value.
    pub env: (String, String),
    /// Further variables and their values. tpm2-pkcs11 needs three variables in all.
    pub more_env: Vec<(String, String)>,
    /// The token's URI, with `module-path` and `pin-source`.
    pub uri: String,
    pub label: String,
}

impl TestToken {
    /// A token of this module. Returns none if the module is missing.
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

    /// Adds another token to the same configuration. Returns its URI.
    pub fn add(&self, label: &str) -> String {
        let path = self.module.path().expect("the module was found before");
        make(self.module, &path, self.folder.path(), label).1
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with its PIN.
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

/// Makes a token. Returns its environment variables and its URI.
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
    (exports.lines().map(exported_variable).collect(), uri.to_owned())
}

/// The name and the value of the variable in a line `export A=B`, as bash evaluates it.
fn exported_variable(line: &str) -> (String, String) {
    let (name, _) = line.strip_prefix("export ").and_then(|export| export.split_once('=')).expect("export A=B");
    let command = format!("{line}; printf %s \"${name}\"");
    let output = Command::new("bash").arg("-c").arg(command).output().expect("bash runs");
    (name.to_owned(), String::from_utf8(output.stdout).expect("UTF-8"))
}

/// A fresh token, in the process that was started for it.
#[derive(Debug, Clone)]
pub struct FreshToken {
    /// The token's URI.
    pub uri: String,
    /// The folder of its configuration.
    pub folder: PathBuf,
    /// The path of the module.
    pub module: PathBuf,
}

impl FreshToken {
    /// Makes another token, and returns its URI. The module must not be loaded yet.
    pub fn add(&self, module: Module, label: &str) -> String {
        make(module, &self.module, &self.folder, label).1
    }
}

/// Runs the body of the calling test in a process of its own, on a fresh token labelled `demo`.
///
/// The test is started again, alone, with the token in its environment. In that process this function calls `body`.
pub fn with_fresh_token(module: Module, body: impl FnOnce(FreshToken)) {
    with_fresh_token_and(module, |_| Vec::new(), body);
}

/// Like [`with_fresh_token`], with further variables in the environment of the process. `more_env` gets the token's folder.
pub fn with_fresh_token_and(
    module: Module,
    more_env: impl FnOnce(&Path) -> Vec<(String, String)>,
    body: impl FnOnce(FreshToken),
) {
    const URI: &str = "CLAVIGER_TEST_HERE";
    if let (Ok(uri), Some(path)) = (std::env::var(URI), module.path()) {
        let folder = std::env::var_os("CLAVIGER_TEST_FOLDER").expect("set with the URI");
        return body(FreshToken { uri, folder: folder.into(), module: path });
    }
    let Some(token) = TestToken::new(module, "demo") else { return };
    let thread = std::thread::current();
    let test = thread.name().expect("libtest names a test's thread after it");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture"])
        .env(&token.env.0, &token.env.1)
        .envs(token.more_env.iter().cloned())
        .envs(more_env(token.folder()))
        .env(URI, &token.uri)
        .env("CLAVIGER_TEST_FOLDER", token.folder())
        .output()
        .expect("this program starts again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} on {module:?} ({}):\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{test} was not found by its name:\n{out}");
    // Measurements, for --nocapture.
    print!("{out}");
}

//! Temporary tokens of real PKCS#11 modules.
//!
//! A module reads its configuration from the environment when it is initialised, once per process. So a program that
//! uses a token starts itself again with [`ThrowAway::env`].

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A PKCS#11 module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// SoftHSM at `CLAVIGER_TEST_SOFTHSM`, or where a distribution installs it.
    SoftHsm,
    /// Kryoptic, which `tests/kryoptic/build` builds. That takes minutes, so it is used only if
    /// `CLAVIGER_TEST_KRYOPTIC` is set.
    Kryoptic,
}

/// A token in a temporary folder, which is removed on drop.
pub struct ThrowAway {
    /// The environment variable, with its value, that names the configuration of the module.
    pub env: (String, String),
    /// The URI of the token, with the module and the PIN file.
    pub uri: String,
    module: Module,
    folder: TempDir,
}

impl ThrowAway {
    /// A new token. `None` if the module is missing.
    ///
    /// # Panics
    /// If the module is missing and `CI` or `CLAVIGER_REQUIRE_TOKENS` is set, or if the token cannot be made.
    #[must_use]
    pub fn new(module: Module, label: &str) -> Option<Self> {
        if !module.is_there() {
            assert!(!required(), "{module:?} is missing, and CI or CLAVIGER_REQUIRE_TOKENS wants it");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (env, uri) = module.make(folder.path(), label);
        Some(Self { env, uri, module, folder })
    }

    /// Makes another token with the same configuration, and returns its URI.
    ///
    /// # Panics
    /// If the token cannot be made.
    #[must_use]
    pub fn another(&self, label: &str) -> String {
        self.module.make(self.folder.path(), label).1
    }
}

impl Module {
    fn is_there(self) -> bool {
        match self {
            Self::SoftHsm => {
                Command::new(root().join("softhsm/module")).output().expect("it can be started").status.success()
            }
            Self::Kryoptic => {
                std::env::var_os("CLAVIGER_TEST_KRYOPTIC").is_some_and(|module| Path::new(&module).is_file())
            }
        }
    }

    /// Runs the script that makes a token. Returns the environment variable and the URI that it prints.
    fn make(self, folder: &Path, label: &str) -> ((String, String), String) {
        let script = match self {
            Self::SoftHsm => "softhsm/token",
            Self::Kryoptic => "softhsm/kryoptic-token",
        };
        let made =
            Command::new(root().join(script)).arg(folder).arg(label).output().expect("the script can be started");
        assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
        let printed = String::from_utf8(made.stdout).expect("the script prints UTF-8");
        let (export, uri) = printed.trim_end().split_once('\n').expect("it prints two lines");
        let (name, value) =
            export.strip_prefix("export ").and_then(|export| export.split_once('=')).expect("the first is export A=B");
        ((name.to_owned(), value.to_owned()), uri.to_owned())
    }
}

/// Whether a missing token or peer is a failure: whether `CI` or `CLAVIGER_REQUIRE_TOKENS` is set.
#[must_use]
pub fn required() -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()));
    set("CI") || set("CLAVIGER_REQUIRE_TOKENS")
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

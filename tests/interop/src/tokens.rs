//! Throw-away tokens of real PKCS#11 modules.
//!
//! A module reads its configuration from the environment when it is initialised, once in a process. So a program that
//! uses a token starts itself again with [`ThrowAway::env`].

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A PKCS#11 module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// `CLAVIGER_TEST_SOFTHSM`, or where a distribution puts it.
    SoftHsm,
    /// Where `tests/kryoptic/build` puts it. It takes minutes to build, so it is used only if `CLAVIGER_TEST_KRYOPTIC`
    /// says that it is there.
    Kryoptic,
}

/// A token in a temporary folder, which goes when this is dropped.
pub struct ThrowAway {
    /// What leads the module to the token: a variable and its value.
    pub env: (String, String),
    /// The token's URI, with its module and its PIN's file.
    pub uri: String,
    module: Module,
    folder: TempDir,
}

impl ThrowAway {
    /// A fresh token; none if its module is missing.
    ///
    /// # Panics
    /// If the module is missing while `CI` or `CLAVIGER_REQUIRE_TOKENS` wants it, or if the token cannot be made.
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

    /// Another token behind the same configuration: its URI.
    ///
    /// # Panics
    /// If it cannot be made.
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

    /// The variable and the URI that the script prints.
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

fn required() -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()));
    set("CI") || set("CLAVIGER_REQUIRE_TOKENS")
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

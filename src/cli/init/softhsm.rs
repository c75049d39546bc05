//! A SoftHSM token in the state folder, for trying claviger out.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use uuid::Uuid;

use super::{created_files::CreatedFiles, template::TokenSettings};
use crate::cli::{
    failure::Failure,
    pkcs11_modules::{softhsm, softhsm_missing},
    this_program,
};

const NAME: &str = "soft";

/// A SoftHSM token whose files are written, and that is not initialised yet.
pub struct SoftToken {
    module: PathBuf,
    /// The absolute path of SoftHSM's own configuration.
    configuration: PathBuf,
    folder: PathBuf,
}

/// The folder of the token for a configuration file.
pub fn folder(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join("state/softhsm")
}

impl SoftToken {
    /// Writes SoftHSM's configuration, and files with random PINs.
    pub fn prepare(files: &mut CreatedFiles) -> Result<Self, Failure> {
        let module = softhsm().ok_or_else(|| {
            let missing = softhsm_missing();
            let hint = missing.hint.clone().unwrap_or_default();
            missing.hint(format!("--token-uri names an existing token; `claviger token list` shows them. Or {hint}"))
        })?;
        let folder = files.state_dir().join("softhsm");
        if folder.exists() {
            return Err(Failure::new("config-there", format!("{} exists already", folder.display()))
                .hint("it may hold keys: move the folder away, or name its token with --token-uri"));
        }
        let tokens = folder.join("tokens");
        files.make_folder(&tokens, 0o700, true)?;
        let absolute = |path: &Path| path.canonicalize().map_err(|error| Failure::io(path.display(), &error));
        let lines = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            absolute(&tokens)?.display()
        );
        files.write(&folder.join("softhsm2.conf"), 0o600, &lines)?;
        for name in ["user.pin", "so.pin"] {
            files.write(&folder.join(name), 0o600, &format!("{}\n", Uuid::new_v4().simple()))?;
        }
        Ok(Self { module, configuration: absolute(&folder.join("softhsm2.conf"))?, folder })
    }

    /// The `[[token]]` entry of this token.
    pub fn settings(&self) -> TokenSettings {
        TokenSettings {
            name: NAME.to_owned(),
            uri: format!(
                "pkcs11:token={NAME}?module-path={}&pin-source=file:state/softhsm/user.pin",
                self.module.display()
            ),
            environment: vec![("SOFTHSM2_CONF".to_owned(), self.configuration.display().to_string())],
        }
    }

    /// Initialises the token in another process, whose environment names SoftHSM's configuration.
    pub fn initialise(&self, configuration: &Path) -> Result<(), Failure> {
        let so_pin_source = format!("file:{}", self.folder.join("so.pin").display());
        let mut command = this_program::command()?;
        command.arg("--json").arg("--config").arg(configuration);
        command.args(["token", "init", NAME, "--so-pin-source", &so_pin_source]).stdin(Stdio::null());
        let ran = command.output().map_err(|error| Failure::io("this program", &error))?;
        if ran.status.success() {
            return Ok(());
        }
        let message = this_program::error_message(&ran.stderr);
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&ran.stderr).trim().to_owned());
        Err(Failure::new("not-initialised", message))
    }
}

//! Finding a profile: the built-in profiles, and those in folders of the system.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::definition::Profile;
use crate::secrets::{TokenError, TokenInfo};

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../hsm-config/", $name, ".toml")))),*]
    };
}

/// The profiles of `hsm-config/`. `tests/secrets/pkcs11/devices.rs` checks that the list is complete.
static BUILT_IN: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    built_in![
        "aws-cloudhsm",
        "google-kmsp11",
        "kryoptic",
        "luna",
        "nethsm",
        "nshield",
        "nss-softokn",
        "opencryptoki",
        "softhsm",
        "tpm2-pkcs11",
        "utimaco",
        "ykcs11",
        "yubihsm2",
    ]
    .into_iter()
    .map(|(name, text)| Profile::parse(name, text).unwrap_or_else(|error| panic!("{error}")))
    .collect()
});

/// Folders of the system with profiles, besides `hsm-config` next to the configuration.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/claviger/hsm-config", "/usr/share/claviger/hsm-config"];

impl Profile {
    /// The profile with a name: `NAME.toml` in the folder `hsm-config` next to the configuration, in
    /// `/etc/claviger/hsm-config` or in `/usr/share/claviger/hsm-config`, or else the built-in profile.
    ///
    /// # Errors
    /// [`TokenError::Config`] if there is no such profile, or if a file is wrong.
    pub fn named(name: &str, base_dir: Option<&Path>) -> Result<Self, TokenError> {
        let found = all(base_dir)?.into_iter().find(|profile| profile.name() == name);
        found.ok_or_else(|| TokenError::Config(format!("there is no profile {name:?}")))
    }

    /// The names of all profiles: the built-in ones, and those in the folders that [`Profile::named`] reads.
    ///
    /// # Errors
    /// [`TokenError::Config`] if a file is wrong.
    pub fn names(base_dir: Option<&Path>) -> Result<Vec<String>, TokenError> {
        Ok(all(base_dir)?.into_iter().map(|profile| profile.name().to_owned()).collect())
    }

    /// Whether a profile of this name comes with the program. Other names are chosen by the site.
    pub fn is_built_in(name: &str) -> bool {
        BUILT_IN.iter().any(|profile| profile.name() == name)
    }

    /// The profile that matches the module's manufacturer and the token's manufacturer and model; the default profile
    /// if none does.
    pub(in crate::secrets::pkcs11) fn matching(
        module: &str,
        token: &TokenInfo,
        base_dir: Option<&Path>,
    ) -> Result<Self, TokenError> {
        Ok(all(base_dir)?.into_iter().find(|profile| profile.matches(module, token)).unwrap_or_default())
    }

    /// The environment variable whose value must be passed to C_Initialize of a module, by the module's file; none for
    /// most modules.
    pub(in crate::secrets::pkcs11) fn initialize_variable(
        file: &Path,
        base_dir: Option<&Path>,
    ) -> Result<Option<String>, TokenError> {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let wanted = all(base_dir)?.into_iter().filter_map(|profile| profile.initialize).find(|it| it.file == stem);
        Ok(wanted.map(|it| it.variable))
    }
}

/// All profiles. A file takes precedence over files of the same name in later folders, and over a built-in profile.
fn all(base_dir: Option<&Path>) -> Result<Vec<Profile>, TokenError> {
    let next_to_configuration = base_dir.map(|base| base.join("hsm-config"));
    let mut all: Vec<Profile> = Vec::new();
    for folder in next_to_configuration.into_iter().chain(SYSTEM_FOLDERS.map(PathBuf::from)) {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|it| it == "toml")).collect();
        files.sort();
        for file in files {
            let Some(name) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if all.iter().any(|profile| profile.name() == name) {
                continue;
            }
            let failed = |reason: String| TokenError::Config(format!("{}: {reason}", file.display()));
            let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
            all.push(Profile::parse(name, &text).map_err(|error| failed(error.to_string()))?);
        }
    }
    let built_in = BUILT_IN.iter().filter(|built_in| !all.iter().any(|profile| profile.name() == built_in.name()));
    let built_in: Vec<_> = built_in.cloned().collect();
    all.extend(built_in);
    Ok(all)
}

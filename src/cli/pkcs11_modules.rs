//! Finds the PKCS#11 modules that are installed on this machine, by their usual paths.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::failure::Failure;

/// The files of known modules. `*` stands for any one folder.
const KNOWN: [&str; 20] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/libykcs11.so",
    "/usr/lib/*/libykcs11.so.2",
    "/usr/local/lib/libykcs11.so",
    "/usr/lib/*/pkcs11/yubihsm_pkcs11.so",
    "/usr/lib/*/opensc-pkcs11.so",
    "/usr/lib/*/pkcs11/opensc-pkcs11.so",
    "/usr/lib64/pkcs11/opensc-pkcs11.so",
    "/usr/lib/*/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/*/libtpm2_pkcs11.so.1",
    "/usr/lib/*/pkcs11/libopencryptoki.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/usr/lib/*/libkryoptic_pkcs11.so",
];

/// The modules of this machine. A file with several names is listed once.
pub fn installed() -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let found = KNOWN.iter().flat_map(|pattern| expand(pattern));
    found.filter(|path| path.canonicalize().is_ok_and(|file| seen.insert(file))).collect()
}

/// The path of SoftHSM's module, if it is installed.
pub fn softhsm() -> Option<PathBuf> {
    let mut usual = KNOWN.iter().filter(|pattern| pattern.ends_with("softhsm2.so")).flat_map(|pattern| expand(pattern));
    usual.find(|path| path.is_file())
}

/// The failure of a command that needs SoftHSM when it is not installed.
pub fn softhsm_missing() -> Failure {
    Failure::not_ready("softhsm-missing", "SoftHSM is not installed")
        .hint("apt-get install softhsm2 (Debian, Ubuntu), dnf install softhsm (Fedora), brew install softhsm (macOS)")
}

/// The paths that a pattern stands for. A pattern with `*` yields only existing files.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((parent, rest)) = pattern.split_once("/*/") else {
        return vec![pattern.into()];
    };
    let folders = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        folders.map(|folder| folder.path().join(Path::new(rest))).filter(|it| it.is_file()).collect();
    paths.sort();
    paths
}

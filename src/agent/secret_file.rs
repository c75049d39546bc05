//! Reads a secret that two programs share from a file.

use std::{env, fs, io, os::unix::fs::MetadataExt, path::Path};

use zeroize::Zeroizing;

/// The minimum length of a secret, in characters.
const MIN_CHARS: usize = 32;

/// Reads a generated secret: the first line of a file that only its owner may read.
///
/// # Errors
/// If the file cannot be read or is readable by others, or its first line has fewer than 32 characters, or contains a
/// space or a non-ASCII character.
pub(super) fn read_secret_line(path: &Path) -> io::Result<Zeroizing<String>> {
    let line = first_line(path)?;
    let secret = line.trim();
    if secret.len() < MIN_CHARS || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "its first line is not a secret of 32 characters or more, as `openssl rand -hex 32` makes one",
        ));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// Reads a password of any form: the first line of a file that only its owner may read, without the end of the line.
///
/// # Errors
/// If the file cannot be read, is readable by others, is not in UTF-8, or begins with an empty line.
#[cfg(feature = "postgres")]
pub(super) fn read_password_line(path: &Path) -> io::Result<Zeroizing<String>> {
    let line = first_line(path)?;
    if line.is_empty() { Err(invalid("its first line is empty")) } else { Ok(line) }
}

fn first_line(path: &Path) -> io::Result<Zeroizing<String>> {
    if fs::metadata(path)?.mode() & 0o077 != 0 && !is_credential(path) {
        return Err(invalid("others may read the file: chmod 600"));
    }
    let text = Zeroizing::new(fs::read_to_string(path)?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Whether systemd provides the file (systemd.exec(5), `LoadCredential=`). It admits the service's user by an access control
/// list, so the mode seems to admit the group.
fn is_credential(path: &Path) -> bool {
    env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.parent() == Some(Path::new(&folder)))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

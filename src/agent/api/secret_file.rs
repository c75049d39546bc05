//! Reads a secret that two programs share in a file.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use zeroize::Zeroizing;

/// The minimum length of a secret, in characters.
const MIN_CHARS: usize = 32;

/// Reads the first line of a file that only its owner may read.
///
/// # Errors
/// If the file cannot be read or is readable by others, or its first line has fewer than 32 characters, or contains a
/// space or a non-ASCII character.
pub(super) fn read_secret_line(path: &Path) -> io::Result<Zeroizing<String>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    if fs::metadata(path)?.mode() & 0o077 != 0 {
        return Err(invalid("others may read the file: chmod 600"));
    }
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.len() < MIN_CHARS || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "its first line is not a secret of 32 characters or more, as `openssl rand -hex 32` makes one",
        ));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

//! Certificates of attestations: files in PEM, and why they are refused.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};

use claviger::secrets::piv::AttestationError;

use crate::cli::failure::Failure;

/// The most bytes that are read of a file.
const MAX_BYTES: u64 = 1024 * 1024;

/// The content of a file; `-` is stdin.
///
/// # Errors
/// `io` if the file cannot be read, `attestation-refused` if it has more than 1 MiB.
pub fn content(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::io(file.display(), &error);
    let mut content = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    } else {
        File::open(file).and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut content)).map_err(failed)?;
    }
    match content.len() as u64 > MAX_BYTES {
        true => Err(Failure::new("attestation-refused", format!("{}: the file has more than 1 MiB", file.display()))),
        false => Ok(content),
    }
}

/// The certificates of a text in PEM, in DER. Other text and other objects in it are passed over.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(pem: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    // Yubico's tools on Windows write no line feed at the end, so the next file of `cat` begins in the same line.
    let text = String::from_utf8_lossy(pem).replace("----------BEGIN ", "-----\n-----BEGIN ");
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.map(|der| der.to_vec()));
    match read.collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() && pem.first() == Some(&0x30) => {
            Err("the file is in DER: `openssl x509 -inform DER` writes it in PEM")
        }
        Ok(certificates) if certificates.is_empty() => Err("the file has no certificate in PEM"),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err("a certificate is not well-formed PEM"),
    }
}

/// The root certificates of `--root`, in DER.
pub fn roots(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut roots = Vec::new();
    for file in files {
        let read = content(file)?;
        let invalid = |message| Failure::usage("bad-arguments", format!("{}: {message}", file.display()));
        roots.extend(parse(&read).map_err(invalid)?);
    }
    Ok(roots)
}

/// The failure for an attestation that is not accepted. `from` is where it came from.
pub fn refused(from: &str, error: &AttestationError) -> Failure {
    let message = format!("{from}: {error}");
    match error {
        AttestationError::UnusableRoot(_) => Failure::usage("bad-certificate", format!("--root: {error}")),
        AttestationError::Untrusted(_) => Failure::new("attestation-refused", message).hint(
            "an attestation key of your own in slot F9 has no certificate of Yubico's: --root FILE names its root \
             certificate",
        ),
        _ => Failure::new("attestation-refused", message),
    }
}

//! The TLS configuration for connections to servers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};

/// Why TLS cannot be used. The configuration or the system is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file with additional roots cannot be read, or contains no certificates.
    #[error("cannot read root certificates from {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refused the configuration.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// Makes a client configuration for TLS 1.2 and 1.3. It trusts the system's roots and the PEM file `more_roots`.
///
/// Every cipher suite has forward secrecy (DIDComm v2.1 "Transports"), since rustls has no others. The function reads
/// files, so call it before the process enters the sandbox.
///
/// # Errors
/// If the file cannot be read, or contains no certificates.
pub fn client_config(more_roots: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = more_roots {
        let invalid = |reason: String| TlsError::File { path: path.to_owned(), reason };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| invalid(error.to_string()))? {
            let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(invalid("the file contains no certificate".to_owned()));
        }
    }
    let system = rustls_native_certs::load_native_certs();
    // Some systems have a few certificates that webpki cannot parse. The others are used.
    let (_, unparsable) = roots.add_parsable_certificates(system.certs);
    if unparsable > 0 || !system.errors.is_empty() {
        tracing::info!(unparsable, errors = ?system.errors, "some root certificates of the system not loaded");
    }
    if roots.is_empty() {
        // An agent with a mediator in its own network may need no TLS, and neither does a command without a did:web.
        tracing::info!("no root certificates on this system: TLS connections will fail; install ca-certificates");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

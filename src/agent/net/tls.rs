//! TLS to servers: what is trusted, and how it is spoken.

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

/// Why there is no TLS. The configuration or the system is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file of more roots cannot be read, or holds something else.
    #[error("the certificates in {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The library refuses.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3 as a client, that trusts the system's roots and those of a PEM file.
///
/// Every suite of it has forward secrecy (DIDComm v2.1 "Transports"): rustls has no other. It reads files, so it is made
/// once, before the sandbox closes.
///
/// # Errors
/// If the file cannot be read.
pub fn client_config(more_roots: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = more_roots {
        let wrong = |why: String| TlsError::File { path: path.to_owned(), why };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("there is none".to_owned()));
        }
    }
    let system = rustls_native_certs::load_native_certs();
    // Some systems have a few that are too odd for webpki; the others are good.
    let (_, odd) = roots.add_parsable_certificates(system.certs);
    if odd > 0 || !system.errors.is_empty() {
        tracing::warn!(odd, errors = ?system.errors, "some of the system's root certificates are not read");
    }
    if roots.is_empty() {
        // An agent behind a mediator of its own network may need none.
        tracing::warn!("this system trusts no certificate: no server is reached by TLS; install ca-certificates");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

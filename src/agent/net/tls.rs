//! Whom TLS trusts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The certificates that others' servers are checked against: the system's, and more of the operator's. Read once, before the
/// process closes itself in.
#[derive(Clone)]
pub struct Roots(Arc<ClientConfig>);

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no certificates in PEM.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Roots {
    /// Reads the system's certificates, and those of a file in PEM. A system without any is warned of.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn load(more: Option<&Path>) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = more {
            let refuse = |reason: String| RootsError::Pem { path: path.to_owned(), reason };
            let pem = fs::read(path).map_err(|source| RootsError::Read { path: path.to_owned(), source })?;
            let mut count = 0;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
                roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
                count += 1;
            }
            if count == 0 {
                return Err(refuse("it holds no certificate in PEM".to_owned()));
            }
        }
        if roots.is_empty() {
            tracing::warn!("this system trusts no certificate: no server is reached by TLS (package ca-certificates)");
        }
        // TLS 1.2 and 1.3 with forward secrecy is all that rustls has.
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

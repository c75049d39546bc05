//! A certificate of our own, read again when its files change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// A certificate and its key, in files.
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    now: RwLock<(TlsAcceptor, Changed)>,
}

/// When each file was changed.
type Changed = [Option<SystemTime>; 2];

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or no key, in PEM.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// They do not belong together, or cannot be used.
    #[error("the certificate {} and its key: {source}", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl ServerTls {
    /// Reads a chain of certificates, the server's first, and its private key, both in PEM.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let now = RwLock::new((read(&certificate, &key)?, changed(&certificate, &key)));
        Ok(Self { certificate, key, now })
    }

    /// The folders that its files are in, and those that links lead to: a new certificate comes there.
    pub fn folders(&self) -> Vec<PathBuf> {
        let files = [&self.certificate, &self.key];
        let real = files.iter().filter_map(|file| fs::canonicalize(file).ok());
        let all = files.iter().map(|file| file.to_path_buf()).chain(real);
        let mut folders: Vec<PathBuf> = all.filter_map(|file| file.parent().map(Path::to_owned)).collect();
        folders.dedup();
        folders
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.now.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Reads the files again if they have changed. True if the new ones are used from now on.
    ///
    /// # Errors
    /// If the new ones cannot be used: the old ones go on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let changed = changed(&self.certificate, &self.key);
        if self.now.read().unwrap_or_else(PoisonError::into_inner).1 == changed {
            return Ok(false);
        }
        let acceptor = read(&self.certificate, &self.key)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = (acceptor, changed);
        Ok(true)
    }

    /// Looks at the files once a minute.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.reload() {
                Ok(true) => tracing::info!(certificate = %self.certificate.display(), "a new certificate is used"),
                Ok(false) => {}
                // One file may be new and the other not yet.
                Err(error) => tracing::warn!(%error, "the new certificate is not used"),
            }
        }
    }
}

fn changed(certificate: &Path, key: &Path) -> Changed {
    [certificate, key].map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    let refuse = |path: &Path, reason: String| TlsError::Pem { path: path.to_owned(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| refuse(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse(certificate, "it holds no certificate".to_owned()));
    }
    let secret = zeroize::Zeroizing::new(pem(key)?);
    let private = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| refuse(key, error.to_string()))?;
    let unfit = |source| TlsError::Unfit { path: certificate.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

//! The server certificate, which is read again when its files change.

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

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// A certificate and its private key, in PEM files.
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<(TlsAcceptor, ModificationTimes)>,
}

/// The modification times of the certificate file and the key file.
type ModificationTimes = [Option<SystemTime>; 2];

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file contains no PEM certificate or no PEM key.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// The certificate and the key do not belong together, or cannot be used.
    #[error("the certificate {} and its key: {source}", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// The TLS library's error.
        source: rustls::Error,
    },
}

impl ServerTls {
    /// Reads a certificate chain, the server's certificate first, and its private key, both in PEM.
    ///
    /// # Errors
    /// If a file cannot be read, or the certificate and the key cannot be used together.
    pub fn open(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        // The times are read first: a file that is renewed after that is read again at the next check.
        let modified = modification_times(&certificate, &key);
        let current = RwLock::new((read(&certificate, &key)?, modified));
        Ok(Self { certificate, key, current })
    }

    /// The folders of the files, and of the files that symbolic links point to. A sandbox must allow reading in these
    /// folders, since a renewed certificate appears there.
    pub fn folders(&self) -> Vec<PathBuf> {
        let files = [&self.certificate, &self.key];
        let real = files.iter().filter_map(|file| fs::canonicalize(file).ok());
        let all = files.iter().map(|file| file.to_path_buf()).chain(real);
        let mut folders: Vec<PathBuf> = all.filter_map(|file| file.parent().map(Path::to_owned)).collect();
        folders.dedup();
        folders
    }

    /// The acceptor for the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Reads the files again if they have changed. Returns whether the new certificate is in use.
    ///
    /// # Errors
    /// If the new files cannot be used. Then the old certificate stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let modified = modification_times(&self.certificate, &self.key);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).1 == modified {
            return Ok(false);
        }
        let acceptor = read(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (acceptor, modified);
        Ok(true)
    }

    /// Checks the files for changes once a minute. Never returns.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match self.reload() {
                Ok(true) => tracing::info!(certificate = %self.certificate.display(), "certificate reloaded"),
                Ok(false) => {}
                // Perhaps only one of the files is renewed yet. The next check tries again.
                Err(error) => tracing::warn!(%error, "certificate not reloaded"),
            }
        }
    }
}

fn modification_times(certificate: &Path, key: &Path) -> ModificationTimes {
    [certificate, key].map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    let refuse = |path: &Path, reason: String| TlsError::Pem { path: path.to_owned(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| refuse(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse(certificate, "the file contains no certificate".to_owned()));
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

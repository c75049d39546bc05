//! The server certificate, and the authorities of clients. They are read again when their files change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio_rustls::TlsAcceptor;

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// A certificate and its private key, in PEM files; and who may connect.
pub struct ServerTls {
    files: TlsFiles,
    current: RwLock<Current>,
}

struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<ClientAuthorities>,
}

/// The authorities whose certificates clients must have, in PEM files.
#[derive(Debug, Clone)]
pub struct ClientAuthorities {
    /// The certificates of the authorities.
    pub ca: PathBuf,
    /// The revocation lists of the authorities.
    pub crl: Option<PathBuf>,
}

/// What was read from the files.
struct Current {
    acceptor: TlsAcceptor,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    modified: ModificationTimes,
}

/// The modification times of all files.
type ModificationTimes = Vec<Option<SystemTime>>;

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
        Self::of(TlsFiles { certificate: certificate.into(), key: key.into(), clients: None })
    }

    /// Like [`open`](Self::open), for a server whose clients must have a certificate of these authorities. It speaks TLS
    /// 1.3 only, which encrypts the certificates, and resumes no session: each connection verifies the certificate.
    ///
    /// # Errors
    /// Like [`open`](Self::open); also if a file of the authorities cannot be read or has no certificate, or none of them
    /// can be used.
    pub fn open_for_clients(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        clients: ClientAuthorities,
    ) -> Result<Self, TlsError> {
        Self::of(TlsFiles { certificate: certificate.into(), key: key.into(), clients: Some(clients) })
    }

    fn of(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(files.read()?);
        Ok(Self { files, current })
    }

    /// The folders of the files, and of the files that symbolic links point to. A sandbox must allow reading in these
    /// folders, since a renewed certificate appears there.
    pub fn folders(&self) -> Vec<PathBuf> {
        let files: Vec<&Path> = self.files.all().collect();
        let real = files.iter().filter_map(|file| fs::canonicalize(file).ok());
        let all = files.iter().map(|file| file.to_path_buf()).chain(real);
        let mut folders: Vec<PathBuf> = all.filter_map(|file| file.parent().map(Path::to_owned)).collect();
        folders.dedup();
        folders
    }

    /// The acceptor for the next connection.
    pub(in crate::agent) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Verifies the certificate chain of a client now, by the authorities in force.
    pub(in crate::agent) fn verify_client(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let verifier = self.current.read().unwrap_or_else(PoisonError::into_inner).clients.clone();
        match (verifier, chain) {
            (Some(verifier), [own, intermediates @ ..]) => {
                verifier.verify_client_cert(own, intermediates, UnixTime::now()).map(drop)
            }
            _ => Err(rustls::Error::NoCertificatesPresented),
        }
    }

    /// Reads the files again if they have changed. Returns whether the new ones are in use.
    ///
    /// # Errors
    /// If the new files cannot be used. Then the old ones stay in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        if self.current.read().unwrap_or_else(PoisonError::into_inner).modified == self.files.modified() {
            return Ok(false);
        }
        let new = self.files.read()?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// Checks the files for changes once a minute. Never returns.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match self.reload() {
                Ok(true) => tracing::info!(certificate = %self.files.certificate.display(), "certificate reloaded"),
                Ok(false) => {}
                // Perhaps only one of the files is renewed yet. The next check tries again.
                Err(error) => tracing::warn!(%error, "certificate not reloaded"),
            }
        }
    }
}

impl TlsFiles {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let of_clients = self.clients.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]).flatten();
        [&self.certificate, &self.key].into_iter().chain(of_clients).map(PathBuf::as_path)
    }

    fn modified(&self) -> ModificationTimes {
        self.all().map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok()).collect()
    }

    fn read(&self) -> Result<Current, TlsError> {
        // The times are read first: a file that is renewed after that is read again at the next check.
        let modified = self.modified();
        let unfit = |source| TlsError::Unfit { path: self.certificate.clone(), source };
        let chain = certificates(&self.certificate)?;
        let secret = zeroize::Zeroizing::new(read(&self.key)?);
        let private = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| no_pem(&self.key, &error))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let clients = self.clients.as_ref().map(ClientAuthorities::verifier).transpose()?;
        let builder = match &clients {
            None => builder.with_safe_default_protocol_versions().map_err(unfit)?.with_no_client_auth(),
            Some(verifier) => {
                builder.with_protocol_versions(&[&TLS13]).map_err(unfit)?.with_client_cert_verifier(verifier.clone())
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(unfit)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if clients.is_some() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Current { acceptor: TlsAcceptor::from(Arc::new(config)), clients, modified })
    }
}

impl ClientAuthorities {
    /// A verifier for certificates of these authorities. With revocation lists, a certificate whose authority has no list
    /// is refused.
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| no_pem(&self.ca, &error))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if let Some(path) = &self.crl {
            let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read(path)?)
                .collect::<Result<_, _>>()
                .map_err(|error| no_pem(path, &error))?;
            if lists.is_empty() {
                return Err(no_pem(path, &"the file contains no revocation list"));
            }
            builder = builder.with_crls(lists);
        }
        builder.build().map_err(|error| match (&self.crl, error) {
            (Some(path), error @ VerifierBuilderError::InvalidCrl(_)) => {
                no_pem(path, &format!("{error}: a list needs version 2 and a number (RFC 5280)"))
            }
            (_, error) => no_pem(&self.ca, &error),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|error| no_pem(path, &error))?;
    if found.is_empty() { Err(no_pem(path, &"the file contains no certificate")) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn no_pem(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Pem { path: path.to_owned(), reason: reason.to_string() }
}

//! Servers for the tests, and a certificate authority.

use std::{
    convert::Infallible,
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use claviger::net::{AddressGuard, Dialer, HttpClient, HttpOptions, client_config};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, SupportedProtocolVersion, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

pub type ServerResponse = Response<Full<Bytes>>;

/// A server on 127.0.0.1 that counts its requests and connections.
pub struct Server {
    pub port: u16,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Starts a server without TLS.
    pub async fn http<A, F>(respond: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ServerResponse> + Send + 'static,
    {
        Self::start(None, respond).await
    }

    /// Starts a server with TLS.
    pub async fn https<A, F>(tls: ServerConfig, respond: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ServerResponse> + Send + 'static,
    {
        Self::start(Some(tls), respond).await
    }

    async fn start<A, F>(tls: Option<ServerConfig>, respond: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ServerResponse> + Send + 'static,
    {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let (port, connections) = listen(tls, move |stream| {
            let (respond, counted) = (respond.clone(), counted.clone());
            let service = service_fn(move |request| {
                counted.fetch_add(1, Ordering::SeqCst);
                let response = respond(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await;
        Self { port, requests, connections }
    }

    /// The number of requests so far.
    pub fn request_count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The number of connections so far.
    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn secure_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Listens on 127.0.0.1 and passes each connection to `serve`. Returns the port, and the number of connections so far.
pub async fn listen<F>(
    tls: Option<ServerConfig>,
    serve: impl Fn(Box<dyn Stream>) -> F + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let (counted, serve) = (connections.clone(), Arc::new(serve));
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (tls, serve) = (tls.clone(), serve.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve(Box::new(stream)).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(Box::new(stream)).await;
                        }
                    }
                }
            });
        }
    });
    (port, connections)
}

/// A port that accepts connections and sends nothing.
pub async fn silent_port() -> u16 {
    listen(None, |stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await
    .0
}

/// A port on which nobody listens.
pub async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    port
}

pub fn response(status: u16, body: impl Into<Bytes>) -> ServerResponse {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

pub fn redirect(status: u16, to: &str) -> ServerResponse {
    Response::builder().status(status).header("location", to).body(Full::default()).unwrap()
}

/// A certificate authority, and the file with its certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub roots: PathBuf,
    _folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        fs::write(&roots, certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), roots, _folder: folder }
    }

    /// A TLS configuration with a certificate for this name.
    pub fn server(&self, name: &str, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        self.server_with(CertificateParams::new([name.to_owned()]).unwrap(), versions)
    }

    pub fn server_with(
        &self,
        params: CertificateParams,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// A TLS configuration with a certificate for `localhost`.
    pub fn localhost(&self) -> ServerConfig {
        self.server("localhost", rustls::ALL_VERSIONS)
    }

    /// A dialer that trusts the authority, and connects to 127.0.0.0/8.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(loopback_guard(), client_config(Some(&self.roots)).unwrap())
    }

    pub fn client(&self) -> HttpClient {
        HttpClient::new(self.dialer(), HttpOptions::default())
    }
}

/// A guard that allows 127.0.0.0/8.
pub fn loopback_guard() -> AddressGuard {
    AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()])
}

//! An HTTP server that returns the responses that the test specifies, and records the requests.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Status, further header lines, body.
pub type Response = (u16, String, String);

/// The server. It stops accepting connections when it is dropped.
pub struct Endpoint {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    ended: Arc<AtomicBool>,
}

/// The parts of a request that tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    pub host: String,
    pub body: String,
}

impl Endpoint {
    pub fn new(respond: impl Fn(&RecordedRequest) -> Response + Send + Sync + 'static) -> Self {
        Self::with_listener(TcpListener::bind("127.0.0.1:0").unwrap(), respond)
    }

    /// Answers each request with 202.
    pub fn accepting() -> Self {
        Self::new(|_| accepted())
    }

    pub fn with_listener(
        listener: TcpListener,
        respond: impl Fn(&RecordedRequest) -> Response + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let endpoint = Self {
            port,
            connections: Arc::default(),
            requests: Arc::default(),
            ended: Arc::new(AtomicBool::new(false)),
        };
        let (connections, requests, ended) =
            (endpoint.connections.clone(), endpoint.requests.clone(), endpoint.ended.clone());
        let respond = Arc::new(respond);
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let (respond, requests) = (respond.clone(), requests.clone());
                thread::spawn(move || serve(stream, &*respond, &requests));
            }
        });
        endpoint
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// The bodies of the POST requests.
    pub fn messages(&self) -> Vec<String> {
        self.requests().into_iter().filter(|request| request.method == "POST").map(|request| request.body).collect()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

pub fn accepted() -> Response {
    (202, String::new(), String::new())
}

/// Answers one request, and closes the connection.
fn serve(
    stream: TcpStream,
    respond: &dyn Fn(&RecordedRequest) -> Response,
    requests: &Mutex<Vec<RecordedRequest>>,
) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut length, mut host) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if let Some(value) = line.strip_prefix("host:") {
            host = value.trim().to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = RecordedRequest { method, path, host, body: String::from_utf8_lossy(&body).into_owned() };
    let (status, more, body) = respond(&request);
    requests.lock().unwrap().push(request);
    let head = format!("HTTP/1.1 {status} Status\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    reader.get_mut().write_all((head + &body).as_bytes()).ok()
}

//! A server of the test's own, that says what it is told to and keeps what it was asked.

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

/// What is answered: status, more headers, body.
pub type Response = (u16, String, String);

/// One on a port of its own.
pub struct Endpoint {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<RecordedRequest>>>,
    ended: Arc<AtomicBool>,
}

/// A request, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    pub host: String,
    pub body: String,
}

impl Endpoint {
    pub fn new(answer: impl Fn(&RecordedRequest) -> Response + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// One that takes messages over.
    pub fn accepting() -> Self {
        Self::new(|_| accepted())
    }

    pub fn on(listener: TcpListener, answer: impl Fn(&RecordedRequest) -> Response + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().unwrap().port();
        let endpoint =
            Self { port, connections: Arc::default(), asked: Arc::default(), ended: Arc::new(AtomicBool::new(false)) };
        let (connections, asked, ended) =
            (endpoint.connections.clone(), endpoint.asked.clone(), endpoint.ended.clone());
        let answer = Arc::new(answer);
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, asked) = (answer.clone(), asked.clone());
                thread::spawn(move || serve(stream, &*answer, &asked));
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
        self.asked.lock().unwrap().clone()
    }

    /// The messages that were POSTed.
    pub fn messages(&self) -> Vec<String> {
        self.requests().into_iter().filter(|asked| asked.method == "POST").map(|asked| asked.body).collect()
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

/// One request a connection.
fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&RecordedRequest) -> Response,
    asked: &Mutex<Vec<RecordedRequest>>,
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
    let (status, more, body) = answer(&request);
    asked.lock().unwrap().push(request);
    let head = format!("HTTP/1.1 {status} so\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    reader.get_mut().write_all((head + &body).as_bytes()).ok()
}

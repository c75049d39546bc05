//! Minimal HTTP/1.1 for a peer of the daemon. The server does little work, so that benchmarks measure the daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

/// The timeout of reads.
const PATIENCE: Duration = Duration::from_secs(60);
/// The media type of messages.
pub const ENCRYPTED: &str = "application/didcomm-encrypted+json";

/// A received POST request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The `Content-Type`.
    pub kind: String,
    /// The body.
    pub body: String,
}

/// Starts a server that sends each POST to the channel, and answers it with 202 after the delay. Each connection has its own
/// thread. Returns the port.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn serve(posted: Sender<Posted>, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let posted = posted.clone();
            // The thread ends when the client closes the connection, or sends something that is not HTTP.
            thread::spawn(move || answer(stream, delay, &posted));
        }
    });
    port
}

fn answer(stream: TcpStream, delay: Duration, posted: &Sender<Posted>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let Some((_, head, body)) = read(&mut stream)? else { return Ok(()) };
        let posted = posted.send(Posted { kind: head.kind, body: text(body)? });
        thread::sleep(delay);
        let status = if posted.is_ok() { "202 Accepted" } else { "503 Service Unavailable" };
        stream.get_mut().write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    }
}

/// A persistent connection to a server.
pub struct Connection<S> {
    stream: BufReader<S>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Connection<TcpStream> {
    /// Connects to a port on this machine.
    ///
    /// # Errors
    /// If nothing listens there.
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Connection<S> {
    /// Uses an existing stream.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a GET request.
    ///
    /// # Errors
    /// If the connection breaks, or the response is not HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"), "")
    }

    /// Sends a POST request.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub fn post(&mut self, path: &str, kind: &str, body: &str) -> io::Result<Answer> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.ask(&head, body)
    }

    fn ask(&mut self, head: &str, body: &str) -> io::Result<Answer> {
        self.stream.get_mut().write_all([head, body].concat().as_bytes())?;
        let (first, _, body) = read(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer { status: status.ok_or(io::ErrorKind::InvalidData)?, body: text(body)? })
    }
}

#[derive(Default)]
struct Head {
    kind: String,
    length: usize,
}

/// Reads the first line, the relevant headers, and the body. `None` if the connection was closed.
fn read(stream: &mut impl BufRead) -> io::Result<Option<(String, Head, Vec<u8>)>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut head = Head::default();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-type" => value.trim().clone_into(&mut head.kind),
            "content-length" => head.length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?,
            // Neither side of these tests sends this.
            "transfer-encoding" => return Err(io::ErrorKind::Unsupported.into()),
            _ => {}
        }
    }
    let mut body = vec![0; head.length];
    stream.read_exact(&mut body)?;
    Ok(Some((first.trim_end().to_owned(), head, body)))
}

fn text(body: Vec<u8>) -> io::Result<String> {
    String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData.into())
}

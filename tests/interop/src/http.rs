//! Plain HTTP/1.1 without a library: what a peer's program needs at the least to talk with the daemon, and so little work
//! that a figure shows the daemon's.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a message is POSTed as.
pub const ENCRYPTED: &str = "application/didcomm-encrypted+json";

/// What was POSTed: its media type, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// `Content-Type`.
    pub kind: String,
    /// The body.
    pub body: String,
}

/// Serves each connection on a thread of its own, answers each POST with 202, and hands on what was POSTed. Returns the port.
///
/// # Panics
/// If there is no port for it.
#[must_use]
pub fn serve(posted: Sender<Posted>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let posted = posted.clone();
            // It ends when the other closes, or says something that is not HTTP.
            thread::spawn(move || answer(stream, &posted));
        }
    });
    port
}

fn answer(stream: TcpStream, posted: &Sender<Posted>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let Some((_, head, body)) = read(&mut stream)? else { return Ok(()) };
        let posted = posted.send(Posted { kind: head.kind, body: text(body)? });
        let status = if posted.is_ok() { "202 Accepted" } else { "503 Service Unavailable" };
        stream.get_mut().write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    }
}

/// One connection to a server, which is kept open.
pub struct Connection<S> {
    stream: BufReader<S>,
}

/// An answer: its status, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As 202.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Connection<TcpStream> {
    /// To a port of this machine.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over any stream.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// GETs.
    ///
    /// # Errors
    /// If the connection breaks, or what comes is not HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"), "")
    }

    /// POSTs.
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

/// A first line, what matters of the headers, and the body; none if the other has closed.
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
            // Not from anyone here.
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

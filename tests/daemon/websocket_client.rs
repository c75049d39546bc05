//! Client connections: TCP from any address of the loopback network, and WebSockets.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use tokio_tungstenite::tungstenite::{
    self, Message as Frame, WebSocket, client,
    protocol::{
        CloseFrame,
        frame::{
            Frame as RawFrame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use crate::daemon::TIMEOUT;

/// Connects from this address to the port on 127.0.0.1.
pub fn connect_from(address: [u8; 4], port: u16) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(address), 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Reads until the server closes the connection. Returns what was read, or none if it stayed open for this time.
pub fn closed_within(stream: &mut TcpStream, time: Duration) -> Option<Vec<u8>> {
    let until = Instant::now() + time;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => return Some(all),
            Ok(count) => all.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return Some(all),
        }
    }
    None
}

/// Writes `first`, then a byte every 100 ms, until the server closes the connection. Returns how long that took, or
/// none if it stayed open for `most`.
pub fn send_slowly(mut stream: TcpStream, first: &str, most: Duration) -> Option<Duration> {
    let begun = Instant::now();
    stream.write_all(first.as_bytes()).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 1024];
    while begun.elapsed() < most {
        if stream.write_all(b"x").is_err() {
            return Some(begun.elapsed());
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Some(begun.elapsed()),
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Some(begun.elapsed());
            }
            _ => {}
        }
    }
    None
}

/// A WebSocket to a daemon.
pub struct WebSocketClient(WebSocket<TcpStream>);

impl WebSocketClient {
    pub fn open(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).unwrap(), port)
    }

    pub fn over(stream: TcpStream, port: u16) -> Self {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(client(format!("ws://127.0.0.1:{port}/"), stream).expect("a WebSocket").0)
    }

    /// Opens a WebSocket at an address and port. Returns none if there is no response within this time.
    pub fn try_open(address: (&str, u16), time: Duration) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(time)).unwrap();
        Some(Self(client(format!("ws://{}:{}/", address.0, address.1), stream).ok()?.0))
    }

    pub fn send(&mut self, packed: &str) -> Result<(), tungstenite::Error> {
        self.0.send(Frame::text(packed))
    }

    /// Sends the first fragment of a message (RFC 6455 section 5.4).
    pub fn send_fragment(&mut self, part: &str) -> Result<(), tungstenite::Error> {
        let first = Frame::Frame(RawFrame::message(part.to_owned(), OpCode::Data(Data::Text), false));
        self.0.send(first)
    }

    /// Sends an unsolicited pong.
    pub fn pong(&mut self) -> Result<(), tungstenite::Error> {
        self.0.send(Frame::Pong("here".into()))
    }

    /// The next message, or none if the connection is closed or no message comes within this time.
    pub fn next(&mut self, time: Duration) -> Option<String> {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        loop {
            match self.0.read() {
                Ok(Frame::Text(text)) => return Some(text.to_string()),
                Ok(Frame::Ping(_) | Frame::Pong(_)) => {}
                _ => return None,
            }
        }
    }

    /// Waits for the close frame. Returns its code, or none if there is no code or no frame.
    pub fn close_code(&mut self) -> Option<CloseCode> {
        loop {
            match self.0.read() {
                Ok(Frame::Close(Some(CloseFrame { code, .. }))) => return Some(code),
                Ok(Frame::Close(None)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// None if the connection stays open for this time. Otherwise the code of the close frame, if there was one.
    pub fn close_code_within(&mut self, time: Duration) -> Option<Option<CloseCode>> {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        loop {
            match self.0.read() {
                Ok(Frame::Close(frame)) => return Some(frame.map(|frame| frame.code)),
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    return None;
                }
                Err(_) => return Some(None),
                Ok(_) => {}
            }
        }
    }
}

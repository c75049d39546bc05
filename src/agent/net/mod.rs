//! How the agent asks strangers' servers: by HTTP, by WebSocket, and for `did:web`.
//!
//! The addresses come from DID documents and messages that anyone may write. So there is one way to a server,
//! [`Dialer::dial`], and every connection of the agent to the outside takes it:
//! - The [`Guard`] decides on the *address that is connected*, whatever name, number or redirect led there. It opens what
//!   an operator's `allow_private` names and cannot be turned off. No proxy is taken from the environment: it would connect
//!   for us, past the guard.
//! - TLS is 1.2 or 1.3, with forward secrecy alone (DIDComm v2.1 "Transports"), and trusts the system's roots and those of
//!   one file.
//! - Everything is bounded: the time of each step and of the whole, what is read, how many redirects, how many questions
//!   to the DNS at once.
//!
//! A [`NetError`] names the host that is to blame, and says whether trying again may help.

mod connect;
mod dial;
mod error;
mod fetch;
mod guard;
mod http;
mod target;
mod tls;
mod websocket;

pub use connect::Connector;
pub use dial::{Connection, Dialer};
pub use error::{NetError, status_passes};
pub use guard::{Guard, RefusedAddress};
pub use http::{Answer, HttpClient, HttpOptions, Limits};
pub use target::Target;
pub use tls::{TlsError, client_config};
pub use websocket::{WebSocketClient, WebSocketOptions, WebSocketReceiver, WebSocketSender};

//! Clients for servers that strangers name: HTTP, WebSocket, and the documents of did:web and did:webvh.
//!
//! The URLs come from DID documents and messages that anyone may write. Every outgoing connection is therefore made by
//! [`Dialer::dial`]:
//! - The [`AddressGuard`] checks the *address of the connection*, whatever name, number or redirect led to it. It
//!   allows private addresses only if the operator's `allow_private` names them. It does not hold for the origins of
//!   [`Dialer::allow_named`], for requests to servers of the operator. Proxies of the environment are ignored, since a
//!   proxy connects without the guard.
//! - TLS is 1.2 or 1.3, always with forward secrecy (DIDComm v2.1 "Transports"). The trusted roots are the roots of the
//!   system and of one file.
//! - Everything is bounded: the time of each step and of the whole request, the bytes that are read, the number of
//!   redirects, and the number of concurrent DNS lookups.
//!
//! A [`NetError`] names the host at fault, and says whether a retry may help.

mod connect;
mod dial;
mod error;
mod fetch;
mod guard;
mod http;
mod http_response;
mod ready;
mod request_limits;
mod target;
mod tls;
#[cfg(feature = "agent")]
mod websocket;

pub use connect::Connector;
pub use dial::{Connection, Dialer, Reached};
pub use error::{NetError, is_retryable_status};
pub use guard::{AddressGuard, RefusedAddress};
pub use http::{HttpClient, HttpOptions};
pub use http_response::{HttpResponse, ResponseHead};
pub use request_limits::RequestLimits;
pub use target::{Origin, Target};
pub use tls::{TlsError, client_config};
#[cfg(feature = "agent")]
pub use websocket::{WebSocketClient, WebSocketOptions, WebSocketReceiver, WebSocketSender};

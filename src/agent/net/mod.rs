//! What the agent asks of others' servers, whose names strangers chose.
//!
//! One way leads out, [`Guard`]ed: the address that is *connected* is looked at, for each request and each redirect, so no name
//! and no redirect leads to the inside of the operator's network.

mod connect;
mod guard;
mod http;
mod tls;
mod websocket;

pub use connect::Connector;
pub use guard::{Guard, NotARange};
pub use http::{Got, HttpClient};
pub use tls::{Roots, RootsError};
pub use websocket::WebSocketClient;

use std::net::IpAddr;

/// Why a server was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The URL is none that is asked for.
    #[error("{0} is no URL that is asked for: {1}")]
    Url(String, &'static str),
    /// The name leads to no address that may be connected to.
    #[error("{host} is at {address}, which is not connected to: see `allow_private` in [net]")]
    Refused {
        /// The host.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// The name is not known now.
    #[error("{host} is not found: {source}")]
    Name {
        /// The host.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It cannot be connected to.
    #[error("{host} cannot be reached: {reason}")]
    Unreached {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// It did not answer in its time.
    #[error("{0} does not answer in its time")]
    Late(String),
    /// It answers with more than is read.
    #[error("{0} answers with more than {1} bytes")]
    TooLarge(String, usize),
    /// Its answer breaks off or is malformed.
    #[error("the answer of {host}: {reason}")]
    Answer {
        /// The host.
        host: String,
        /// What is wrong.
        reason: String,
    },
}

impl NetError {
    /// Whether trying again may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Url(..) | Self::Refused { .. } | Self::TooLarge(..) => false,
            Self::Name { .. } | Self::Unreached { .. } | Self::Late(_) | Self::Answer { .. } => true,
        }
    }
}

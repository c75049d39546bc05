//! The tables of the callers of the API.

use std::{net::SocketAddr, path::PathBuf};

use claviger::agent::api::Scope;
use serde::Deserialize;

/// A user whose processes may use only some of the API, on the Unix socket.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct ApiUserSection {
    /// The user, by name or number.
    pub name: String,
    /// What the user may do: `read`, `send`, `manage`.
    pub scopes: Vec<Scope>,
}

/// A further bearer token for the loopback interface.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct ApiTokenSection {
    /// The name of the token, for error messages.
    pub name: String,
    /// The file whose first line is the token.
    pub file: PathBuf,
    /// What the bearer of the token may do: `read`, `send`, `manage`.
    pub scopes: Vec<Scope>,
}

/// The port for applications on other machines, which need a certificate (mutual TLS).
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct ApiRemoteSection {
    /// The address and port to listen on, beside `listen` of `[api]`.
    pub listen: SocketAddr,
    /// The server's certificate chain, a file in PEM. All files of this table are read again when they change and on SIGHUP.
    /// The sandboxed agent can read everything in their folders.
    pub tls_certificate: PathBuf,
    /// The private key of the certificate, a file in PEM.
    pub tls_key: PathBuf,
    /// The authorities whose certificates clients must have, a file in PEM.
    pub client_ca: PathBuf,
    /// The revocation lists of these authorities, a file in PEM. With this setting each authority needs a list.
    pub client_crl: Option<PathBuf>,
}

/// An application on another machine.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct ApiClientSection {
    /// A DNS name or a URI that the application's certificate has as a subject alternative name.
    pub name: String,
    /// What the application may do: `read`, `send`, `manage`.
    pub scopes: Vec<Scope>,
}

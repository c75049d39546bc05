//! Access control of the API: who calls, and what the caller may do.
//!
//! On a Unix socket the kernel reports the caller's user id. On the loopback interface every process of the machine can
//! connect, and so can a page in a browser. So there a request needs a bearer token and a loopback `Host`, and must not
//! have an `Origin`. From another machine a caller needs a TLS certificate of an authority that the operator trusts, with
//! a name that the operator has listed.
//!
//! Each of these callers has [scopes](Scope). The [permissions](Permissions) can be replaced while connections are open.

mod certificate;
mod permissions;
mod scope;
mod session;
mod token;

pub use certificate::{ClientName, InvalidClientName};
pub use permissions::{Access, Identity, InvalidPermission, Permissions};
pub use scope::Scope;
pub use token::BearerToken;

pub(super) use certificate::ClientCertificate;
pub(super) use permissions::Credential;
pub(super) use session::{Caller, Session, authenticate, names_loopback, require_scope};

//! The checks of each request, and the end of requests whose caller has lost its rights.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension,
    extract::{MatchedPath, Request},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};

use super::{
    certificate::ClientCertificate,
    permissions::{Access, Credential, Holder},
    scope::Scope,
    token::BearerToken,
};
use crate::agent::{api::error::ApiError, server::ServerTls};

/// How often an open connection is checked without a cause: a certificate may have expired.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// A connection of an application, as the checks see it.
pub struct Session {
    caller: Caller,
    access: Access,
    /// The credential and the scope of the last request. HTTP/1.1 has one request at a time.
    last: Mutex<Option<(Credential, Scope)>>,
}

/// What is known of a caller before its first request.
pub enum Caller {
    /// The user id of a process on the Unix socket.
    User(u32),
    /// A program on the loopback interface, which shows a token with each request.
    Loopback,
    /// A client on another machine, and the authorities that must trust its certificate.
    Remote(Arc<ClientCertificate>, Arc<ServerTls>),
}

/// The caller of a request.
#[derive(Clone)]
pub struct Identified {
    session: Arc<Session>,
    credential: Credential,
    holder: Arc<Holder>,
}

/// Lets a request pass whose caller is known. It adds [`Identified`] to the request.
pub async fn authenticate(
    Extension(session): Extension<Arc<Session>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let identified = session.identify(request.headers())?;
    request.extensions_mut().insert(identified);
    Ok(next.run(request).await)
}

/// Lets a request pass whose caller has the scope of the operation.
pub async fn require_scope(
    Extension(identified): Extension<Identified>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Identified { session, credential, holder } = identified;
    let scope = Scope::of(request.method(), path.as_str());
    if !holder.may(scope) {
        let (kind, name, scope) = (holder.kind(), &holder.name, scope.name());
        let reason = format!("the {kind} {name:?} has no scope {scope:?}: add it to its `scopes` in [api]");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "scope-missing", reason));
    }
    *session.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((credential, scope));
    Ok(next.run(request).await)
}

impl Session {
    /// A session of a caller whose rights are in `access`.
    pub fn new(caller: Caller, access: Access) -> Self {
        Self { caller, access, last: Mutex::default() }
    }

    /// Whether the caller is on another machine.
    pub fn is_remote(&self) -> bool {
        matches!(self.caller, Caller::Remote(..))
    }

    /// Waits until the caller may no longer do what it does: its entry or its scope was removed, its token was replaced,
    /// or its certificate has expired or was revoked.
    pub async fn withdrawn(&self) {
        let mut replaced = self.access.subscribe();
        loop {
            tokio::select! {
                _ = replaced.changed() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            if !self.is_permitted() {
                return;
            }
        }
    }

    fn is_permitted(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (credential, scope) = match (last, self.own_credential()) {
            (Some((credential, scope)), _) => (credential, Some(scope)),
            (None, Some(credential)) => (credential, None),
            // No request has shown a token yet.
            (None, None) => return true,
        };
        self.holder(&credential).is_ok_and(|holder| scope.is_none_or(|scope| holder.may(scope)))
    }

    /// The credential of the connection itself.
    fn own_credential(&self) -> Option<Credential> {
        match &self.caller {
            Caller::User(user) => Some(Credential::User(*user)),
            Caller::Loopback => None,
            Caller::Remote(certificate, _) => Some(Credential::Certificate(certificate.clone())),
        }
    }

    fn identify(self: &Arc<Self>, headers: &HeaderMap) -> Result<Identified, ApiError> {
        // A page in a browser can send requests to a port (DNS rebinding, CSRF), but not without these headers. The
        // certificate of the server is a protection against DNS rebinding on other machines.
        let is_local = || has_loopback_host(headers);
        let is_foreign = match self.caller {
            Caller::User(_) => false,
            Caller::Loopback => headers.contains_key(header::ORIGIN) || !is_local(),
            Caller::Remote(..) => headers.contains_key(header::ORIGIN),
        };
        if is_foreign {
            let reason = match self.caller {
                Caller::Remote(..) => "the API is not for pages in a browser",
                _ => "the API is for programs on this machine only",
            };
            return Err(ApiError::new(StatusCode::FORBIDDEN, "not-local", reason));
        }
        let shown = || BearerToken::of(headers).map(Credential::Token);
        let credential = self.own_credential().or_else(shown).ok_or_else(unauthorized)?;
        let holder = self.holder(&credential)?;
        Ok(Identified { session: self.clone(), credential, holder })
    }

    /// The caller with this credential. The certificate of a client is verified again: since the handshake it may have
    /// expired, or the authorities may have changed.
    fn holder(&self, credential: &Credential) -> Result<Arc<Holder>, ApiError> {
        if let Caller::Remote(certificate, tls) = &self.caller
            && let Err(error) = tls.verify_client(&certificate.chain)
        {
            return Err(unknown_client(format!("the certificate is not trusted any more: {error}")));
        }
        self.access.find(credential).ok_or_else(|| match credential {
            Credential::Token(_) => unauthorized(),
            Credential::User(user) => unknown_client(format!("the user {user} is not in [api]")),
            Credential::Certificate(certificate) => unknown_client(certificate.why_unlisted()),
        })
    }
}

fn unauthorized() -> ApiError {
    let reason = "the request needs an Authorization: Bearer header with the token of `token_file` or [[api.token]]";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", reason)
}

fn unknown_client(reason: String) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "client-unknown", reason)
}

fn has_loopback_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    names_loopback(match host.rfind(':') {
        // The colons of an IPv6 address are in brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    })
}

/// Whether a host, without a port, is `localhost` or a loopback address.
pub fn names_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

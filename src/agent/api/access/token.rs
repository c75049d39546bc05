//! Bearer tokens.

use std::{fmt, io, path::Path, sync::Arc};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::agent::secret_file::read_secret_line;

/// A bearer token (RFC 6750). Tokens are compared in constant time.
#[derive(Clone)]
pub struct BearerToken(Arc<Zeroizing<String>>);

impl BearerToken {
    /// Reads a token: the first line of a file that only its owner may read.
    ///
    /// # Errors
    /// If the file cannot be read or is readable by others, or the token has fewer than 32 characters, or has one that is
    /// no visible ASCII character.
    pub fn read(path: &Path) -> io::Result<Self> {
        read_secret_line(path).map(|token| Self(Arc::new(token)))
    }

    /// A token that was read before.
    pub fn from_secret(token: Zeroizing<String>) -> Self {
        Self(Arc::new(token))
    }

    /// The token itself, for the process that it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The token that a request presents.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Self::from_secret(Zeroizing::new(token.trim().to_owned())))
    }
}

impl PartialEq for BearerToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BearerToken")
    }
}

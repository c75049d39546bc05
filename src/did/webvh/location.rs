//! The URLs of a did:webvh.

use std::borrow::Cow;

#[cfg(feature = "http")]
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use super::error::WebvhError;
use crate::did::web::{WebError, decoded, host_and_port, is_plain_when_decoded};

/// The URL of the log of a `did:webvh`.
///
/// # Errors
/// If the DID has another method, or an invalid SCID, host, port or path.
pub fn url(did: &str) -> Result<String, WebvhError> {
    Location::of(did).map(|location| location.log_url())
}

/// The path of the URL that [`url()`] returns. A server has to serve the log there. `None` if the DID has another
/// method or is invalid.
pub fn path(did: &str) -> Option<String> {
    let url = url(did).ok()?;
    let (_, rest) = url.strip_prefix("https://")?.split_once('/')?;
    Some(format!("/{rest}"))
}

/// The location of a `did:webvh` on its server, and the SCID of its log.
pub(super) struct Location<'a> {
    pub scid: &'a str,
    folder_url: String,
}

impl<'a> Location<'a> {
    /// Parses a DID, whose method-specific identifier is `scid ":" domain *( ":" segment )`.
    pub fn of(did: &'a str) -> Result<Self, WebvhError> {
        let (scid, host_and_path) =
            did.strip_prefix("did:webvh:").and_then(|id| id.split_once(':')).ok_or(WebvhError::Scid)?;
        let is_base58 = |byte: u8| byte.is_ascii_alphanumeric() && !b"0IOl".contains(&byte);
        if scid.len() != 46 || !scid.bytes().all(is_base58) {
            return Err(WebvhError::Scid);
        }
        Ok(Self { scid, folder_url: folder_url(host_and_path).map_err(WebvhError::Location)? })
    }

    pub fn log_url(&self) -> String {
        format!("{}/did.jsonl", self.folder_url)
    }

    pub fn witness_file_url(&self) -> String {
        format!("{}/did-witness.json", self.folder_url)
    }
}

/// The URL of the folder with the log, from the host and the path in a DID ("The DID to HTTPS Transformation", steps 3 to
/// 5). Each component is decoded once, and only its decoded value is checked.
fn folder_url(host_and_path: &str) -> Result<String, WebError> {
    let mut components = host_and_path.split(':');
    let domain = decoded(components.next().unwrap_or_default()).and_then(|domain| String::from_utf8(domain).ok());
    let domain = domain.ok_or(WebError::Host)?;
    let (name, port) = match domain.rsplit_once(':') {
        None => (domain.as_str(), None),
        Some((name, port)) => (name, Some(port)),
    };
    let mut url = format!("https://{}", host_and_port(&ascii_name(name)?, port)?);
    let mut has_path = false;
    for component in components {
        let value = decoded(component).filter(|value| is_plain_when_decoded(value)).ok_or(WebError::Path)?;
        url.push('/');
        value.iter().for_each(|byte| push_encoded(&mut url, *byte));
        has_path = true;
    }
    if !has_path {
        url.push_str("/.well-known");
    }
    Ok(url)
}

/// The name of a host in ASCII. An internationalised name is processed by UTS 46, without the transitional rules: IDNA 2008,
/// and what it leaves to programs, such as capital letters. Without the feature `http`, which brings the tables, there is no host
/// with such a name.
fn ascii_name(name: &str) -> Result<Cow<'_, str>, WebError> {
    if name.is_ascii() {
        return Ok(name.into());
    }
    #[cfg(feature = "http")]
    return Uts46::new()
        .to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| WebError::Host);
    #[cfg(not(feature = "http"))]
    Err(WebError::Host)
}

/// Adds a byte of a path. All but the unreserved characters of RFC 3986 are percent-encoded, with capital letters.
fn push_encoded(url: &mut String, byte: u8) {
    match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        true => url.push(char::from(byte)),
        false => url.push_str(&format!("%{byte:02X}")),
    }
}

/// The part of a `did:webvh` that names its log, wherever that is: `did:webvh:`, the SCID, and a colon. All names of a
/// portable DID begin with it, since the SCID is the hash of the first entry. `None` for a DID of another method.
#[cfg(feature = "agent")]
pub(crate) fn scid_prefix(did: &str) -> Option<&str> {
    let scid = Location::of(did).ok()?.scid;
    Some(&did[..("did:webvh:".len() + scid.len() + 1)])
}

//! The URLs of a did:webvh.

use super::error::WebvhError;
use crate::did::web::folder_url;

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

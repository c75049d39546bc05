//! Why a did:web has no URL or no document.

/// Why a `did:web` has no URL or no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The host is not a domain name. An IP address is not allowed.
    #[error("its host is not a domain name")]
    Host,
    /// The port is invalid.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A segment of the path is empty, `.` or `..`, begins or ends with a space, or contains an encoded separator.
    #[error("its path has an invalid segment")]
    Path,
    /// The server redirects, which is not followed. Holds the HTTP status.
    #[error(
        "its server redirects with status {0}, and redirects are not followed: the document must be at the DID's own URL"
    )]
    Redirect(u16),
    /// The server did not return the document. Holds the HTTP status.
    #[error("its server answers with status {0}")]
    Status(u16),
}

//! Shortens DIDs for errors and logs.

/// At most 100 characters of a text from a peer. A DID may be some kilobytes long.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

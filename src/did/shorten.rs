//! Shortens DIDs for errors and logs.

/// Cuts a text from a peer after 100 characters, and appends `...` then. A DID may be some kilobytes long.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

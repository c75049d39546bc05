//! [`Limits`]: how large a received message may be.

/// The limits on a received message. A larger message is refused before a token is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of the message in bytes. Default: 1,000,000.
    pub bytes: usize,
    /// The number of recipients of a JWE. Default: 100.
    pub recipients: usize,
    /// The number of JSON values in the message, and in each layer of it: objects, arrays, texts, numbers and so on. A
    /// value takes up to 250 bytes of memory, even if it is one digit. Default: 20,000.
    pub json_values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1_000_000, recipients: 100, json_values: 20_000 }
    }
}

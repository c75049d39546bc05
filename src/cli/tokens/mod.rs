//! The configured tokens. A command opens a token when it needs it: through a keeper, or in its own process.

pub mod custodian;
pub mod open;
pub mod secrets;

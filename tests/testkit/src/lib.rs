//! For those who test what stands on [`claviger`] without hardware, and for those who write a token of their own.
//!
//! - [`SoftToken`] is a token in software that counts what it is asked, and slows, fails and goes away on demand.
//! - [`PrivateKey`] is a key in memory, the reference a token is compared with.

mod control;
mod counts;
mod soft_token;
mod software;

pub use control::Hold;
pub use counts::Counts;
pub use soft_token::SoftToken;
pub use software::PrivateKey;

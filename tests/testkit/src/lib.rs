//! For those who test what stands on [`claviger`] without hardware, and for those who write a token of their own.
//!
//! - [`SoftToken`] is a token in software that counts what it is asked, and slows, fails and goes away on demand.
//! - [`identity`] is a DID with its keys in one, ready to pack and unpack.
//! - [`token_suite!`] and [`suite`] are what every token must do.
//! - [`PrivateKey`] and [`reference`](mod@reference) compute in software what a token is compared with.

mod control;
mod counts;
mod identity;
mod port;
pub mod reference;
mod soft_token;
mod software;
pub mod suite;

pub use control::Hold;
pub use counts::Counts;
pub use identity::{identity, identity_in};
pub use port::free_port;
pub use soft_token::SoftToken;
pub use software::PrivateKey;

//! For testing programs that use [`claviger`] without hardware, and for testing an implementation of a token.
//!
//! - [`SoftToken`] is a software token that counts operations, and is slow, fails or is absent on demand.
//! - [`identity`] is a DID with its keys in a `SoftToken`, ready to pack and unpack.
//! - [`token_suite!`] and [`suite`] test what every token must do.
//! - [`PrivateKey`] and [`reference`](mod@reference) compute in software the results that a token is compared with.

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

/// The path of the program `claviger`, as a [`String`]. `CLAVIGER_TEST_PROGRAM` names another build, so that a test can
/// show what an earlier release does. A macro, because Cargo names the program only to the package that builds it.
#[macro_export]
macro_rules! program {
    () => {
        ::std::env::var("CLAVIGER_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_claviger").to_owned())
    };
}

//! The inbox: takes envelopes over, opens them, and has them handled.
//!
//! An envelope is checked without a token and stored; only then the peer gets its answer. The workers open it when a token
//! is ready. No envelope is lost afterwards: it stays in the store until it was handled, refused for good, or is too old.

mod accept;
pub(in crate::agent) mod failure;
mod handle;
mod options;
mod quota;
mod refusal;
mod return_route;
mod state;
mod worker;

pub use options::InboxOptions;
pub use refusal::Refusal;
pub(super) use return_route::ReturnRouteRequest;
pub(super) use state::{Inbox, InboxParts};

//! The inbox: accepts envelopes, opens them, and has them handled.
//!
//! An envelope is checked without a token and stored. Only then does the peer get its answer. The workers open the
//! envelope when a token is ready. An accepted envelope stays in the store until its message was handled or refused, or
//! until it exceeds its retention (30 days) and is deleted. A message that waited for a token is refused like any other
//! message if it is too old or has expired when it is opened.

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

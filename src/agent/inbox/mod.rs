//! The inbox: accepts envelopes, opens them, and has them handled.
//!
//! An envelope is checked without a token and stored. Only then does the peer get its answer. The workers open the
//! envelope when a token is ready. If the token is quick, an envelope that came by POST is opened first (`arrivals`, `keep`):
//! the peer gets its answer when the effects of its message are in the store.
//!
//! A stored envelope stays in the store until its message was handled or refused, or until it exceeds its retention (30
//! days), is deleted and reported. Whether a message has expired or is too old is decided by its time of arrival, so no
//! message is lost because it waited for a token.

mod accept;
mod arrivals;
mod blocked;
pub(in crate::agent) mod failure;
mod handle;
mod keep;
mod open_route;
mod opening;
mod options;
mod quota;
mod refusal;
mod report_refused;
mod return_route;
mod sender_resolver;
mod state;
mod waiting;
mod worker;

pub use accept::Acceptance;
pub use options::InboxOptions;
pub use refusal::Refusal;
pub(super) use return_route::ReturnRouteRequest;
pub(super) use state::{Inbox, InboxParts};

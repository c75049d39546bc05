//! The request of a received message for replies on the connection that it arrived on.

use tokio::sync::oneshot;

use crate::agent::return_routes::ReturnRoute;

/// A message was opened, and its sender wants replies on the connection that the message arrived on.
#[derive(Debug)]
pub struct ReturnRouteRequest {
    /// The authenticated sender.
    pub sender: String,
    /// Which messages may go back.
    pub return_route: ReturnRoute,
    /// The receiver of the request sends this once the return route is open. Then the message is handled.
    pub opened: oneshot::Sender<()>,
    /// Yields whether there are replies, once the message is handled.
    pub replied: oneshot::Receiver<bool>,
}

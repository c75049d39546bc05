//! Opens the return route that a received message asks for.
//!
//! Anyone can send a copy of an envelope. If a copy opened a return route, the sender's messages would go to whoever sent
//! the copy. So a route is opened only by a message that is handled for the first time, and only if nobody but its sender
//! and we can read the message: a third one who can read it could deliver it before its sender does.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    opening::Opening,
    return_route::{FirstHandling, ReturnRouteRequest},
    state::Inbox,
};
use crate::{
    agent::{
        canonical_did::canonical_did, protocol::Received, return_routes::ReturnRoute, store::types::HandledMessage,
    },
    did::did_of,
    didcomm::Layer,
};

/// How long the connection may take to reserve the return route.
const RETURN_ROUTE_TIMEOUT: Duration = Duration::from_secs(1);

impl Inbox {
    /// Asks the connection for a return route, and waits up to one second until it is reserved. The caller keeps the
    /// result until the message is committed, and then opens the route with [`FirstHandling::finish`]. `None` if the
    /// message opens no return route.
    pub(super) async fn request_return_route(
        &self,
        opening: &Opening,
        received: &Received,
        handled: &HandledMessage,
        connection: Option<oneshot::Sender<ReturnRouteRequest>>,
    ) -> Option<FirstHandling> {
        let sender = received.sender.clone()?;
        let return_route = requested_route(received)?;
        // A copy without a connection, as from a mediator, counts too.
        let mut handling = self.handlings.begin(handled)?;
        let Some(connection) = connection else { return Some(handling) };
        if !self.is_between_sender_and_us(received) {
            tracing::info!(id = received.message.id, "no return route: others can read the message");
            return Some(handling);
        }
        match self.parts.store.inner().is_certainly_new(handled, received.created()).await {
            Ok(true) => {}
            // Perhaps a copy, or the store does not answer. The commit decides what happens to the message, and would not let the
            // route open.
            _ => return Some(handling),
        }
        // The connection reserves the route once it has its answer. It gets no route for a copy of an envelope that was
        // processed before.
        if !matches!(self.stored_id(opening).await, Ok(Some(_))) {
            return Some(handling);
        }
        let (reserved, is_reserved) = oneshot::channel();
        let (replied_sender, replied) = oneshot::channel();
        if connection.send(ReturnRouteRequest { sender, return_route, reserved, replied }).is_ok() {
            let _ = tokio::time::timeout(RETURN_ROUTE_TIMEOUT, is_reserved).await;
            handling.replied = Some(replied_sender);
        }
        Some(handling)
    }

    /// Whether only the sender and we can read the message: authcrypt by the sender to DIDs of ours alone. A signature
    /// does not suffice, since whoever got the signed message can encrypt it to us.
    fn is_between_sender_and_us(&self, received: &Received) -> bool {
        let layers = received.provenance.layers.iter().rev();
        let mut of_sender = layers.take_while(|layer| !matches!(layer, Layer::Forward { .. }));
        let is_ours = |kid: &String| did_of(kid).is_some_and(|did| self.parts.own_dids.find_did(did).is_some());
        let is_senders =
            |skid: &str| did_of(skid).is_some_and(|did| received.sender.as_deref() == Some(&*canonical_did(did)));
        of_sender.any(|layer| match layer {
            Layer::Authcrypt { skid, recipients, .. } => is_senders(skid) && recipients.iter().all(is_ours),
            _ => false,
        })
    }
}

/// The return route that a message asks for.
fn requested_route(received: &Received) -> Option<ReturnRoute> {
    match received.message.return_route.as_deref() {
        Some("all") => Some(ReturnRoute::All),
        Some("thread") => {
            let thread = received.message.return_route_thread.as_deref();
            Some(ReturnRoute::Thread(thread.unwrap_or(received.message.thread()).to_owned()))
        }
        _ => None,
    }
}

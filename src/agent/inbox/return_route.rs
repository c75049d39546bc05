//! The request of a received message for replies on the connection that it arrived on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use crate::agent::{return_routes::ReturnRoute, store::types::HandledMessage};

/// A message was opened, and its sender wants replies on the connection that the message arrived on.
#[derive(Debug)]
pub struct ReturnRouteRequest {
    /// The authenticated sender.
    pub sender: String,
    /// Which messages may go back.
    pub return_route: ReturnRoute,
    /// The receiver of the request sends this once it has reserved the return route. Then the message is handled.
    pub reserved: oneshot::Sender<()>,
    /// Yields whether there are replies, once the message is handled: the route opens. Without a value the message was
    /// not handled, or is a repetition: the route must not open.
    pub replied: oneshot::Receiver<bool>,
}

/// The messages that are being handled and ask for a return route, by sender, recipient and id.
#[derive(Debug, Default, Clone)]
pub(super) struct Handlings(Arc<Mutex<HashSet<MessageKey>>>);

type MessageKey = (String, String, String);

/// The first handling of a message that asks for a return route. Until this is dropped, no copy of the message opens a
/// route.
pub(super) struct FirstHandling {
    handlings: Handlings,
    key: MessageKey,
    /// Tells the connection whether the message has replies. `None` if the message opened no route.
    pub replied: Option<oneshot::Sender<bool>>,
}

impl Handlings {
    /// Returns `None` if a copy of the message is being handled.
    pub fn begin(&self, message: &HandledMessage) -> Option<FirstHandling> {
        let key = (message.sender.clone(), message.recipient.clone(), message.message.clone());
        let mut handlings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handlings.insert(key.clone()).then(|| FirstHandling { handlings: self.clone(), key, replied: None })
    }
}

impl FirstHandling {
    /// Tells the connection that the message is handled, and whether it has replies.
    pub fn finish(mut self, has_replies: bool) {
        if let Some(replied) = self.replied.take() {
            // The connection may have ended.
            let _ = replied.send(has_replies);
        }
    }
}

impl Drop for FirstHandling {
    fn drop(&mut self) {
        self.handlings.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

//! The events that an application can subscribe to.

use super::store::Delivery;

/// An event of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message was delivered to the application.
    Delivered(Delivery),
}

//! The events that an application can subscribe to.

/// An event of the agent.
///
/// An event says only that something happened. It has no content, and nothing whose size a peer chooses, so that events
/// that wait for a slow subscriber take little memory. The subscriber reads the store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was delivered to the application. [`Agent::deliveries`](super::Agent::deliveries) returns it.
    Delivered {
        /// The id of the delivery.
        id: String,
    },
}

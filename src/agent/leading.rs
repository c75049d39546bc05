//! Whether this node does what only one of the nodes may do.

use tokio::sync::watch;

use super::store::Store;

/// Whether this node leads ([`Store::leads`]), and waits for a change of it.
#[derive(Clone)]
pub struct Leading(watch::Receiver<bool>);

impl Leading {
    /// Of the node that uses this store.
    pub fn of(store: &dyn Store) -> Self {
        Self(store.leads())
    }

    /// Whether this node leads now.
    pub fn is_now(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once this node leads.
    pub async fn begins(&mut self) {
        self.becomes(true).await;
    }

    /// Returns once this node does not lead. In a store without nodes this never returns.
    pub async fn ends(&mut self) {
        self.becomes(false).await;
    }

    async fn becomes(&mut self, leads: bool) {
        if self.0.wait_for(|now| *now == leads).await.is_err() {
            // The store is closed or has no nodes: nothing changes any more.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_change_is_awaited_and_a_lost_sender_is_none() {
        let (sender, receiver) = watch::channel(false);
        let mut leading = Leading(receiver);
        assert!(!leading.is_now() && leading.begins().now_or_never().is_none());
        leading.ends().await;
        sender.send_replace(true);
        leading.begins().await;
        assert!(leading.is_now());
        drop(sender);
        leading.begins().await;
        assert!(leading.ends().now_or_never().is_none(), "nothing ends it any more");
    }
}

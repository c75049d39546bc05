//! Whether a token is in service, and if not, since when and why.

use std::time::Instant;

use super::error::TokenError;

/// An outage of a token: its reason and its start. During the outage, none of the token's keys can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// The most recent error.
    pub error: TokenError,
    /// When the outage began.
    pub since: Instant,
}

/// Whether one token is in service. The keyring has an `Availability` for each token, and each client of a keeper has
/// one for its token.
#[derive(Debug, Default)]
pub(in crate::secrets) struct Availability {
    outage: Option<Outage>,
    in_service_since: Option<Instant>,
}

impl Availability {
    /// The outage; `None` while the token is in service.
    pub(in crate::secrets) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// Since when the token is in service, or out of service; none before its state is known.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn since(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.since).or(self.in_service_since)
    }

    /// Records that the token is out of service because of `error`. If it was out of service already, the outage keeps
    /// its start.
    ///
    /// Returns true if the error differs from the previous one, so that a lasting error is logged once.
    pub(in crate::secrets) fn set_out_of_service(&mut self, error: TokenError) -> bool {
        let since = self.outage.as_ref().map_or_else(Instant::now, |outage| outage.since);
        let is_new = self.outage.as_ref().is_none_or(|outage| outage.error != error);
        self.outage = Some(Outage { error, since });
        self.in_service_since = None;
        is_new
    }

    /// Records that the token is in service.
    pub(in crate::secrets) fn set_in_service(&mut self) {
        self.outage = None;
        self.in_service_since.get_or_insert_with(Instant::now);
    }
}

//! Whether a token is in service, and since when it is not.

use std::time::Instant;

use super::error::TokenError;

/// A token is out of service: none of its keys can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// The last error that was seen.
    pub error: TokenError,
    /// When the outage began.
    pub since: Instant,
}

/// Whether one token is in service. The keyring has one for each token, and each client of a keeper has one.
#[derive(Debug, Default)]
pub(in crate::secrets) struct Availability {
    outage: Option<Outage>,
}

impl Availability {
    /// The outage; none while the token is in service.
    pub(in crate::secrets) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// The token is out of service because of `error`. An outage that has begun keeps its start.
    ///
    /// Returns true if the error is another than before, so that each error is logged once.
    pub(in crate::secrets) fn set_out_of_service(&mut self, error: TokenError) -> bool {
        let since = self.outage.as_ref().map_or_else(Instant::now, |outage| outage.since);
        let is_new = self.outage.as_ref().is_none_or(|outage| outage.error != error);
        self.outage = Some(Outage { error, since });
        is_new
    }

    /// The token is in service again.
    pub(in crate::secrets) fn set_in_service(&mut self) {
        self.outage = None;
    }
}

//! Limits the messages per second from each peer address.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{PoisonError, RwLock},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::address::peer_address_prefix;

/// Limits the messages per second from each peer address. Holds the rate of the last call, and the limiter for
/// that rate.
#[derive(Default)]
pub struct MessageRateLimiter(RwLock<(u32, Option<DefaultKeyedRateLimiter<IpAddr>>)>);

/// The limiter forgets idle addresses once it remembers more than this number.
const MAX_REMEMBERED_ADDRESSES: usize = 10_000;

impl MessageRateLimiter {
    /// Whether `address` may send one more message now, at `per_second` messages per second after a burst of the same
    /// number. 0 means no limit. A rate that differs from the last call's resets the counts of all addresses.
    pub fn allows(&self, address: IpAddr, per_second: u32) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).0 != per_second {
            let limiter = NonZeroU32::new(per_second).map(|rate| RateLimiter::keyed(Quota::per_second(rate)));
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = (per_second, limiter);
        }
        let limiter = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(limiter) = &limiter.1 else { return true };
        if limiter.len() > MAX_REMEMBERED_ADDRESSES {
            limiter.retain_recent();
        }
        limiter.check_key(&peer_address_prefix(address)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_rate() {
        let limiter = MessageRateLimiter::default();
        let allowed = |text: &str, rate| (0..5).filter(|_| limiter.allows(text.parse().unwrap(), rate)).count();
        assert_eq!(allowed("192.0.2.1", 0), 5);
        assert!((2..4).contains(&allowed("192.0.2.1", 2)));
        assert!((2..4).contains(&allowed("192.0.2.2", 2)));
        assert_eq!(allowed("192.0.2.1", 0), 5);
    }
}

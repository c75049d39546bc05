//! The token of a keeper, with everything that its operations need: keyring and rates.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::runtime::Runtime;

use super::{options::KeeperOptions, wire::TokenState};
use crate::{
    keys::PublicKey,
    secrets::{
        error::{SecretsError, TokenError},
        interface::Secrets,
        keyring::{Keyring, TokenStatus},
        mutex::lock,
        outage::Outage,
        token::Custodian,
    },
};

/// The token of a keeper.
pub(super) struct ServedToken {
    pub(super) custodian: Arc<dyn Custodian>,
    /// The token's name in the configuration.
    pub(super) name: Arc<str>,
    pub(super) keyring: Keyring,
    rate: Option<NonZeroU32>,
    limiters: Mutex<HashMap<PublicKey, Arc<DefaultDirectRateLimiter>>>,
    /// Operations block the thread that asks; this runtime only drives their futures.
    runtime: Runtime,
}

impl ServedToken {
    /// Starts a keyring over the token, which may be absent.
    ///
    /// # Errors
    /// [`SecretsError::Token`] if the configuration is wrong.
    pub(super) fn start(custodian: Arc<dyn Custodian>, options: KeeperOptions) -> Result<Self, SecretsError> {
        let name: Arc<str> = custodian.name().into();
        let mut keyring = Keyring::builder()
            .shared_token(custodian.clone())
            .allow_absent_tokens()
            .on_caller_thread()
            .token_policy(&name, options.policy);
        for (key, policy) in options.key_policies {
            keyring = keyring.key_policy(key, policy);
        }
        if !options.logs_outages {
            keyring = keyring.outages_are_logged_elsewhere();
        }
        if let Some(interval) = options.check_interval {
            keyring = keyring.check_keys_every(interval);
        }
        if let Some(interval) = options.probe_interval {
            keyring = keyring.probe_idle_tokens_every(interval);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Ok(Self {
            keyring: keyring.start_blocking()?,
            custodian,
            name,
            rate: options.rate,
            limiters: Mutex::default(),
            runtime: runtime.map_err(|_| SecretsError::Stopped)?,
        })
    }

    /// Runs an operation of the keyring on this thread.
    pub(super) fn block_on<T>(&self, operation: impl Future<Output = T>) -> T {
        self.runtime.handle().block_on(operation)
    }

    /// Counts operations with a key. Returns false if they exceed the key's rate.
    pub(super) fn is_within_rate(&self, key: &PublicKey, operations: usize) -> bool {
        let Some(rate) = self.rate else { return true };
        let Some(operations) = u32::try_from(operations).ok().and_then(NonZeroU32::new) else { return true };
        let limiter = lock(&self.limiters)
            .entry(key.clone())
            .or_insert_with(|| Arc::new(RateLimiter::direct(Quota::per_second(rate))))
            .clone();
        // A request for more operations than are allowed at once counts as the largest allowed number.
        matches!(limiter.check_n(operations.min(rate)), Ok(Ok(())))
    }

    /// The status of the token.
    pub(super) fn status(&self) -> TokenStatus {
        self.keyring.status().swap_remove(0)
    }

    /// The token's outage; `None` while it is in service.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.status().outage
    }

    /// The state for clients.
    pub(super) fn state(&self) -> TokenState {
        let held = self.keyring.keys().borrow().clone();
        TokenState {
            info: self.custodian.info(),
            keys: held.iter().map(Into::into).collect(),
            refused: held.refused().iter().map(Into::into).collect(),
            is_complete: held.is_complete(),
            error: self.outage().map(|outage| outage.error),
        }
    }

    /// Adds the token's name to an error.
    pub(super) fn error(&self, error: TokenError) -> SecretsError {
        SecretsError::Token { token: self.name.clone(), error }
    }
}

//! The token of a keeper, with everything that its operations need: keyring, rates and armed keys.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::runtime::Runtime;

use super::{options::KeeperOptions, wire::TokenState};
use crate::{
    keys::PublicKey,
    secrets::{
        error::{SecretsError, TokenError},
        interface::Secrets,
        keyring::Keyring,
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
    pub(super) has_audit_log: bool,
    rate: Option<NonZeroU32>,
    limiters: Mutex<HashMap<PublicKey, Arc<DefaultDirectRateLimiter>>>,
    /// The keys with which the agent may sign one DID rotation.
    armed: Mutex<HashSet<PublicKey>>,
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
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Ok(Self {
            keyring: keyring.start_blocking()?,
            custodian,
            name,
            has_audit_log: options.audit.is_some(),
            rate: options.rate,
            limiters: Mutex::default(),
            armed: Mutex::default(),
            runtime: runtime.map_err(|_| SecretsError::Stopped)?,
        })
    }

    /// Runs an operation of the keyring on this thread.
    pub(super) fn block_on<T>(&self, operation: impl Future<Output = T>) -> T {
        self.runtime.handle().block_on(operation)
    }

    /// The armed keys. With each, the agent may sign one DID rotation.
    pub(super) fn armed(&self) -> MutexGuard<'_, HashSet<PublicKey>> {
        lock(&self.armed)
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

    /// The token's outage; `None` while it is in service.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.keyring.status().into_iter().find_map(|status| status.outage)
    }

    /// The state for clients.
    pub(super) fn state(&self) -> TokenState {
        let keys = self.keyring.keys();
        let keys = keys.borrow().iter().map(Into::into).collect();
        TokenState { info: self.custodian.info(), keys, error: self.outage().map(|outage| outage.error) }
    }

    /// Adds the token's name to an error.
    pub(super) fn error(&self, error: TokenError) -> SecretsError {
        SecretsError::Token { token: self.name.clone(), error }
    }
}

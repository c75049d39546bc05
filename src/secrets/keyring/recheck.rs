//! Checks again, at an interval, that the tokens in service still prove their keys.
//!
//! No operation would notice that a key's public half was replaced in the token: operations use the private half by a
//! handle. But whoever opens the token next finds another key there.

use std::{
    collections::HashSet,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use super::registry::TokenRegistry;
use crate::{
    keys::PublicKey,
    secrets::{error::Cause, held_key::HeldKey, mutex::lock},
};

/// How often a check is repeated before its failure counts: a token may fail for a moment.
const ATTEMPTS: usize = 3;

/// Starts a thread that checks the keys at this interval. It ends when the returned sender is dropped.
pub(super) fn start(registry: &Arc<TokenRegistry>, interval: Duration) -> mpsc::Sender<()> {
    let (stop, stopped) = mpsc::channel();
    let registry = Arc::downgrade(registry);
    let started = thread::Builder::new().name("key check".to_owned()).spawn(move || run(&registry, interval, &stopped));
    if let Err(error) = started {
        tracing::error!(%error, "cannot start the thread that checks the keys");
    }
    stop
}

fn run(registry: &Weak<TokenRegistry>, interval: Duration, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        let Some(registry) = registry.upgrade() else { return };
        (0..registry.tokens.len()).for_each(|index| check(&registry, index));
    }
}

/// Finds and tests the keys of a token in service. Publishes what has changed.
pub(super) fn check(registry: &Arc<TokenRegistry>, index: usize) {
    let token = &registry.tokens[index];
    if token.health.outage().is_some() {
        // The prober finds the keys.
        return;
    }
    let before = registry.key_table().keys_of_token[index].clone();
    let mut attempts = (0..ATTEMPTS).map(|_| registry.find_keys(&*token.worker.token));
    match attempts.find(|found| !found.as_ref().is_err_and(|error| error.cause() == Cause::Transient)) {
        Some(Ok(found)) => {
            *lock(&token.refused) = Some(token.worker.token.refused_keys());
            warn_of_lost_keys(&token.worker.name, &before, &found);
            registry.change_keys(|keys_of_token| {
                let now = std::mem::take(&mut keys_of_token[index]);
                keys_of_token[index] = merged(&before, found, now);
            });
        }
        // A key has been found whose custody is below its minimum: a new keeper would refuse the token.
        Some(Err(error)) if error.cause() == Cause::Permanent => {
            tracing::error!(token = &*token.worker.name, %error, "keys not proved again");
        }
        Some(Err(error)) => registry.take_out_of_service(index, error),
        None => {
            if let Err(error) = registry.find_keys(&*token.worker.token) {
                registry.take_out_of_service(index, error);
            }
        }
    }
}

/// The keys that were `found`, with the changes that a custodian made meanwhile: `now` is the list with these changes,
/// `before` the list without.
fn merged(before: &[HeldKey], found: Vec<HeldKey>, now: Vec<HeldKey>) -> Vec<HeldKey> {
    let set = |keys: &[HeldKey]| keys.iter().map(|held| held.public.clone()).collect::<HashSet<PublicKey>>();
    let (in_before, in_now, in_found) = (set(before), set(&now), set(&found));
    let is_deleted = |key: &PublicKey| in_before.contains(key) && !in_now.contains(key);
    let is_new = |key: &PublicKey| !in_before.contains(key) && !in_found.contains(key);
    let kept = found.into_iter().filter(|held| !is_deleted(&held.public));
    kept.chain(now.into_iter().filter(|held| is_new(&held.public))).collect()
}

fn warn_of_lost_keys(token: &str, before: &[HeldKey], found: &[HeldKey]) {
    let found: HashSet<&PublicKey> = found.iter().map(|held| &held.public).collect();
    for held in before.iter().filter(|held| !found.contains(&held.public)) {
        tracing::error!(token, key = %held.public, label = held.label, "key not proved any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::EphemeralKey, keys::Curve, secrets::KeyUse};

    #[test]
    fn changes_of_a_custodian_during_a_check_are_kept() {
        let key = || {
            let public = EphemeralKey::generate(Curve::P256).unwrap().public().clone();
            HeldKey::new(public, "token", KeyUse::Both)
        };
        let [kept, lost, deleted, made, appeared] = [key(), key(), key(), key(), key()];
        let before = [kept.clone(), lost.clone(), deleted.clone()];
        let found = vec![kept.clone(), deleted, appeared.clone()];
        let now = vec![kept.clone(), lost, made.clone()];
        assert_eq!(merged(&before, found, now), [kept, appeared, made]);
    }
}

//! A token whose operations take five seconds: the client's runtime is not blocked, and deadlines are kept.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Context, Secrets, SecretsError, keeper::KeeperClient},
};
use tokio::{
    runtime::Builder,
    time::{MissedTickBehavior, interval},
};

use crate::{
    home::{MESSAGE, open_message, threads, with_home_on, within},
    support::Module,
};

/// Delays a PKCS#11 call so that an operation takes five seconds.
fn slow(call: &str, delay: u32, operate: impl AsyncFn(&dyn Secrets, &PublicKey, &Context) -> Result<(), SecretsError>) {
    let one_thread = Builder::new_current_thread().enable_all().build().unwrap();
    with_home_on(one_thread, Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let client = KeeperClient::start_with_limit("demo", home.supervisor().connector("demo"), 2).await.unwrap();
        let before = home.shim.calls(call);
        operate(&client, &key, &Context::default()).await.unwrap();
        let calls_per_operation = home.shim.calls(call) - before;
        home.shim.order(&[&format!("delay {call} {delay}")]);

        let ticks = Cell::new(0);
        let start = Instant::now();
        let failed_after = Cell::new(None);
        let work = async {
            let first = async {
                operate(&client, &key, &Context::default()).await.unwrap();
                start.elapsed()
            };
            let second = async {
                let error = operate(&client, &key, &within(Duration::from_millis(300))).await.unwrap_err();
                assert!(matches!(error, SecretsError::DeadlineExceeded { .. }), "{error}");
                failed_after.set(Some(start.elapsed()));
            };
            // Two requests are the limit, so a third fails.
            let third = async {
                let error = operate(&client, &key, &Context::default()).await.unwrap_err();
                assert!(matches!(error, SecretsError::Busy { .. }), "{error}");
            };
            tokio::join!(first, second, third).0
        };
        let tick = async {
            let mut timer = interval(Duration::from_millis(10));
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                ticks.set(ticks.get() + 1);
            }
        };
        let took = tokio::select! {
            took = work => took,
            () = tick => unreachable!("the loop has no end"),
        };
        assert!(took >= Duration::from_secs(5), "{took:?}");
        let failed_after = failed_after.get().expect("the second request has failed");
        assert!(failed_after < took, "it failed after {failed_after:?}, not at its deadline");
        println!(
            "{call}: {} ticks of 10 ms in {took:?}; a deadline of 300 ms failed after {failed_after:?}",
            ticks.get()
        );
        // There are about 500 on an idle machine, and none if the thread is blocked.
        assert!(ticks.get() >= 50, "{} ticks of 10 ms in {took:?}", ticks.get());

        home.shim.order(&[]);
        operate(&client, &key, &Context::default()).await.unwrap();
        assert_eq!(
            home.shim.calls(call) - before,
            3 * calls_per_operation,
            "the late and the refused request were not begun"
        );
    });
}

#[test]
fn slow_unwrap() {
    slow("C_DeriveKey", 5000, async |secrets, key, cx| open_message(secrets, key, cx).await);
}

#[test]
fn slow_signature() {
    // C_Sign is called twice for one signature, first for its length.
    slow("C_Sign", 2500, async |secrets, key, cx| secrets.sign(key, &MESSAGE, cx).await.map(|_| ()));
}

/// To delete a key is no reason to find and test all others again: a token may have a thousand.
#[test]
fn a_deletion_tests_no_other_key() {
    with_home_on(threads(), Module::SoftHsm, "", async |home| {
        let keys: Vec<PublicKey> = (0..6).map(|_| home.generate(Curve::P256)).collect();
        let (custodian, _keeper) = home.custodian();
        let derivations = || home.shim.calls("C_DeriveKey");
        // A search takes less.
        let settled = || {
            let mut before = derivations();
            loop {
                thread::sleep(Duration::from_secs(1));
                let now = derivations();
                if now == before {
                    return now;
                }
                before = now;
            }
        };
        let cost = |key: &PublicKey| {
            let before = settled();
            custodian.delete(key).unwrap();
            settled() - before
        };
        let costs: Vec<usize> = keys[1..].iter().map(cost).collect();
        assert!(costs.iter().all(|cost| *cost == costs[4]), "{costs:?}");
        assert_eq!(custodian.inventory().unwrap().len(), 1);
    });
}

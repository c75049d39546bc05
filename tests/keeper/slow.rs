//! A token that takes five seconds an operation: whoever asks is free meanwhile, and is answered in time.

use std::{
    cell::Cell,
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
    home::{MESSAGE, kept_on, open_message, within},
    support::Module,
};

/// A call that makes an operation take five seconds.
fn slow(call: &str, delay: u32, ask: impl AsyncFn(&dyn Secrets, &PublicKey, &Context) -> Result<(), SecretsError>) {
    let one_thread = Builder::new_current_thread().enable_all().build().unwrap();
    kept_on(one_thread, Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = KeeperClient::start_with("demo", home.supervisor().connect("demo"), 2).await.unwrap();
        let before = home.shim.calls(call);
        ask(&client, &key, &Context::default()).await.unwrap();
        let each = home.shim.calls(call) - before;
        home.shim.order(&[&format!("delay {call} {delay}")]);

        let beats = Cell::new(0);
        let begun = Instant::now();
        let late = Cell::new(None);
        let work = async {
            let first = async {
                ask(&client, &key, &Context::default()).await.unwrap();
                begun.elapsed()
            };
            let second = async {
                let error = ask(&client, &key, &within(Duration::from_millis(300))).await.unwrap_err();
                assert!(matches!(error, SecretsError::Deadline { .. }), "{error}");
                late.set(Some(begun.elapsed()));
            };
            // Two are under way: there is no room for a third.
            let third = async {
                let error = ask(&client, &key, &Context::default()).await.unwrap_err();
                assert!(matches!(error, SecretsError::Busy { .. }), "{error}");
            };
            tokio::join!(first, second, third).0
        };
        let beat = async {
            let mut timer = interval(Duration::from_millis(10));
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                beats.set(beats.get() + 1);
            }
        };
        let took = tokio::select! {
            took = work => took,
            () = beat => unreachable!("it has no end"),
        };
        assert!(took >= Duration::from_secs(5), "{took:?}");
        let late = late.get().expect("it was told");
        assert!(late < took, "told at its deadline, and not when the token answers: {late:?}");
        println!("{call}: {} beats of 10 ms in {took:?}, a deadline of 300 ms was told after {late:?}", beats.get());
        // 500 on a machine with nothing else to do; a thread that is blocked has none.
        assert!(beats.get() >= 50, "{} beats of 10 ms in {took:?}", beats.get());

        home.shim.order(&[]);
        ask(&client, &key, &Context::default()).await.unwrap();
        assert_eq!(home.shim.calls(call) - before, 3 * each, "what was late or had no room was not begun");
    });
}

#[test]
fn slow_to_open() {
    slow("C_DeriveKey", 5000, async |secrets, key, cx| open_message(secrets, key, cx).await);
}

#[test]
fn slow_to_sign() {
    // It is called twice, for the length first.
    slow("C_Sign", 2500, async |secrets, key, cx| secrets.sign(key, &MESSAGE, cx).await.map(|_| ()));
}

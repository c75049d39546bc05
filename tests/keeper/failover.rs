//! One private key in two tokens, each with its keeper: the first that is available is used, and no request fails.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    crypto,
    keys::{Curve, PublicKey},
    secrets::{Context, FailoverSecrets, KeyUse, Secrets},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, read, wrap_for},
};
use tokio::time::timeout;

use crate::{
    home::{HANG_TIMEOUT, Home, MESSAGE, open_message, threads, wait_until},
    support::Module,
};

/// Performs one operation and checks its result. The kind of operation depends on `number`.
async fn use_once(secrets: &dyn Secrets, key: &PublicKey, number: usize) {
    let cx = Context::default();
    match number % 3 {
        0 => open_message(secrets, key, &cx).await.unwrap(),
        1 => {
            let signature = secrets.sign(key, &MESSAGE, &cx).await.unwrap();
            let input = format!("{}.{}", signature.protected, signature.payload);
            crypto::verify(key, input.as_bytes(), &signature.signature).unwrap();
        }
        _ => {
            let (cek, parties) = (fresh_cek(), Parties::example());
            let (peer, ephemeral) = (PrivateKey::generate(Curve::P256), PrivateKey::generate(Curve::P256));
            let wrap = wrap_for([peer.public()], &ephemeral, &cek, &parties);
            let wrapped = secrets.wrap_cek(key, &wrap, &cx).await.unwrap();
            assert_eq!(read(&peer, ephemeral.public(), Some(key), &parties, &wrapped[0]), Some(cek));
        }
    }
}

/// How many operations a home's keepers have done. Those of a starting keeper come after its login.
fn used(home: &Home) -> usize {
    home.shim.calls("C_DeriveKey") + home.shim.calls("C_SignInit")
}

/// Runs 16 tasks while the first keeper has a fault, until the first keeper is used again. No operation fails.
fn fail_over(what: &str, fault: impl Fn(&Home)) {
    let homes = [Home::new(Module::SoftHsm, ""), Home::new(Module::SoftHsm, "")];
    let [Some(one), Some(two)] = homes else { return };
    let private = PrivateKey::generate(Curve::P256);
    for home in [&one, &two] {
        home.import(&private.to_import(KeyUse::Both, None));
    }
    let key = private.public().clone();
    let runtime = threads();
    runtime.block_on(async {
        let clients: [Arc<dyn Secrets>; 2] = [one.client().await, two.client().await];
        let both = Arc::new(FailoverSecrets::new(clients));
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (both, key, done, stop) = (both.clone(), key.clone(), done.clone(), stop.clone());
                tokio::spawn(async move {
                    for number in task.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        timeout(HANG_TIMEOUT, use_once(&*both, &key, number)).await.expect("no request hangs");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let (first, second) = (used(&one), used(&two));
        wait_until("the first is used", || used(&one) > first + 100).await;
        assert_eq!(used(&two), second, "the second is not used while the first is available");
        let fault_start = Instant::now();
        while used(&two) <= second + 100 {
            assert!(fault_start.elapsed() < HANG_TIMEOUT, "the second is not used");
            // The fault is repeated, because a killed keeper may be back before the second has done enough.
            fault(&one);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        one.shim.order(&[]);
        let fault_end = Instant::now();
        let first = used(&one);
        wait_until("the first is used again", || used(&one) > first + 100).await;
        println!("{what}: the first is used again {:?} after the fault's end", fault_end.elapsed());
        // Operations that the second had begun may still count for a moment.
        wait_until("the second is not used any more", || {
            let (first, second) = (used(&one), used(&two));
            let end = Instant::now() + HANG_TIMEOUT;
            while used(&one) < first + 50 && Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            used(&two) == second
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            timeout(HANG_TIMEOUT, task).await.expect("no request hangs").unwrap();
        }
        println!("{what}: {} operations, none failed", done.load(Ordering::Relaxed));
    });
    drop(runtime);
    one.wait_for_end();
    two.wait_for_end();
}

#[test]
fn the_first_is_killed() {
    // A keeper that is killed in the middle of a login leaves a PIN whose result is unknown, and that is not tried again.
    // So only a keeper that works is killed. Operations of the one before may still count for a moment.
    let killed_at = Cell::new(0);
    fail_over("killed", |home| {
        if used(home) > killed_at.get() + 10 {
            home.kill_keepers();
            killed_at.set(used(home));
        }
    });
}

#[test]
fn the_module_of_the_first_crashes() {
    fail_over("crashed", |home| home.shim.order(&["crash C_DeriveKey at 20", "crash C_SignInit at 20"]));
}

#[test]
fn the_token_of_the_first_is_unplugged() {
    fail_over("pulled", |home| home.shim.order(&["gone"]));
}

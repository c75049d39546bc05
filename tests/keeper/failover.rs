//! One private key in two tokens, each with its keeper: the first that is there serves, and nobody has to ask twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    crypto,
    keys::{Curve, PublicKey},
    secrets::{Context, KeyUse, Secrets, Several},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, read, wrap_for},
};
use tokio::time::timeout;

use crate::{
    home::{Home, MESSAGE, SOON, open_message, threads, until},
    support::Module,
};

/// All that is done with a key; each result is right.
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

/// 16 tasks at work while `fault` comes over the first keeper, and until it has come back. None of them asks twice.
fn failed_over(what: &str, fault: impl Fn(&Home)) {
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
        let both = Arc::new(Several::new(clients));
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (both, key, done, stop) = (both.clone(), key.clone(), done.clone(), stop.clone());
                tokio::spawn(async move {
                    for number in task.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        timeout(SOON, use_once(&*both, &key, number)).await.expect("nothing hangs");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // C_SignInit is called for messages, and by no keeper that starts.
        let used = |home: &Home| home.shim.calls("C_DeriveKey") + home.shim.calls("C_SignInit");
        let (first, second) = (used(&one), used(&two));
        until("the first serves", || used(&one) > first + 100).await;
        assert_eq!(used(&two), second, "the second is not asked while the first is there");
        let faulty = Instant::now();
        while used(&two) <= second + 100 {
            assert!(faulty.elapsed() < SOON, "the second serves");
            // A keeper that was killed is back so soon that on a busy machine the second has hardly begun: then once more.
            fault(&one);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        one.shim.order(&[]);
        let back = Instant::now();
        let first = used(&one);
        until("the first serves again", || used(&one) > first + 100).await;
        println!("{what}: the first is used again {:?} after the fault's end", back.elapsed());
        // What the second had begun has ended by now, or so soon that it is no matter.
        until("the second is not asked any more", || {
            let (first, second) = (used(&one), used(&two));
            let end = Instant::now() + SOON;
            while used(&one) < first + 50 && Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            used(&two) == second
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            timeout(SOON, task).await.expect("nothing hangs").unwrap();
        }
        println!("{what}: {} operations, none failed", done.load(Ordering::Relaxed));
    });
    drop(runtime);
    one.ends();
    two.ends();
}

#[test]
fn the_first_is_killed() {
    failed_over("killed", Home::kill_keepers);
}

#[test]
fn the_firsts_module_crashes() {
    failed_over("crashed", |home| home.shim.order(&["crash C_DeriveKey at 20", "crash C_SignInit at 20"]));
}

#[test]
fn the_firsts_token_is_pulled() {
    failed_over("pulled", |home| home.shim.order(&["gone"]));
}

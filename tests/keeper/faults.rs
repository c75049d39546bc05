//! What becomes of a keeper's requests when it, its module or its token fails: each fault heals by itself.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Cause, Context, KeyState, SecretsError, keeper::KeeperClient},
};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    home::{Home, SOON, kept, open_message, serves, state, until, within},
    support::Module,
};

/// Requests that are begun, and not waited for. They stand in the keeper's socket when this returns.
async fn begin(client: &Arc<KeeperClient>, key: &PublicKey, how_many: usize) -> Vec<JoinHandle<Option<SecretsError>>> {
    let begun: Vec<_> = (0..how_many)
        .map(|_| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move { open_message(&*client, &key, &Context::default()).await.err() })
        })
        .collect();
    // The keeper works at one, and the others are written within this time; if not, the test asks less, and passes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    begun
}

/// All of them failed in this moment, and say so.
async fn interrupted(requests: Vec<JoinHandle<Option<SecretsError>>>) {
    let mut interrupted = 0;
    for request in requests {
        let error = timeout(SOON, request).await.expect("nothing hangs").unwrap().expect("it was under way");
        assert!(error.is_retryable(), "{error}");
        interrupted += usize::from(matches!(error, SecretsError::Interrupted { .. }));
    }
    assert!(interrupted > 0, "none was under way");
}

/// 16 tasks, each of which asks `each` times and asks again what failed.
fn load(client: &Arc<KeeperClient>, key: &PublicKey, each: usize) -> (Vec<JoinHandle<()>>, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::<[AtomicUsize; 2]>::default();
    let tasks = (0..16).map(|_| {
        let (client, key, counts) = (client.clone(), key.clone(), counts.clone());
        tokio::spawn(async move {
            for _ in 0..each {
                loop {
                    let cx = Context::default();
                    let Err(error) = timeout(SOON, open_message(&*client, &key, &cx)).await.expect("nothing hangs")
                    else {
                        break;
                    };
                    assert!(error.is_retryable(), "{error}");
                    counts[1].fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                counts[0].fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    (tasks.collect(), counts)
}

async fn all_done(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        timeout(4 * SOON, task).await.expect("nothing hangs").unwrap();
    }
}

/// What is under way is told; what comes next is served by a new keeper, which logs in once.
#[test]
fn killed_at_work() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (keepers, logins) = (home.keepers(), home.shim.calls("C_Login"));
        assert_eq!(keepers.len(), 1);

        home.shim.order(&["hang C_DeriveKey"]);
        let requests = begin(&client, &key, 8).await;
        home.kill_keepers();
        home.shim.order(&[]);
        interrupted(requests).await;
        let took = serves(&*client, &key).await;
        println!("killed at work: served again after {took:?}");
        assert_eq!(home.shim.calls("C_Login") - logins, 1);
        assert_ne!(home.keepers(), keepers);
        assert_eq!(client.trouble(), None);
    });
}

#[test]
fn killed_under_load() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        let logins = home.shim.calls("C_Login");
        let (tasks, counts) = load(&client, &key, 50);
        for done in [100, 400] {
            until("the load goes on", || counts[0].load(Ordering::Relaxed) > done).await;
            home.kill_keepers();
        }
        all_done(tasks).await;
        assert_eq!(counts[0].load(Ordering::Relaxed), 16 * 50);
        assert!(counts[1].load(Ordering::Relaxed) > 0, "something was under way");
        assert_eq!(home.shim.calls("C_Login") - logins, 2);
    });
}

#[test]
fn the_module_crashes_under_load() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        let starts = home.shim.calls("C_Initialize");
        home.shim.order(&["crash C_DeriveKey at 100"]);
        let (tasks, counts) = load(&client, &key, 20);
        all_done(tasks).await;
        home.shim.order(&[]);
        let starts = home.shim.calls("C_Initialize") - starts;
        println!("320 operations, a crash at each hundredth: {starts} starts");
        assert!(starts >= 2 && counts[1].load(Ordering::Relaxed) > 0, "{starts} starts");
        serves(&*client, &key).await;
    });
}

/// A module that crashes at each start is not started as fast as that goes.
#[test]
fn the_module_crashes_at_every_start() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        let starts = home.shim.calls("C_Initialize");
        home.shim.order(&["crash C_OpenSession", "crash C_DeriveKey"]);
        interrupted(begin(&client, &key, 1).await).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
            assert!(error.is_retryable() && asked.elapsed() < SOON, "{error}");
            assert_eq!(state(&*client, &key), Some(KeyState::Away));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let starts = home.shim.calls("C_Initialize") - starts;
        println!("5 s of crashes: {starts} starts");
        // The pauses are 25 ms to 2 s: nine or ten starts on a machine with nothing else to do, and never more.
        assert!((2..=12).contains(&starts), "{starts} starts in five seconds");
        home.shim.order(&[]);
        println!("crashes at every start: served again after {:?}", serves(&*client, &key).await);
        assert_eq!(state(&*client, &key), Some(KeyState::Ready));
    });
}

/// A module that does not return: who waits is told at his deadline, and the keeper makes room for another.
#[test]
fn the_module_hangs() {
    kept(Module::SoftHsm, "hang_seconds = 1", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (keepers, logins) = (home.keepers(), home.shim.calls("C_Login"));
        home.shim.order(&["hang C_DeriveKey"]);
        let hangs = begin(&client, &key, 1).await;
        let late = open_message(&*client, &key, &within(Duration::from_millis(100))).await.unwrap_err();
        assert!(matches!(late, SecretsError::Deadline { .. }), "{late}");
        interrupted(hangs).await;
        // The next one hangs at its start, unless this comes first.
        home.shim.order(&[]);
        println!("a hang: served again after {:?}", serves(&*client, &key).await);
        assert_ne!(home.keepers(), keepers);
        assert_eq!(home.shim.calls("C_Login") - logins, 1);
        assert!(home.log().contains("does not return"), "{}", home.log());
    });
}

/// The token is not there for longer than one keeper waits for it, and comes back.
async fn away_and_back(home: &Home, what: &str, away: impl Fn(), back: impl Fn()) {
    let key = home.make(Curve::P256);
    let client = home.client().await;
    open_message(&*client, &key, &Context::default()).await.unwrap();
    assert_eq!(state(&*client, &key), Some(KeyState::Ready));
    away();
    let gone = Instant::now();
    while gone.elapsed() < Duration::from_secs(3) || state(&*client, &key) != Some(KeyState::Away) {
        let asked = Instant::now();
        let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
        let away = matches!(&error, SecretsError::Token { error, .. } if error.cause() == Cause::TokenGone);
        assert!(away || matches!(error, SecretsError::Interrupted { .. }), "{error:?}");
        assert!(error.is_retryable() && asked.elapsed() < SOON, "after {:?}", asked.elapsed());
        assert!(gone.elapsed() < 2 * SOON, "it does not say that it is away");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    back();
    let took = serves(&*client, &key).await;
    println!("{what}: serves {took:?} after its return");
    // The promise is five seconds. This machine has others to serve: what is measured is printed, and what is asserted is
    // that it comes by itself, and not by the end of some longer wait.
    assert!(took < Duration::from_secs(20), "{took:?}");
    until("it is ready", || state(&*client, &key) == Some(KeyState::Ready)).await;
    assert_eq!(client.trouble(), None);
}

#[test]
fn the_token_is_pulled_and_returned() {
    for module in [Module::SoftHsm, Module::Kryoptic] {
        kept(module, "", async |home| {
            away_and_back(home, "pulled", || home.shim.order(&["gone"]), || home.shim.order(&[])).await;
        });
    }
}

/// For real: SoftHSM 2.6.1 does not see it again in the process that has lost it.
#[test]
fn softhsms_folder_is_moved_away_and_back() {
    kept(Module::SoftHsm, "", async |home| {
        let (tokens, aside) = (home.folder().join("tokens"), home.folder().join("aside"));
        let away = || fs::rename(&tokens, &aside).unwrap();
        away_and_back(home, "SoftHSM's folder", away, || fs::rename(&aside, &tokens).unwrap()).await;
    });
}

/// A process to which the token is lost for good: a new one is started without anyone's doing.
#[test]
fn dead_in_one_process() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (keepers, derived) = (home.keepers(), home.shim.calls("C_DeriveKey"));
        home.shim.order(&["dead"]);
        let error = open_message(&*client, &key, &Context::default()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(home.shim.calls("C_DeriveKey") > derived, "the module has seen the order");
        // To this process it stays dead; a new one never sees the order.
        home.shim.order(&[]);
        println!("dead in one process: served again after {:?}", serves(&*client, &key).await);
        assert_ne!(home.keepers(), keepers);
    });
}

/// A wrong PIN is tried once, however many ask and however often the keeper starts again.
fn a_wrong_pin(module: Module) {
    kept(module, "", async |home| {
        let key = home.make(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let right = fs::read_to_string(home.pin_file()).unwrap();
        write_pin(home, "87654321");
        let logins = home.shim.calls("C_Login");
        let ask = async |how_many: usize| {
            let asked: Vec<_> = (0..how_many)
                .map(|_| {
                    let (client, key) = (client.clone(), key.clone());
                    tokio::spawn(async move { open_message(&*client, &key, &Context::default()).await.unwrap_err() })
                })
                .collect();
            for error in asked {
                let error = timeout(SOON, error).await.expect("nothing hangs").unwrap();
                assert!(error.is_retryable(), "{error}");
                assert!(!error.to_string().contains("87654321"), "{error}");
            }
        };
        let locked = || state(&*client, &key) == Some(KeyState::Locked);
        // Its login ends with its process. The next asks for the PIN, and the one after must not.
        for _ in 0..2 {
            home.kill_keepers();
            until("it says that its keeper has ended", || client.trouble().is_some()).await;
            ask(250).await;
            until("it is locked", locked).await;
            ask(250).await;
        }
        assert!(locked());
        assert_eq!(home.shim.calls("C_Login") - logins, 1, "one try for all");
        // A person mends the file, and does no more.
        write_pin(home, &right);
        println!("a wrong PIN: served {:?} after it was mended", serves(&*client, &key).await);
        assert_eq!(home.shim.calls("C_Login") - logins, 2);
        until("it is ready", || state(&*client, &key) == Some(KeyState::Ready)).await;
    });
}

/// Puts another PIN in the file's place.
fn write_pin(home: &Home, pin: &str) {
    let aside = home.folder().join("new.pin");
    fs::write(&aside, pin).unwrap();
    fs::set_permissions(&aside, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(aside, home.pin_file()).unwrap();
}

#[test]
fn a_wrong_pin_on_softhsm() {
    a_wrong_pin(Module::SoftHsm);
}

#[test]
fn a_wrong_pin_on_kryoptic() {
    a_wrong_pin(Module::Kryoptic);
}

//! 64 tasks at once while one call in a hundred fails: no wrong result, no leaked object, no lost request.

use std::{sync::Arc, time::Instant};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Keyring, Secrets, pkcs11::OpenOptions},
};
use claviger_fault_module::Shim;

use super::{
    generate,
    keepers::{Keepers, SESSIONS},
    questions::{KEPT, Questions, load},
    runtime, whole,
};
use crate::support::{
    Module,
    faulty::{Faulty, behind_the_quick_shim},
};

const TASKS: u64 = 64;
/// What one operation has in the token at once, at most.
const AT_WORK: usize = 8;
const FAILURES: [&str; 4] = [
    // CKR_SESSION_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN, CKR_DEVICE_MEMORY, CKR_DEVICE_ERROR.
    "fail * 0xb3 one-in 300 seed 1",
    "fail * 0x101 one-in 300 seed 2",
    "fail * 0x31 one-in 300 seed 3",
    "fail * 0x30 one-in 300 seed 4",
];

#[test]
fn softhsm() {
    behind_the_quick_shim(Module::SoftHsm, |faulty| in_process(faulty, if whole() { 500 } else { 40 }));
}

#[test]
fn kryoptic() {
    behind_the_quick_shim(Module::Kryoptic, |faulty| in_process(faulty, if whole() { 500 } else { 40 }));
}

/// As the product is used: in other processes, of which each is used up after a while, and proves the keys anew.
#[test]
fn softhsm_through_keepers() {
    behind_the_quick_shim(Module::SoftHsm, |faulty| through_keepers(faulty, if whole() { 10_000 } else { 40 }));
}

fn in_process(Faulty { uri, shim, .. }: Faulty, operations: usize) {
    shim.order(&[]);
    let token = OpenOptions::new().sessions(SESSIONS).kept_secrets(KEPT).open(&uri).unwrap();
    let keys = [Curve::P256, Curve::X25519, Curve::Ed25519].map(|curve| generate(&token, curve));
    runtime().block_on(async {
        let secrets: Arc<dyn Secrets> = Arc::new(Keyring::start([token]).await.unwrap());
        nothing_is_lost(&secrets, &shim, keys, operations).await;
        nothing_is_leaked(&shim, 1);
        drop(secrets);
    });
    assert_eq!((shim.open_sessions(), shim.live_objects()), (0, 0), "all is given back");
}

fn through_keepers(Faulty { uri, shim, .. }: Faulty, operations: usize) {
    shim.order(&[]);
    let token = OpenOptions::new().open(&uri).unwrap();
    let keys = [Curve::P256, Curve::X25519, Curve::Ed25519].map(|curve| generate(&token, curve));
    drop(token);
    let folder = tempfile::tempdir().unwrap();
    let profile = include_str!("../../../hsm-config/softhsm.toml");
    // The slice is to see what the whole does: keepers that are used up while calls fail.
    let profile = if whole() { profile.to_owned() } else { worn_after(profile, 2_000) };
    let keepers = Keepers::start(&uri, &profile, KEPT, folder.path(), &shim);
    runtime().block_on(async {
        let secrets: Arc<dyn Secrets> = keepers.client().await;
        nothing_is_lost(&secrets, &shim, keys, operations).await;
        keepers.one_is_left().await;
        nothing_is_leaked(&shim, 1);
        let begun = shim.processes().len() - 1;
        println!("{begun} keepers");
        assert!(begun > 1, "none was succeeded");
        drop(secrets);
    });
    drop(keepers);
    assert_eq!((shim.open_sessions(), shim.live_objects()), (0, 0), "all is given back");
}

/// The profile of a device that is used up sooner.
pub fn worn_after(profile: &str, objects: u64) -> String {
    assert!(profile.contains("most_objects = 20000"));
    profile.replace("most_objects = 20000", &format!("most_objects = {objects}"))
}

async fn nothing_is_lost(secrets: &Arc<dyn Secrets>, shim: &Shim, keys: [PublicKey; 3], operations: usize) {
    let [p256, x25519, ed25519] = keys;
    let questions = Arc::new(Questions::new(&[p256.clone(), x25519], &[p256, ed25519]));
    let before = shim.calls_and_failures();
    shim.order(&FAILURES);
    let begun = Instant::now();
    let again = load(secrets, &questions, TASKS, operations).await;
    let time = begun.elapsed();
    let (calls, failures) = shim.calls_and_failures();
    let (calls, failures) = (calls - before.0, failures - before.1);
    println!(
        "{TASKS} tasks of {operations} operations in {time:.1?}: {failures} of {calls} calls failed, \
         {again} requests were sent again, at most {} objects",
        shim.peak_objects()
    );
    assert!((66..=125).contains(&(calls / failures)), "one in a hundred fails");
}

/// In so many processes.
fn nothing_is_leaked(shim: &Shim, processes: usize) {
    assert!(shim.open_sessions() <= processes * SESSIONS, "{} sessions", shim.open_sessions());
    assert!(shim.live_objects() <= processes * SESSIONS * KEPT, "{} objects", shim.live_objects());
    assert!(shim.peak_objects() <= SESSIONS * (KEPT + AT_WORK), "at most {} objects", shim.peak_objects());
}

//! 64 tasks at once while one call in a hundred fails: no result is wrong, no object leaks, no request is lost.

use std::{sync::Arc, time::Instant};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Keyring, Secrets, pkcs11::OpenOptions},
};
use claviger_fault_module::Shim;

use super::{
    by_length, generate,
    keepers::{Keepers, SESSIONS},
    operations::{KEPT, Operations, load},
    runtime,
};
use crate::support::{
    Module,
    faulty_token::{FaultyToken, with_quick_fault_module},
};

const TASKS: u64 = 64;
/// The most objects that one operation has in the token at once.
const OBJECTS_PER_OPERATION: usize = 8;
const FAILURES: [&str; 4] = [
    // CKR_SESSION_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN, CKR_DEVICE_MEMORY, CKR_DEVICE_ERROR.
    "fail * 0xb3 one-in 300 seed 1",
    "fail * 0x101 one-in 300 seed 2",
    "fail * 0x31 one-in 300 seed 3",
    "fail * 0x30 one-in 300 seed 4",
];

#[test]
fn softhsm() {
    with_quick_fault_module(Module::SoftHsm, |faulty| in_process(faulty, by_length(40, 150, 500)));
}

#[test]
fn kryoptic() {
    with_quick_fault_module(Module::Kryoptic, |faulty| in_process(faulty, by_length(40, 150, 500)));
}

/// As in production, through keepers. Each keeper is exhausted after a while, and its successor tests the keys again.
#[test]
fn softhsm_through_keepers() {
    with_quick_fault_module(Module::SoftHsm, |faulty| through_keepers(faulty, by_length(40, 600, 10_000)));
}

fn in_process(FaultyToken { uri, shim, .. }: FaultyToken, operations: usize) {
    shim.order(&[]);
    let token = OpenOptions::new().sessions(SESSIONS).kept_secrets(KEPT).open(&uri).unwrap();
    let keys = [Curve::P256, Curve::X25519, Curve::Ed25519].map(|curve| generate(&token, curve));
    runtime().block_on(async {
        let secrets: Arc<dyn Secrets> = Arc::new(Keyring::start([token]).await.unwrap());
        assert_nothing_is_lost(&secrets, &shim, keys, operations).await;
        assert_nothing_leaks(&shim, 1);
        drop(secrets);
    });
    assert_eq!((shim.open_sessions(), shim.live_objects()), (0, 0), "everything is given back");
}

fn through_keepers(FaultyToken { uri, shim, .. }: FaultyToken, operations: usize) {
    shim.order(&[]);
    let token = OpenOptions::new().open(&uri).unwrap();
    let keys = [Curve::P256, Curve::X25519, Curve::Ed25519].map(|curve| generate(&token, curve));
    drop(token);
    let folder = tempfile::tempdir().unwrap();
    let profile = include_str!("../../../hsm-config/softhsm.toml");
    // The shorter soaks too must see keepers that are exhausted while calls fail.
    let profile = by_length(exhausted_after(profile, 2_000), exhausted_after(profile, 5_000), profile.to_owned());
    let keepers = Keepers::start(&uri, &profile, KEPT, folder.path(), &shim);
    runtime().block_on(async {
        let secrets: Arc<dyn Secrets> = keepers.client().await;
        assert_nothing_is_lost(&secrets, &shim, keys, operations).await;
        keepers.one_is_left().await;
        assert_nothing_leaks(&shim, 1);
        let count = shim.processes().len() - 1;
        println!("{count} keepers");
        assert!(count > 1, "no keeper was replaced");
        drop(secrets);
    });
    drop(keepers);
    assert_eq!((shim.open_sessions(), shim.live_objects()), (0, 0), "everything is given back");
}

/// The profile with a smaller number of objects after which the module is exhausted.
pub fn exhausted_after(profile: &str, objects: u64) -> String {
    assert!(profile.contains("most_objects = 20000"));
    profile.replace("most_objects = 20000", &format!("most_objects = {objects}"))
}

async fn assert_nothing_is_lost(secrets: &Arc<dyn Secrets>, shim: &Shim, keys: [PublicKey; 3], operations: usize) {
    let [p256, x25519, ed25519] = keys;
    let samples = Arc::new(Operations::new(&[p256.clone(), x25519], &[p256, ed25519]));
    let before = shim.calls_and_failures();
    shim.order(&FAILURES);
    let start = Instant::now();
    let retries = load(secrets, &samples, TASKS, operations).await;
    let time = start.elapsed();
    let (calls, failures) = shim.calls_and_failures();
    let (calls, failures) = (calls - before.0, failures - before.1);
    println!(
        "{TASKS} tasks of {operations} operations in {time:.1?}: {failures} of {calls} calls failed, \
         {retries} retries, at most {} objects",
        shim.peak_objects()
    );
    assert!((66..=125).contains(&(calls / failures)), "one in a hundred fails");
}

/// Checks the numbers of sessions and objects for this many processes.
fn assert_nothing_leaks(shim: &Shim, processes: usize) {
    assert!(shim.open_sessions() <= processes * SESSIONS, "{} sessions", shim.open_sessions());
    assert!(shim.live_objects() <= processes * SESSIONS * KEPT, "{} objects", shim.live_objects());
    assert!(
        shim.peak_objects() <= SESSIONS * (KEPT + OBJECTS_PER_OPERATION),
        "at most {} objects",
        shim.peak_objects()
    );
}

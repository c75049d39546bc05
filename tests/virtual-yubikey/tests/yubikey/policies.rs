//! PIN and touch policies of keys.

use std::time::Duration;

use claviger_virtual_yubikey::{Firmware, Touch};

use crate::host::{CACHED, Host, NEVER, ONCE, P256, PIN, PIN_ALWAYS, TOUCH_ALWAYS};

const HASH: &[u8] = &[1; 32];

#[test]
fn pin_policy_never() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, 0).unwrap();
    assert!(host.sign(0x82, P256, HASH).is_ok());
}

#[test]
fn a_fips_model_makes_no_key_without_a_pin_policy() {
    let host = Host::manager(Firmware::V5_7_1);
    host.0.make_fips();
    assert_eq!(host.generate(0x82, P256, NEVER, 0), Err(0x6A80));
    assert!(host.generate(0x82, P256, ONCE, 0).is_ok());
}

#[test]
fn pin_policy_once() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, ONCE, 0).unwrap();
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6982));
    host.verify(PIN).unwrap();
    assert!(host.sign(0x82, P256, HASH).is_ok());
    assert!(host.sign(0x82, P256, HASH).is_ok());
    assert_eq!(host.0.counts().operations, 2);
}

#[test]
fn pin_policy_always_needs_verify_right_before() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, PIN_ALWAYS, 0).unwrap();
    host.verify(PIN).unwrap();
    assert!(host.sign(0x82, P256, HASH).is_ok());
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6982));
    host.verify(PIN).unwrap();
    host.metadata(0x82).unwrap();
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6982), "another command came between");
    host.verify(PIN).unwrap();
    host.0.faults().answer_next(0x87, 0x6F00);
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6F00));
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6982), "a command that failed counts too");
    assert_eq!(host.0.counts().operations, 1);
}

#[test]
fn default_policies_depend_on_the_slot() {
    let host = Host::manager(Firmware::V5_7_1);
    for (slot, pin) in [(0x9A, ONCE), (0x9C, PIN_ALWAYS), (0x9D, ONCE), (0x9E, NEVER), (0x82, ONCE), (0x95, ONCE)] {
        host.generate(slot, P256, 0, 0).unwrap();
        assert_eq!(host.metadata(slot).unwrap()[3..7], [2, 2, pin, NEVER], "{slot:02x}");
    }
    assert_eq!(host.generate(0x82, P256, 4, 0), Err(0x6A80));
    assert_eq!(host.generate(0x82, P256, 0, 4), Err(0x6A80));
}

#[test]
fn touch_policies_always_and_never() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, TOUCH_ALWAYS).unwrap();
    host.generate(0x83, P256, NEVER, NEVER).unwrap();
    host.sign(0x82, P256, HASH).unwrap();
    host.sign(0x82, P256, HASH).unwrap();
    assert_eq!(host.0.counts().touches, 2);
    host.0.faults().touch(Touch::Never);
    host.0.faults().touch_timeout(Duration::from_millis(1));
    assert!(host.sign(0x83, P256, HASH).is_ok());
    assert_eq!(host.0.counts().touches, 2);
}

#[test]
fn touch_policy_cached() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, CACHED).unwrap();
    host.sign(0x82, P256, HASH).unwrap();
    host.sign(0x82, P256, HASH).unwrap();
    assert_eq!(host.0.counts().touches, 1);
    host.0.faults().touch_counts_for(Duration::ZERO);
    host.sign(0x82, P256, HASH).unwrap();
    assert_eq!(host.0.counts().touches, 2, "the touch has expired");
    host.0.faults().touch_counts_for(Duration::from_secs(15));
    host.0.faults().unplug();
    host.0.faults().plug_in();
    host.select().unwrap();
    host.sign(0x82, P256, HASH).unwrap();
    assert_eq!(host.0.counts().touches, 3, "an unplugged card forgets the touch");
}

#[test]
fn a_missing_pin_is_reported_before_waiting_for_a_touch() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, ONCE, TOUCH_ALWAYS).unwrap();
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6982));
    assert_eq!(host.0.counts().touches, 0);
}

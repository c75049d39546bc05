//! Faults: unplugging, slow operations, touches, and configured answers.

use std::{
    thread,
    time::{Duration, Instant},
};

use claviger_virtual_yubikey::{Faults, Firmware, Touch, Unplugged};

use crate::host::{Answer, Host, NEVER, P256, PIN, TOUCH_ALWAYS};

const HASH: &[u8] = &[1; 32];
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// An APDU that signs.
fn sign() -> Vec<u8> {
    [&[0, 0x87, P256, 0x82, 38, 0x7C, 36, 0x82, 0, 0x81, 32][..], HASH].concat()
}

fn with_key(touch: u8) -> (Host, Faults) {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, touch).unwrap();
    let faults = host.0.faults();
    (host, faults)
}

/// Signs, and calls `what` while the operation waits.
fn meanwhile(host: &Host, what: impl FnOnce() + Send) -> (Result<Vec<u8>, Unplugged>, Duration) {
    thread::scope(|scope| {
        let (begin, before) = (Instant::now(), host.0.counts().apdus);
        scope.spawn(move || {
            while host.0.counts().apdus == before {
                thread::yield_now();
            }
            thread::sleep(SHORT);
            what();
        });
        (host.0.transmit(&sign()), begin.elapsed())
    })
}

#[test]
fn after_unplugging_only_keys_are_left() {
    let (host, faults) = with_key(NEVER);
    host.verify(PIN).unwrap();
    faults.unplug();
    let apdus = host.0.counts().apdus;
    assert_eq!(host.0.transmit(&sign()), Err(Unplugged));
    assert_eq!(host.0.counts().apdus, apdus);
    faults.plug_in();
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6D00), "PIV is not selected");
    host.select().unwrap();
    assert_eq!(host.verify(&[]), Err(0x63C3));
    assert_eq!(host.generate(0x83, P256, 0, 0), Err(0x6982));
    assert!(host.sign(0x82, P256, HASH).is_ok());
}

#[test]
fn tries_survive_unplugging() {
    let (host, faults) = with_key(NEVER);
    host.verify(crate::host::WRONG).unwrap_err();
    faults.unplug();
    faults.plug_in();
    host.select().unwrap();
    assert_eq!(host.verify(&[]), Err(0x63C2));
}

#[test]
fn unplugging_during_an_operation() {
    let (host, faults) = with_key(NEVER);
    faults.unplug_in_operation();
    assert!(host.metadata(0x82).is_ok(), "not an operation");
    assert_eq!(host.0.transmit(&sign()), Err(Unplugged));
    assert_eq!(host.0.counts().operations, 0);
    assert_eq!(host.0.transmit(&[0, 0xFD, 0, 0]), Err(Unplugged));
    faults.plug_in();
    host.select().unwrap();
    assert!(host.sign(0x82, P256, HASH).is_ok(), "only the next one");
}

#[test]
fn unplugging_ends_a_waiting_command_at_once() {
    for (touch, how) in [(NEVER, "works"), (TOUCH_ALWAYS, "waits")] {
        let (host, faults) = with_key(touch);
        faults.operations_take(LONG);
        faults.touch(Touch::Never);
        let (answer, took) = meanwhile(&host, || faults.unplug());
        assert_eq!(answer, Err(Unplugged), "{how}");
        assert!(took >= SHORT && took < LONG / 4, "{how}: {took:?}");
    }
}

#[test]
fn a_command_fails_even_if_the_yubikey_is_back() {
    let (host, faults) = with_key(NEVER);
    faults.operations_take(LONG);
    let (answer, took) = meanwhile(&host, || {
        faults.unplug();
        faults.plug_in();
    });
    assert_eq!(answer, Err(Unplugged));
    assert!(took < LONG / 4, "{took:?}");
}

#[test]
fn operations_take_the_configured_time() {
    let (host, faults) = with_key(NEVER);
    faults.operations_take(SHORT);
    let begin = Instant::now();
    host.sign(0x82, P256, HASH).unwrap();
    assert!(begin.elapsed() >= SHORT);
    faults.operations_take(LONG);
    let begin = Instant::now();
    host.metadata(0x82).unwrap();
    assert!(begin.elapsed() < LONG / 4, "not an operation");
    let (answer, took) = meanwhile(&host, || faults.operations_take(Duration::ZERO));
    assert!(answer.unwrap().ends_with(&[0x90, 0x00]));
    assert!(took < LONG / 4);
}

#[test]
fn a_touch_comes_after_a_delay() {
    let (host, faults) = with_key(TOUCH_ALWAYS);
    faults.touch(Touch::After(SHORT));
    let begin = Instant::now();
    assert!(host.sign(0x82, P256, HASH).is_ok());
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(host.0.counts().touches, 1);
}

#[test]
fn a_missing_touch_gives_the_status_of_a_missing_pin() {
    let (host, faults) = with_key(TOUCH_ALWAYS);
    faults.touch_timeout(SHORT);
    let timed_out: [(Touch, Answer); 2] = [(Touch::Never, Err(0x6982)), (Touch::After(LONG), Err(0x6982))];
    for (touch, answer) in timed_out {
        faults.touch(touch);
        let begin = Instant::now();
        assert_eq!(host.sign(0x82, P256, HASH), answer, "{touch:?}");
        assert!(begin.elapsed() >= SHORT && begin.elapsed() < LONG / 4);
    }
    let counts = host.0.counts();
    assert_eq!((counts.touches, counts.operations), (2, 0));
}

#[test]
fn a_touch_can_be_set_while_a_command_waits_for_it() {
    let (host, faults) = with_key(TOUCH_ALWAYS);
    faults.touch(Touch::Never);
    faults.touch_timeout(LONG);
    let waiting = || assert_eq!(host.0.counts().touches, 1, "counts are readable meanwhile");
    let (answer, took) = meanwhile(&host, || {
        waiting();
        faults.touch(Touch::After(Duration::ZERO));
    });
    assert!(answer.unwrap().ends_with(&[0x90, 0x00]));
    assert!(took >= SHORT && took < LONG / 4);
}

#[test]
fn a_configured_answer_is_given_once_without_the_command() {
    let (host, faults) = with_key(NEVER);
    faults.answer_next(0x20, 0x6F00);
    faults.answer_next(0x87, 0x6581);
    faults.answer_next(0x87, 0x6400);
    assert_eq!(host.verify(crate::host::WRONG), Err(0x6F00));
    assert_eq!(host.0.pin_tries_left(), 3);
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6581));
    assert_eq!(host.sign(0x82, P256, HASH), Err(0x6400));
    assert!(host.sign(0x82, P256, HASH).is_ok());
    faults.answer_next(0xCB, 0x6F00);
    assert_eq!(host.read([0x5F, 0xFF, 0x01]), Err(0x6F00));
    faults.answer_next(0xC0, 0x6F00);
    assert_eq!(host.read([0x5F, 0xFF, 0x01]), Err(0x6F00), "in the middle of an answer");
    faults.answer_next(0xDB, 0x6581);
    assert_eq!(host.write([0x5F, 0xC1, 0x05], &[1; 1000]), Err(0x6581), "at the end of a chain");
    assert_eq!(host.read([0x5F, 0xC1, 0x05]), Err(0x6A82));
}

#[test]
fn clones_refer_to_the_same_yubikey() {
    let (host, faults) = with_key(NEVER);
    host.0.clone().faults().clone().unplug();
    assert_eq!(host.0.transmit(&sign()), Err(Unplugged));
    faults.plug_in();
    host.0.clone().transmit(&[0, 0xA4, 4, 0, 5, 0xA0, 0, 0, 3, 8]).unwrap();
    assert!(host.sign(0x82, P256, HASH).is_ok());
}

//! The orders and their syntax. The table at the top of `lib.rs` describes them.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RV, CK_ULONG};

use crate::function::Function;

/// One line of the control file. Empty lines and lines that begin with `#` are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Claim(CK_MECHANISM_TYPE),
    /// ECDH with this public key returns this code.
    RefusePoint(Vec<u8>, CK_RV),
    Do(Action, Target, When),
    Gone,
    Dead,
    Stuck(CK_RV),
    Recode(Function, CK_RV),
}

/// What to do instead of a call, or before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Wrong,
    /// The result is an object with an empty value.
    Empty,
    Skip,
    Fail(CK_RV),
    Delay(Duration),
    Hang,
    Crash,
}

/// The functions that an order applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    One(Function),
    /// `*`: functions that open a session or work in one, except those that set a PIN.
    Sessions,
}

/// The calls that an order applies to, counted from 1 since the order was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    At(u64),
    From(u64),
    Every(u64),
    OneIn { calls: u64, seed: u64 },
}

impl When {
    /// Whether the order applies to the nth call.
    fn includes(self, nth: u64) -> bool {
        match self {
            Self::Always => true,
            Self::At(at) => nth == at,
            Self::From(from) => nth >= from,
            Self::Every(calls) => nth.is_multiple_of(calls),
            Self::OneIn { calls, seed } => pseudo_random(seed, nth).is_multiple_of(calls),
        }
    }
}

/// The nth pseudo-random number of a seed. The function has no state, so threads need no lock, and a seed gives
/// the same calls each time. The seed is mixed first: otherwise seed + 1 would give the calls of this seed, one
/// call earlier.
fn pseudo_random(seed: u64, nth: u64) -> u64 {
    split_mix(split_mix(seed).wrapping_add(nth))
}

fn split_mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An order and the number of calls that it has counted.
pub(crate) struct ActiveOrder {
    pub(crate) order: Order,
    calls: AtomicU64,
}

impl ActiveOrder {
    pub(crate) fn new(order: Order) -> Self {
        Self { order, calls: AtomicU64::new(0) }
    }

    /// The action for this call, if any. Counts the call, so it must be called once for each call.
    pub(crate) fn next_action(&self, function: Function, is_in_session: bool) -> Option<Action> {
        let Order::Do(action, target, when) = self.order else { return None };
        let is_target = match target {
            Target::One(one) => one == function,
            Target::Sessions => is_in_session,
        };
        (is_target && when.includes(self.calls.fetch_add(1, Ordering::Relaxed) + 1)).then_some(action)
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<_> = line.split_whitespace().collect();
        parse(&words).ok_or_else(|| format!("{line:?} is not an order"))
    }
}

fn parse(words: &[&str]) -> Option<Order> {
    let (action, target, when) = match *words {
        ["claim", mechanism] => return number(mechanism).map(Order::Claim),
        ["wrong", function, ref when @ ..] if CAN_BE_WRONG.contains(&function) => (Action::Wrong, function, when),
        ["empty", "C_DeriveKey", ref when @ ..] => (Action::Empty, "C_DeriveKey", when),
        ["refuse-point", point, code] => return Some(Order::RefusePoint(bytes(point)?, number(code)?)),
        ["gone"] => return Some(Order::Gone),
        ["dead"] => return Some(Order::Dead),
        ["stuck", code] => return number(code).map(Order::Stuck),
        ["recode", function, code] => return Some(Order::Recode(Function::find(function)?, number(code)?)),
        ["skip", function, ref when @ ..] => (Action::Skip, function, when),
        ["fail", function, code, ref when @ ..] => (Action::Fail(number(code)?), function, when),
        ["delay", function, time, ref when @ ..] => {
            (Action::Delay(Duration::from_millis(time.parse().ok()?)), function, when)
        }
        ["hang", function, ref when @ ..] => (Action::Hang, function, when),
        ["crash", function, ref when @ ..] => (Action::Crash, function, when),
        _ => return None,
    };
    let target = if target == "*" { Target::Sessions } else { Target::One(Function::find(target)?) };
    let count = |text: &str| text.parse().ok().filter(|count| *count > 0);
    let when = match *when {
        [] => When::Always,
        ["at", nth] => When::At(count(nth)?),
        ["from", nth] => When::From(count(nth)?),
        ["every", calls] => When::Every(count(calls)?),
        ["one-in", calls] => When::OneIn { calls: count(calls)?, seed: 0 },
        ["one-in", calls, "seed", seed] => When::OneIn { calls: count(calls)?, seed: seed.parse().ok()? },
        _ => return None,
    };
    Some(Order::Do(action, target, when))
}

fn number(text: &str) -> Option<CK_ULONG> {
    match text.strip_prefix("0x") {
        Some(hex) => CK_ULONG::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The bytes that hexadecimal digits stand for.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.is_ascii() && hex.len().is_multiple_of(2);
    digits.then(|| (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect())?
}

/// The functions whose results `wrong` can change.
const CAN_BE_WRONG: [&str; 6] =
    ["C_DeriveKey", "C_DigestFinal", "C_GetAttributeValue", "C_GetTokenInfo", "C_Sign", "C_WrapKey"];

#[cfg(test)]
mod tests {
    use super::*;

    const SIGN: Function = Function::named("C_Sign");

    #[test]
    fn orders_are_parsed_strictly() {
        let of = |action, when| Ok(Order::Do(action, Target::One(SIGN), when));
        assert_eq!("claim 0x393".parse(), Ok(Order::Claim(0x393)));
        assert_eq!("wrong C_Sign".parse(), of(Action::Wrong, When::Always));
        assert_eq!("wrong C_Sign every 3".parse(), of(Action::Wrong, When::Every(3)));
        assert_eq!("empty C_Sign".parse::<Order>(), Err("\"empty C_Sign\" is not an order".into()));
        assert_eq!("refuse-point 04ff 5".parse(), Ok(Order::RefusePoint(vec![4, 255], 5)));
        assert_eq!("skip  C_Sign".parse(), of(Action::Skip, When::Always));
        assert_eq!("fail C_Sign 48".parse(), of(Action::Fail(0x30), When::Always));
        assert_eq!("fail C_Sign 0x30 at 3".parse(), of(Action::Fail(0x30), When::At(3)));
        assert_eq!("hang C_Sign from 2".parse(), of(Action::Hang, When::From(2)));
        assert_eq!("crash C_Sign".parse(), of(Action::Crash, When::Always));
        let random = When::OneIn { calls: 100, seed: 7 };
        assert_eq!("delay C_Sign 5 one-in 100 seed 7".parse(), of(Action::Delay(Duration::from_millis(5)), random));
        let everywhere = Order::Do(Action::Fail(5), Target::Sessions, When::OneIn { calls: 9, seed: 0 });
        assert_eq!("fail * 0x5 one-in 9".parse(), Ok(everywhere));
        assert_eq!(("gone".parse(), "dead".parse()), (Ok(Order::Gone), Ok(Order::Dead)));
        assert_eq!("stuck 0x30".parse(), Ok(Order::Stuck(0x30)));
        assert_eq!("recode C_Sign 5".parse(), Ok(Order::Recode(SIGN, 5)));
        let wrong = [
            "wrong C_Login",
            "wrong *",
            "claim",
            "claim x",
            "fail C_Sign",
            "fail C_Sing 1",
            "do it",
            "skip C_Sign b",
            "gone now",
            "fail C_Sign 1 at 0",
            "fail C_Sign 1 at",
            "fail C_Sign 1 one-in 0",
            "fail C_Sign 1 at 1 at 2",
        ];
        for wrong in wrong {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }

    /// The calls among the first hundred that an order applies to.
    fn affected_calls(order: &str) -> Vec<u64> {
        let active = ActiveOrder::new(order.parse().unwrap());
        (1..=100).filter(|_| active.next_action(SIGN, true).is_some()).collect()
    }

    #[test]
    fn orders_affect_the_calls_they_name() {
        assert_eq!(affected_calls("fail C_Sign 1 at 3"), [3]);
        assert_eq!(affected_calls("fail * 1 from 98"), [98, 99, 100]);
        assert_eq!(affected_calls("fail * 1 every 40"), [40, 80]);
        assert_eq!(affected_calls("fail C_Login 1"), [0; 0]);
        assert_eq!(affected_calls("fail C_Sign 1").len(), 100);
        let (one, again, other) = (
            affected_calls("skip * one-in 5"),
            affected_calls("skip * one-in 5 seed 0"),
            affected_calls("skip * one-in 5 seed 1"),
        );
        assert_eq!(one, again);
        assert!(other.iter().filter(|call| one.contains(&(*call + 1))).count() < other.len() / 2, "{one:?} {other:?}");
        assert!((10..=30).contains(&one.len()), "{one:?}");
        let outside = ActiveOrder::new("fail * 1".parse().unwrap());
        assert_eq!(outside.next_action(SIGN, false), None);
    }
}

//! What is ordered, and what was called.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    str::FromStr,
    sync::OnceLock,
    thread,
    time::Duration,
};

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RV, CK_ULONG, CKR_OK};

/// One line of the control file. Empty lines and those that begin with `#` are none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// `claim 0x393`: C_GetMechanismList lists this mechanism too.
    Claim(CK_MECHANISM_TYPE),
    /// `skip C_DigestKey`: the function says CKR_OK and does nothing.
    Skip(String),
    /// `wrong C_DigestFinal`: the function does its work and gives a wrong answer. For C_DeriveKey, C_DigestFinal,
    /// C_GetAttributeValue (of CKA_VALUE), C_Sign and C_WrapKey.
    Wrong(String),
    /// `fail C_Sign 0x30`: the function does nothing and returns this.
    Fail(String, CK_RV),
    /// `delay C_Sign 50`: the function takes so many milliseconds longer.
    Delay(String, Duration),
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => CK_ULONG::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        let words: Vec<_> = line.split_whitespace().collect();
        let order = match words[..] {
            ["claim", mechanism] => number(mechanism).map(Order::Claim),
            ["skip", function] => Some(Order::Skip(function.to_owned())),
            ["wrong", function] if CAN_BE_WRONG.contains(&function) => Some(Order::Wrong(function.to_owned())),
            ["fail", function, code] => number(code).map(|code| Order::Fail(function.to_owned(), code)),
            ["delay", function, time] => {
                time.parse().ok().map(|time| Order::Delay(function.to_owned(), Duration::from_millis(time)))
            }
            _ => None,
        };
        order.ok_or_else(|| format!("{line:?} is no order"))
    }
}

/// The functions whose answers `wrong` can change.
const CAN_BE_WRONG: [&str; 5] = ["C_DeriveKey", "C_DigestFinal", "C_GetAttributeValue", "C_Sign", "C_WrapKey"];

/// What a file orders. A line that is no order ends the process: a test that orders nothing would prove nothing.
fn orders() -> Vec<Order> {
    let Some(control) = control() else { return Vec::new() };
    let Ok(text) = fs::read_to_string(control) else { return Vec::new() };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.parse().unwrap_or_else(|error: String| give_up(&error))).collect()
}

fn control() -> Option<&'static PathBuf> {
    static CONTROL: OnceLock<Option<PathBuf>> = OnceLock::new();
    CONTROL.get_or_init(|| std::env::var_os("CLAVIGER_FAULT_CONTROL").map(PathBuf::from)).as_ref()
}

/// A call that has begun, and what is ordered for it.
pub(crate) struct Call {
    function: &'static str,
    /// For the trace.
    pub(crate) mechanism: Option<CK_MECHANISM_TYPE>,
    orders: Vec<Order>,
}

impl Call {
    pub(crate) fn begin(function: &'static str) -> Self {
        let orders = orders();
        for order in &orders {
            if let Order::Delay(of, time) = order
                && of == function
            {
                thread::sleep(*time);
            }
        }
        Self { function, mechanism: None, orders }
    }

    /// The code to return without calling the real function, if that is ordered.
    pub(crate) fn refused(&self) -> Option<CK_RV> {
        self.orders.iter().find_map(|order| match order {
            Order::Skip(function) if function == self.function => Some(CKR_OK),
            Order::Fail(function, code) if function == self.function => Some(*code),
            _ => None,
        })
    }

    /// Whether the answer is to be made wrong.
    pub(crate) fn is_wrong(&self) -> bool {
        self.orders.iter().any(|order| matches!(order, Order::Wrong(function) if function == self.function))
    }

    /// The mechanisms that are claimed.
    pub(crate) fn claims(&self) -> Vec<CK_MECHANISM_TYPE> {
        let claim = |order: &Order| if let Order::Claim(mechanism) = order { Some(*mechanism) } else { None };
        self.orders.iter().filter_map(claim).collect()
    }

    /// Writes the call down, in one write, so that the lines of several threads and processes stay whole.
    pub(crate) fn end(self, code: CK_RV) -> CK_RV {
        static TRACE: OnceLock<Option<fs::File>> = OnceLock::new();
        let trace = TRACE.get_or_init(|| {
            let path = crate::shim::trace_of(control()?);
            Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .unwrap_or_else(|error| give_up(&error.to_string())),
            )
        });
        if let Some(mut trace) = trace.as_ref() {
            let mechanism = self.mechanism.map_or_else(|| "-".to_owned(), |mechanism| format!("{mechanism:#x}"));
            let line = format!("{} {mechanism} {code:#x}\n", self.function);
            trace.write_all(line.as_bytes()).unwrap_or_else(|error| give_up(&error.to_string()));
        }
        code
    }
}

/// Ends the process, since nothing that it tests from here on would be what the test means.
pub(crate) fn give_up(reason: &str) -> ! {
    eprintln!("claviger-fault-module: {reason}");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_strictly() {
        assert_eq!("claim 0x393".parse(), Ok(Order::Claim(0x393)));
        assert_eq!("skip  C_DigestKey".parse(), Ok(Order::Skip("C_DigestKey".into())));
        assert_eq!("wrong C_Sign".parse(), Ok(Order::Wrong("C_Sign".into())));
        assert_eq!("fail C_Sign 48".parse(), Ok(Order::Fail("C_Sign".into(), 0x30)));
        assert_eq!("delay C_Sign 5".parse(), Ok(Order::Delay("C_Sign".into(), Duration::from_millis(5))));
        for wrong in ["wrong C_Login", "claim", "claim x", "fail C_Sign", "do it", "skip a b"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }
}

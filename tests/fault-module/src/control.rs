//! The control file, from which the orders are read, and the trace, to which the calls are written.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki_sys::CK_RV;

use crate::{
    order::{ActiveOrder, Order},
    shim,
};

/// How often the control file is read in quick mode, and by a call that hangs.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The orders in the control file.
#[derive(Default)]
pub(crate) struct Orders {
    /// The text as it was read. `Shim` never writes the same text twice, so an order that is repeated counts from
    /// 1 again.
    text: String,
    pub(crate) active: Vec<ActiveOrder>,
}

impl Orders {
    pub(crate) fn include(&self, order: &Order) -> bool {
        self.active.iter().any(|active| active.order == *order)
    }
}

/// The control file, if there is one.
pub(crate) fn file() -> Option<&'static PathBuf> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os("CLAVIGER_FAULT_CONTROL").map(PathBuf::from)).as_ref()
}

/// Whether calls neither read the orders each time nor write the trace.
fn is_quick() -> bool {
    static QUICK: OnceLock<bool> = OnceLock::new();
    *QUICK.get_or_init(|| std::env::var_os("CLAVIGER_FAULT_QUICK").is_some())
}

/// The present orders.
pub(crate) fn orders() -> Arc<Orders> {
    static ORDERS: Mutex<Option<(Arc<Orders>, Instant)>> = Mutex::new(None);
    // Held while the file is read, so that an older state does not replace a newer one.
    let mut latest = ORDERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((orders, read)) = &*latest
        && is_quick()
        && read.elapsed() < POLL_INTERVAL
    {
        return orders.clone();
    }
    let text = file().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let orders = match &*latest {
        Some((orders, _)) if orders.text == text => orders.clone(),
        _ => Arc::new(parse(text)),
    };
    *latest = Some((orders.clone(), Instant::now()));
    orders
}

/// Parses the orders. An invalid line ends the process, since the test would run without its fault.
fn parse(text: String) -> Orders {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let order = |line: &str| line.parse().unwrap_or_else(|error: String| abort_with(&error));
    Orders { active: lines.map(|line| ActiveOrder::new(order(line))).collect(), text }
}

/// Writes a line to the trace, with one write call, so that lines of several threads and processes do not mix.
pub(crate) fn trace(line: impl FnOnce() -> String) {
    static TRACE: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let path = shim::trace_path(file().filter(|_| !is_quick())?);
        Some(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|error| abort_with(&error.to_string())),
        )
    };
    if let Some(mut trace) = TRACE.get_or_init(open).as_ref() {
        trace.write_all(line().as_bytes()).unwrap_or_else(|error| abort_with(&error.to_string()));
    }
}

/// Whether this process has ever seen the order `dead`.
pub(crate) fn is_dead(orders: &Orders) -> bool {
    static DEAD: AtomicBool = AtomicBool::new(false);
    DEAD.fetch_or(orders.include(&Order::Dead), Ordering::SeqCst) || DEAD.load(Ordering::SeqCst)
}

/// The code that every call returns, if this process has ever seen the order `stuck`.
pub(crate) fn stuck_code(orders: &Orders) -> Option<CK_RV> {
    static STUCK: OnceLock<CK_RV> = OnceLock::new();
    let ordered = orders.active.iter().find_map(|it| if let Order::Stuck(code) = it.order { Some(code) } else { None });
    ordered.map(|code| *STUCK.get_or_init(|| code)).or_else(|| STUCK.get().copied())
}

/// Ends the process with an error. For conditions under which the test's result would be meaningless.
pub(crate) fn abort_with(reason: &str) -> ! {
    eprintln!("claviger-fault-module: {reason}");
    std::process::abort()
}

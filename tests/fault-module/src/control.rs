//! The control file, and the trace.

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

use crate::{
    order::{Order, Standing},
    shim,
};

/// How often the control file is looked at, by a module that is to be quick and by a call that hangs.
pub(crate) const GLANCE: Duration = Duration::from_millis(5);

/// All that stands in the control file.
#[derive(Default)]
pub(crate) struct Orders {
    /// As it was read. `Shim` never writes the same twice, so an order that is given again counts from 1 again.
    text: String,
    pub(crate) standing: Vec<Standing>,
}

impl Orders {
    pub(crate) fn include(&self, order: &Order) -> bool {
        self.standing.iter().any(|standing| standing.order == *order)
    }
}

/// The file, if there is one.
pub(crate) fn file() -> Option<&'static PathBuf> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os("CLAVIGER_FAULT_CONTROL").map(PathBuf::from)).as_ref()
}

/// Whether neither the orders are to be read nor the trace written at each call.
fn quick() -> bool {
    static QUICK: OnceLock<bool> = OnceLock::new();
    *QUICK.get_or_init(|| std::env::var_os("CLAVIGER_FAULT_QUICK").is_some())
}

/// What is ordered now.
pub(crate) fn orders() -> Arc<Orders> {
    static ORDERS: Mutex<Option<(Arc<Orders>, Instant)>> = Mutex::new(None);
    // Held while the file is read, so that no older state of it replaces a newer one.
    let mut latest = ORDERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((orders, read)) = &*latest
        && quick()
        && read.elapsed() < GLANCE
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

/// A line that is no order ends the process: a test that orders nothing would prove nothing.
fn parse(text: String) -> Orders {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let order = |line: &str| line.parse().unwrap_or_else(|error: String| give_up(&error));
    Orders { standing: lines.map(|line| Standing::new(order(line))).collect(), text }
}

/// Writes a line down, in one write, so that the lines of several threads and processes stay whole.
pub(crate) fn trace(line: impl FnOnce() -> String) {
    static TRACE: OnceLock<Option<File>> = OnceLock::new();
    let open = || {
        let path = shim::trace_of(file().filter(|_| !quick())?);
        Some(
            OpenOptions::new().create(true).append(true).open(path).unwrap_or_else(|error| give_up(&error.to_string())),
        )
    };
    if let Some(mut trace) = TRACE.get_or_init(open).as_ref() {
        trace.write_all(line().as_bytes()).unwrap_or_else(|error| give_up(&error.to_string()));
    }
}

/// Whether `dead` was ever seen here.
pub(crate) fn is_dead(orders: &Orders) -> bool {
    static DEAD: AtomicBool = AtomicBool::new(false);
    DEAD.fetch_or(orders.include(&Order::Dead), Ordering::SeqCst) || DEAD.load(Ordering::SeqCst)
}

/// Ends the process, since nothing that it tests from here on would be what the test means.
pub(crate) fn give_up(reason: &str) -> ! {
    eprintln!("claviger-fault-module: {reason}");
    std::process::abort()
}

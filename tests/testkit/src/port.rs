//! Ports for servers that a test starts.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Above the well-known ports and those of pcscd, and below those that a system lends to outgoing connections (on Linux from
/// 32768): one of these may be lent between this look and the server's start.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port of the loopback interface that nobody listens on, and that this process is given once.
///
/// # Panics
/// If all are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Suites that run beside each other begin elsewhere.
    let begin = process::id().wrapping_mul(97);
    let free = (0..COUNT).find_map(|_| {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + step).ok()?;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    free.expect("a port is free")
}

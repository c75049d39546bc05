//! Ports for servers that a test starts.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The ports are above the well-known ones and those of pcscd, and below those that the system assigns to outgoing
/// connections (on Linux from 32768): such a port could be assigned between this check and the server's start.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port of the loopback interface on which nothing listens. No port is returned twice in this process.
///
/// # Panics
/// If no port is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run at the same time begin at different ports.
    let begin = process::id().wrapping_mul(97);
    let free = (0..COUNT).find_map(|_| {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + step).ok()?;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    free.expect("a port is free")
}

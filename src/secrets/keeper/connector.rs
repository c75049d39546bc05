//! Where the client of a keeper gets its connections from.

use std::{io, os::unix::net::UnixStream, sync::Arc};

/// Opens connections to a keeper: to its socket, or to a keeper that is started for the connection.
#[derive(Clone)]
pub struct KeeperConnector {
    open: Arc<dyn Fn() -> io::Result<UnixStream> + Send + Sync>,
    /// Whether the hello was sent already.
    pub(super) has_sent_hello: bool,
}

impl KeeperConnector {
    /// A connector that opens its connections with `open`, one with each call. `open` may block.
    pub fn new(open: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open), has_sent_hello: false }
    }

    /// A connector for connections on which a supervisor has sent the hello already. `open` returns them.
    pub(super) fn with_hello_sent(open: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static) -> Self {
        Self { has_sent_hello: true, ..Self::new(open) }
    }

    /// Opens a connection. Blocks.
    pub(super) fn open(&self) -> io::Result<UnixStream> {
        (self.open)()
    }
}

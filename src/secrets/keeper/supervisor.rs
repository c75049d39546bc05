//! The supervisor: a small process that starts keepers for an agent in a sandbox, which cannot start them itself.
//!
//! Landlock and seccomp are inherited and cannot be undone: a child of a sandboxed agent could not open its PKCS#11
//! module. So the agent starts the supervisor before it enters the sandbox, and asks it for connections from then on.
//! The supervisor starts a keeper with one end of a pair of sockets as its standard input, and passes the other end to
//! the agent. The supervisor loads no module, has no key, reads no source of a PIN, and ends when the agent does. But
//! the supervisor of the program `claviger` reads the configuration, and a URI there may contain a PIN as `pin-value`.

use std::{
    collections::HashMap,
    io::{self, Write},
    os::unix::net::UnixStream,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use rustix::net::{RecvFlags, recv};

use super::{
    child_process::{ChildProcess, EXIT_TIMEOUT, spawn_on_socket},
    connector::KeeperConnector,
    descriptor::{receive_descriptor, send_descriptor, send_refusal},
    frame::{FrameBuffer, decode, encode_frame},
    renewal::FailedKeepers,
    wire::{Hello, Role, VERSION},
};
use crate::secrets::mutex::lock;

/// The most keepers of one token at once: one that serves, and one that was replaced and finishes its requests.
const MAX_KEEPERS_PER_TOKEN: usize = 2;

/// The agent's connection to its supervisor.
pub struct Supervisor {
    // Dropped in this order: the process ends when the socket is closed.
    control: Mutex<UnixStream>,
    process: ChildProcess,
}

impl Supervisor {
    /// Starts a supervisor: `command` must run [`supervise`] on its standard input. Call this before
    /// entering the sandbox.
    ///
    /// # Errors
    /// Those of starting a process.
    pub fn start(command: Command) -> io::Result<Arc<Self>> {
        let (control, mut process) = spawn_on_socket(command)?;
        // The supervisor waits for its keepers and kills those that hang. It must not be killed before it has done so.
        process.exit_timeout = 2 * EXIT_TIMEOUT;
        Ok(Arc::new(Self { control: Mutex::new(control), process }))
    }

    /// The process id of the supervisor.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the supervisor has ended. Then no keeper can be started any more, and a sandboxed agent cannot start
    /// another supervisor.
    pub fn has_ended(&self) -> bool {
        // While another thread asks for a keeper, that thread will notice the end.
        let Ok(control) = self.control.try_lock() else { return false };
        let end = recv(&*control, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(end, Ok((_, 1..)) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// Asks the supervisor for a connection to a new keeper of the token that the configuration calls `name`. Blocks.
    ///
    /// The supervisor has sent the hello with the agent's role on the connection, so an attacker who controls the agent
    /// cannot become a custodian.
    ///
    /// # Errors
    /// If the supervisor cannot start the keeper, with the supervisor's reason, or has ended.
    pub fn keeper(&self, name: &str) -> io::Result<UnixStream> {
        let mut control = lock(&self.control);
        control.write_all(&encode_frame(&name)?)?;
        receive_descriptor(&control)
    }

    /// A connector for a [`KeeperClient`](super::KeeperClient) of the token that the configuration calls `name`.
    pub fn connector(self: &Arc<Self>, name: &str) -> KeeperConnector {
        let (supervisor, name) = (self.clone(), name.to_owned());
        KeeperConnector::with_hello_sent(move || supervisor.keeper(&name))
    }
}

/// Runs the supervisor of one agent. For each name of a token that the agent sends over `control`, `open` returns a
/// connection to a keeper, and the keeper's process if it was started for this connection. The second argument of `open`
/// is how many keepers of the token in a row have ended because the token failed. The hello with `role` is sent on the
/// connection, which is then passed to the agent.
///
/// Returns when the agent has ended and all started keepers have ended.
///
/// # Errors
/// Those of the control socket.
pub fn supervise(
    control: UnixStream,
    role: Role,
    open: impl Fn(&str, u32) -> io::Result<(UnixStream, Option<ChildProcess>)>,
) -> io::Result<()> {
    // Includes keepers that were replaced, until they have finished their last requests.
    let mut keepers: Vec<(String, ChildProcess)> = Vec::new();
    let served = serve_agent(&control, role, open, &mut keepers);
    // The keepers are awaited in parallel. Each ends when it notices the end of its connection.
    let waits: Vec<_> = keepers.into_iter().map(|(_, keeper)| thread::spawn(|| drop(keeper))).collect();
    for wait in waits {
        let _ = wait.join();
    }
    served
}

/// Answers the agent's requests until it ends.
fn serve_agent(
    control: &UnixStream,
    role: Role,
    open: impl Fn(&str, u32) -> io::Result<(UnixStream, Option<ChildProcess>)>,
    keepers: &mut Vec<(String, ChildProcess)>,
) -> io::Result<()> {
    let mut failed_keepers: HashMap<String, FailedKeepers> = HashMap::new();
    let mut received = FrameBuffer::new();
    loop {
        let content = match received.next_frame()? {
            Some(content) => content,
            None => match recv(control, received.free_space()?, RecvFlags::empty()) {
                Ok((_, 0)) => return Ok(()),
                Ok((_, bytes)) => {
                    received.add(bytes);
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        let name: &str = decode(&content)?;
        let has_failed = keepers.iter_mut().any(|(token, keeper)| token == name && keeper.has_ended_as_failing());
        let failed = failed_keepers.entry(name.to_owned()).or_default().next(has_failed);
        make_room(keepers, name);
        match open(name, failed) {
            Ok((stream, keeper)) => {
                keepers.extend(keeper.map(|keeper| (name.to_owned(), keeper)));
                // A keeper that refuses this user may have closed the connection already; the agent reads its reason.
                let _ = (&stream).write_all(&encode_frame(&Hello { version: VERSION, role })?);
                send_descriptor(control, &stream)?;
            }
            Err(error) => send_refusal(control, &error.to_string())?,
        }
    }
}

/// Ends the oldest keepers of a token until another may be started.
///
/// Each keeper counts rates for itself, so with more keepers an attacker who controls the agent would get
/// a higher rate.
fn make_room(keepers: &mut Vec<(String, ChildProcess)>, name: &str) {
    keepers.retain_mut(|(_, keeper)| !keeper.has_ended());
    while keepers.iter().filter(|(token, _)| token == name).count() >= MAX_KEEPERS_PER_TOKEN {
        let oldest = keepers.iter().position(|(token, _)| token == name).expect("there is one");
        drop(keepers.remove(oldest));
    }
}

//! The supervisor: a small process that starts keepers for an agent which cannot, since it has closed itself in.
//!
//! Landlock and seccomp are inherited for life: the child of a sandboxed agent could not open its PKCS#11 module. So the
//! agent starts the supervisor before it closes itself in, and asks it for connections from then on. The supervisor
//! starts a keeper with one end of a pair of sockets as its standard input, and passes the other end on (SCM_RIGHTS,
//! unix(7)). It loads no module, reads no PIN and keeps no key; it ends when the agent does.

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};

use super::{
    client::Connect,
    frame::{Inbox, frame, value},
    wire::{Hello, Role, VERSION},
};

/// How long a keeper whose connection has ended is given to end by itself. SoftHSM 2.6.1 may crash if it is killed while
/// at work, which harms nobody, but an operation that was begun should end.
const FAREWELL: Duration = Duration::from_secs(3);
/// Keepers of one token at once: one that serves, and one that finishes what it was asked.
const MOST: usize = 2;
/// What stands beside a descriptor that is passed on, and where there is none.
const HERE_IT_IS: u8 = 1;
const REFUSED: u8 = 0;

/// The agent's way to its supervisor.
pub struct Supervisor {
    // In this order: it ends when the socket does.
    control: Mutex<UnixStream>,
    process: Process,
}

impl Supervisor {
    /// Starts one: `command` runs [`supervise`] on its standard input. To be called before the process closes itself in.
    ///
    /// # Errors
    /// Those of starting a process.
    pub fn start(command: Command) -> io::Result<Arc<Self>> {
        let (control, mut process) = spawn(command)?;
        // It waits for keepers in its turn, and kills one that hangs: not before it has done so is it killed itself.
        process.farewell = 2 * FAREWELL;
        Ok(Arc::new(Self { control: Mutex::new(control), process }))
    }

    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended: from then on there is no new keeper, and an agent that has closed itself in can start neither.
    pub fn has_ended(&self) -> bool {
        // While it is asked for something, whoever asks will learn it.
        let Ok(control) = self.control.try_lock() else { return false };
        let end = recv(&*control, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(end, Ok((_, 1..)) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR))
    }

    /// A connection to a new keeper of the token that the configuration calls `name`, on which the supervisor has said who
    /// connects: whoever takes over the agent does not become a custodian.
    ///
    /// # Errors
    /// Those of starting it, in the supervisor's words, and of a supervisor that has ended.
    pub fn keeper(&self, name: &str) -> io::Result<UnixStream> {
        let mut control = self.control.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        control.write_all(&frame(&name)?)?;
        receive_descriptor(&control)
    }

    /// The same as a [`KeeperClient`](super::KeeperClient) wants it.
    pub fn connect(self: &Arc<Self>, name: &str) -> Connect {
        let (supervisor, name) = (self.clone(), name.to_owned());
        Connect::introduced(move || supervisor.keeper(&name))
    }
}

/// Serves one agent: for each name that it asks for, `open` gives a connection to a keeper, and the process if it was
/// started for it. On the connection it is said that `role` connects, before it is passed on. Returns when the agent has
/// gone and those processes have ended.
///
/// # Errors
/// Those of the control socket.
pub fn supervise(
    control: UnixStream,
    role: Role,
    open: impl Fn(&str) -> io::Result<(UnixStream, Option<Process>)>,
) -> io::Result<()> {
    // Those that are done with, too, until they end: one may have a last request to finish.
    let mut keepers: Vec<(String, Process)> = Vec::new();
    let mut inbox = Inbox::new();
    let served = loop {
        let content = match inbox.next() {
            Ok(Some(content)) => content,
            Ok(None) => match recv(&control, inbox.room()?, RecvFlags::empty()) {
                Ok((_, 0)) => break Ok(()),
                Ok((_, bytes)) => {
                    inbox.filled(bytes);
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => break Err(error.into()),
            },
            Err(error) => break Err(error),
        };
        let name: &str = value(&content)?;
        keepers.retain_mut(|(_, keeper)| !keeper.has_ended());
        // The rate of a key is a keeper's: an agent that was taken over gets no more of it by asking for more keepers.
        while keepers.iter().filter(|(of, _)| of == name).count() >= MOST {
            let oldest = keepers.iter().position(|(of, _)| of == name).expect("there are some");
            drop(keepers.remove(oldest));
        }
        let answer = match open(name) {
            Ok((stream, keeper)) => {
                keepers.extend(keeper.map(|keeper| (name.to_owned(), keeper)));
                // A keeper that turns this user away may have closed the connection by now: the agent reads why.
                let _ = (&stream).write_all(&frame(&Hello { version: VERSION, role })?);
                send_descriptor(&control, &stream)
            }
            Err(error) => refuse(&control, &error.to_string()),
        };
        if let Err(error) = answer {
            break Err(error);
        }
    };
    // All at once: each sees that its connection has ended.
    let ends: Vec<_> = keepers.into_iter().map(|(_, keeper)| thread::spawn(|| drop(keeper))).collect();
    for ended in ends {
        let _ = ended.join();
    }
    served
}

/// Starts a keeper: `command` serves the connection that is its standard input, and the other end is ours.
///
/// # Errors
/// Those of starting a process.
pub fn spawn(mut command: Command) -> io::Result<(UnixStream, Process)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    Ok((ours, Process { child, farewell: FAREWELL }))
}

/// A process that ends when its connection does. Dropped, it is waited for, and killed if it hangs.
pub struct Process {
    child: Child,
    farewell: Duration,
}

impl Process {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let until = Instant::now() + self.farewell;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        tracing::warn!(pid = self.id(), "a process that does not end is killed");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send_descriptor(control: &UnixStream, stream: &UnixStream) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [stream.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(control, &[IoSlice::new(&[HERE_IT_IS])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn refuse(mut control: &UnixStream, why: &str) -> io::Result<()> {
    control.write_all(&[REFUSED])?;
    control.write_all(&frame(&why)?)
}

fn receive_descriptor(control: &UnixStream) -> io::Result<UnixStream> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor of the keepers has ended"));
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match (byte, descriptor) {
        ([HERE_IT_IS], Some(descriptor)) => Ok(UnixStream::from(descriptor)),
        ([REFUSED], None) => {
            let mut inbox = Inbox::new();
            loop {
                if let Some(why) = inbox.next()? {
                    return Err(io::Error::other(value::<String>(&why)?));
                }
                match recv(control, inbox.room()?, RecvFlags::empty())? {
                    (_, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    (_, bytes) => inbox.filled(bytes),
                }
            }
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the supervisor does not pass a connection on")),
    }
}

//! What an attacker who controls the agent would try.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Error},
    os::{
        fd::FromRawFd,
        unix::{
            fs::FileExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    process::{Child, Command, Stdio},
};

use super::{Stage, files};

type Try = Box<dyn FnOnce() -> io::Result<()>>;

/// One attempt: `prepare` runs before the sandbox is entered, and returns what is then tried.
pub struct Attempt {
    pub name: &'static str,
    pub prepare: fn(&Stage) -> Try,
    pub denied: Denied,
    /// Whether the attempt needs SoftHSM.
    pub needs_module: bool,
    /// Whether a container or a setting of the kernel may refuse the attempt even without the sandbox.
    pub some_machines_refuse: bool,
}

/// How a denial is recognised.
pub enum Denied {
    /// EPERM or EACCES.
    Errno,
    /// The text of a library's error contains this.
    ErrorText(&'static str),
}

const fn attempt(name: &'static str, prepare: fn(&Stage) -> Try) -> Attempt {
    Attempt { name, prepare, denied: Denied::Errno, needs_module: false, some_machines_refuse: false }
}

const fn attempt_on_most_machines(name: &'static str, prepare: fn(&Stage) -> Try) -> Attempt {
    Attempt { some_machines_refuse: true, ..attempt(name, prepare) }
}

// A `from_prior` signature is denied by the keeper, not by the kernel: see the tests of the keeper.
pub const ATTEMPTS: &[Attempt] = &[
    attempt("read_the_pin", |stage| {
        let pin = stage.pin();
        Box::new(move || fs::read(pin).map(drop))
    }),
    attempt("list_the_token_store", |stage| {
        let store = stage.token();
        Box::new(move || fs::read_dir(store).map(drop))
    }),
    attempt("write_elsewhere", |stage| {
        let elsewhere = stage.token().join("planted");
        Box::new(move || fs::write(elsewhere, "x"))
    }),
    attempt("write_what_may_be_read", |stage| {
        let config = stage.readable().join("claviger.toml");
        Box::new(move || OpenOptions::new().append(true).open(config).map(drop))
    }),
    // If a person seems to have changed the PIN file, its PIN is tried again.
    attempt("touch_the_pins_file", |stage| {
        let pin = std::ffi::CString::new(stage.pin().into_os_string().into_encoded_bytes()).unwrap();
        Box::new(move || {
            // SAFETY: a valid path; a null pointer for the times means now.
            match unsafe { libc::utimensat(libc::AT_FDCWD, pin.as_ptr(), std::ptr::null(), 0) } {
                0 => Ok(()),
                _ => Err(Error::last_os_error()),
            }
        })
    }),
    attempt("open_the_pins_file_to_all", |stage| {
        let pin = stage.pin();
        Box::new(move || fs::set_permissions(pin, std::os::unix::fs::PermissionsExt::from_mode(0o666)))
    }),
    attempt("open_a_device", |_| Box::new(|| File::open("/dev/null").map(drop))),
    Attempt {
        denied: Denied::ErrorText("cannot open shared object file: Permission denied"),
        needs_module: true,
        ..attempt("load_the_module", |stage| {
            let module = stage.module.clone();
            Box::new(move || claviger::secrets::pkcs11::tokens(module).map(drop).map_err(Error::other))
        })
    },
    Attempt {
        needs_module: true,
        ..attempt("read_the_module", |stage| {
            let module = stage.module.clone();
            Box::new(move || File::open(module).map(drop))
        })
    },
    Attempt {
        needs_module: true,
        ..attempt("read_softhsms_store", |_| {
            let configuration = std::env::var_os("SOFTHSM2_CONF").expect("the token's environment");
            let store = std::path::Path::new(&configuration).parent().expect("the file is in a folder").to_owned();
            let objects: Vec<_> = files(&store).expect("the store can be listed outside");
            assert!(objects.iter().any(|path| path.extension().is_some_and(|end| end == "object")), "{objects:?}");
            Box::new(move || objects.iter().try_for_each(|path| fs::read(path).map(drop)))
        })
    },
    attempt("connect_to_pcscd", |stage| {
        let socket = stage.socket();
        Box::new(move || UnixStream::connect(socket).map(drop))
    }),
    attempt("connect_to_an_abstract_socket", |stage| {
        let address = stage.abstract_socket();
        Box::new(move || UnixStream::connect_addr(&address).map(drop))
    }),
    attempt("send_datagrams_through_a_pair", |stage| {
        let socket = stage.datagrams();
        Box::new(move || UnixDatagram::pair()?.0.send_to(b"x", socket).map(drop))
    }),
    attempt("send_a_datagram", |stage| {
        let socket = stage.datagrams();
        Box::new(move || UnixDatagram::unbound()?.send_to(b"x", socket).map(drop))
    }),
    attempt("run_a_program", |_| Box::new(|| Command::new("/bin/true").status().map(drop))),
    attempt("read_a_process_by_proc", |_| {
        let victim = Victim::new();
        Box::new(move || {
            File::open(format!("/proc/{}/mem", victim.pid()))?.read_exact_at(&mut [0; 16], victim.address as u64)
        })
    }),
    attempt("read_a_process_by_process_vm_readv", |_| {
        let victim = Victim::new();
        Box::new(move || {
            let mut bytes = [0u8; 16];
            let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let remote = libc::iovec { iov_base: victim.address as *mut _, iov_len: bytes.len() };
            // SAFETY: `local` points to this array, and `remote` is memory of another process.
            checked(unsafe { libc::process_vm_readv(victim.pid(), &local, 1, &remote, 1, 0) } as i64).map(drop)
        })
    }),
    attempt("attach_to_a_process", |_| {
        let victim = Victim::new();
        // SAFETY: the call accesses no memory of this process.
        Box::new(move || checked(unsafe { libc::ptrace(libc::PTRACE_SEIZE, victim.pid(), 0, 0) }).map(drop))
    }),
    attempt("take_a_processs_descriptor", |_| {
        let victim = Victim::new();
        Box::new(move || {
            // SAFETY: system calls without pointers.
            let pidfd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, victim.pid(), 0) })?;
            checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) }).map(drop)
        })
    }),
    attempt("signal_a_process", |_| {
        let victim = Victim::new();
        // SAFETY: the call accesses no memory of this process.
        Box::new(move || checked(unsafe { libc::kill(victim.pid(), libc::SIGCONT) }).map(drop))
    }),
    attempt("run_new_code", |_| {
        Box::new(|| {
            let (access, kind) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping, which nothing uses.
            let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) };
            if mapped == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(()) }
        })
    }),
    attempt_on_most_machines("make_a_user_namespace", |_| {
        // SAFETY: the call accesses no memory.
        Box::new(|| checked(unsafe { libc::unshare(libc::CLONE_NEWUSER) }).map(drop))
    }),
    attempt_on_most_machines("set_up_io_uring", |_| {
        Box::new(|| {
            let mut parameters = [0u8; 120];
            // SAFETY: struct io_uring_params is 120 bytes.
            let ring = checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) })?;
            // SAFETY: the descriptor is new, and nothing else owns it.
            drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(ring as i32) });
            Ok(())
        })
    }),
    attempt_on_most_machines("ask_the_kernels_keyring", |_| {
        // SAFETY: KEYCTL_GET_KEYRING_ID of the session's keyring has no pointers.
        Box::new(|| checked(unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }).map(drop))
    }),
    attempt_on_most_machines("reach_the_host_by_vsock", |_| {
        Box::new(|| {
            // SAFETY: the call accesses no memory.
            let socket = checked(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) })?;
            // SAFETY: the descriptor is new, and nothing else owns it.
            drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(socket) });
            Ok(())
        })
    }),
];

fn checked<T: Into<i64> + Copy>(result: T) -> io::Result<T> {
    if result.into() < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Another process of the same user. It is a child, since Yama allows a process to read only its descendants.
struct Victim {
    child: Child,
    /// An address in its memory that can be read.
    address: usize,
}

impl Victim {
    fn new() -> Self {
        // `cat` ends when its input does, which is when this process ends. Its output goes nowhere, so that no test
        // waits for it.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("cat runs");
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("a child's mappings");
        // The environment is at the end of the stack.
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
        let end = stack.split(['-', ' ']).nth(1).expect("two addresses");
        Self { child, address: usize::from_str_radix(end, 16).expect("an address") - 64 }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

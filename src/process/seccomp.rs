//! The system calls that the sandbox denies. A denied call fails with EPERM, and the program goes on.
//!
//! The list names the denied calls: those that reach beyond the process. A list of allowed calls would have to change
//! with each version of the C library, the runtime and the database.

use std::{collections::BTreeMap, error::Error};

use libc as c;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Why a filter cannot be built or applied.
type FilterError = Box<dyn Error + Send + Sync>;

/// Calls that are denied with any arguments.
const DENIED: &[c::c_long] = &[
    // New programs: the agent starts none, and an attacker wants a shell.
    c::SYS_execve,
    c::SYS_execveat,
    // The memory and descriptors of other processes, above all the keeper's.
    c::SYS_ptrace,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_process_madvise,
    c::SYS_pidfd_getfd,
    c::SYS_kcmp,
    // Files that bypass Landlock's paths, and mounted file systems.
    c::SYS_open_by_handle_at,
    c::SYS_mount,
    c::SYS_umount2,
    c::SYS_pivot_root,
    c::SYS_chroot,
    c::SYS_move_mount,
    c::SYS_open_tree,
    c::SYS_fsopen,
    c::SYS_fsconfig,
    c::SYS_fsmount,
    c::SYS_fspick,
    c::SYS_mount_setattr,
    // Changes to a file's metadata by path, which Landlock does not check. An attacker could make a PIN file look
    // changed, and a refused PIN would be tried again. Changes through an open descriptor are still possible.
    #[cfg(target_arch = "x86_64")]
    c::SYS_chmod,
    c::SYS_fchmodat,
    c::SYS_fchmodat2,
    #[cfg(target_arch = "x86_64")]
    c::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    c::SYS_lchown,
    c::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    c::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    c::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    c::SYS_futimesat,
    c::SYS_utimensat,
    c::SYS_setxattr,
    c::SYS_lsetxattr,
    c::SYS_removexattr,
    c::SYS_lremovexattr,
    // Namespaces, in which the process would be root.
    c::SYS_setns,
    c::SYS_unshare,
    // io_uring performs other calls without passing this filter.
    c::SYS_io_uring_setup,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    // The kernel's keyrings: the keyring of the user may hold a credential.
    c::SYS_keyctl,
    c::SYS_add_key,
    c::SYS_request_key,
    // Shared memory of other programs, which may also be executable.
    c::SYS_shmat,
    c::SYS_remap_file_pages,
    // Interfaces of the kernel with many past vulnerabilities, or that only root needs.
    c::SYS_bpf,
    c::SYS_perf_event_open,
    c::SYS_userfaultfd,
    c::SYS_personality,
    c::SYS_kexec_load,
    #[cfg(not(target_arch = "riscv64"))]
    c::SYS_kexec_file_load,
    c::SYS_init_module,
    c::SYS_finit_module,
    c::SYS_delete_module,
    c::SYS_reboot,
    c::SYS_swapon,
    c::SYS_swapoff,
];

/// Builds the filters. Returns `None` if there is no table of system calls for the processor.
pub(super) fn filters() -> Result<Option<Vec<BpfProgram>>, FilterError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    denied.extend(conditional()?);
    // glibc 2.34 and later start threads with clone3, whose flags are in memory that a filter cannot read. If clone3
    // fails with ENOSYS, glibc uses clone instead.
    let absent = BTreeMap::from([(c::SYS_clone3, Vec::new())]);
    let mut filters = Vec::new();
    for (calls, errno) in [(denied, c::EPERM), (absent, c::ENOSYS)] {
        let denial = SeccompAction::Errno(errno.cast_unsigned());
        filters.push(SeccompFilter::new(calls, SeccompAction::Allow, denial, arch)?.try_into()?);
    }
    if arch == TargetArch::x86_64 {
        filters.push(deny_x32());
    }
    Ok(Some(filters))
}

/// Applies the filters to this thread and the threads that it starts. They cannot be removed.
pub(super) fn apply(filters: Vec<BpfProgram>) -> Result<(), FilterError> {
    filters.iter().try_for_each(|filter| Ok(seccompiler::apply_filter(filter)?))
}

/// Calls that are denied with certain arguments. A call is denied if all conditions of any rule hold.
fn conditional() -> Result<Vec<(i64, Vec<SeccompRule>)>, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let when = |argument, operator, value: i32| {
        SeccompCondition::new(argument, Dword, operator, u64::from(value.cast_unsigned()))
    };
    let rule = |conditions| SeccompRule::new(conditions);
    // The rule holds if the argument has this bit set.
    let has_bit = |argument, bit: i32| rule(vec![when(argument, MaskedEq(u64::from(bit.cast_unsigned())), bit)?]);

    let other_families = [c::AF_INET, c::AF_INET6, c::AF_NETLINK]
        .map(|family| when(0, Ne, family))
        .into_iter()
        .collect::<Result<_, _>>()?;
    let namespaces = [
        c::CLONE_NEWUSER,
        c::CLONE_NEWNS,
        c::CLONE_NEWPID,
        c::CLONE_NEWNET,
        c::CLONE_NEWIPC,
        c::CLONE_NEWUTS,
        c::CLONE_NEWCGROUP,
    ];
    // 0xf is the kernel's SOCK_TYPE_MASK; the bits above it are SOCK_NONBLOCK and SOCK_CLOEXEC.
    let pair = |kind| rule(vec![when(1, MaskedEq(0xf), kind)?]);
    Ok(vec![
        // Unix sockets lead to pcscd, to the keeper and to the programs of the user's session; AF_VSOCK leads to the
        // host. Netlink is allowed: getaddrinfo(3) reads this machine's addresses through it.
        (c::SYS_socket, vec![rule(other_families)?]),
        // Pairs of stream sockets are allowed: tokio's signal driver needs such a pair. Datagram sockets of a pair
        // could still send to other sockets, and the kernel turns raw sockets of a pair into datagram sockets.
        (c::SYS_socketpair, vec![pair(c::SOCK_DGRAM)?, pair(c::SOCK_RAW)?]),
        (c::SYS_clone, namespaces.into_iter().map(|flag| has_bit(0, flag)).collect::<Result<_, _>>()?),
        // New executable memory: all code that the agent needs is mapped before it enters the sandbox.
        (c::SYS_mmap, vec![has_bit(2, c::PROT_EXEC)?]),
        (c::SYS_mprotect, vec![has_bit(2, c::PROT_EXEC)?]),
        (c::SYS_pkey_mprotect, vec![has_bit(2, c::PROT_EXEC)?]),
        // These inject input into the terminal, where the shell of the person who started the daemon would run it.
        (
            c::SYS_ioctl,
            vec![rule(vec![when(1, Eq, c::TIOCSTI as i32)?])?, rule(vec![when(1, Eq, c::TIOCLINUX as i32)?])?],
        ),
    ])
}

/// Denies the x32 calls with ENOSYS: they are x86_64's calls under other numbers, and seccompiler compares numbers
/// only.
///
/// Written by hand, since the crate has no rule for a range: load the number, compare it with __X32_SYSCALL_BIT,
/// return.
fn deny_x32() -> BpfProgram {
    let step = |code: u32, jf: u8, k: u32| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        step(c::BPF_LD | c::BPF_W | c::BPF_ABS, 0, 0),
        step(c::BPF_JMP | c::BPF_JGE | c::BPF_K, 1, 0x4000_0000),
        step(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ERRNO | c::ENOSYS.cast_unsigned()),
        step(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ALLOW),
    ]
}

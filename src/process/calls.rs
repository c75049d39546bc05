//! The system calls that the sandbox denies: a list of what leads out, not of what is needed, since a libc, a runtime and
//! a database need others with every version. Each of them is denied with EPERM, and the program lives.

use std::{collections::BTreeMap, error::Error};

use libc as c;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

type Refused = Box<dyn Error + Send + Sync>;

/// Denied whatever their arguments.
const DENIED: &[c::c_long] = &[
    // New programs: the agent starts none, and a shell is what an attacker wants.
    c::SYS_execve,
    c::SYS_execveat,
    // Other processes' memory and descriptors, the keeper's above all.
    c::SYS_ptrace,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_process_madvise,
    c::SYS_pidfd_getfd,
    c::SYS_kcmp,
    // Files past the paths that Landlock knows, and file systems of one's own.
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
    // What is said of a file by its path, which Landlock does not see: a PIN's file that seems to be changed is tried again.
    // By an open descriptor it is still possible.
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
    // Namespaces, in which one is root.
    c::SYS_setns,
    c::SYS_unshare,
    // It does what other calls do, unseen by this filter.
    c::SYS_io_uring_setup,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    // The kernel's keyrings: a credential may be in the user's.
    c::SYS_keyctl,
    c::SYS_add_key,
    c::SYS_request_key,
    // Shared memory of other programs, which may be executable too.
    c::SYS_shmat,
    c::SYS_remap_file_pages,
    // Doors to the kernel that have had many holes, or that only root needs.
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

/// The filters; none where there is no table for the processor.
pub(super) fn filters() -> Result<Option<Vec<BpfProgram>>, Refused> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    denied.extend(conditional()?);
    // glibc starts threads by clone3, whose flags stand in memory that a filter cannot read; told that the kernel has
    // none, it uses clone (glibc 2.34 and later).
    let absent = BTreeMap::from([(c::SYS_clone3, Vec::new())]);
    let mut filters = Vec::new();
    for (calls, errno) in [(denied, c::EPERM), (absent, c::ENOSYS)] {
        let answer = SeccompAction::Errno(errno.cast_unsigned());
        filters.push(SeccompFilter::new(calls, SeccompAction::Allow, answer, arch)?.try_into()?);
    }
    if arch == TargetArch::x86_64 {
        filters.push(without_x32());
    }
    Ok(Some(filters))
}

/// Binds this thread and those it starts, for life.
pub(super) fn apply(filters: Vec<BpfProgram>) -> Result<(), Refused> {
    filters.iter().try_for_each(|filter| Ok(seccompiler::apply_filter(filter)?))
}

/// Denied with some arguments. The conditions of one rule hold together; any rule denies.
fn conditional() -> Result<Vec<(i64, Vec<SeccompRule>)>, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let when = |argument, operator, value: i32| {
        SeccompCondition::new(argument, Dword, operator, u64::from(value.cast_unsigned()))
    };
    let rule = |conditions| SeccompRule::new(conditions);
    // A bit that is set.
    let with = |argument, bit: i32| rule(vec![when(argument, MaskedEq(u64::from(bit.cast_unsigned())), bit)?]);

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
    // SOCK_TYPE_MASK of the kernel: above it are SOCK_NONBLOCK and SOCK_CLOEXEC.
    let pair = |kind| rule(vec![when(1, MaskedEq(0xf), kind)?]);
    Ok(vec![
        // Unix sockets lead to pcscd, to the keeper and to the session's programs; AF_VSOCK to the host. Netlink tells
        // getaddrinfo(3) this machine's addresses.
        (c::SYS_socket, vec![rule(other_families)?]),
        // The signal driver of tokio needs a pair of streams. A pair of datagram sockets could still send elsewhere; of
        // raw ones the kernel makes datagrams.
        (c::SYS_socketpair, vec![pair(c::SOCK_DGRAM)?, pair(c::SOCK_RAW)?]),
        (c::SYS_clone, namespaces.into_iter().map(|flag| with(0, flag)).collect::<Result<_, _>>()?),
        // New code, a module that came as bytes say: what runs was there at the start.
        (c::SYS_mmap, vec![with(2, c::PROT_EXEC)?]),
        (c::SYS_mprotect, vec![with(2, c::PROT_EXEC)?]),
        (c::SYS_pkey_mprotect, vec![with(2, c::PROT_EXEC)?]),
        // What is typed so, the shell of the person who started the daemon runs.
        (
            c::SYS_ioctl,
            vec![rule(vec![when(1, Eq, c::TIOCSTI as i32)?])?, rule(vec![when(1, Eq, c::TIOCLINUX as i32)?])?],
        ),
    ])
}

/// x32 programs' calls are x86_64's by other numbers, and seccompiler compares numbers only: all are answered with
/// ENOSYS. By hand, since the crate has no rule for a range: load the number, compare with __X32_SYSCALL_BIT, return.
fn without_x32() -> BpfProgram {
    let step = |code: u32, jf: u8, k: u32| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        step(c::BPF_LD | c::BPF_W | c::BPF_ABS, 0, 0),
        step(c::BPF_JMP | c::BPF_JGE | c::BPF_K, 1, 0x4000_0000),
        step(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ERRNO | c::ENOSYS.cast_unsigned()),
        step(c::BPF_RET | c::BPF_K, 0, c::SECCOMP_RET_ALLOW),
    ]
}

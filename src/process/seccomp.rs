//! The filter of system calls. A call is allowed only if `system_calls.rs` allows it. The others fail, and the program
//! goes on: with EPERM if they are known to reach beyond the process, otherwise with ENOSYS.

use std::{collections::BTreeMap, error::Error};

use libc as c;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::system_calls::{ALLOWED, DENIED};

/// Why a filter cannot be built or applied.
type FilterError = Box<dyn Error + Send + Sync>;

/// Builds the filters. Returns `None` if there is no table of system calls for the processor.
pub(super) fn filters() -> Result<Option<Vec<BpfProgram>>, FilterError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
    let errno = |number: i32| SeccompAction::Errno(number.cast_unsigned());
    let all = |calls: &[(&str, c::c_long)]| calls.iter().map(|(_, call)| (*call, Vec::new())).collect();
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = all(DENIED);
    denied.extend(conditional()?);
    let denied = SeccompFilter::new(denied, SeccompAction::Allow, errno(c::EPERM), arch)?;
    // Of two errors, the kernel returns that of the filter that was applied last (seccomp(2)). So the second filter
    // lets through what the first one denies, and every other call fails with ENOSYS. Among these is clone3, with
    // which glibc 2.34 and later start threads, and whose flags are in memory that a filter cannot read: glibc then
    // uses clone. On x86_64 the x32 calls are others too, since their numbers are.
    let known = all(&[ALLOWED, DENIED].concat());
    let known = SeccompFilter::new(known, errno(c::ENOSYS), SeccompAction::Allow, arch)?;
    Ok(Some(vec![denied.try_into()?, known.try_into()?]))
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
    let without_bit = |argument, bit: i32| rule(vec![when(argument, MaskedEq(u64::from(bit.cast_unsigned())), 0)?]);
    // The process keeps its id, since it may not fork.
    let own = std::process::id().cast_signed();

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
    ]
    .map(|flag| has_bit(0, flag));
    // 0xf is the kernel's SOCK_TYPE_MASK; the bits above it are SOCK_NONBLOCK and SOCK_CLOEXEC.
    let pair = |kind| rule(vec![when(1, MaskedEq(0xf), kind)?]);
    Ok(vec![
        // Unix sockets lead to pcscd, to the keeper and to the programs of the user's session; AF_VSOCK leads to the
        // host. Netlink is allowed: getaddrinfo(3) reads this machine's addresses through it.
        (c::SYS_socket, vec![rule(other_families)?]),
        // Pairs of stream sockets are allowed: tokio's signal driver needs such a pair. Datagram sockets of a pair
        // could still send to other sockets, and the kernel turns raw sockets of a pair into datagram sockets.
        (c::SYS_socketpair, vec![pair(c::SOCK_DGRAM)?, pair(c::SOCK_RAW)?]),
        // Threads are allowed; other processes and namespaces are not.
        (c::SYS_clone, [without_bit(0, c::CLONE_THREAD)].into_iter().chain(namespaces).collect::<Result<_, _>>()?),
        // New executable memory: all code that the agent needs is mapped before it enters the sandbox.
        (c::SYS_mmap, vec![has_bit(2, c::PROT_EXEC)?]),
        (c::SYS_mprotect, vec![has_bit(2, c::PROT_EXEC)?]),
        // Signals to other processes, and their limits.
        (c::SYS_tgkill, vec![rule(vec![when(0, Ne, own)?])?]),
        (c::SYS_prlimit64, vec![rule(vec![when(0, Ne, 0)?, when(0, Ne, own)?])?]),
        // These inject input into the terminal, where the shell of the person who started the daemon would run it.
        (
            c::SYS_ioctl,
            vec![rule(vec![when(1, Eq, c::TIOCSTI as i32)?])?, rule(vec![when(1, Eq, c::TIOCLINUX as i32)?])?],
        ),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the sandbox does with each system call of the newest kernel's headers. The file says what it lists.
    const HEADERS: &str = include_str!("system-calls.txt");

    /// The numbers on x86_64 and on aarch64, the name, and what is done with the call.
    fn rows() -> impl Iterator<Item = ([Option<i64>; 2], &'static str, &'static str)> {
        HEADERS.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [x86_64, aarch64, name, what] = words[..] else { panic!("{line}") };
            ([x86_64, aarch64].map(|number| number.parse().ok()), name, what)
        })
    }

    fn listed(calls: &[(&'static str, i64)]) -> BTreeSet<(&'static str, i64)> {
        calls.iter().map(|(name, number)| (name.strip_prefix("SYS_").unwrap(), *number)).collect()
    }

    /// The lists have the calls that the file has, under the numbers of the kernel's headers.
    #[test]
    fn each_call_of_the_headers_is_allowed_or_denied_by_name() {
        let own = match std::env::consts::ARCH {
            "x86_64" => 0,
            "aarch64" => 1,
            _ => return,
        };
        let of = |kinds: &[&str]| -> BTreeSet<_> {
            let rows = rows().filter(|(_, _, what)| kinds.contains(what));
            rows.filter_map(|(numbers, name, _)| Some((name, numbers[own]?))).collect()
        };
        assert_eq!(listed(ALLOWED), of(&["allow", "some"]));
        assert_eq!(listed(DENIED), of(&["deny"]));
        let restricted: BTreeSet<_> = conditional().unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(restricted, of(&["some"]).into_iter().map(|(_, number)| number).collect());
    }

    /// The names that exist on x86_64 only are those that the lists have for x86_64 only: a list that names another
    /// one does not compile for aarch64.
    #[test]
    fn aarch64_has_the_calls_that_are_not_marked() {
        const SOURCE: &str = include_str!("system_calls.rs");
        let mut is_marked = false;
        for line in SOURCE.lines().map(str::trim) {
            match line.strip_prefix("SYS_").and_then(|line| line.strip_suffix(',')) {
                Some(name) => {
                    let (numbers, ..) = rows().find(|(_, row, _)| *row == name).unwrap_or_else(|| panic!("{name}"));
                    assert_eq!(numbers[1].is_none() || name == "getrlimit", is_marked, "{name}");
                    is_marked = false;
                }
                None => is_marked = line == r#"#[cfg(target_arch = "x86_64")]"#,
            }
        }
    }
}

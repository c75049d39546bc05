//! Makes every system call that the sandbox does not allow: those of the newest kernel's headers, those of this machine's
//! headers, and numbers that no kernel has yet.

use std::{collections::BTreeMap, fs, io::Error};

/// What the sandbox does with each call. The file says what it lists.
const HEADERS: &str = include_str!("../../../src/process/system-calls.txt");
/// Numbers below this are tried. Linux 6.17 has fewer than 470.
const LIMIT: i64 = 1024;
/// The numbers of x32 have this bit (`__X32_SYSCALL_BIT`).
const X32: i64 = 0x4000_0000;

/// Enters the sandbox, and makes the calls, with arguments that no call accepts.
pub fn all(enter: impl FnOnce()) {
    let column = match std::env::consts::ARCH {
        "x86_64" => 0,
        "aarch64" => 1,
        other => return println!("not tested: no table for {other}"),
    };
    let rows = HEADERS.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
    let table: BTreeMap<i64, (&str, &str)> =
        rows.filter_map(|row| Some((row[column].parse().ok()?, (row[2], row[3])))).collect();
    let of_this_machine = installed_headers();
    for (number, name) in &of_this_machine {
        assert!(*number < LIMIT, "{name} is {number}");
        assert!(table.get(number).is_none_or(|(known, _)| known == name), "{name} is {number}: {table:?}");
    }
    enter();
    let mut wrong = Vec::new();
    for number in (0..LIMIT).chain((0..LIMIT).map(|number| X32 + number)) {
        // `uprobe` of Linux 6.18, which seccomp does not filter either.
        if number == 336 && column == 0 {
            continue;
        }
        let (name, what) = table.get(&number).copied().unwrap_or(("unknown", "-"));
        let expected = match what {
            "deny" => libc::EPERM,
            "-" => libc::ENOSYS,
            _ => continue,
        };
        // SAFETY: the filter refuses the call. If it did not, every call fails with these arguments, or acts on no
        // memory of this process.
        let returned = unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) };
        let errno = Error::last_os_error().raw_os_error();
        if returned != -1 || errno != Some(expected) {
            wrong.push(format!("{number} {name}: {returned} {errno:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    println!("refused");
}

/// The calls in this machine's headers, by number. Empty if the headers are not installed.
fn installed_headers() -> BTreeMap<i64, String> {
    let path = match std::env::consts::ARCH {
        "x86_64" => "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        _ => return BTreeMap::new(),
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    let defined = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    defined.filter_map(|(name, number)| Some((number.trim().parse().ok()?, name.to_owned()))).collect()
}

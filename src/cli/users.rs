//! Users of this machine, by number or by name.

use std::fs;

use super::failure::Failure;

/// Returns the user ID for a number or a name of /etc/passwd.
pub fn user_id(name: &str) -> Result<u32, Failure> {
    match name.parse() {
        Ok(number) => Ok(number),
        Err(_) => user_and_group(name).map(|(user, _)| user),
    }
}

/// Returns the user ID and the group ID for a name of /etc/passwd.
pub fn user_and_group(name: &str) -> Result<(u32, u32), Failure> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(|error| Failure::io("/etc/passwd", &error))?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == name);
    entry.and_then(|entry| Some((entry.get(2)?.parse().ok()?, entry.get(3)?.parse().ok()?))).ok_or_else(|| {
        Failure::usage("bad-config", format!("the configuration names the user {name:?}, who is not in /etc/passwd"))
            .hint("name a user of another directory by number: `id -u NAME`")
    })
}

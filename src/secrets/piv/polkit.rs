//! polkit, with which the PC/SC service of Debian 13, Fedora and others decides who may use smart cards.
//!
//! By default that is a person at the machine's own screen: neither a service's user nor someone who is logged in by ssh
//! (pcsc-lite, `doc/README.polkit`).

/// What to say when the PC/SC service refuses this process. `of` is what was refused: the service or a reader's name.
pub(super) fn refusal(of: &str) -> String {
    let user = user_name().unwrap_or_else(|| "USER".into());
    format!(
        "{of} is refused to the user {user} by polkit, which allows smart cards only to a person at this machine's own \
         screen. An administrator allows it with this rule in /etc/polkit-1/rules.d/50-smart-cards.rules: {}",
        rule_for(&user)
    )
}

/// The rule that lets a user use smart cards. packaging/polkit.rules has the same rule for the keepers' user.
fn rule_for(user: &str) -> String {
    format!(
        "polkit.addRule(function(action, subject) {{ if (action.id.indexOf(\"org.debian.pcsc-lite.\") == 0 && \
         subject.user == \"{user}\") {{ return polkit.Result.YES; }} }});"
    )
}

/// The name of the user of this process.
#[cfg(target_os = "linux")]
fn user_name() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, of) = (fields.next()?, fields.next()?, fields.next()?);
        (of == uid).then(|| name.to_owned())
    })
}

#[cfg(not(target_os = "linux"))]
fn user_name() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_rule_is_the_rule_that_the_error_names() {
        let packaged = include_str!("../../../packaging/polkit.rules");
        let code: Vec<&str> =
            packaged.lines().filter(|line| !line.starts_with("//")).flat_map(str::split_whitespace).collect();
        assert_eq!(code.join(" "), rule_for("claviger-keeper"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_refusal_names_the_user_and_the_rule() {
        let refused = refusal("the PC/SC service");
        assert!(refused.starts_with("the PC/SC service is refused to the user "), "{refused}");
        assert!(refused.contains("subject.user == \"") && !refused.contains("USER"), "{refused}");
    }
}

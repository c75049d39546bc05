//! What a report on a YubiKey may have, as `claviger token doctor --report` writes it.

use std::collections::BTreeSet;

use serde_json::Value;

/// The members of a report, and of everything in it.
const MEMBERS: [&str; 29] = [
    "algorithms",
    "algorithms.agree_microseconds",
    "algorithms.algorithm",
    "algorithms.answers",
    "algorithms.answers.answer",
    "algorithms.answers.of",
    "algorithms.answers.refusal",
    "algorithms.answers.refusal.command",
    "algorithms.answers.refusal.status",
    "algorithms.attested",
    "algorithms.make_microseconds",
    "algorithms.no_key",
    "algorithms.no_key.command",
    "algorithms.no_key.status",
    "algorithms.sign_microseconds",
    "algorithms.verdict",
    "claviger",
    "format",
    "largest_object",
    "longest_eddsa",
    "pin_policies",
    "pin_policies.made",
    "pin_policies.needs_pin",
    "pin_policies.policy",
    "touch_policies",
    "touch_policies.made",
    "touch_policies.policy",
    "yubikey",
    "yubikey.firmware",
];
const MORE_MEMBERS: [&str; 2] = ["yubikey.form", "yubikey.made_by_yubico"];

/// Why a report may not be published; `None` if it may. `name` is that of its file, without `.json`.
pub fn problem(name: &str, report: &Value) -> Option<String> {
    let mut found = BTreeSet::new();
    members(report, "", &mut found);
    let known: BTreeSet<String> = MEMBERS.into_iter().chain(MORE_MEMBERS).map(str::to_owned).collect();
    let firmware = report["yubikey"]["firmware"].as_str().unwrap_or_default();
    let numbers: Vec<&str> = firmware.split('.').collect();
    let text = report.to_string();
    let longest = text.split(|letter: char| !letter.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    let problems = [
        (report["format"] != 1, "its format is not 1".to_owned()),
        (!found.is_subset(&known), format!("unknown members: {:?}", found.difference(&known))),
        (
            numbers.len() != 3 || numbers.iter().any(|number| number.parse::<u8>().is_err()),
            format!("the firmware is {firmware:?}"),
        ),
        (name != format!("yubikey-{firmware}"), format!("{name} is not yubikey-{firmware}")),
        // A serial number has eight digits, and no operation takes ten seconds.
        (longest > 7 || text.contains(['/', '\\']), "it may have a serial number or a path".to_owned()),
        (
            report["yubikey"]["made_by_yubico"] != true,
            "no attestation led to Yubico's root: it is of a virtual card, or of a YubiKey with another key in F9"
                .to_owned(),
        ),
    ];
    problems.into_iter().find(|(is_wrong, _)| *is_wrong).map(|(_, problem)| problem)
}

fn members(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            found.insert(format!("{path}{name}"));
            members(value, &format!("{path}{name}."), found);
        }),
        Value::Array(values) => values.iter().for_each(|value| members(value, path, found)),
        _ => {}
    }
}

//! The reports in `hsm-config/reports/`: they agree with the profiles, and have nothing of one device.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use claviger::{
    keys::Curve,
    secrets::pkcs11::{EvidenceBasis, Profile, Verdict},
};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config")
}

/// The reports on PKCS#11 devices, by the names of their files. `piv/reports.rs` reads those on YubiKeys.
fn reports() -> BTreeMap<String, Value> {
    let files = fs::read_dir(folder().join("reports")).unwrap().map(|entry| entry.unwrap().path());
    let reports = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).map(|path| {
        let report: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), report)
    });
    reports.filter(|(_, report)| report["yubikey"].is_null()).collect()
}

/// The profile of a report, and the rest of its file's name: the version.
fn profile(name: &str, report: &Value) -> (Profile, String) {
    let profile = report["profile"].as_str().unwrap_or_else(|| panic!("{name}: no profile"));
    let version =
        name.strip_prefix(&format!("{profile}-")).unwrap_or_else(|| panic!("{name} is not {profile}-VERSION"));
    (Profile::named(profile, None).unwrap(), version.to_owned())
}

#[test]
fn each_device_that_runs_here_has_a_report() {
    let reported: BTreeSet<_> =
        reports().iter().map(|(name, report)| profile(name, report).0.name().to_owned()).collect();
    for name in Profile::names(None).unwrap() {
        if Profile::named(&name, None).unwrap().basis().unwrap().0 == EvidenceBasis::Measured {
            assert!(
                reported.contains(&name),
                "{name} has no report: hsm-config/reports/README.md says how to make one"
            );
        }
    }
}

/// The verdict of a report for a curve; none if the device made no key for the test.
fn verdict(report: &Value, curve: Curve) -> Option<Verdict> {
    let rows = report["algorithms"].as_array().unwrap();
    let row = rows.iter().find(|row| row["algorithm"] == curve.name()).expect("a row for each curve");
    serde_json::from_value(row["verdict"].clone()).unwrap()
}

/// A profile says what its newest report says; an older version of the device may do less.
#[test]
fn profiles_agree_with_their_reports() {
    for (name, report) in reports() {
        let (profile, version) = profile(&name, &report);
        let (basis, measured) = profile.basis().unwrap();
        let is_of_profile = basis == EvidenceBasis::Measured && measured.contains(&version);
        for curve in Curve::ALL {
            let Some(verdict) = verdict(&report, curve) else { continue };
            let says = profile.verdict(curve).unwrap();
            assert!(verdict == says || !is_of_profile && verdict < says, "{name}: {curve} is {verdict}, not {says}");
        }
    }
}

/// The members of a report, and of everything in it.
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

#[test]
fn no_report_is_about_one_device() {
    const MEMBERS: [&str; 41] = [
        "algorithms",
        "algorithms.algorithm",
        "algorithms.answers",
        "algorithms.answers.answer",
        "algorithms.answers.codes",
        "algorithms.answers.of",
        "algorithms.authcrypt_microseconds",
        "algorithms.custody",
        "algorithms.new_key",
        "algorithms.new_key.key_type",
        "algorithms.new_key.params_are_oid",
        "algorithms.new_key.point",
        "algorithms.no_key",
        "algorithms.peer_point",
        "algorithms.sign_microseconds",
        "algorithms.signs",
        "algorithms.tested_with",
        "algorithms.unwrap_microseconds",
        "algorithms.verdict",
        "claviger",
        "format",
        "mechanisms",
        "mechanisms.flags",
        "mechanisms.largest",
        "mechanisms.name",
        "mechanisms.smallest",
        "module",
        "module.cryptoki",
        "module.description",
        "module.manufacturer",
        "module.version",
        "profile",
        "session_keys",
        "sessions",
        "sessions.most",
        "sessions.used",
        "token",
        "token.firmware",
        "token.hardware",
        "token.manufacturer",
        "token.model",
    ];
    for (name, report) in reports() {
        assert_eq!(report["format"], 1, "{name}");
        let mut found = BTreeSet::new();
        members(&report, "", &mut found);
        let known: BTreeSet<_> = MEMBERS.map(str::to_owned).into();
        assert!(found.is_subset(&known), "{name}: {:?}", found.difference(&known));
        // A serial number or another hexadecimal number in a text. Mechanisms without a name are numbers too.
        let text = ["module", "token"].map(|part| report[part].to_string()).concat();
        let words = text.split(|letter: char| !letter.is_ascii_hexdigit());
        let number = words.into_iter().find(|word| word.len() >= 6 && word.bytes().any(|byte| byte.is_ascii_digit()));
        assert_eq!(number, None, "{name}: {text}");
        assert!(!report.to_string().contains('/'), "{name} has a path");
    }
}

const BEGIN: &str = "<!-- generated: CLAVIGER_UPDATE_DOCS=1 cargo test --all-features --test secrets -- reports -->";
const END: &str = "<!-- end of generated -->";

/// The table of all devices, from their profiles and reports. Measured devices come first. `pages` is the folder of the
/// devices' pages, as a link has it; without it there are no links.
fn table(pages: Option<&str>) -> String {
    let reports: Vec<_> = reports().into_iter().map(|(name, report)| (profile(&name, &report), report)).collect();
    let mut rows = Vec::new();
    for name in Profile::names(None).unwrap() {
        let profile = Profile::named(&name, None).unwrap();
        let (basis, version) = profile.basis().unwrap();
        let own = reports.iter().filter(|((of, _), _)| of.name() == name);
        let versions: Vec<_> = own
            .map(|((_, version), report)| match Curve::ALL.iter().any(|curve| does_less(report, &profile, *curve)) {
                true => format!("{version} does less"),
                false => version.clone(),
            })
            .collect();
        let how = match basis {
            EvidenceBasis::Measured => "measured",
            EvidenceBasis::Documented if !versions.is_empty() => "read, reported by a user",
            EvidenceBasis::Documented => "read",
        };
        let device = profile.device();
        let first = pages.map_or(device.to_owned(), |folder| format!("[{device}]({folder}{name}.md)"));
        let verdicts = Curve::ALL.map(|curve| profile.verdict(curve).unwrap().to_string()).join(" | ");
        let versions = match versions.is_empty() {
            true => "-".to_owned(),
            false => versions.join(", "),
        };
        let row = format!("| {first} | {verdicts} | {how}: {version} | {versions} |\n");
        rows.push((basis != EvidenceBasis::Measured, device.to_lowercase(), row));
    }
    rows.sort();
    let head = format!("| device | {} | basis | reports |\n", Curve::ALL.map(Curve::name).join(" | "));
    let rule = "|---".repeat(Curve::ALL.len() + 3) + "|\n";
    head + &rule + &rows.into_iter().map(|(_, _, row)| row).collect::<String>()
}

/// Whether a report has a lower verdict for a curve than the profile.
fn does_less(report: &Value, profile: &Profile, curve: Curve) -> bool {
    verdict(report, curve).is_some_and(|verdict| verdict < profile.verdict(curve).unwrap())
}

/// The tables of devices are those made from profiles and reports. With `CLAVIGER_UPDATE_DOCS` they are written.
#[test]
fn tables_of_devices_are_made_from_profiles_and_reports() {
    for (file, pages) in
        [("docs/devices.md", None), ("hsm-config/README.md", Some("")), ("README.md", Some("hsm-config/"))]
    {
        let path = folder().join("..").join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the table has a beginning");
        let (_, after) = rest.split_once(END).expect("the table has an end");
        let wanted = format!("{before}{BEGIN}\n\n{}\n{END}{after}", table(pages));
        if std::env::var_os("CLAVIGER_UPDATE_DOCS").is_some() {
            fs::write(&path, wanted).unwrap();
        } else {
            assert!(text == wanted, "{file} has not this table; CLAVIGER_UPDATE_DOCS=1 writes it\n{}", table(pages));
        }
    }
}

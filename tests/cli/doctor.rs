//! `claviger token doctor`.

use std::{collections::BTreeMap, fs, io::Write, path::Path, process::Stdio};

use serde_json::{Value, json};

use claviger_fault_module::Shim;

use crate::home::{CommandOutput, Home, PIN, softhsm_module};

/// The report of the only token.
#[track_caller]
fn report(ran: &CommandOutput) -> Value {
    let document: Value = serde_json::from_str(ran.stdout()).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let reports = document.as_array().unwrap();
    assert_eq!(reports.len(), 1);
    reports[0].clone()
}

/// The level and the subjects of the findings with this ID.
fn findings_with_id(report: &Value, id: &str) -> Vec<(String, Vec<String>)> {
    let findings = report["findings"].as_array().unwrap();
    let with_id = findings.iter().filter(|finding| finding["id"] == id);
    with_id
        .map(|finding| {
            assert!(!finding["message"].as_str().unwrap().is_empty());
            let about = finding["about"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned());
            (finding["level"].as_str().unwrap().to_owned(), about.collect())
        })
        .collect()
}

fn one_finding(level: &str, about: &[&str]) -> Vec<(String, Vec<String>)> {
    vec![(level.to_owned(), about.iter().map(ToString::to_string).collect())]
}

/// The files of the token with their contents, without the first eight bytes of `token.object`, in which SoftHSM 2.6.1
/// counts logins.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let each = entries.flat_map(|path| {
        if path.is_dir() {
            return files(&path).into_iter().collect::<Vec<_>>();
        }
        let logins = if path.ends_with("token.object") { 8 } else { 0 };
        vec![(path.display().to_string(), fs::read(&path).unwrap().split_off(logins))]
    });
    each.collect()
}

#[test]
fn each_algorithm_has_a_verdict_and_nothing_changes() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg X25519 --name mine").success();
    let keys = home.run("--json key list").json();
    let before = files(&home.path().join("tokens"));
    assert!(before.len() > 3);
    let ran = home.run("--json token doctor soft");
    let doctor_report = report(&ran);
    assert_eq!((ran.status(), ran.stderr()), (0, ""));
    let algorithms = doctor_report["algorithms"].as_array().unwrap().iter();
    let verdicts: Vec<_> = algorithms
        .map(|it| json!([it["algorithm"], it["verdict"], it["custody"], it["point"], it["tested_with"]]))
        .collect();
    let agrees = |curve| json!([curve, "authcrypt", "kek-in-process", "raw", "session-key"]);
    let signs = |curve| json!([curve, "sign-only", null, null, "session-key"]);
    let expected =
        [agrees("X25519"), agrees("P-256"), agrees("P-384"), agrees("P-521"), signs("Ed25519"), signs("secp256k1")];
    assert_eq!(verdicts, expected);
    assert_eq!(
        doctor_report.as_object().unwrap().keys().collect::<Vec<_>>(),
        [
            "name",
            "token",
            "module",
            "profile",
            "pin",
            "sessions",
            "session_keys",
            "algorithms",
            "refused",
            "findings",
            "process",
            "changed",
            "error",
        ]
    );
    assert_eq!(
        (&doctor_report["session_keys"], &doctor_report["changed"], &doctor_report["error"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    assert_eq!(
        (&doctor_report["profile"]["name"], &doctor_report["profile"]["by"]),
        (&json!("softhsm"), &json!("match"))
    );
    assert_eq!(
        findings_with_id(&doctor_report, "custody"),
        one_finding("good", &["X25519", "P-256", "P-384", "P-521"])
    );
    let hygiene = doctor_report["process"]["hygiene"].as_array().unwrap();
    assert!(hygiene.iter().any(|measure| measure == &json!({ "name": "not dumpable", "holds": true })), "{hygiene:?}");
    let process = findings_with_id(&doctor_report, "process");
    let lacking = hygiene.iter().filter(|measure| measure["holds"] == false).count();
    assert_eq!(process.iter().filter(|(level, _)| level == "warning").count(), lacking);
    assert!(!findings_with_id(&doctor_report, "sandbox").is_empty());
    assert!(files(&home.path().join("tokens")) == before);
    assert_eq!(home.run("--json key list").json(), keys);
}

#[test]
fn a_token_named_by_its_uri() {
    let Some(home) = Home::with_token() else { return };
    let uri = format!("pkcs11:token=soft?module-path={}&pin-value={PIN}", softhsm_module().unwrap().display());
    home.write("claviger.toml", "");
    let doctor_report = report(&home.run(&format!("--json token doctor --uri {uri}")));
    assert_eq!(doctor_report["token"]["label"], "soft");
    assert_eq!(findings_with_id(&doctor_report, "pin-in-uri"), one_finding("warning", &[]));
    assert_eq!(home.run("--json token doctor").error(2), "no-token");
}

/// The report has what is visible without a login, and the refused PIN is not tried again.
#[test]
fn a_token_with_a_refused_pin() {
    let Some(home) = Home::with_token() else { return };
    home.write("user.pin", "wrong");
    for _ in 0..2 {
        let ran = home.run("--json token doctor");
        let doctor_report = report(&ran);
        assert_eq!(ran.status(), 3);
        assert!(ran.stderr().lines().last().unwrap().contains(r#""code":"pin-refused""#), "{}", ran.stderr());
        assert_eq!((&doctor_report["error"]["code"], &doctor_report["changed"]), (&json!("pin-refused"), &Value::Null));
        assert_eq!(
            (&doctor_report["token"]["label"], &doctor_report["profile"]["name"]),
            (&json!("soft"), &json!("softhsm"))
        );
        assert_eq!(
            (&doctor_report["pin"]["state"], &doctor_report["pin"]["last_try"]),
            (&json!("count-low"), &json!("refused"))
        );
        assert_eq!(findings_with_id(&doctor_report, "pin-refused"), one_finding("bad", &[]));
        assert_eq!(doctor_report["algorithms"], json!([]));
    }
    home.write("user.pin", PIN);
    home.run("token lock soft").success();
    let ran = home.run("--json token doctor");
    assert_eq!((ran.status(), findings_with_id(&report(&ran), "pin-locked-here")), (3, one_finding("bad", &[])));
    home.run("token unlock soft").success();
    let ran = home.run("--json token doctor");
    assert_eq!((ran.status(), report(&ran)["pin"]["last_try"].clone()), (0, json!("accepted")));
}

#[test]
fn an_absent_token() {
    let Some(home) = Home::with_token() else { return };
    let config = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    home.write("claviger.toml", &config.replace("token=soft", "token=lost"));
    let ran = home.run("--json token doctor");
    let doctor_report = report(&ran);
    assert_eq!(
        (ran.status(), &doctor_report["token"], &doctor_report["error"]["code"]),
        (3, &Value::Null, &json!("token-absent"))
    );
}

/// An imported key, a readable PIN file, and a profile and a minimum custody that the token does not meet.
#[test]
fn problems_of_keys_pin_profile_and_custody() {
    let Some(home) = Home::with_token() else { return };
    let set_pin_file_mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(home.path().join("user.pin"), mode).unwrap();
    };
    set_pin_file_mode(0o644);
    // RFC 8037, appendix A.1.
    home.write(
        "key.jwk",
        r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"brought"}"#,
    );
    home.run("key import --token soft --jwk key.jwk").success();
    let profile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config/softhsm.toml")).unwrap();
    let profile = profile
        .replace("basis = \"measured\"", "basis = \"read\"")
        .replace("P-521 = \"authcrypt\"", "P-521 = \"sign-only\"")
        .replace("secp256k1 = \"sign-only\"", "secp256k1 = \"authcrypt\"")
        .replace("\"kek-in-process\", ", "");
    fs::create_dir(home.path().join("hsm-config")).unwrap();
    home.write("hsm-config/mine.toml", &profile);
    home.configure(&softhsm_module().unwrap(), "profile = \"mine\"\nminimum_custody = \"kek-in-process\"\n");
    let doctor_report = report(&home.run("--json token doctor"));
    let agreeing = ["X25519", "P-256", "P-384", "P-521"];
    assert_eq!(findings_with_id(&doctor_report, "pin-file-readable"), one_finding("warning", &[]));
    assert_eq!(findings_with_id(&doctor_report, "key-imported"), one_finding("note", &["brought"]));
    assert_eq!(findings_with_id(&doctor_report, "key-was-exposed"), [], "the finding key-imported covers it");
    assert_eq!(doctor_report["profile"]["by"], "name");
    assert_eq!(findings_with_id(&doctor_report, "profile-not-measured"), one_finding("note", &[]));
    assert_eq!(findings_with_id(&doctor_report, "verdict-better"), one_finding("note", &["P-521"]));
    assert_eq!(findings_with_id(&doctor_report, "verdict-worse"), one_finding("warning", &["secp256k1"]));
    assert_eq!(findings_with_id(&doctor_report, "custody"), one_finding("note", &agreeing));
    assert_eq!(findings_with_id(&doctor_report, "custody-below-minimum"), one_finding("bad", &agreeing));
    set_pin_file_mode(0o600);
    fs::remove_dir_all(home.path().join("hsm-config")).unwrap();
    home.configure(&softhsm_module().unwrap(), "");
    let doctor_report = report(&home.run("--json token doctor"));
    for id in ["pin-file-readable", "profile-not-measured", "verdict-better", "verdict-worse", "custody-below-minimum"]
    {
        assert_eq!(findings_with_id(&doctor_report, id), [], "{id}");
    }
}

/// Slow, wrong and refused operations, made by `tests/fault-module`.
#[test]
fn a_slow_token_and_wrong_answers() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name mine").success();
    home.configure(&Shim::module(), "");
    let shim = Shim::new(home.path().join("fault"));
    let run_with_faults = |faults: &[&str]| {
        shim.order(faults);
        let mut command = home.command(&claviger_testkit::program!());
        command
            .env("CLAVIGER_FAULT_MODULE", softhsm_module().unwrap())
            .env("CLAVIGER_FAULT_CONTROL", home.path().join("fault"));
        let output = command.args(["--json", "token", "doctor"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document[0].clone()
    };
    let level = |report: &Value, id| {
        let found = findings_with_id(report, id).into_iter();
        found.map(|(level, about)| format!("{level} {}", about.join(" "))).collect::<Vec<_>>()
    };

    let report = run_with_faults(&["delay C_Sign 60"]);
    assert_eq!(level(&report, "slow"), ["warning P-256", "warning Ed25519", "warning secp256k1"]);

    let report = run_with_faults(&["wrong C_Sign"]);
    assert_eq!(level(&report, "wrong-answer"), ["bad P-256", "bad Ed25519", "bad secp256k1"]);
    assert_eq!(level(&report, "does-not-sign"), ["warning P-256"]);
    assert_eq!(level(&report, "verdict-worse"), ["warning Ed25519", "warning secp256k1"]);

    // CKR_MECHANISM_PARAM_INVALID.
    let report = run_with_faults(&["fail C_DeriveKey 0x71"]);
    assert_eq!(level(&report, "mechanism-fails").len(), 4);
    assert_eq!(level(&report, "no-x25519"), ["warning X25519"]);
    assert_eq!(level(&report, "custody"), [""; 0]);

    // CKR_TEMPLATE_INCONSISTENT.
    let report = run_with_faults(&["fail C_GenerateKeyPair 0xd1"]);
    assert_eq!(level(&report, "no-session-keys"), ["note "]);
    let verdicts: Vec<_> = report["algorithms"].as_array().unwrap().iter().map(|it| &it["verdict"]).collect();
    assert_eq!(verdicts, [&Value::Null, &json!("authcrypt"), &Value::Null, &Value::Null, &Value::Null, &Value::Null]);
    assert_eq!(report["algorithms"][1]["tested_with"], "held-key");

    // CKR_KEY_FUNCTION_NOT_PERMITTED, for the key in the token.
    let report = run_with_faults(&["fail C_SignInit 0x68", "fail C_DeriveKey 0x68"]);
    assert_eq!(level(&report, "key-fails"), ["bad mine"]);
    assert_eq!(report["refused"].as_array().unwrap().len(), 1);
}

/// The report for others has what the device can do, and nothing that tells it from another. Without a terminal it is
/// written only with --yes.
#[test]
fn a_report_for_others_has_nothing_of_the_token_itself() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name mine").success();
    let file = home.path().join("report.json");
    let refused = home.run("--json token doctor soft --report report.json").error(1);
    assert_eq!((refused.as_str(), file.exists()), ("not-confirmed", false));
    let own = report(&home.run("--json token doctor soft --report report.json --yes"));
    let text = fs::read_to_string(&file).unwrap();
    let (label, serial) = (own["token"]["label"].as_str().unwrap(), own["token"]["serial"].as_str().unwrap());
    let key = home.run("--json key list").json()[0]["key"].to_string();
    let module = softhsm_module().unwrap();
    for private in [&format!("\"{label}\""), serial, PIN, key.trim_matches('"'), "mine", module.to_str().unwrap(), "/"]
    {
        assert!(!private.is_empty() && !text.contains(private), "{private} is in {text}");
    }
    let device: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&device["profile"], &device["module"]["manufacturer"], &device["token"]["model"]),
        (&json!("softhsm"), &json!("SoftHSM"), &json!("SoftHSM v2"))
    );
    let of = |report: &Value| {
        let each = report["algorithms"].as_array().unwrap().iter();
        each.map(|it| [it["algorithm"].clone(), it["verdict"].clone(), it["custody"].clone()]).collect::<Vec<_>>()
    };
    assert_eq!(of(&device), of(&own));
    assert_eq!(
        device["algorithms"][0]["new_key"],
        json!({ "key_type": "CKK_EC_EDWARDS", "params_are_oid": true, "point": "der" })
    );
    let mechanisms = device["mechanisms"].as_array().unwrap();
    let ecdh = mechanisms.iter().find(|it| it["name"] == "CKM_ECDH1_DERIVE").unwrap();
    assert_eq!(ecdh["flags"], json!(["DERIVE"]));

    // The name of a profile of the site's own may say whose device it is.
    fs::create_dir(home.path().join("hsm-config")).unwrap();
    let own_profile = home.path().join("hsm-config/our-site.toml");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-config/softhsm.toml"), own_profile).unwrap();
    home.configure(&module, "profile = \"our-site\"");
    home.run("--json token doctor soft --report report.json --yes").success();
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("our-site") && text.contains("\"profile\": null"), "{text}");
}

/// At a terminal a person sees the report, and it is written after a yes.
#[test]
fn a_person_sees_the_report_before_it_is_written() {
    let Some(home) = Home::with_token() else { return };
    let file = home.path().join("report.json");
    let answer = |answer: &[u8]| {
        let mut command = home.command("script");
        command.args(["-qec", "claviger --config claviger.toml token doctor soft --report report.json", "/dev/null"]);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("script(1) gives a program a terminal");
        child.stdin.take().unwrap().write_all(answer).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).replace('\r', ""))
    };
    let (status, shown) = answer(b"n\n");
    assert_eq!((status, file.exists()), (Some(1), false), "{shown}");
    assert!(shown.contains("not confirmed: no report was written"), "{shown}");
    let (status, shown) = answer(b"y\n");
    assert_eq!(status, Some(0), "{shown}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(shown.contains(&written), "{shown}\nis not\n{written}");
}

//! The reports on YubiKeys in `hsm-config/reports/`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::yubikey_report::problem;

/// No report is of a virtual card, and none has anything of one YubiKey. `tests/cli/yubikey_doctor.rs` shows what this
/// test refuses.
#[test]
fn reports_on_yubikeys_may_be_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config/reports");
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let report: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(name.starts_with("yubikey-"), report["yubikey"].is_object(), "{name}");
        if report["yubikey"].is_object() {
            assert_eq!(problem(name, &report), None, "{name}");
        }
    }
}

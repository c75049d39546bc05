//! A `[[token]]` that is wrong. Commands that need another token work, and those that need this one say what is wrong.

use std::fs;

use serde_json::Value;

use crate::home::{Home, plaintext, softhsm_module};

/// Each is a `[[token]]`, with a part of what is said about it.
fn faulty_tables(module: &str) -> Vec<(String, &'static str)> {
    let uri = format!("uri = \"pkcs11:token=other?module-path={module}&pin-source=file:user.pin\"");
    vec![
        (format!("{uri}\nsesions = 2"), "unknown setting \"sesions\""),
        (format!("{uri}\nsessions = \"two\""), "sessions"),
        (format!("{uri}\nprofile = \"softsm\""), "unknown profile \"softsm\""),
        (format!("{uri}\nallow = [\"unwarp\"]"), "unwarp"),
        (format!("{uri}\nenvironment = {{ \"A B\" = \"c\" }}"), "\"A B\" has an invalid name"),
        (format!("{uri}\nkeeper = \"unix:socket\""), "needs either `uri` or `keeper`"),
        (String::new(), "needs either `uri` or `keeper`"),
        (
            "uri = \"pkcs11:token=other?module-path=/nowhere/lib.so&pin-source=file:user.pin\"".to_owned(),
            "/nowhere/lib.so",
        ),
        ("uri = \"pkcs11:tokn=other\"".to_owned(), "tokn"),
        ("keeper = \"unix:/nowhere/socket\"".to_owned(), "/nowhere/socket"),
    ]
}

#[test]
fn a_faulty_token_breaks_no_command_that_needs_another() {
    let Some(home) = Home::with_token() else { return };
    let did = home.create_did("--method peer:2 --token soft");
    let module = softhsm_module().unwrap().display().to_string();
    let own = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let (state, own) = own.split_at(own.find("[[token]]").unwrap());
    let message = plaintext(Some(&did), Some(&did), "x");
    for (table, fault) in faulty_tables(&module) {
        let faulty = format!("[[token]]\nname = \"other\"\n{table}\n");
        for config in [format!("{state}{faulty}{own}"), format!("{state}{own}\n{faulty}")] {
            home.write("claviger.toml", &config);
            let packed = home.run_with_stdin(&format!("pack --from {did} --sign-by {did} --to {did}"), &message);
            home.run_with_stdin("unpack", packed.success()).json();
            home.run("key list --token soft").success();
            home.run("token doctor soft").success();
            home.run("token unlock soft").success();
            // Lists show what there is, and what is wrong with the other.
            let listed = home.run("--json token list");
            let rows = listed.json();
            let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
            assert_eq!(row("soft")["error"], Value::Null, "{table}: {rows}");
            assert!(row("other")["error"].to_string().replace("\\\"", "\"").contains(fault), "{table}: {rows}");
            let keys = home.run("--json key list");
            let shown: Value = serde_json::from_str(keys.stdout()).unwrap();
            assert!(keys.status() != 0 && shown.as_array().unwrap().len() == 2, "{table}: {shown}");
            // The token itself is refused with the same reason.
            let refused = home.run("--json key generate --token other --alg P-256");
            assert!([2, 3].contains(&refused.status()), "{table}: {}", refused.stderr());
            assert!(refused.stderr().replace("\\\"", "\"").contains(fault), "{table}: {}", refused.stderr());
        }
    }
}

/// A key is used although a token before the one that holds it is faulty.
#[test]
fn a_key_is_found_behind_a_faulty_token() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name mine").success();
    let own = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let (state, own) = own.split_at(own.find("[[token]]").unwrap());
    let faulty = "[[token]]\nname = \"other\"\nuri = \"pkcs11:tokn=other\"\n";
    home.write("claviger.toml", &format!("{state}{faulty}{own}"));
    home.run_with_stdin("key delete mine --yes", "y\n").success();
}

/// Two tokens of one module need different values of its variable. Each command that names one of them works.
#[test]
fn each_of_two_environments_can_be_used() {
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap().display().to_string();
    let uri = format!("pkcs11:token=soft?module-path={module}&pin-source=file:user.pin");
    let folder = home.path().display();
    let table = |name: &str, file: &str| {
        format!(
            "[[token]]\nname = \"{name}\"\nuri = \"{uri}\"\nenvironment = {{ SOFTHSM2_CONF = \"{folder}/{file}\" }}\n"
        )
    };
    fs::create_dir(home.path().join("none")).unwrap();
    home.write("none.conf", &format!("directories.tokendir = {folder}/none\nlog.level = ERROR\n"));
    let tables = [table("empty", "none.conf"), table("full", "softhsm2.conf")].concat();
    home.write("claviger.toml", &format!("state_dir = \"state\"\n{tables}"));
    home.run("token doctor full").success();
    assert_eq!(home.run("--json token doctor empty").status(), 3);
    let rows = home.run("--json token list").json();
    assert!(rows[1]["error"]["message"].as_str().unwrap().contains("one process has one environment"), "{rows}");
}

/// The agent needs all of its tokens: it does not start with a wrong table.
#[test]
fn the_agent_does_not_start_with_a_faulty_token() {
    let Some(home) = Home::with_token() else { return };
    home.create_did("--method peer:2 --token soft");
    let own = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    home.write(
        "claviger.toml",
        &format!("{own}[[token]]\nname = \"other\"\nuri = \"pkcs11:token=other\"\nsesions = 2\n"),
    );
    assert_eq!(home.run("--json serve --check").error(2), "bad-config");
}

//! Runs the commands of README.md and of the pages in docs/ as a new user would. `yubikey.rs` runs those
//! of docs/desktop.md.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output},
};

use crate::{
    home::{Home, PIN, softhsm_module, warnings},
    pages::{commands, rust},
};

/// Runs a script in a home. Its ports are replaced by free ones, and `typed` is its stdin. Neither its commands nor the
/// logs that it writes may have a warning.
#[track_caller]
fn run_script(home: &Home, script: &str, typed: &str) -> Output {
    let mut script = script.to_owned();
    let mut ops = String::new();
    for port in ["8080", "8081", "8090", "8091", "8070", "8071"] {
        let free = claviger_testkit::free_port().to_string();
        script = script.replace(port, &free);
        if port == "8081" {
            ops = format!("127.0.0.1:{free}");
        }
    }
    home.write("guide.sh", &script);
    home.write("typed", typed);
    let mut command = home.command("timeout");
    command.args(["300", "bash", "guide.sh"]).env("CLAVIGER_OPS__LISTEN", ops);
    let output = command.stdin(File::open(home.path().join("typed")).unwrap()).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", output_text(&output));
    assert_eq!(warnings(&output_text(&output)), [""; 0]);
    for file in fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "log") {
            assert_eq!(warnings(&fs::read_to_string(&file).unwrap()), [""; 0], "{}", file.display());
        }
    }
    output
}

fn output_text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the commands of the README's first agent: those of the first terminal, then those of the second.
#[test]
fn the_readme_commands_work() {
    if softhsm_module().is_none() {
        return;
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let block = |first: &str| {
        let block = readme.split("```sh\n").find(|block| block.starts_with(first)).expect("README.md has the commands");
        block.split("```").next().unwrap()
    };
    let lines = block("claviger init").lines().map(|line| line.split('#').next().unwrap().trim());
    let [init, serve] = lines.collect::<Vec<_>>()[..] else { panic!("{readme}") };
    let second_terminal = block("claviger send");
    let home = Home::new();
    let script = format!(
        "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n\
         {}\n{serve} 2> serve.log &\n\
         until curl --silent --fail http://127.0.0.1:8081/ready/token; do sleep 0.2; done\n{second_terminal}",
        init.replace("claviger init", "claviger init --listen 127.0.0.1:8080"),
    );
    let output = output_text(&run_script(&home, &script, ""));
    for words in ["Hello, me", "?_oob="] {
        assert!(output.contains(words), "{words}: {output}");
    }
}

#[test]
fn the_start_page_works() {
    if softhsm_module().is_none() {
        return;
    }
    let home = Home::new();
    let output = output_text(&run_script(&home, &commands("start.md", "## Two agents talk"), ""));
    for words in ["At noon?", "Alice Gladly", "claviger_waiting{queue=\"outbox\"} 0"] {
        assert!(output.contains(words), "{words}: {output}");
    }
    assert!(home.path().join("alice-backup/manifest.json").is_file());
}

#[test]
fn the_server_page_works() {
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap().display().to_string();
    let script =
        commands("server.md", "## Try your HSM, and set up the agent").replace("/opt/vendor/libpkcs11.so", &module);
    let output = output_text(&run_script(&home, &script.replace("token=prod", "token=soft"), &format!("{PIN}\n")));
    for words in ["authcrypt", "X25519", "A DID of ours: did:peer:2."] {
        assert!(output.contains(words), "{words}: {output}");
    }
    assert!(!output.contains(PIN));
}

#[test]
fn the_library_page_works() {
    if softhsm_module().is_none() {
        return;
    }
    let (home, repository) = (Home::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
    std::os::unix::fs::symlink(repository.join("softhsm"), home.path().join("softhsm")).unwrap();
    // Cargo builds the example together with the tests, but not if it runs this test program only.
    let claviger = claviger_testkit::program!();
    let folder = Path::new(&claviger).parent().unwrap();
    let built = folder.join("examples/developer");
    if !built.is_file() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--all-features", "--example", "developer"]);
        cargo.current_dir(repository).env("CARGO_TARGET_DIR", folder.parent().unwrap());
        assert!(cargo.status().unwrap().success());
    }
    let script = commands("library.md", "## Run the example");
    assert!(script.contains("cargo run --quiet --example developer --"));
    let script = script.replace("cargo run --quiet --example developer --", &built.display().to_string());
    let output = output_text(&run_script(&home, &script, ""));
    for words in ["\"content\": \"Hello\"", "\"authenticated\": true"] {
        assert!(output.contains(words), "{words}: {output}");
    }

    let example = fs::read_to_string(repository.join("examples/developer.rs")).unwrap();
    let mut lines = example.lines().map(str::trim);
    for line in rust("library.md") {
        assert!(lines.any(|other| other == line), "the example does not have, at this place: {line}");
    }
}

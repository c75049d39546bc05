//! `claviger demo`, and the scripts that it prints.

use serde_json::Value;

use crate::home::{Home, softhsm_module, warnings};

#[test]
fn the_envelope_demo_shows_each_step() {
    let Some(module) = softhsm_module() else { return };
    let home = Home::new();
    let mut command = home.command(&claviger_testkit::program!());
    // As on a machine without a configuration of SoftHSM.
    let output =
        command.args(["demo", "--envelopes", "--module"]).arg(&module).env_remove("SOFTHSM2_CONF").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(!output.contains('\x1b'), "no colour but on a terminal");
    for words in ["Alice", "Bob", "Mediator", "kek-in-process", "authcrypt( signed( message ) )", "by hand"] {
        assert!(output.contains(words), "{words}");
    }
    let steps_text = output.split("The same by hand").next().unwrap();
    let widest = steps_text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "{widest}");

    let output = home.run(&format!("--json demo --envelopes --module {}", module.display())).json();
    let steps = output["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 5);
    let envelopes = |step: &Value| -> Vec<String> {
        let layers = step["provenance"]["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["envelope"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(envelopes(&steps[2]), ["authcrypt", "signed"]);
    assert_eq!(envelopes(&steps[3]), ["anoncrypt"]);
    assert_eq!(envelopes(&steps[4]), ["authcrypt"]);
    let operations = |step: &Value, agent: usize| -> Vec<String> {
        let operations = step["operations"][agent]["operations"].as_array().unwrap().iter();
        operations.map(|operation| operation["operation"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(operations(&steps[2], 0), ["sign", "wrap-cek"]);
    assert_eq!(operations(&steps[2], 1), ["unwrap-cek"]);
    assert_eq!(operations(&steps[3], 0), [""; 0]);
    assert_eq!(operations(&steps[4], 1), ["unwrap-cek"]);
}

#[test]
fn the_script_of_the_envelope_demo_works() {
    let Some(module) = softhsm_module() else { return };
    let home = Home::new();
    let output = home.run(&format!("--json demo --envelopes --module {}", module.display())).json();
    home.write("by-hand.sh", output["by_hand"].as_str().unwrap());
    let output = home.command("sh").args(["-eu", "by-hand.sh"]).env_remove("SOFTHSM2_CONF").output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(warnings(&stderr), [""; 0]);
    let documents = serde_json::Deserializer::from_str(&stdout).into_iter::<Value>();
    let read: Vec<Value> = documents.map(|document| document.unwrap()["message"]["body"].clone()).collect();
    assert_eq!(read.len(), 4, "{stdout}");
    assert_eq!(read[0]["content"], "The key stays where it is.");
    assert_eq!(read[1]["content"], "Mine too.");
    assert!(read[2]["next"].is_string());
    assert_eq!(read[3]["content"], "See you at eight.");
}

#[test]
fn the_daemon_demo_and_its_script_work() {
    let Some(module) = softhsm_module() else { return };
    let home = Home::new();
    let mut command = home.command(&claviger_testkit::program!());
    let output = command.args(["demo", "--module"]).arg(&module).env_remove("SOFTHSM2_CONF").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    for words in ["claviger invite", "claviger accept", "answered after", "kill -9", "Are you there?", "by hand"] {
        assert!(output.contains(words), "{words}");
    }
    let output = home.run(&format!("--json demo --module {}", module.display())).json();
    let steps = output["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 5);
    assert_eq!(steps[3]["message"]["message"]["body"]["content"], "The key stays where it is.");
    assert_eq!(steps[4]["message"]["sender"], output["steps"][0]["dids"][0]);

    home.write("by-hand.sh", output["by_hand"].as_str().unwrap());
    let output = home.command("sh").args(["-eu", "by-hand.sh"]).env_remove("SOFTHSM2_CONF").output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(warnings(&stderr), [""; 0]);
    assert!(stdout.contains("The key stays where it is."), "{stdout}{stderr}");
    for agent in ["alice", "bob"] {
        let log = std::fs::read_to_string(home.path().join(format!("claviger-demo/{agent}/log"))).unwrap();
        assert!(log.contains("Peers are served on"), "{log}");
        assert_eq!(warnings(&log), [""; 0]);
    }
}

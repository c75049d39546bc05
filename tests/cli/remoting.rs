//! A token behind p11-kit's remoting: `token doctor` says what the remoting hides, and calls nothing of it a wrong answer.

use serde_json::Value;

use crate::{
    home::{Home, softhsm_module},
    p11_kit::{Server, library},
};

#[test]
fn the_doctor_says_what_the_remoting_hides() {
    let Some(client) = library("p11-kit-client.so") else { return };
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --alg P-384 --name agrees").success();
    home.run("key generate --alg Ed25519 --name signs").success();
    let with_id = |report: &Value, id: &str| {
        let findings = report[0]["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == id);
        findings.cloned().collect::<Vec<_>>()
    };
    let own = home.run("--json token doctor").json();
    assert_eq!(with_id(&own, "remoting-hides"), [Value::Null; 0]);

    let socket = home.path().join("remote");
    let mut server = home.command("p11-kit");
    server.args(["server", "--foreground", "--provider"]).arg(softhsm_module().unwrap());
    server.arg("--name").arg(&socket).arg("pkcs11:token=soft");
    let _server = Server::start(server, &socket);
    home.configure(&client, "");
    let address = format!("unix:path={}", socket.display());
    let mut command = home.command(&claviger_testkit::program!());
    command.args(["--json", "token", "doctor"]).env("P11_KIT_SERVER_ADDRESS", address);
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [finding] = &with_id(&report, "remoting-hides")[..] else { panic!("{report}") };
    let agrees = report[0]["algorithms"].as_array().unwrap().iter().any(|it| it["custody"] != Value::Null);
    assert_eq!(finding["level"], if agrees { "note" } else { "warning" }, "{finding}");
    for word in ["CKM_ECDH1_DERIVE", "0.25.0", "CKM_EDDSA", "CKM_AES_KEY_WRAP"] {
        assert!(finding["message"].as_str().unwrap().contains(word), "{finding}");
    }
    assert_eq!(with_id(&report, "wrong-answer"), [Value::Null; 0], "what is hidden is refused, and not wrong");
    let fails = with_id(&report, "key-fails");
    let of = |label: &str| fails.iter().find(|finding| finding["about"].as_array().unwrap().contains(&label.into()));
    let message = of("signs").expect("no EdDSA passes")["message"].as_str().unwrap();
    assert!(message.contains("refused") && message.contains("CKR_MECHANISM_INVALID"), "{message}");
    assert_eq!(of("agrees").is_some(), !agrees);
}

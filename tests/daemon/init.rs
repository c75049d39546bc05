//! `claviger init`: from an empty folder to an agent that serves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    daemon::{Daemon, free_port},
    endpoint::Endpoint,
    home::{Home, softhsm_module},
    peer::Peer,
};

/// Replaces the port of `[ops]` in the configuration by a free one, as other tests run at the same time. Returns
/// the port.
fn use_free_ops_port(home: &Home) -> u16 {
    let (ops, path) = (free_port(), home.path().join("claviger.toml"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("127.0.0.1:8081"));
    fs::write(&path, text.replace("127.0.0.1:8081", &format!("127.0.0.1:{ops}"))).unwrap();
    ops
}

/// Runs `claviger init` with these arguments in a new home. Does not start the daemon.
fn initialised(args: &str) -> Daemon {
    let (home, port) = (Home::new(), free_port());
    let did = home.run(&format!("init --listen 127.0.0.1:{port} {args}")).success().trim().to_owned();
    let ops = use_free_ops_port(&home);
    Daemon::from_home(home, &did, port, ops)
}

#[test]
fn init_makes_a_ready_agent_within_a_minute() {
    if softhsm_module().is_none() {
        return;
    }
    let begun = Instant::now();
    let mut agent = initialised("--local-peers");
    agent.start();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(agent.did.starts_with("did:peer:2."), "{}", agent.did);

    // The variable by which the module finds its token is in the environment of the keeper, not of the agent.
    let environment = |pid: u32| fs::read(format!("/proc/{pid}/environ"));
    if let Ok(bytes) = environment(agent.pid()) {
        assert!(!String::from_utf8_lossy(&bytes).contains("state/softhsm"));
    }

    // Only the owner can read the PINs. They are not in the configuration or the log.
    let folder = agent.home.path().join("state/softhsm");
    let configuration = fs::read_to_string(agent.home.path().join("claviger.toml")).unwrap();
    for name in ["user.pin", "so.pin"] {
        let path = folder.join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let pin = fs::read_to_string(path).unwrap();
        assert_eq!(pin.trim().len(), 32);
        assert!(!configuration.contains(pin.trim()) && !agent.log().contains(pin.trim()));
    }

    // A second agent, made in the same way, exchanges messages with it.
    let mut other = initialised("--method peer:4 --local-peers");
    other.start();
    let invitation = agent.json(&["invite"])["url"].as_str().unwrap().to_owned();
    other.json(&["accept", &invitation]);
    other.json(&["send", "--to", &agent.did, "hello", "--within", "30"]);
    agent.wait_until("the message arrived", |agent| agent.unread_texts() == ["hello"]);
}

/// A new agent connects to no private address, except that its own DIDs write to each other.
#[test]
fn init_allows_no_private_address_by_itself() {
    if softhsm_module().is_none() {
        return;
    }
    let mut agent = initialised("");
    let configuration = fs::read_to_string(agent.home.path().join("claviger.toml")).unwrap();
    assert!(configuration.contains("\n#allow_private = []\n") && !configuration.contains("127.0.0.0/8"));
    agent.start();
    agent.json(&["send", "--to", &agent.did, "to myself", "--within", "30"]);
    agent.wait_until("the message arrived", |agent| agent.unread_texts() == ["to myself"]);
    let inside = Endpoint::accepting();
    let id = agent.send_text(Peer::with_endpoint("peer", &inside.uri()).did(), "no").unwrap();
    agent.wait_until("the reason is visible", |agent| !agent.outbox_message(&id)["problem"].is_null());
    assert_eq!(inside.connections(), 0);

    for (args, is_local) in [
        ("--public-url http://[::1]:8080", true),
        ("--public-url http://localhost:8080/agent", true),
        ("--public-url http://[2001:db8::1]:8080", false),
        ("--public-url https://agent.example.org", false),
        ("--local-peers", true),
    ] {
        let home = Home::new();
        let output = home.run(&format!("init {args}"));
        output.success();
        assert_eq!(output.stderr().contains("only this machine reaches"), is_local, "{args}: {}", output.stderr());
        let configuration = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
        assert_eq!(configuration.contains("127.0.0.0/8"), args == "--local-peers", "{args}");
    }
}

#[test]
fn init_prints_next_steps_and_warns_of_keys_in_files() {
    if softhsm_module().is_none() {
        return;
    }
    let home = Home::new();
    let output = home.run("init there");
    output.success();
    let stderr = output.stderr();
    for words in [
        "the private keys are in files, under there/state/softhsm",
        "SoftHSM is not hardware",
        "claviger --config there/claviger.toml serve",
        "claviger --config there/claviger.toml invite",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    let json = home.run("--json init elsewhere").json();
    assert_eq!(json["configuration"], "elsewhere/claviger.toml");
    assert_eq!(json["software_token"], true);
    // The configuration is valid, so the first command that `init` prints would start the daemon.
    home.run("--config elsewhere/claviger.toml serve --check").success();
}

#[test]
fn init_overwrites_nothing_and_a_failed_init_leaves_no_configuration() {
    let home = Home::new();
    home.write("claviger.toml", "# mine\n");
    assert_eq!(home.run("--json init").error(1), "config-there");
    assert_eq!(fs::read_to_string(home.path().join("claviger.toml")).unwrap(), "# mine\n");

    // The module of the token does not exist.
    let uri = "pkcs11:token=none?module-path=/nowhere/libnone.so&pin-source=file:pin";
    assert_eq!(home.run(&format!("--json init new --token-uri {uri}")).error(2), "token-misconfigured");
    assert!(!home.path().join("new/claviger.toml").exists());
    for wrong in [
        "--token-uri pkcs11:token=x?pin-value=1234",
        "--token-uri soft",
        "--method key",
        "--method web",
        "--public-url ftp://example.org",
        "--public-url example.org",
        "--environment A --token-uri pkcs11:token=x",
        "--pin-source prompt",
        "--keeper prod",
        "--keeper a/b --token-uri pkcs11:token=x",
        "--keeper prod --token-uri pkcs11:token=x?pin-source=file:pin",
    ] {
        assert_eq!(home.run(&format!("--json init newer {wrong}")).error(2), "bad-arguments", "{wrong}");
    }
    assert!(!home.path().join("newer").exists());
}

/// A wrong PIN is tried once, however often `init` is run: its record stays when `init` removes the other files.
#[test]
fn a_wrong_pin_is_tried_once() {
    let Some(home) = Home::with_token() else { return };
    home.write("wrong.pin", "not-the-pin-2342");
    let uri =
        format!("pkcs11:token=soft?module-path={}&pin-source=file:../wrong.pin", softhsm_module().unwrap().display());
    let mut record = None;
    for _ in 0..3 {
        assert_eq!(home.run(&format!("--json init agent --token-uri {uri}")).error(3), "pin-refused");
        assert!(!home.path().join("agent/claviger.toml").exists());
        // An attempt writes the record anew, with its time. So the record of the first attempt stays.
        let files = fs::read_dir(home.path().join("agent/state/pin-guard")).unwrap().map(|file| file.unwrap().path());
        let records: Vec<_> = files.filter(|file| file.extension().is_some_and(|it| it == "json")).collect();
        let [file] = &records[..] else { panic!("{records:?}") };
        let written = (fs::read_to_string(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap());
        assert!(!written.0.contains("not-the-pin"));
        assert_eq!(record.get_or_insert_with(|| written.clone()), &written);
    }
}

#[test]
fn init_uses_an_existing_token() {
    let Some(home) = Home::with_token() else { return };
    let module = softhsm_module().unwrap();
    fs::create_dir(home.path().join("agent")).unwrap();
    fs::copy(home.path().join("user.pin"), home.path().join("agent/pin")).unwrap();
    let uri = format!("pkcs11:token=soft?module-path={}&pin-source=file:pin", module.display());
    let output = home.run(&format!("init agent --token-uri {uri} --public-url https://agent.example.org/"));
    assert!(output.success().starts_with("did:peer:2."));
    assert!(!output.stderr().contains("SoftHSM") && !output.stderr().contains("--public-url"), "{}", output.stderr());
    assert!(!home.path().join("agent/state/softhsm").exists());
    let document = home.run(&format!("did resolve {}", output.stdout().trim())).json();
    let endpoint = document["service"][0]["serviceEndpoint"].to_string();
    assert!(endpoint.contains("\"https://agent.example.org\""), "{document}");
}

/// The document is served at the path where did:web looks for it.
#[test]
fn a_did_web_is_served() {
    if softhsm_module().is_none() {
        return;
    }
    let (home, port) = (Home::new(), free_port());
    let args = format!("init --listen 127.0.0.1:{port} --method web --public-url http://localhost:{port}");
    let did = home.run(&args).success().trim().to_owned();
    assert_eq!(did, format!("did:web:localhost%3A{port}"));
    let more = home.run("did create --method web --host Agent.example.org:8443 --path a/b --service https://x.example");
    assert_eq!(more.success().trim(), "did:web:agent.example.org%3A8443:a:b");
    assert!(more.stderr().contains("/a/b/did.json"), "{}", more.stderr());
    let ops = use_free_ops_port(&home);
    let mut agent = Daemon::from_home(home, &did, port, ops);
    agent.start();
    for (host, path, did) in [
        ("localhost", "/.well-known/did.json", did.as_str()),
        ("agent.example.org:8443", "/a/b/did.json", more.stdout().trim()),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = crate::daemon::http(port, &head, b"");
        let document: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(document["id"], did);
        assert_eq!(document["keyAgreement"][0], format!("{did}#key-1"));
        assert_eq!(document["authentication"][0], format!("{did}#key-2"));
    }
    for wrong in
        ["--method web", "--method web --host a/b", "--method web --host h --path ..", "--method peer:2 --host h"]
    {
        assert_eq!(agent.home.run(&format!("--json did create {wrong}")).error(2), "bad-arguments", "{wrong}");
    }
}

/// The program knows each setting that is commented out in the template.
#[test]
fn every_setting_in_the_template_is_known() {
    let read = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/init").join(name);
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase()) => setting.to_owned(),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut text = read("claviger.toml");
    for (name, value) in [
        ("@STATE_DIR@", "\"state\""),
        ("@TOKEN@", &read("token.toml")),
        ("@NAME@", "\"a\""),
        ("@URI@", "\"pkcs11:token=a\""),
        ("@ENVIRONMENT@", ""),
        ("@LISTEN@", "listen = \"127.0.0.1:1\""),
        ("@PUBLIC_URL@", "public_url = \"http://a\""),
        ("@ALLOW_PRIVATE@", "allow_private = []"),
        ("@API_LISTEN@", "listen = \"unix:api.sock\""),
        ("@API_USERS@", "users = []"),
    ] {
        assert!(text.contains(name), "{name}");
        text = text.replace(name, value);
    }
    let is_placeholder = |rest: &str| rest.starts_with(|first: char| first.is_ascii_uppercase());
    assert!(!text.split('@').skip(1).any(is_placeholder), "{text}");
    let home = Home::new();
    home.write("claviger.toml", &text);
    home.run("did resolve did:key:z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F").success();
}

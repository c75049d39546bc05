//! A keeper that listens: who may connect in which role, and the life of its socket.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use claviger::{
    did::webvh::{EntryDraft, OwnLog},
    keys::Curve,
    secrets::{
        Context, FromPriorClaims, KeyOperation, KeyUse, NewKey, Secrets, SecretsError, SignRequest, TokenError,
        keeper::{KeeperClient, KeeperConnector, KeeperCustodian, spawn_on_socket},
    },
};
use serde_json::json;

use crate::{
    home::{HANG_TIMEOUT, Home, kill, open_message, time_until_served, wait_until, with_home},
    support::Module,
};

fn new_key() -> NewKey {
    NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }
}

/// Agents and custodians connect to the same path: an agent uses the key that a custodian made.
#[test]
fn agents_and_custodians_connect_by_path() {
    with_home(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let client = listening.client().await;
        assert!(client.keys().borrow().is_empty());
        let key = custodian.generate(&new_key()).unwrap().public;
        wait_until("the agent sees the new key", || client.keys().borrow().get(&key).is_some()).await;
        let other = listening.client().await;
        for agent in [&client, &other] {
            open_message(&**agent, &key, &Context::default()).await.unwrap();
        }
        // The listening process starts another keeper on the same socket.
        home.kill_keepers();
        for agent in [&client, &other] {
            time_until_served(&**agent, &key).await;
        }
        let custodian = listening.custodian().unwrap();
        custodian.delete(&key).unwrap();
        wait_until("the agent sees that the key is gone", || client.keys().borrow().get(&key).is_none()).await;
        assert!(matches!(open_message(&*client, &key, &Context::default()).await, Err(SecretsError::NotHeld(_))));
    });
}

#[test]
fn one_keeper_listens_on_a_path() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let listening = home.listen();
        let output = home.run(&format!("--json keeper --listen {}", home.address()));
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(r#""code":"keeper-there""#), "{stderr}");
        open_message(&*listening.client().await, &key, &Context::default()).await.unwrap();
        // The listening process is killed, and its keeper ends: nothing listens, and the socket's file remains.
        drop(listening);
        home.wait_for_end();
        let path = home.folder().join("socket");
        assert!(path.exists());
        // A process that ends loses its arguments, by which `wait_for_end` finds it, a moment before its sockets
        // are closed.
        wait_until("nothing listens", || UnixStream::connect(&path).is_err()).await;
        let listening = home.listen();
        open_message(&*listening.client().await, &key, &Context::default()).await.unwrap();
        drop(listening);
        // A file that is not a socket is not replaced.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let output = home.run(&format!("keeper --listen {}", home.address()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    });
}

/// An empty list allows nobody. A custodian may also be an agent, but not the other way round.
#[test]
fn a_user_who_may_not_connect_is_refused() {
    let own = fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap();
    for (keeper, agent, custodian) in [
        ("agents = []\ncustodians = []".to_owned(), false, false),
        (format!("agents = [\"{own}\"]\ncustodians = []"), true, false),
        (format!("agents = []\ncustodians = [\"{own}\"]"), true, true),
    ] {
        with_home(Module::SoftHsm, &keeper, async |home| {
            let listening = home.listen();
            let path = listening.path.clone();
            let client = KeeperClient::start("demo", KeeperConnector::new(move || UnixStream::connect(&path))).await;
            assert_eq!(client.is_ok(), agent, "{keeper}");
            for error in [client.err(), listening.custodian().err().map(of_demo)].into_iter().flatten() {
                let SecretsError::Token { error: TokenError::Config(reason), .. } = error else { panic!("{error:?}") };
                assert!(reason.contains("does not serve this user"), "{reason}");
            }
            assert_eq!(listening.custodian().is_ok(), custodian, "{keeper}");
            assert_eq!(home.log().contains("client refused"), !(agent && custodian), "{}", home.log());
        });
    }
}

fn of_demo(error: TokenError) -> SecretsError {
    SecretsError::Token { token: "demo".into(), error }
}

/// The command line, run by another user.
#[test]
fn another_user_is_refused() {
    const NOBODY: &str = "65534";
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    if !root || Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        return eprintln!("skipped: only root can change to another user, with setpriv");
    }
    let as_nobody = |home: &Home, program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        command.arg("--json").arg("--config").arg(home.folder().join("agent.toml")).args(["key", "list"]);
        command.output().unwrap()
    };
    for (keeper, may) in [("", false), ("agents = [\"65534\"]", false), ("custodians = [\"nobody\"]", true)] {
        with_home(Module::SoftHsm, keeper, async |home| {
            let key = home.generate(Curve::P256);
            let _listening = home.listen();
            home.configure("agent.toml", &format!("keeper = {:?}", home.address()), "");
            fs::set_permissions(home.folder(), fs::Permissions::from_mode(0o755)).unwrap();
            // Another user may not read the folder where this program was built.
            let program = home.folder().join("claviger");
            fs::copy(claviger_testkit::program!(), &program).unwrap();
            let output = as_nobody(home, &program);
            let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert_eq!(output.status.success(), may, "{keeper}: {out}{err}");
            assert_eq!(out.contains(&key.to_multikey()), may, "{out}");
            assert_eq!(err.contains("does not serve this user"), !may, "{err}");
            let entry = home.log().lines().any(|line| line.contains("client refused") && line.contains(NOBODY));
            assert_eq!(entry, !may, "{}", home.log());
        });
    }
}

/// The connection that a supervisor gives to an agent never has a custodian's role.
#[test]
fn an_agents_connection_never_is_a_custodians() {
    with_home(Module::SoftHsm, "", async |home| {
        let (stream, _process) = spawn_on_socket(home.command("keeper --token demo --connection agent")).unwrap();
        let error = KeeperCustodian::new("demo", stream).err().expect("it is refused");
        assert!(matches!(&error, TokenError::Config(reason) if reason.contains("does not serve this user")), "{error}");
        // The supervisor has sent the hello with the role, and a second hello changes nothing: neither with a keeper
        // that it starts, nor with one that listens, where this user may be a custodian.
        let supervisor = home.supervisor();
        let mut connections = vec![supervisor.keeper("demo").unwrap()];
        let listening = home.listen();
        // The keeper answers, so it has read its configuration. The next configuration is the agent's.
        drop(listening.custodian().unwrap());
        home.configure("claviger.toml", &format!("keeper = {:?}", home.address()), "");
        let supervisor = home.supervisor();
        connections.push(supervisor.keeper("demo").unwrap());
        for stream in connections {
            let custodian = KeeperCustodian::new("demo", stream).unwrap();
            let error = custodian.generate(&new_key()).unwrap_err();
            assert!(error.to_string().contains("only a custodian may make this request"), "{error}");
        }
    });
}

/// An agent that asks for many keepers gets at most two, and so at most twice the rate of one.
#[test]
fn a_supervisor_keeps_two_keepers_of_a_token() {
    with_home(Module::SoftHsm, "", async |home| {
        let supervisor = home.supervisor();
        let connections: Vec<_> = (0..4).map(|_| supervisor.keeper("demo").unwrap()).collect();
        wait_until("the other keepers have ended", || home.keepers().len() == 2).await;
        drop(connections);
    });
}

/// An agent cannot rotate a DID. A rotation is signed for a custodian only.
#[test]
fn a_rotation_is_signed_for_a_custodian_only() {
    with_home(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let key = custodian.generate(&new_key()).unwrap().public;
        let client = listening.client().await;
        let claims =
            FromPriorClaims { iss: "did:example:old".into(), sub: Some("did:example:new".into()), iat: Some(1) };
        let rotation = SignRequest::FromPrior { kid: "did:example:old#1", claims: &claims };
        let error = client.sign(&key, &rotation, &Context::default()).await.unwrap_err();
        let expected = KeyOperation::SignFromPrior.name();
        assert!(matches!(&error, SecretsError::NotAllowed { operation, .. } if *operation == expected), "{error}");
        assert!(!error.is_retryable());
        let signed = custodian.sign(&key, &rotation).unwrap();
        let input = format!("{}.{}", signed.protected, signed.payload);
        claviger::crypto::verify(&key, input.as_bytes(), &signed.signature).unwrap();
    });
}

/// An agent cannot change a did:webvh. Its log entries are signed for a custodian only, and only if the keeper
/// recognises them as entries.
#[test]
fn a_webvh_log_entry_is_signed_for_a_custodian_only() {
    with_home(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let new_key = NewKey { curve: Curve::Ed25519, usage: KeyUse::Signing, label: None };
        let key = custodian.generate(&new_key).unwrap().public;
        let client = listening.client().await;
        let draft = EntryDraft::first("example.com", &key, |did| json!({ "id": did }), SystemTime::now());
        let entry = draft.entry();
        let request = SignRequest::WebvhEntry(entry.as_bytes());
        let denied = client.sign(&key, &request, &Context::default()).await.unwrap_err();
        let expected = KeyOperation::SignWebvhEntry.name();
        assert!(matches!(&denied, SecretsError::NotAllowed { operation, .. } if *operation == expected), "{denied}");

        let signed = custodian.sign(&key, &request).unwrap();
        let line = draft.with_proof(&signed.protected, &signed.signature).unwrap();
        assert_eq!(OwnLog::read(line).unwrap().update_keys(), std::slice::from_ref(&key));
        let message = SignRequest::WebvhEntry(br#"{"id":"1","type":"https://example.org/test/1.0/note","body":{}}"#);
        assert!(matches!(custodian.sign(&key, &message), Err(TokenError::Config(_))));
    });
}

/// When the listening process is killed, its keeper ends and releases the token.
#[test]
fn a_keeper_ends_with_the_process_that_started_it() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let listening = home.listen();
        let client = listening.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        assert_eq!(keepers.len(), 1);
        kill(listening.id());
        let end = std::time::Instant::now() + HANG_TIMEOUT;
        wait_until("the keeper ends", || home.keepers().is_empty() || std::time::Instant::now() > end).await;
        assert_eq!(home.keepers(), [0; 0]);
    });
}

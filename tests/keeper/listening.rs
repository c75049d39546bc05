//! A keeper that listens: who may come in, as what, and what becomes of its socket.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use claviger::{
    did::webvh::{Draft, OwnLog},
    keys::Curve,
    secrets::{
        Allow, Claims, Context, KeyUse, NewKey, Secrets, SecretsError, ToSign, TokenError,
        keeper::{Connect, KeeperClient, KeeperCustodian, spawn},
    },
};
use serde_json::json;

use crate::{
    home::{Home, SOON, kept, kill, open_message, serves, until},
    support::Module,
};

fn new_key() -> NewKey {
    NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }
}

/// Agents and custodians by one path: what the one makes the other uses.
#[test]
fn agents_and_custodians_connect_by_path() {
    kept(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let client = listening.client().await;
        assert!(client.keys().borrow().is_empty());
        let key = custodian.generate(&new_key()).unwrap().public;
        until("the agent is told of the new key", || client.keys().borrow().get(&key).is_some()).await;
        let other = listening.client().await;
        for agent in [&client, &other] {
            open_message(&**agent, &key, &Context::default()).await.unwrap();
        }
        // What listens starts another, on the same socket.
        home.kill_keepers();
        for agent in [&client, &other] {
            serves(&**agent, &key).await;
        }
        let custodian = listening.custodian().unwrap();
        custodian.delete(&key).unwrap();
        until("the agent is told that it is gone", || client.keys().borrow().get(&key).is_none()).await;
        assert!(matches!(open_message(&*client, &key, &Context::default()).await, Err(SecretsError::NotHeld(_))));
    });
}

#[test]
fn one_keeper_listens_on_a_path() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let listening = home.listen();
        let output = home.run(&format!("--json keeper --listen {}", home.address()));
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(r#""code":"keeper-there""#), "{said}");
        open_message(&*listening.client().await, &key, &Context::default()).await.unwrap();
        // It goes without a word, and the keeper goes with it: nothing listens, and the socket's file is left.
        drop(listening);
        home.ends();
        let path = home.folder().join("socket");
        assert!(path.exists());
        // A process that ends has lost its words, by which it is known, a moment before its sockets are closed.
        until("nothing listens", || UnixStream::connect(&path).is_err()).await;
        let listening = home.listen();
        open_message(&*listening.client().await, &key, &Context::default()).await.unwrap();
        drop(listening);
        // What is no socket is left alone.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let output = home.run(&format!("keeper --listen {}", home.address()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    });
}

/// An empty list is nobody; a custodian is an agent too, and not the other way round.
#[test]
fn who_may_not_is_turned_away() {
    let own = fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap();
    for (keeper, agent, custodian) in [
        ("agents = []\ncustodians = []".to_owned(), false, false),
        (format!("agents = [\"{own}\"]\ncustodians = []"), true, false),
        (format!("agents = []\ncustodians = [\"{own}\"]"), true, true),
    ] {
        kept(Module::SoftHsm, &keeper, async |home| {
            let listening = home.listen();
            let path = listening.path.clone();
            let client = KeeperClient::start("demo", Connect::new(move || UnixStream::connect(&path))).await;
            assert_eq!(client.is_ok(), agent, "{keeper}");
            for error in [client.err(), listening.custodian().err().map(in_demo)].into_iter().flatten() {
                let SecretsError::Token { error: TokenError::Config(said), .. } = error else { panic!("{error:?}") };
                assert!(said.contains("does not serve this user"), "{said}");
            }
            assert_eq!(listening.custodian().is_ok(), custodian, "{keeper}");
            assert_eq!(home.log().contains("turned away"), !(agent && custodian), "{}", home.log());
        });
    }
}

fn in_demo(error: TokenError) -> SecretsError {
    SecretsError::Token { token: "demo".into(), error }
}

/// Another user's process, with the command line.
#[test]
fn another_user_is_turned_away() {
    const NOBODY: &str = "65534";
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    if !root || Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        return eprintln!("skipped: only root becomes another user, by setpriv");
    }
    let as_nobody = |home: &Home, program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        command.arg("--json").arg("--config").arg(home.folder().join("agent.toml")).args(["key", "list"]);
        command.output().unwrap()
    };
    for (keeper, may) in [("", false), ("agents = [\"65534\"]", false), ("custodians = [\"nobody\"]", true)] {
        kept(Module::SoftHsm, keeper, async |home| {
            let key = home.make(Curve::P256);
            let _listening = home.listen();
            home.configure("agent.toml", &format!("keeper = {:?}", home.address()), "");
            fs::set_permissions(home.folder(), fs::Permissions::from_mode(0o755)).unwrap();
            // Where this program was built another user may not go.
            let program = home.folder().join("claviger");
            fs::copy(env!("CARGO_BIN_EXE_claviger"), &program).unwrap();
            let output = as_nobody(home, &program);
            let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert_eq!(output.status.success(), may, "{keeper}: {out}{err}");
            assert_eq!(out.contains(&key.to_multikey()), may, "{out}");
            assert_eq!(err.contains("does not serve this user"), !may, "{err}");
            let entry = home.log().lines().any(|line| line.contains("turned away") && line.contains(NOBODY));
            assert_eq!(entry, !may, "{}", home.log());
        });
    }
}

/// The connection that a supervisor gives to an agent never is a custodian's.
#[test]
fn an_agents_connection_is_no_custodians() {
    kept(Module::SoftHsm, "", async |home| {
        let (stream, _process) = spawn(home.command("keeper --token demo --connection agent")).unwrap();
        let error = KeeperCustodian::new("demo", stream).err().expect("it is refused");
        assert!(matches!(&error, TokenError::Config(said) if said.contains("does not serve this user")), "{error}");
        // The supervisor has said who connects, and what is said after it changes nothing: not with a keeper that it
        // starts, nor with one that listens, which would have this user for a custodian.
        let supervisor = home.supervisor();
        let mut connections = vec![supervisor.keeper("demo").unwrap()];
        let listening = home.listen();
        // It serves, and so has read its configuration; the next one is the agent's.
        drop(listening.custodian().unwrap());
        home.configure("claviger.toml", &format!("keeper = {:?}", home.address()), "");
        let supervisor = home.supervisor();
        connections.push(supervisor.keeper("demo").unwrap());
        for stream in connections {
            let custodian = KeeperCustodian::new("demo", stream).unwrap();
            let error = custodian.generate(&new_key()).unwrap_err();
            assert!(error.to_string().contains("only a custodian may ask for that"), "{error}");
        }
    });
}

/// An agent that asks for one keeper after the other gets no more than two, and so no more than twice the rate.
#[test]
fn a_supervisor_keeps_two_keepers_of_a_token() {
    kept(Module::SoftHsm, "", async |home| {
        let supervisor = home.supervisor();
        let connections: Vec<_> = (0..4).map(|_| supervisor.keeper("demo").unwrap()).collect();
        until("the others have ended", || home.keepers().len() <= 2).await;
        drop(connections);
    });
}

/// A rotation is signed when a person armed its key, and once.
#[test]
fn a_rotation_is_signed_once_for_each_arming() {
    kept(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let [key, other] = [0; 2].map(|_| custodian.generate(&new_key()).unwrap().public);
        let client = listening.client().await;
        let claims = Claims { iss: "did:example:old".into(), sub: Some("did:example:new".into()), iat: Some(1) };
        let rotation = ToSign::FromPrior { kid: "did:example:old#1", claims: &claims };
        let cx = Context::default();
        let denied = |error: Result<_, SecretsError>| {
            let error = error.map(|_: claviger::secrets::Signature| ()).unwrap_err();
            let expected = Allow::SignFromPrior.name();
            assert!(matches!(&error, SecretsError::NotAllowed { operation, .. } if *operation == expected), "{error}");
            assert!(!error.is_retryable());
        };
        denied(client.sign(&key, &rotation, &cx).await);
        for _ in 0..2 {
            custodian.arm(&key).unwrap();
            denied(client.sign(&other, &rotation, &cx).await);
            let signed = client.sign(&key, &rotation, &cx).await.unwrap();
            let input = format!("{}.{}", signed.protected, signed.payload);
            claviger::crypto::verify(&key, input.as_bytes(), &signed.signature).unwrap();
            denied(client.sign(&key, &rotation, &cx).await);
        }
        // An arming does not outlive its keeper.
        custodian.arm(&key).unwrap();
        home.kill_keepers();
        serves(&*client, &key).await;
        denied(client.sign(&key, &rotation, &cx).await);
    });
}

/// What a did:webvh is, no agent changes: a custodian has its entries signed, each over what the keeper has looked at.
#[test]
fn an_entry_of_a_webvh_log_is_signed_for_a_custodian_alone() {
    kept(Module::SoftHsm, "", async |home| {
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let new_key = NewKey { curve: Curve::Ed25519, usage: KeyUse::Signing, label: None };
        let key = custodian.generate(&new_key).unwrap().public;
        let client = listening.client().await;
        let draft = Draft::first("example.com", &key, |did| json!({ "id": did }), SystemTime::now());
        let entry = draft.entry();
        let what = ToSign::WebvhEntry(entry.as_bytes());
        custodian.arm(&key).unwrap();
        let denied = client.sign(&key, &what, &Context::default()).await.unwrap_err();
        let expected = Allow::SignWebvhEntry.name();
        assert!(matches!(&denied, SecretsError::NotAllowed { operation, .. } if *operation == expected), "{denied}");

        let signed = custodian.sign(&key, &what).unwrap();
        let line = draft.proved(&signed.protected, &signed.signature).unwrap();
        assert_eq!(OwnLog::read(line).unwrap().update_keys(), std::slice::from_ref(&key));
        let message = ToSign::WebvhEntry(br#"{"id":"1","type":"https://example.org/test/1.0/note","body":{}}"#);
        assert!(matches!(custodian.sign(&key, &message), Err(TokenError::Config(_))));
    });
}

/// What listens is killed without a word: the keeper behind it ends, and does not keep the token for nobody.
#[test]
fn a_keeper_ends_with_what_started_it() {
    kept(Module::SoftHsm, "", async |home| {
        let key = home.make(Curve::P256);
        let listening = home.listen();
        let client = listening.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        assert_eq!(keepers.len(), 1);
        kill(listening.id());
        let end = std::time::Instant::now() + SOON;
        until("the keeper ends", || home.keepers().is_empty() || std::time::Instant::now() > end).await;
        assert_eq!(home.keepers(), [0; 0]);
    });
}

//! `claviger backup` of a running agent, and `claviger restore`.

use std::{fs, path::Path};

use crate::{
    api_client::ApiClient,
    daemon::Daemon,
    home::{Home, softhsm_module},
};

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A new home with the token and the configuration of `old`, without its state.
pub fn new_home_of(old: &Daemon) -> Daemon {
    let home = Home::new();
    fs::remove_dir(home.path().join("tokens")).unwrap();
    copy_folder(&old.home.path().join("tokens"), &home.path().join("tokens"));
    for name in ["claviger.toml", "user.pin"] {
        fs::copy(old.home.path().join(name), home.path().join(name)).unwrap();
    }
    Daemon::from_home(home, &old.did, old.port, old.ops_port)
}

#[test]
fn a_backup_restores_the_agent_in_another_place() {
    let (Some(mut alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    bob.json(&["send", "--to", &alice.did, "before", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["before"]);
    let folder = alice.home.path().join("copy");
    let made = alice.json(&["backup", folder.to_str().unwrap()]);
    let paths: Vec<&str> = made["files"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"agent.db") && paths.iter().any(|path| path.starts_with("documents/peer-")), "{paths:?}");
    // The agent continues, and the backup does not change.
    bob.json(&["send", "--to", &alice.did, "after", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["before", "after"]);
    // A backup is not overwritten.
    assert_eq!(alice.run(&["backup", folder.to_str().unwrap()]).error(1), "io");
    // The copy has no message in plain text, and no PIN.
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap).filter(|it| it.path().is_file()) {
        let bytes = fs::read(entry.path()).unwrap();
        for secret in ["before", crate::home::PIN] {
            let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} in {}", entry.path().display());
        }
    }
    alice.stop();

    let mut restored_agent = new_home_of(&alice);
    let restored = restored_agent.json(&["restore", folder.to_str().unwrap()]);
    assert_eq!(restored["kept"].as_array().unwrap().len(), 0);
    restored_agent.start();
    assert_eq!(restored_agent.unread_texts(), ["before"]);
    // Peers reach the restored agent under the same DID.
    bob.json(&["send", "--to", &restored_agent.did, "to the new one", "--within", "30"]);
    restored_agent.wait_until("the message arrived", |agent| agent.unread_texts() == ["before", "to the new one"]);
}

#[test]
fn restore_refuses_a_running_agent_and_keeps_replaced_files() {
    let Some(mut alice) = Daemon::running("") else { return };
    alice.json(&["send", "--to", &alice.did, "one", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["one"]);
    let folder = alice.home.path().join("copy");
    let folder = folder.to_str().unwrap();
    alice.home.run(&format!("backup {folder}")).success();
    alice.json(&["send", "--to", &alice.did, "two", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["one", "two"]);
    let documents = alice.home.path().join("state/documents");
    let before = fs::read_dir(&documents).unwrap().count();

    assert_eq!(alice.run(&["restore", folder]).error(1), "agent-there");
    assert_eq!(alice.unread_texts(), ["one", "two"]);
    assert_eq!(fs::read_dir(&documents).unwrap().count(), before);
    assert!(!alice.home.path().join("state/documents.before-1").exists());

    alice.stop();
    let restored = alice.json(&["restore", folder]);
    let kept: Vec<&str> = restored["kept"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(
        kept.iter().any(|it| it.ends_with("agent.before-1"))
            && kept.iter().any(|it| it.ends_with("documents.before-1")),
        "{kept:?}"
    );
    assert!(kept.iter().all(|path| alice.home.path().join(path).exists()), "{kept:?}");
    alice.start();
    assert_eq!(alice.unread_texts(), ["one"]);
}

/// A client that goes on from a cursor that was given out after the backup would miss messages. It gets an error, starts
/// from the beginning, and gets all that is unread. A cursor from before the backup goes on.
#[test]
fn a_cursor_from_after_the_backup_is_unknown_to_the_restored_agent() {
    let Some(mut alice) = Daemon::running("") else { return };
    let receive = |alice: &Daemon, text: &str| -> i64 {
        alice.json(&["send", "--to", &alice.did, text, "--within", "30"]);
        alice.wait_until("the message arrived", |alice| alice.unread_texts().contains(&text.to_owned()));
        alice.delivery(text)["cursor"].as_i64().unwrap()
    };
    let first = receive(&alice, "one");
    let folder = alice.home.path().join("copy");
    let folder = folder.to_str().unwrap();
    alice.home.run(&format!("backup {folder}")).success();
    receive(&alice, "two");
    let last = receive(&alice, "three");
    for _ in 0..2 {
        alice.stop();
        alice.json(&["restore", folder]);
        alice.start();
        let api = ApiClient::new(&alice);
        let page = |after: i64| api.get(&format!("/v1/inbox?after={after}"));
        assert_eq!(page(last).error(409), "cursor-unknown");
        let event_id = format!("last-event-id: {last}\r\n");
        assert_eq!(api.request("GET", "/v1/events", &event_id, "").error(409), "cursor-unknown");
        let new = receive(&alice, "four");
        assert!(new > last && new < 1 << 53, "{last} {new}");
        assert_eq!(page(last).error(409), "cursor-unknown", "an old cursor stays unknown");
        assert_eq!(alice.unread_texts(), ["one", "four"]);
        let after_first = page(first).json(200);
        assert_eq!(after_first["messages"].as_array().unwrap().len(), 1);
        assert_eq!(after_first["cursor"], new);
        assert_eq!(page(new).json(200)["cursor"], new);
        assert_eq!(page(new + 1).error(409), "cursor-unknown");
    }
}

#[test]
fn a_modified_backup_is_not_restored() {
    let Some(mut alice) = Daemon::running("") else { return };
    let folder = alice.home.path().join("copy");
    alice.json(&["backup", folder.to_str().unwrap()]);
    alice.stop();
    let change = |path: &Path, change: &dyn Fn()| {
        let whole = fs::read(path).unwrap();
        change();
        let refused = alice.run(&["restore", folder.to_str().unwrap()]).error(1);
        fs::write(path, whole).unwrap();
        refused
    };
    let store = folder.join("agent.db");
    assert_eq!(change(&store, &|| fs::write(&store, b"SQLite format 3\0").unwrap()), "backup-damaged");
    assert_eq!(change(&store, &|| fs::remove_file(&store).unwrap()), "backup-damaged");
    let manifest = folder.join("manifest.json");
    assert_eq!(change(&manifest, &|| fs::write(&manifest, b"{}").unwrap()), "backup-damaged");
    assert_eq!(change(&manifest, &|| fs::remove_file(&manifest).unwrap()), "io");
    fs::write(folder.join("more"), b"").unwrap();
    assert_eq!(alice.run(&["restore", folder.to_str().unwrap()]).error(1), "backup-damaged");
}

#[test]
fn backup_fails_without_a_store() {
    let Some(module) = softhsm_module() else { return };
    let home = Home::new();
    home.configure(&module, "");
    assert_eq!(home.run("--json backup copy").error(1), "store-unusable");
    assert!(!home.path().join("copy").exists());
}

//! `claviger store copy` and `claviger store check`, with a server of PostgreSQL over TLS and with a password.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use claviger::agent::store::{Change, Commit, Delivery, NewEvent, SqliteStore, Store, StoreLimits};
use serde_json::{Value, json};

use crate::{
    home::Home,
    postgres_server::{PASSWORD, Server},
};

/// A home with a store of `number` deliveries and events, and the password of the server.
fn home_with_store(number: usize) -> (Home, PathBuf) {
    let home = Home::new();
    home.write("claviger.toml", "state_dir = \"state\"\n");
    home.write("password", &format!("{PASSWORD}\n"));
    fs::set_permissions(home.path().join("password"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = home.path().join("state/agent/agent.db");
    let changes = (0..number).flat_map(|number| {
        let delivery = Delivery {
            id: format!("delivery {number}"),
            cursor: 0,
            message: number.to_string(),
            thread: "thread".to_owned(),
            kind: "https://example.org/a/1.0/b".to_owned(),
            sender: "did:example:them".to_owned(),
            recipient: "did:example:us".to_owned(),
            received: 1,
            sealed: Some(vec![7; 300]),
        };
        let event = NewEvent { time: 1, kind: "a".to_owned(), data: "{}".to_owned() };
        [Change::Deliver(delivery), Change::Event(event)]
    });
    let commit = Commit { changes: changes.collect(), ..Commit::default() };
    with_store(&path, async |store| {
        store.commit(commit).await.unwrap();
    });
    (home, path)
}

fn with_store(path: &std::path::Path, work: impl AsyncFnOnce(&SqliteStore)) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(path, StoreLimits::default()).unwrap();
        work(&store).await;
        store.close().await.unwrap();
    });
}

fn to_postgres(server: &Server, database: &str) -> String {
    let (url, ca) = (server.url_at("localhost", database), server.certificate());
    format!("--to {url} --to-password-file password --ca {}", ca.display())
}

fn rows(document: &Value, table: &str) -> u64 {
    let tables = document["tables"].as_array().unwrap();
    tables.iter().find(|it| it["name"] == table).and_then(|it| it["rows"].as_u64()).unwrap()
}

#[test]
fn a_store_is_copied_and_checked() {
    let Some(server) = Server::shared() else { return };
    let (home, path) = home_with_store(700);
    let database = server.database();
    let to = to_postgres(server, &database);
    let copied = home.run(&format!("--json store copy {to}")).json();
    assert_eq!(copied.as_object().unwrap().keys().collect::<Vec<_>>(), ["from", "to", "found", "tables"]);
    assert_eq!((rows(&copied, "deliveries"), rows(&copied, "events"), copied["found"].as_u64()), (700, 700, Some(0)));
    assert_eq!(copied["tables"][0]["sha256"].as_str().map(str::len), Some(64));
    // The configured store, and the copy.
    let url = server.url_at("localhost", &database);
    let connection = format!("--password-file password --ca {}", server.certificate().display());
    let checked = home.run("--json store check").json();
    assert_eq!((&checked["ok"], &checked["findings"], rows(&checked, "events")), (&json!(true), &json!([]), 700));
    let checked = home.run(&format!("store check {url} {connection}"));
    assert!(checked.success().contains("deliveries 700\n"), "{}", checked.stdout());
    assert!(
        checked.stderr().contains(&format!("Nothing is wrong in the store {database} at localhost:")),
        "{checked:?}"
    );
    // And back.
    let (from, ca) = (format!("--from {url} --from-password-file password"), server.certificate());
    let back = home.run(&format!("store copy {from} --ca {} --to back.db", ca.display()));
    assert!(back.success().contains("events     700\n"), "{}", back.stdout());
    assert!(back.stderr().contains("1400 rows copied from"), "{}", back.stderr());
    assert!(!format!("{back:?}").contains(PASSWORD));
    let again = home.run(&format!("--json store copy {from} --ca {} --to again.db", ca.display())).json();
    assert_eq!(again["tables"], copied["tables"]);
    assert_eq!(home.run("--json store check back.db").json()["ok"], true);

    // An agent uses the store.
    with_store(&path, async |_| {
        let refused = home.run("--json store copy --to new.db");
        assert_eq!(refused.error(1), "agent-there");
        assert_eq!(home.run("--json store check").json()["ok"], true);
    });
    // What is there is not overwritten.
    let refused = home.run("--json store copy --to back.db");
    assert_eq!(refused.error(1), "store-unusable");
    assert!(refused.stderr().contains("is not empty: name a file that does not exist"), "{}", refused.stderr());
    assert_eq!(home.run(&format!("--json store copy {to}")).error(1), "store-unusable");
    // Damage.
    let db = rusqlite::Connection::open(home.path().join("back.db")).unwrap();
    db.execute_batch("UPDATE total_unread SET bytes = 0").unwrap();
    drop(db);
    let damaged = home.run("--json store check back.db");
    assert_eq!(damaged.status(), 1);
    let report: Value = serde_json::from_str(damaged.stdout()).unwrap();
    assert_eq!((&report["ok"], &report["findings"][0]["code"]), (&json!(false), &json!("sums-differ")));
    assert!(damaged.stderr().contains("store-damaged"), "{}", damaged.stderr());
    // A copy has the right sums.
    home.run("store copy --from back.db --to mended.db").success();
    home.run("store check mended.db").success();
}

#[test]
fn wrong_arguments_are_refused() {
    let Some(server) = Server::shared() else { return };
    let (home, _) = home_with_store(1);
    let url = server.url_at("localhost", &server.database());
    let with_password = url.replace("agent@", "agent:hunter2@");
    for (arguments, status, code) in [
        (format!("copy --to {with_password}"), 2, "bad-arguments"),
        ("copy --to mysql://agent@localhost/store".to_owned(), 2, "bad-arguments"),
        (format!("copy --to {url} --ca password"), 2, "bad-certificate"),
        // The server's certificate is from nobody whom the system knows.
        (format!("copy --to {url} --to-password-file password"), 1, "store-unavailable"),
        (format!("copy --to {url} --to-password-file none"), 2, "bad-arguments"),
        ("copy --from none.db --to new.db".to_owned(), 1, "store-unusable"),
        ("check none.db".to_owned(), 1, "store-unusable"),
        ("check claviger.toml".to_owned(), 1, "store-unusable"),
    ] {
        let refused = home.run(&format!("--json store {arguments}"));
        assert_eq!(refused.error(status), code, "{arguments}: {}", refused.stderr());
        assert!(!refused.stderr().contains("hunter2"), "{}", refused.stderr());
        let goes_on = refused.stderr().contains("it goes on where it stopped");
        assert_eq!(goes_on, arguments.contains("password-file password"), "{}", refused.stderr());
    }
    assert!(!home.path().join("none.db").exists() && !home.path().join("new.db").exists());
    fs::set_permissions(home.path().join("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = home.run(&format!("--json store copy --to {url} --to-password-file password"));
    assert_eq!(refused.error(2), "bad-arguments");
    assert!(refused.stderr().contains("others may read the file"), "{}", refused.stderr());
}

/// A copy that is killed goes on, and no row is lost or there twice.
#[test]
fn a_killed_copy_goes_on() {
    let Some(server) = Server::shared() else { return };
    let (home, _) = home_with_store(6000);
    let whole = home.run("--json store copy --to whole.db").json();
    let to = to_postgres(server, &server.database());
    let (mut is_resumed, begun) = (false, Instant::now());
    for attempt in 1..200_u64 {
        let mut command = home.command(&claviger_testkit::program!());
        command.args(["--json", "store", "copy"]).args(to.split(' '));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 * attempt));
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            let copied: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(copied["tables"], whole["tables"]);
            is_resumed = copied["found"].as_u64() > Some(0);
            break;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        if attempt > 1 && text.contains("is not empty") {
            // The one before it was killed after it had completed the copy.
            is_resumed = true;
            break;
        }
        // It was killed, or the one before it still has the lock.
        assert!(output.status.code().is_none() || text.contains("agent-there"), "{text}");
    }
    assert!(is_resumed, "after {:?}", begun.elapsed());
}

//! The keeper's audit: its chain over keepers, kills, rotation and full disks, and the lines of refusals.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Context, Secrets, SecretsError, keeper::KeeperClient},
};
use claviger_testkit::PrivateKey;
use serde_json::Value;

use crate::{
    home::{Home, MESSAGE, open_message, wait_until, with_home},
    hostile::{HELLO, HostileClient, REQUEST, unwrap},
    support::Module,
};

fn audit(home: &Home) -> PathBuf {
    home.folder().join("state/audit.jsonl")
}

/// The lines of the audit, each of which must be complete JSON.
fn lines(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(audit(home)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Each line's operation, result and count.
fn outcomes(home: &Home) -> Vec<(String, String, Option<u64>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let outcome = |line: Value| (text(&line["operation"]), text(&line["result"]), line["count"].as_u64());
    lines(home).into_iter().map(outcome).collect()
}

/// The report of `claviger audit verify`, and whether the command succeeded.
fn verify(home: &Home, arguments: &str) -> (bool, Value) {
    let output = home.run(&format!("--json audit verify {arguments}"));
    (output.status.success(), document(&output))
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn kinds(findings: &Value) -> Vec<(&str, Option<u64>)> {
    findings.as_array().unwrap().iter().map(|it| (it["kind"].as_str().unwrap(), it["line"].as_u64())).collect()
}

/// The chain goes on over a rotation with and without a running keeper, over kills, and over a torn line.
#[test]
fn the_audit_is_one_chain() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        let use_key = async || open_message(&*client, &key, &Context::default()).await.unwrap();
        use_key().await;
        use_key().await;
        // Renamed while the keeper runs.
        fs::rename(audit(home), home.folder().join("state/audit.jsonl.2")).unwrap();
        wait_until("the keeper goes on in a new file", || audit(home).exists()).await;
        use_key().await;
        assert_eq!(lines(home).len(), 1);
        use_key().await;
        // Renamed while no keeper runs, and the last write did not end.
        home.kill_keepers();
        let torn = [fs::read(audit(home)).unwrap(), b"{\"time\":\"2026-11-29T22:00:00.0".to_vec()].concat();
        fs::write(audit(home), torn).unwrap();
        crate::home::time_until_served(&*client, &key).await;
        use_key().await;
        home.kill_keepers();
        wait_until("they have ended", || home.keepers().is_empty()).await;
        fs::rename(audit(home), home.folder().join("state/audit.jsonl.1")).unwrap();
        home.generate(Curve::Ed25519);

        let (is_ok, report) = verify(home, "");
        assert!(is_ok && report["ok"] == true, "{report}");
        assert_eq!(report["files"].as_array().unwrap().len(), 3);
        assert_eq!(kinds(&report["notes"]), [("torn", Some(3))]);
        assert_eq!(report["begin"]["seq"], 1);
        let head = document(&home.run("--json audit head"));
        assert_eq!(report["head"], head);
        let last = fs::read(audit(home)).unwrap();
        let last = last.split_inclusive(|byte| *byte == b'\n').next_back().unwrap();
        let head = head["sha256"].as_str().unwrap();
        assert_eq!(head, claviger::secrets::keeper::AuditHash::of(last).to_string());
        assert!(verify(home, &format!("--head {head}")).0);

        // A line is taken away in the middle of a rotated file.
        let (first, second) = (home.folder().join("state/audit.jsonl.2"), home.folder().join("state/audit.jsonl.1"));
        let text = fs::read_to_string(&first).unwrap();
        let cut: Vec<_> = text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| line).collect();
        fs::write(&first, cut.join("\n") + "\n").unwrap();
        let (is_ok, report) = verify(home, "");
        assert!(!is_ok && report["ok"] == false, "{report}");
        assert_eq!(kinds(&report["faults"]), [("missing", Some(2))]);
        assert_eq!(report["faults"][0]["file"], first.display().to_string());
        // For a person, with an exit status and the place.
        let output = home.run("audit verify");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains(&format!("{}:2: missing: line 2 of the chain", first.display())), "{shown}");
        fs::write(&first, text).unwrap();

        // A rotated file is gone, and the newest lines are: only the hash that was kept shows that.
        let whole = fs::read(audit(home)).unwrap();
        fs::write(audit(home), "").unwrap();
        assert!(verify(home, "").0);
        let (is_ok, report) = verify(home, &format!("--head {head}"));
        assert!(!is_ok);
        assert_eq!(kinds(&report["faults"]), [("head-missing", None)]);
        fs::write(audit(home), whole).unwrap();
        fs::remove_file(second).unwrap();
        let (is_ok, report) = verify(home, "");
        assert!(!is_ok);
        assert_eq!(kinds(&report["faults"]), [("missing", Some(1))]);
    });
}

/// A file of an older version is read, and the chain begins after its last line. SIGHUP does not end a keeper.
#[test]
fn the_chain_begins_after_an_older_audit() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let old = fs::read_to_string(audit(home)).unwrap();
        let old = old.split(",\"seq\"").next().unwrap().to_owned() + "}\n";
        fs::write(audit(home), old.repeat(3)).unwrap();
        let client = home.client().await;
        let keepers = home.keepers();
        for keeper in &keepers {
            Command::new("kill").args(["-HUP", &keeper.to_string()]).status().unwrap();
        }
        open_message(&*client, &key, &Context::default()).await.unwrap();
        assert_eq!(home.keepers(), keepers);
        let (is_ok, report) = verify(home, &audit(home).display().to_string());
        assert!(is_ok, "{report}");
        assert_eq!(kinds(&report["notes"]), [("unchained", None)]);
        assert_eq!((&report["files"][0]["lines"], &report["files"][0]["chained"]), (&4.into(), &1.into()));
        assert_eq!(report["begin"], report["head"]);
        // No chain at all.
        fs::write(audit(home), old).unwrap();
        let (is_ok, report) = verify(home, &audit(home).display().to_string());
        assert!(!is_ok);
        assert_eq!(kinds(&report["faults"]), [("no-chain", None)]);
    });
}

#[test]
fn every_refusal_has_an_audit_line() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let listening = home.listen();
        let custodian = listening.custodian().unwrap();
        let stranger = PrivateKey::generate(Curve::P256).public().clone();
        let begin = outcomes(home).len();
        custodian.delete(&stranger).unwrap_err();
        let path = &listening.path;
        let mut agent = HostileClient::agent(path);
        let off_curve = [&[4u8][..], &[7; 64]].concat();
        for request in [unwrap(&key, &off_curve), unwrap(&stranger, key.as_bytes()), [&REQUEST[..], &[7]].concat()] {
            agent.send(&request);
            agent.receive().expect("an error");
        }
        agent.send(&[&REQUEST[..], &[99]].concat());
        assert!(agent.receive().is_none(), "a request that cannot be read ends the connection");
        let mut old = HostileClient::connect(path);
        old.send(&[HELLO[0] + 1, 0]);
        old.receive().expect("a refusal");
        HostileClient::connect(path).send(&[0xff; 80]);
        // Somebody who only looks whether the keeper listens is no refusal.
        drop(HostileClient::connect(path));
        let expected = [
            ("delete", "token-cannot"),
            ("unwrap", "refused"),
            ("unwrap", "not-held"),
            ("lock", "custodian-only"),
            ("request", "malformed"),
            ("connect", "wrong-version"),
            ("connect", "malformed"),
        ];
        let made = || -> Vec<_> { outcomes(home).into_iter().skip(begin).collect() };
        wait_until("each has a line", || made().len() >= expected.len()).await;
        let made = made();
        let made: Vec<_> = made.iter().map(|(operation, result, _)| (&**operation, &**result)).collect();
        assert_eq!(made[1..], expected[1..], "{made:?}");
        assert_eq!(made[0].0, "delete");
    });
}

/// Users who may not connect have a line. A flood of refusals has few, and the count is right.
#[test]
fn a_flood_of_refusals_is_counted() {
    const FLOOD: usize = 300;
    with_home(Module::SoftHsm, "agents = []\ncustodians = []\naudit_refusals = 5", async |home| {
        let listening = home.listen();
        for _ in 0..FLOOD {
            let mut client = HostileClient::connect(&listening.path);
            client.send(&HELLO);
            while client.receive().is_some() {}
        }
        assert_eq!(outcomes(home).len(), 5);
        let (first, id) = (outcomes(home).remove(0), listening.id());
        assert_eq!(first, ("connect".into(), "not-served".into(), None));
        // The count is written after a minute, and when the keeper ends.
        Command::new("kill").args(["-TERM", &id.to_string()]).status().unwrap();
        home.wait_for_end();
        let (operation, result, count) = outcomes(home).pop().unwrap();
        assert_eq!((&*operation, &*result), ("connect", "not-served"));
        // The test also looked whether the keeper listens.
        assert!(count.is_some_and(|count| (FLOOD as u64 - 5..FLOOD as u64 + 5).contains(&count)), "{count:?}");
    });
    with_home(Module::SoftHsm, "audit_refusals = 5", async |home| {
        let key = home.generate(Curve::P256);
        let begin = outcomes(home).len();
        let client = KeeperClient::start("demo", home.supervisor().connector("demo")).await.unwrap();
        let claims = claviger::secrets::FromPriorClaims { iss: "did:example:a".into(), sub: None, iat: Some(1) };
        let rotation = claviger::secrets::SignRequest::FromPrior { kid: "did:example:a#1", claims: &claims };
        for _ in 0..FLOOD {
            let error = client.sign(&key, &rotation, &Context::default()).await.unwrap_err();
            assert!(matches!(error, SecretsError::NotAllowed { .. }), "{error}");
        }
        open_message(&client, &key, &Context::default()).await.unwrap();
        drop(client);
        let kind = |count| ("sign:from-prior".to_owned(), "not-allowed".to_owned(), count);
        let made = || -> Vec<_> { outcomes(home).into_iter().skip(begin).collect() };
        wait_until("the keeper writes the count when it ends", || made().len() == 7).await;
        let expected = [&vec![kind(None); 5][..], &[("unwrap".into(), "done".into(), None), kind(Some(295))]].concat();
        assert_eq!(made(), expected);
        assert!(verify(home, "").0);
    });
}

/// A disk that fills up in the middle of a line. When there is room again, the next line begins clean.
#[test]
fn a_full_disk_tears_one_line_at_most() {
    with_home(Module::SoftHsm, "audit = \"disk/audit.jsonl\"", async |home| {
        let disk = home.folder().join("disk");
        let Some(mounted) = SmallDisk::mount(&disk) else {
            return eprintln!("skipped: only root can mount a small disk");
        };
        let key = home.generate(Curve::P256);
        let client = home.client().await;
        open_message(&*client, &key, &Context::default()).await.unwrap();
        // The last page of the audit still has room for a part of some line.
        fs::write(disk.join("filler"), vec![0; 1 << 20]).unwrap_err();
        let mut failed = None;
        for number in 0..100 {
            if let Err(error) = client.sign(&key, &MESSAGE, &Context::default()).await {
                failed = Some(error);
                break;
            }
            assert!(number < 99, "the disk is not full");
        }
        assert!(matches!(failed, Some(SecretsError::AuditFailed(_))), "{failed:?}");
        fs::remove_file(disk.join("filler")).unwrap();
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let (is_ok, report) = verify(home, "");
        assert!(is_ok, "{report}");
        let notes = kinds(&report["notes"]).len();
        assert!(notes <= 1, "{report}");
        drop(mounted);
    });
}

/// A mounted file system of 64 KiB. Dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<Self> {
        fs::create_dir(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"]).arg(folder);
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Keepers still have the audit open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The `sha256sum` of a line is what the next line names.
#[test]
fn a_person_can_check_a_line() {
    with_home(Module::SoftHsm, "", async |home| {
        let keys: Vec<PublicKey> = vec![home.generate(Curve::P256), home.generate(Curve::Ed25519)];
        assert_eq!(keys.len(), 2);
        let script = format!("sed -n 1p {} | sha256sum", audit(home).display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let sum = String::from_utf8(output.stdout).unwrap();
        let second = &lines(home)[1];
        assert_eq!(second["prev"].as_str(), sum.split(' ').next());
        assert_eq!(second["seq"], 2);
    });
}

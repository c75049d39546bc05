//! Failures of the token, the keeper, the disk and the daemon itself while peers send.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, free_port},
    endpoint::Endpoint,
    home::softhsm_module,
    load::{LoadGenerator, SentMessages},
    peer::Peer,
};

/// Messages that waited for the token must be opened within this time of its return.
const MINUTE: Duration = Duration::from_secs(60);

/// The outage lasts CLAVIGER_AWAY_SECONDS seconds. Without this variable, it lasts until the daemon has noticed it and
/// accepted 20 messages. A debug build opens about 500 messages a second on two idle cores.
#[test]
fn a_token_outage_under_load_loses_nothing() {
    let away_for = std::env::var("CLAVIGER_AWAY_SECONDS").map_or(0, |text| text.parse().expect("a number of seconds"));
    let Some(daemon) = Daemon::running("[store]\nmax_unread_from = 1_000_000\n") else { return };
    let load = LoadGenerator::start(&daemon, 1);
    daemon.wait_until("the daemon accepts messages", |_| load.accepted() > 20);
    daemon.disconnect_token();
    daemon.wait_until("the daemon notices the missing token", |daemon| !daemon.is_token_ready());
    let (before, missed) = (load.accepted(), Instant::now());
    daemon.wait_until_within(Duration::from_secs(away_for) + MINUTE, "messages are accepted without the token", |_| {
        load.accepted() > before + 20 && missed.elapsed() >= Duration::from_secs(away_for)
    });
    assert!(daemon.is_ready());
    let accepted = load.accepted() - before;
    daemon.reconnect_token();
    let back = Instant::now();
    daemon.wait_until_token_ready();
    let sent = load.stop();
    daemon.wait_until_within(MINUTE.saturating_sub(back.elapsed()), "all messages are opened", |daemon| {
        daemon.metric("claviger_waiting{queue=\"inbox\"}") == 0.0
    });
    let (without, opened) = (back - missed, back.elapsed());
    println!("{accepted} messages were accepted in {without:?} without the token; all were opened {opened:?} later");
    sent.assert_each_delivered_once(&daemon, MINUTE);
}

/// Six messages of one DID wait for its token. Another DID's messages to the same peer do not.
#[test]
fn a_missing_token_delays_no_other_did() {
    let Some(module) = softhsm_module() else { return };
    let Some(mut daemon) = Daemon::new("") else { return };
    let file = daemon.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let uri = format!("pkcs11:token=spare?module-path={}&pin-source=file:user.pin", module.display());
    let spare = format!("[[token]]\nname = \"spare\"\nuri = \"{uri}\"\n");
    fs::write(&file, text.replacen("[http]", &format!("{spare}[http]"), 1)).unwrap();
    let folders = |daemon: &Daemon| -> Vec<_> {
        let entries = fs::read_dir(daemon.home.path().join("tokens")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let before = folders(&daemon);
    daemon.home.run("token init spare --so-pin-source file:so.pin").success();
    let of_spare = folders(&daemon).into_iter().find(|folder| !before.contains(folder)).unwrap();
    let service = format!("http://127.0.0.1:{}", daemon.port);
    let other = daemon.home.create_did(&format!("--method peer:2 --service {service} --token spare"));
    daemon.start();

    let away = daemon.home.path().join("away");
    fs::rename(&of_spare, &away).unwrap();
    assert!(daemon.kill_keepers());
    let is_away = |daemon: &Daemon| daemon.metric("claviger_token_state{token=\"spare\",state=\"ready\"}") == 0.0;
    daemon.wait_until("the missing token is noticed", is_away);
    daemon.wait_until_token_ready();
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    let send = |from: &str, content: &str| {
        let message = json!({"to": peer.did(), "from": from, "type": SAY, "body": {"content": content}});
        ApiClient::new(&daemon).post("/v1/messages", &message).json(202)["id"].as_str().unwrap().to_owned()
    };
    let waiting: Vec<String> = (0..6).map(|number| send(&other, &number.to_string())).collect();
    for number in 0..3 {
        let id = send(&daemon.did, &format!("ready {number}"));
        daemon.wait_until("the other DID's message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    }
    assert!(waiting.iter().all(|id| daemon.outbox_message(id)["state"] == "waiting"));
    fs::rename(&away, &of_spare).unwrap();
    daemon.wait_until("all messages are sent", |daemon| {
        waiting.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
    assert_eq!(endpoint.messages().len(), 9);
}

#[test]
fn a_killed_keeper_is_restarted() {
    let Some(daemon) = Daemon::running("") else { return };
    let load = LoadGenerator::start(&daemon, 2);
    for _ in 0..3 {
        let before = load.accepted();
        daemon.wait_until("the daemon accepts messages", |_| load.accepted() > before + 10);
        daemon.kill_keepers();
    }
    daemon.wait_until_token_ready();
    load.stop().assert_each_delivered_once(&daemon, MINUTE);
}

/// The supervisor starts keepers. Without its supervisor, the daemon could never use a token again. So the daemon ends,
/// and systemd restarts it.
#[test]
fn the_daemon_ends_without_its_supervisor_and_loses_nothing() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let load = LoadGenerator::start(&daemon, 2);
    daemon.wait_until("the daemon accepts messages", |_| load.accepted() > 20);
    for process in [children(daemon.pid()), daemon.keepers()].concat() {
        kill(process);
    }
    assert!(!daemon.wait().success());
    daemon.start();
    load.stop().assert_each_delivered_once(&daemon, MINUTE);
}

#[test]
fn a_restart_under_load_loses_nothing() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let load = LoadGenerator::start(&daemon, 2);
    for _ in 0..2 {
        let before = load.accepted();
        daemon.wait_until("the daemon accepts messages", |_| load.accepted() > before + 20);
        daemon.stop();
        daemon.start();
    }
    let sent = load.stop();
    sent.assert_each_delivered_once(&daemon, MINUTE);
}

/// All processes of the agent are stopped for a while, as when a machine sleeps.
#[test]
fn a_suspended_daemon_resumes_under_load() {
    let Some(daemon) = Daemon::running("") else { return };
    let load = LoadGenerator::start(&daemon, 2);
    for asleep in [Duration::from_millis(500), Duration::from_secs(4)] {
        let before = load.accepted();
        daemon.wait_until("the daemon accepts messages", |_| load.accepted() > before + 20);
        let all = [vec![daemon.pid()], children(daemon.pid()), daemon.keepers()].concat();
        all.iter().for_each(|process| send_signal(*process, Signal::STOP));
        thread::sleep(asleep);
        all.iter().for_each(|process| send_signal(*process, Signal::CONT));
    }
    daemon.wait_until_token_ready();
    load.stop().assert_each_delivered_once(&daemon, MINUTE);
}

/// Without space on the disk, messages get 503. When there is space again, the daemon accepts messages without
/// a restart.
#[test]
fn a_full_disk_refuses_messages_and_loses_none() {
    let Some(mut daemon) = Daemon::new("[store]\npath = \"disk/agent.db\"\n") else { return };
    let folder = daemon.home.path().join("disk");
    fs::create_dir(&folder).unwrap();
    let Some(_disk) = SmallDisk::mount(&folder) else { return };
    daemon.start();
    let peer = Peer::new("peer");
    let mut sent = SentMessages::default();
    let big = "x".repeat(20_000);
    let mut refused = 0;
    let send = |number: usize, sent: &mut SentMessages| {
        let content = format!("{number} {big}");
        let status = daemon.post_status(peer.pack_text(&daemon.did, &content));
        if status == 202 {
            sent.accepted.insert(content);
        } else {
            assert_eq!(status, 503, "{}", daemon.log());
        }
        status
    };
    fs::write(folder.join("filler"), vec![0; 2_000_000]).unwrap();
    for number in 0..400 {
        if send(number, &mut sent) != 202 {
            refused += 1;
        }
        if refused > 10 {
            break;
        }
    }
    assert!(refused > 10, "the disk is never full");
    assert!(daemon.is_live());
    // The application's messages are refused as well, once they fill the space that opened messages have freed.
    let away = Peer::with_endpoint("away", &format!("http://127.0.0.1:{}", free_port()));
    daemon.wait_until("the application's message is refused as well", |daemon| {
        daemon.send_text(away.did(), &big).is_none()
    });
    fs::remove_file(folder.join("filler")).unwrap();
    daemon.wait_until("the daemon accepts messages again", |daemon| daemon.is_ready());
    for number in 1000..1010 {
        assert_eq!(send(number, &mut sent), 202);
    }
    sent.assert_each_delivered_once(&daemon, MINUTE);
    // The daemon ends in time even with a full disk.
    let _ = fs::write(folder.join("filler"), vec![0; 4_000_000]);
    daemon.stop();
}

/// The file of the database is moved away, and replaced by another: messages are refused, as they would be lost.
#[test]
fn messages_are_refused_while_the_database_is_missing() {
    let Some(daemon) = Daemon::running("") else { return };
    let folder = daemon.home.path().join("state/agent");
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "before")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["before"]);
    let (database, elsewhere) = (folder.join("agent.db"), folder.join("elsewhere.db"));
    fs::rename(&database, &elsewhere).unwrap();
    let is_refused = |content: &str| {
        let answer = daemon.post(peer.pack_text(&daemon.did, content).as_bytes());
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: ")
    };
    assert!(is_refused("meanwhile"), "{}", daemon.log());
    assert!(daemon.is_live() && !daemon.is_ready());
    assert!(daemon.send_text(peer.did(), "nor this").is_none());
    fs::write(&database, "something else").unwrap();
    assert!(is_refused("nor now") && !daemon.is_ready());
    fs::rename(&elsewhere, &database).unwrap();
    daemon.wait_until("the daemon is ready again", |daemon| daemon.is_ready());
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "after")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["before", "after"]);
}

/// A file system of 4 MB in memory.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts the file system. Returns none if the user is not root.
    fn mount(folder: &'a Path) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            println!("skipped: only root mounts a small disk");
            return None;
        }
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder).status().unwrap();
        assert!(mounted.success(), "a small disk cannot be mounted");
        Some(Self(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

impl Daemon {
    /// The process ids of the daemon's keepers.
    pub fn keepers(&self) -> Vec<u32> {
        let supervisors = children(self.pid());
        supervisors.into_iter().flat_map(children).collect()
    }

    /// Kills the keepers with SIGKILL, as a crash of a module would. Returns whether there were any.
    pub fn kill_keepers(&self) -> bool {
        let keepers = self.keepers();
        keepers.iter().copied().for_each(kill);
        !keepers.is_empty()
    }
}

fn kill(process: u32) {
    send_signal(process, Signal::KILL);
}

pub fn send_signal(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    // The process may have ended already.
    let _ = kill_process(pid, signal);
}

/// The child processes of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

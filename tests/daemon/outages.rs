//! Tokens, keepers, disks and the daemon itself that go away while peers send (threats.md "Faults to inject").

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    daemon::{Daemon, free_port},
    load::{Load, Sent},
    peer::Peer,
};

/// What was taken while the token was away is opened within this time of its return.
const MINUTE: Duration = Duration::from_secs(60);

/// As long as it takes to miss it; or CLAVIGER_AWAY_SECONDS. A debug build opens some 500 messages a second on two quiet cores.
#[test]
fn the_token_goes_and_comes_back_under_load() {
    let away_for = std::env::var("CLAVIGER_AWAY_SECONDS").map_or(0, |text| text.parse().expect("a number of seconds"));
    let Some(daemon) = Daemon::running("[store]\nmax_unread_from = 1_000_000\n") else { return };
    let (tokens, away) = (daemon.home.path().join("tokens"), daemon.home.path().join("away"));
    let load = Load::on(&daemon, 1);
    daemon.until("messages come", |_| load.accepted() > 20);
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    daemon.until("the token is missed", |daemon| !daemon.ask("/ready/token").starts_with("HTTP/1.1 200"));
    let (before, missed) = (load.accepted(), Instant::now());
    daemon.until_within(Duration::from_secs(away_for) + MINUTE, "messages are taken all the same", |_| {
        load.accepted() > before + 20 && missed.elapsed() >= Duration::from_secs(away_for)
    });
    assert!(daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    let taken = load.accepted() - before;
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    let back = Instant::now();
    daemon.until("it is back", |daemon| daemon.ask("/ready/token").starts_with("HTTP/1.1 200"));
    let sent = load.stop();
    daemon.until_within(MINUTE.saturating_sub(back.elapsed()), "all were opened", |daemon| {
        daemon.figure("claviger_waiting{queue=\"inbox\"}") == 0.0
    });
    let (without, opened) = (back - missed, back.elapsed());
    println!(
        "{taken} messages were taken in {without:?} without the token; all were opened {opened:?} after its return"
    );
    sent.all_came_once(&daemon, MINUTE);
}

#[test]
fn a_keeper_that_is_killed_is_started_again() {
    let Some(daemon) = Daemon::running("") else { return };
    let load = Load::on(&daemon, 2);
    for _ in 0..3 {
        let before = load.accepted();
        daemon.until("messages come", |_| load.accepted() > before + 10);
        daemon.kill_keeper();
    }
    daemon.until("it is back", |daemon| daemon.ask("/ready/token").starts_with("HTTP/1.1 200"));
    load.stop().all_came_once(&daemon, MINUTE);
}

/// Who starts keepers is a process too. Without it this one would never have a token again: it ends, and systemd starts it anew.
#[test]
fn without_its_supervisor_it_ends_and_loses_nothing() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let load = Load::on(&daemon, 2);
    daemon.until("messages come", |_| load.accepted() > 20);
    for process in [children(daemon.pid()), daemon.keepers()].concat() {
        kill(process);
    }
    assert!(!daemon.wait().success());
    daemon.start();
    load.stop().all_came_once(&daemon, MINUTE);
}

#[test]
fn it_ends_under_load_and_loses_nothing() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let load = Load::on(&daemon, 2);
    for _ in 0..2 {
        let before = load.accepted();
        daemon.until("messages come", |_| load.accepted() > before + 20);
        daemon.stop();
        daemon.start();
    }
    let sent = load.stop();
    sent.all_came_once(&daemon, MINUTE);
}

/// As when a machine sleeps: nothing of it runs for a while.
#[test]
fn it_is_suspended_under_load_and_goes_on() {
    let Some(daemon) = Daemon::running("") else { return };
    let load = Load::on(&daemon, 2);
    for asleep in [Duration::from_millis(500), Duration::from_secs(4)] {
        let before = load.accepted();
        daemon.until("messages come", |_| load.accepted() > before + 20);
        let all = [vec![daemon.pid()], children(daemon.pid()), daemon.keepers()].concat();
        all.iter().for_each(|process| send(*process, Signal::STOP));
        thread::sleep(asleep);
        all.iter().for_each(|process| send(*process, Signal::CONT));
    }
    daemon.until("its token is ready", |daemon| daemon.ask("/ready/token").starts_with("HTTP/1.1 200"));
    load.stop().all_came_once(&daemon, MINUTE);
}

/// Without room nothing is taken; and when there is room again, it goes on by itself.
#[test]
fn a_full_disk_takes_nothing_and_loses_nothing() {
    let Some(mut daemon) = Daemon::new("[store]\npath = \"disk/agent.db\"\n") else { return };
    let folder = daemon.home.path().join("disk");
    fs::create_dir(&folder).unwrap();
    let Some(_disk) = Disk::mount(&folder) else { return };
    daemon.start();
    let peer = Peer::new("peer");
    let mut sent = Sent::default();
    let big = "x".repeat(20_000);
    let mut refused = 0;
    let send = |number: usize, sent: &mut Sent| {
        let content = format!("{number} {big}");
        let status = daemon.status(peer.says(&daemon.did, &content));
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
    assert!(refused > 10, "it is never full");
    assert!(daemon.ask("/live").starts_with("HTTP/1.1 200"));
    // Nor is anything taken from the application, once it has filled what became free when messages were opened.
    let away = Peer::at("away", &format!("http://127.0.0.1:{}", free_port()));
    daemon.until("the application is refused as well", |daemon| daemon.say(away.did(), &big).is_none());
    fs::remove_file(folder.join("filler")).unwrap();
    daemon.until("it takes messages again", |daemon| daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    for number in 1000..1010 {
        assert_eq!(send(number, &mut sent), 202);
    }
    sent.all_came_once(&daemon, MINUTE);
    // It ends in its time, though the disk is full.
    let _ = fs::write(folder.join("filler"), vec![0; 4_000_000]);
    daemon.stop();
}

/// The database is taken away, and another put in its place: nothing is taken that would be gone with it.
#[test]
fn the_database_is_gone_and_comes_back() {
    let Some(daemon) = Daemon::running("") else { return };
    let folder = daemon.home.path().join("state/agent");
    let peer = Peer::new("peer");
    assert_eq!(daemon.status(peer.says(&daemon.did, "before")), 202);
    daemon.until("it came", |daemon| daemon.texts() == ["before"]);
    let (database, elsewhere) = (folder.join("agent.db"), folder.join("elsewhere.db"));
    fs::rename(&database, &elsewhere).unwrap();
    let is_refused = |content: &str| {
        let answer = daemon.post(peer.says(&daemon.did, content).as_bytes());
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: ")
    };
    assert!(is_refused("meanwhile"), "{}", daemon.log());
    assert!(daemon.ask("/live").starts_with("HTTP/1.1 200") && !daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    assert!(daemon.say(peer.did(), "nor this").is_none());
    fs::write(&database, "something else").unwrap();
    assert!(is_refused("nor now") && !daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    fs::rename(&elsewhere, &database).unwrap();
    daemon.until("it is ready again", |daemon| daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    assert_eq!(daemon.status(peer.says(&daemon.did, "after")), 202);
    daemon.until("it came", |daemon| daemon.texts() == ["before", "after"]);
}

/// A file system of 4 MB.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// None for who may not mount one; where root runs the tests, it must work.
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

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

impl Daemon {
    /// The processes that hold its token now.
    pub fn keepers(&self) -> Vec<u32> {
        let supervisors = children(self.pid());
        supervisors.into_iter().flat_map(children).collect()
    }

    /// As a crash of its module does it. False if there is none now.
    pub fn kill_keeper(&self) -> bool {
        let keepers = self.keepers();
        keepers.iter().copied().for_each(kill);
        !keepers.is_empty()
    }
}

fn kill(process: u32) {
    send(process, Signal::KILL);
}

fn send(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a number of a process");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

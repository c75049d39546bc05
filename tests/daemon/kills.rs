//! kill -9 at random moments of a running exchange: what was answered with 202 is handed over, once.
//!
//! Ten kills in `make test`; `CLAVIGER_KILLS=1000 cargo test --all-features --test daemon kills -- --nocapture` for more.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::daemon::Daemon;

/// What comes after the last kill is quiet after this time at the latest, and as much more for each kill: while one is down
/// the other's application goes on.
const QUIET: Duration = Duration::from_secs(120);
const QUIET_FOR_EACH: Duration = Duration::from_secs(1);
const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let kills: usize = std::env::var("CLAVIGER_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let (Some(mut alice), Some(mut bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [Writer::start("a", &alice, &bob, &stop), Writer::start("b", &bob, &alice, &stop)];

    let (mut agents, mut keepers, mut recovery) = (0, 0, Vec::new());
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(random(400)));
        let victim = if random(2) == 0 { &mut alice } else { &mut bob };
        // The keeper's death is the keeper's alone; the agent's takes the keeper along.
        if random(4) == 0 && kill_keeper(victim.pid()) {
            keepers += 1;
            continue;
        }
        victim.kill();
        agents += 1;
        let begun = Instant::now();
        victim.start();
        recovery.push(begun.elapsed());
    }
    stop.store(true, Ordering::Release);
    let [of_alice, of_bob] = writers.map(Writer::end);
    // Each has its pauses behind it.
    for daemon in [&mut alice, &mut bob] {
        daemon.stop();
        daemon.start();
    }
    for daemon in [&alice, &bob] {
        daemon.until_within(QUIET + QUIET_FOR_EACH * kills as u32, "all is sent and opened", |daemon| {
            let waiting = &daemon.json(&["status"])["status"]["waiting"];
            waiting["outgoing"] == 0 && waiting["envelopes"] == 0
        });
    }
    let lost = check(&alice, &of_bob) + check(&bob, &of_alice);
    recovery.sort();
    println!(
        "kills: {agents} of agents, {keepers} of keepers; messages kept: {}; lost or twice: {lost}; from kill to a token that is ready: median {} ms",
        of_alice.len() + of_bob.len(),
        recovery.get(recovery.len() / 2).map_or(0, Duration::as_millis),
    );
    assert_eq!(lost, 0);
}

/// How many of the texts that were answered with 202 are not there once.
fn check(daemon: &Daemon, accepted: &[String]) -> usize {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut after = 0;
    loop {
        let answer = ask(&socket(daemon), "GET", &format!("/v1/inbox?limit=1000&after={after}"), "").unwrap();
        let page: Value = serde_json::from_str(&answer).unwrap();
        let messages = page["messages"].as_array().unwrap();
        if messages.is_empty() {
            break;
        }
        for message in messages {
            if let Some(text) = message["message"]["body"]["content"].as_str() {
                *seen.entry(text.to_owned()).or_default() += 1;
            }
        }
        after = page["cursor"].as_i64().unwrap();
    }
    let missing = accepted.iter().filter(|text| !seen.contains_key(*text)).inspect(|text| println!("{text} is lost"));
    let twice =
        seen.iter().filter(|(_, count)| **count > 1).inspect(|(text, count)| println!("{text} came {count} times"));
    missing.count() + twice.count()
}

/// An application that puts numbered messages into an agent's outbox, as fast as they are taken.
struct Writer(thread::JoinHandle<Vec<String>>);

impl Writer {
    fn start(name: &'static str, from: &Daemon, to: &Daemon, stop: &Arc<AtomicBool>) -> Self {
        let (socket, from, to, stop) = (socket(from), from.did.clone(), to.did.clone(), stop.clone());
        Self(thread::spawn(move || {
            let mut accepted = Vec::new();
            for number in 0.. {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let text = format!("{name}-{number}");
                let message = json!({ "to": to, "from": from, "type": BASIC, "body": { "content": text } });
                // It is not there, or was killed before it answered: then it may be kept or not.
                match ask(&socket, "POST", "/v1/messages", &message.to_string()) {
                    Some(_) => accepted.push(text),
                    None => thread::sleep(Duration::from_millis(5)),
                }
            }
            accepted
        }))
    }

    fn end(self) -> Vec<String> {
        self.0.join().unwrap()
    }
}

fn socket(daemon: &Daemon) -> PathBuf {
    daemon.home.path().join("state/api.sock")
}

/// The body of an answer of success, if there is one.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 20").then(|| body.to_owned())
}

/// Kills the keeper of an agent: a child of its supervisor. False if there is none now.
pub fn kill_keeper(agent: u32) -> bool {
    let keeper = children(agent).into_iter().flat_map(children).next();
    let pid = keeper.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: the state, and the parent.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    numbers.filter(of_parent).collect()
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes) % below
}

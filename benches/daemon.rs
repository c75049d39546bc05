//! Measures the messages that the daemon receives and sends per second, beside the token's own derivations per second,
//! and the time that the daemon takes to recover from a power failure.
//!
//! The daemon, its keeper with the token, the senders and the recipients run on one machine. The messages are packed
//! before the measurement, with keys in memory.

#[path = "daemon/load.rs"]
mod load;
#[path = "daemon/many_dids.rs"]
mod many_dids;
#[path = "setup/mod.rs"]
mod setup;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use claviger::{
    did::{Relationship, Service, peer},
    keys::Curve,
    secrets::pkcs11::{OpenOptions, Uri},
};
use claviger_interop::{
    daemon::{Daemon, program},
    http::serve,
};
use claviger_testkit::PrivateKey;
use load::{Load, Senders};
use serde_json::json;
use setup::{CURVES, Raw, make_key, quick, smoke};
use tokio::runtime::Runtime;

/// The number of known senders.
const KNOWN: usize = 4;
/// The number of recipients, where there is more than one.
const RECIPIENTS: usize = 100;
/// The time before a distant endpoint responds.
const FAR: Duration = Duration::from_millis(50);
/// The interval at which the daemon's progress is polled.
const LOOK: Duration = Duration::from_millis(40);
/// The time that the daemon is idle before its memory is read.
const REST: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let program = program(true);
    setup::with_tokens(|runtime, tokens| {
        for (name, uri) in &tokens.devices {
            let variable = if *name == "softhsm" { "SOFTHSM2_CONF" } else { "KRYOPTIC_CONF" };
            let env = (variable.to_owned(), std::env::var(variable).expect("the token's configuration"));
            println!("\n## {name}");
            if let Some(dids) = many_dids::wanted() {
                many_dids::compare(runtime, || Daemon::new(program.clone(), env.clone(), uri, ""), dids);
                continue;
            }
            let mut daemon = Daemon::new(program.clone(), env, uri, &store_section(name));
            let ours = daemon.make_did(&CURVES.map(Curve::name));
            daemon.start();
            let fresh = memory(daemon.pid());
            Bench { runtime, daemon: &mut daemon, uri, ours: &ours }.measure(fresh);
        }
    })
}

/// The store: in SQLite, unless the environment names a server of PostgreSQL. Each token needs a database of its name.
fn store_section(token: &str) -> String {
    let server = std::env::var("CLAVIGER_BENCH_POSTGRES").map(|url| format!("[store]\nurl = \"{url}/{token}\"\n"));
    server.unwrap_or_default()
}

struct Bench<'a> {
    runtime: &'a Runtime,
    daemon: &'a mut Daemon,
    uri: &'a str,
    ours: &'a str,
}

/// The number of messages in each measurement, and the number that wait for the token.
fn counts() -> (usize, usize) {
    match () {
        () if smoke() => (2 * KNOWN, 2 * KNOWN),
        () if quick() => (1_000, 2_000),
        () => (5_000, 10_000),
    }
}

impl Bench<'_> {
    fn measure(&mut self, fresh: Memory) {
        let (many, waiting) = counts();
        let token = OpenOptions::new().open(self.uri).expect("the token opens");
        CURVES.iter().for_each(|curve| drop(make_key(&token, *curve, 0)));

        println!("\n| received | messages/s | raw derivations/s | derivations each | ratio | POST p50, ms | p99, ms |");
        println!("|---|---:|---:|---:|---:|---:|---:|");
        for curve in CURVES {
            for (count, derivations, who) in [(KNOWN, 1.0, "known senders"), (many, 2.0, "each from a new sender")] {
                let senders = Senders::new(self.runtime, vec![self.ours.to_owned()], curve, count);
                let mail = senders.pack(self.runtime, many);
                if count == KNOWN {
                    receive(self.daemon, senders.pack(self.runtime, KNOWN), load::LANES.min(KNOWN));
                }
                // Measured before and after, because other load on the machine slows the token too.
                let before = self.raw(curve);
                let load = receive(self.daemon, mail, load::LANES);
                let raw = (before + self.raw(curve)) / 2.0;
                println!(
                    "| {}, {who} | {:.0} | {raw:.0} | {derivations} | {:.2} | {:.1} | {:.1} |",
                    curve.name(),
                    load.rate,
                    load.rate * derivations / raw,
                    load.quantile(0.5),
                    load.quantile(0.99),
                );
            }
        }

        println!("\n| sent | messages/s |\n|---|---:|");
        for curve in CURVES {
            for recipients in [1, RECIPIENTS] {
                let rate = self.send(curve, recipients, many, Duration::ZERO);
                println!("| {}, to {recipients} | {rate:.0} |", curve.name());
            }
        }
        let rate = self.send(Curve::P256, 1, many, FAR);
        println!("| P-256, to 1, {} ms away | {rate:.0} |", FAR.as_millis());
        let busy = memory(self.daemon.pid());
        self.recover(waiting);
        println!("\n| memory at rest, MB | agent | keepers and supervisor |\n|---|---:|---:|");
        println!(
            "| after start | {:.1} | {:.1} |\n| after all of the above | {:.1} | {:.1} |",
            fresh.0, fresh.1, busy.0, busy.1
        );
    }

    /// Returns the token's own derivations per second, made one after the other while the daemon is idle.
    fn raw(&self, curve: Curve) -> f64 {
        let raw = Raw::new(self.uri, curve);
        let rounds = if smoke() { 3 } else { 2_000 };
        let begun = Instant::now();
        (0..rounds).for_each(|_| raw.derive_and_destroy());
        f64::from(rounds) / begun.elapsed().as_secs_f64()
    }

    /// Has the daemon send messages to `recipients` DIDs that share one endpoint, and waits until the endpoint has
    /// received all. The endpoint responds after `delay`. Returns the messages per second.
    fn send(&self, curve: Curve, recipients: usize, many: usize, delay: Duration) -> f64 {
        let (posted, sink) = mpsc::channel();
        let endpoint = format!("http://127.0.0.1:{}", serve(posted, delay));
        let dids: Vec<String> = (0..recipients)
            .map(|_| {
                let key = PrivateKey::generate(curve).public().clone();
                let document = peer::create_2(&[(Relationship::KeyAgreement, key)], &[Service::didcomm(&endpoint, [])]);
                document.expect("a DID").id().to_owned()
            })
            .collect();
        let requests = (0..many).map(|number| {
            let to = &dids[number % recipients];
            json!({ "to": to, "from": self.ours, "type": load::LETTER, "body": load::body() }).to_string()
        });
        let requests = requests.collect();
        let begun = Instant::now();
        load::ask(self.daemon, requests);
        for _ in 0..many {
            sink.recv_timeout(claviger_interop::daemon::PATIENCE).expect("all are sent");
        }
        many as f64 / begun.elapsed().as_secs_f64()
    }

    /// Kills the daemon while messages wait for its token, and measures how long the restarted daemon takes to
    /// open them.
    fn recover(&mut self, waiting: usize) {
        let pin = pin_file(self.uri);
        let away = pin.with_extension("away");
        self.daemon.kill();
        // Without its PIN the token is not opened, so every received message waits.
        fs::rename(&pin, &away).expect("the PIN's file is there");
        self.daemon.spawn();
        self.daemon.until("it takes messages", |daemon| daemon.is_up("/ready"));
        let senders = Senders::new(self.runtime, vec![self.ours.to_owned()], Curve::P256, KNOWN);
        let mail = senders.pack(self.runtime, waiting);
        let begun = Instant::now();
        let mut taken = Load { rate: 0.0, latencies: load::post(self.daemon.port, mail, load::LANES) };
        taken.rate = waiting as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(self.daemon.waiting("inbox"), waiting);
        self.daemon.kill();
        fs::rename(&away, &pin).expect("the PIN's file was there");

        let begun = Instant::now();
        self.daemon.spawn();
        let mut at = Vec::new();
        for path in ["/ready", "/ready/token"] {
            self.daemon.until("it is ready", |daemon| daemon.is_up(path));
            at.push(begun.elapsed().as_secs_f64());
        }
        self.daemon.until("all are opened", |daemon| {
            thread::sleep(LOOK);
            daemon.waiting("inbox") == 0
        });
        at.push(begun.elapsed().as_secs_f64());
        println!("\n| {waiting} messages on P-256 | |\n|---|---:|");
        println!("| accepted while the token was unavailable, messages/s | {:.0} |", taken.rate);
        println!("| - POST p50 and p99 of those, ms | {:.1}, {:.1} |", taken.quantile(0.5), taken.quantile(0.99));
        for (what, at) in ["accepts messages", "token is ready", "all are opened"].iter().zip(at) {
            println!("| after SIGKILL and restart: {what}, s | {at:.2} |");
        }
    }
}

/// Posts messages, and waits until the daemon has handled all of them.
fn receive(daemon: &Daemon, mail: Vec<String>, lanes: usize) -> Load {
    let handled = || daemon.figure("claviger_messages_handled_total");
    let (before, count) = (handled(), mail.len());
    let begun = Instant::now();
    let latencies = load::post(daemon.port, mail, lanes);
    daemon.until("all are handled", |_| {
        // Reading the metrics costs the daemon time too.
        thread::sleep(LOOK);
        handled() - before >= count as f64
    });
    Load { rate: count as f64 / begun.elapsed().as_secs_f64(), latencies }
}

/// The file with the token's PIN.
fn pin_file(uri: &str) -> PathBuf {
    let uri: Uri = uri.parse().expect("a pkcs11: URI");
    uri.pin_source.expect("a PIN's file").trim_start_matches("file:").into()
}

/// Resident memory in MB: of the agent, and of all processes below it.
struct Memory(f64, f64);

fn memory(agent: u32) -> Memory {
    thread::sleep(if smoke() { Duration::ZERO } else { REST });
    let processes: Vec<(u32, u32, f64)> = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_whitespace().next()?.parse::<u32>().ok()
            };
            Some((field("Pid:")?, field("PPid:")?, f64::from(field("VmRSS:")?) / 1024.0))
        })
        .collect();
    let own = processes.iter().find(|(pid, ..)| *pid == agent).map_or(0.0, |(.., own)| *own);
    let mut family = vec![agent];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(processes.iter().filter(|(_, ppid, _)| *ppid == parent).map(|(pid, ..)| *pid));
        next += 1;
    }
    let all: f64 = processes.iter().filter(|(pid, ..)| family.contains(pid)).map(|(.., one)| one).sum();
    Memory(own, all - own)
}

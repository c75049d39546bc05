//! The cost of a keeper: the same token and the same messages, in process and through a keeper.
//!
//! It measures single requests, and authcrypt messages unpacked 32 at once. The token in process and the keeper take
//! turns, so that other load on the machine affects both alike. The output has the medians, and the median difference
//! or ratio between neighbouring measurements.

#[path = "setup/mod.rs"]
mod setup;

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use claviger::{
    did::Relationship,
    didcomm::Identities,
    keys::{Curve, PublicKey},
    secrets::{
        Context, LazyToken, UnwrapRequest,
        keeper::{Keeper, KeeperConnector, KeeperOptions, Role, spawn_on_socket},
        pkcs11::OpenOptions,
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};
use futures_util::future::join_all;
use setup::{CURVES, Kind, Party, Peers, me, quick, smoke};
use tokio::runtime::Runtime;

/// The URI of the token that this process serves as a keeper.
const KEEPER_URI: &str = "CLAVIGER_BENCH_KEEP";
/// The number of messages in progress at once.
const LANES: usize = 32;
/// Long enough for threads to sleep and caches to cool.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    if let Ok(uri) = std::env::var(KEEPER_URI) {
        return run_keeper(&uri);
    }
    setup::with_tokens(|runtime, tokens| {
        let peers = Peers::new();
        for (name, uri) in &tokens.devices {
            let (in_process, _) = Party::claviger(runtime, name, uri, &peers);
            let (stream, process) = spawn_on_socket(keeper_command(uri)).expect("a keeper");
            let stream = std::sync::Mutex::new(Some(stream));
            let connect = move || stream.lock().expect("no panic").take().ok_or_else(|| io::Error::other("it ended"));
            let keeper = Party::through_keeper(runtime, &in_process, KeeperConnector::new(connect), &peers);
            println!("\n{name}, keeper {}", process.id());
            for curve in CURVES {
                Comparison {
                    runtime,
                    in_process: &in_process,
                    keeper: &keeper,
                    curve,
                    sender: PrivateKey::generate(curve),
                }
                .measure(&peers);
            }
            drop(keeper);
        }
    })
}

/// The command that runs this program as a keeper. The keeper writes an audit log, as in production.
fn keeper_command(uri: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(KEEPER_URI, uri);
    command
}

fn run_keeper(uri: &str) -> ExitCode {
    let uri = uri.to_owned();
    let token = LazyToken::new("bench", 1, move |_| Ok(Arc::new(OpenOptions::new().open(&uri)?)));
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        KeeperOptions { audit: Some(folder.path().join("audit.jsonl")), rate: None, ..KeeperOptions::default() };
    let keeper = Keeper::start(Arc::new(token), options).expect("the token");
    let stream: OwnedFd = io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    keeper.serve(UnixStream::from(stream), Role::Agent);
    ExitCode::SUCCESS
}

struct Comparison<'a> {
    runtime: &'a Runtime,
    in_process: &'a Party,
    keeper: &'a Party,
    curve: Curve,
    sender: PrivateKey,
}

impl Comparison<'_> {
    /// Measures in many short turns, since the system may place the threads on other processors in each turn.
    fn measure(&self, peers: &Peers) {
        let (turns, quiet, paused, batches, each) = match () {
            () if smoke() => (1, 3, 3, 2, 1),
            () if quick() => (10, 60, 20, 1, 20),
            () => (30, 200, 20, 1, 30),
        };
        let to = me(self.curve, 1);
        let mail = peers.write(self.runtime, &to, &self.in_process.documents[&to], LANES, self.curve, true);
        // Makes each sender known to both parties.
        self.many(&mail, 1, 1);
        let [mut at_once, mut after_a_pause, mut many] = <[Turns; 3]>::default();
        for _ in 0..turns {
            at_once.add(self.quiet_request(quiet, Duration::ZERO));
            after_a_pause.add(self.quiet_request(paused, PAUSE));
            many.add(self.many(&mail, batches, each));
        }
        let curve = self.curve.name();
        for (turns, when) in [(at_once, "right after another".to_owned()), (after_a_pause, format!("after {PAUSE:?}"))]
        {
            let added = turns.median_of(|ours, theirs| theirs - ours);
            let (ours, theirs) = turns.medians();
            println!(
                "{curve:<7} one request {when:<20} in process {ours:>6.1} us, keeper {theirs:>6.1} us, added {added:>6.1} us"
            );
        }
        let ratio = many.median_of(|ours, theirs| theirs / ours);
        let (ours, theirs) = many.medians();
        println!(
            "{curve:<7} {LANES} at once: in process {ours:>6.0} messages/s, keeper {theirs:>6.0} messages/s, ratio {ratio:.2}"
        );
    }

    /// Returns the times of single `unwrap_cek` calls after a pause, in microseconds.
    fn quiet_request(&self, rounds: usize, pause: Duration) -> Vec<(f64, f64)> {
        let [in_process, keeper] = [self.in_process, self.keeper].map(|party| {
            let Kind::Claviger { me: identities, .. } = &party.kind else { unreachable!("of a device") };
            let identities: &Identities = identities;
            let kid = format!("{}#key-1", me(self.curve, 1));
            let key = identities.key(&kid, Relationship::KeyAgreement).expect("ours").key.clone();
            let request = message_to(&key, Some(&self.sender), &fresh_cek(), &Parties::example());
            (identities, key, request)
        });
        let ask = |of| {
            thread::sleep(pause);
            self.ask(of)
        };
        (0..rounds).map(|_| (ask(&in_process), ask(&keeper))).collect()
    }

    fn ask(&self, (identities, key, request): &(&Identities, PublicKey, UnwrapRequest)) -> f64 {
        let cx = Context::default();
        let start = Instant::now();
        self.runtime.block_on(identities.secrets().unwrap_cek(key, request, &cx)).expect("it unwraps");
        start.elapsed().as_secs_f64() * 1e6
    }

    /// Returns the rates of unpacking authcrypt messages, in messages per second. [`LANES`] messages are unpacked at
    /// once, each of them `each` times.
    fn many(&self, mail: &[String], batches: usize, each: usize) -> Vec<(f64, f64)> {
        let batch = |party: &Party| {
            let start = Instant::now();
            let lane = async |packed: &str| {
                for _ in 0..each {
                    party.unpack(packed).await;
                }
            };
            self.runtime.block_on(join_all(mail.iter().map(|packed| lane(packed))));
            (LANES * each) as f64 / start.elapsed().as_secs_f64()
        };
        (0..batches).map(|_| (batch(self.in_process), batch(self.keeper))).collect()
    }
}

/// Pairs of measurements: in process, and through the keeper.
#[derive(Default)]
struct Turns(Vec<(f64, f64)>);

impl Turns {
    fn add(&mut self, measured: Vec<(f64, f64)>) {
        self.0.extend(measured);
    }

    fn medians(&self) -> (f64, f64) {
        (self.median_of(|ours, _| ours), self.median_of(|_, theirs| theirs))
    }

    fn median_of(&self, of: impl Fn(f64, f64) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0.iter().map(|&(ours, theirs)| of(ours, theirs)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

//! Compares a daemon that has many DIDs with a daemon that has one, under the same load.
//!
//! Both use one token, and all DIDs of a daemon have the same keys: a token searches its keys one after the other, which
//! is not what is measured here.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use claviger::{
    did::{Document, LocalResolver, Relationship, Resolver, Service, peer},
    keys::{Curve, PublicKey},
};
use claviger_interop::daemon::Daemon;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    KNOWN, counts,
    load::{self, LANES, Senders},
    memory, receive,
    setup::{CURVES, quick, smoke},
};

/// How many DIDs the messages of a measurement are addressed to.
const ADDRESSED: usize = 1_000;

/// The number of DIDs that `CLAVIGER_BENCH_DIDS` asks for.
pub fn wanted() -> Option<usize> {
    let value = std::env::var("CLAVIGER_BENCH_DIDS").ok()?;
    Some(value.parse().expect("CLAVIGER_BENCH_DIDS is a number"))
}

/// Measures a daemon with one DID and a daemon with `count`, alternately.
pub fn compare(runtime: &Runtime, new_daemon: impl Fn() -> Daemon, count: usize) {
    let [few, many] = [1, count].map(|count| Side::new(runtime, new_daemon(), count));
    println!("\n| | 1 DID | {count} DIDs | ratio |\n|---|---:|---:|---:|");
    for curve in CURVES {
        // The agent keeps 50,000 unread messages of strangers.
        let messages = counts().0.min(2_000);
        let known = [&few, &many].map(|side| senders(runtime, side, curve, KNOWN));
        let rates = in_turn([&few, &many], |side, at| {
            // The first message of a sender to a DID makes a record.
            receive(&side.daemon, known[at].pack(runtime, side.dids.len().clamp(KNOWN, ADDRESSED)), KNOWN);
            side.receive(known[at].pack(runtime, messages))
        });
        print_load(&format!("{}, known senders", curve.name()), rates);
        let rates = in_turn([&few, &many], |side, _| {
            side.receive(senders(runtime, side, curve, messages).pack(runtime, messages))
        });
        print_load(&format!("{}, each from a new sender", curve.name()), rates);
    }
    let memory = [&few, &many].map(|side| memory(side.daemon.pid()).0);
    print_row("the agent's memory after start, MB", [vec![few.fresh], vec![many.fresh]], 1);
    print_row("the agent's memory after the load, MB", memory.map(|one| vec![one]), 1);
    print_row("`did create`, with the agent running, s", in_turn([&few, &many], |side, _| side.create()), 3);
    print_row("`pack`, s", in_turn([&few, &many], |side, _| side.pack()), 3);
    let mut sides = [few, many];
    let starts = sides.each_mut().map(|side| (0..rounds()).map(|_| side.restart()).collect());
    print_row("start, until the token is ready, s", starts, 3);
    println!("\n{:.2} KB for each DID at rest.", (sides[1].fresh - sides[0].fresh) * 1024.0 / (count - 1) as f64);
}

/// How often each figure is measured.
fn rounds() -> usize {
    match () {
        () if smoke() => 1,
        () if quick() => 3,
        () => 5,
    }
}

/// Measures both sides in each round, so that other load on the machine slows both.
fn in_turn<T>(sides: [&Side; 2], mut measure: impl FnMut(&Side, usize) -> T) -> [Vec<T>; 2] {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (at, side) in sides.into_iter().enumerate() {
            figures[at].push(measure(side, at));
        }
    }
    figures
}

/// Prints the messages per second, and the agent's processor time for each.
fn print_load(what: &str, figures: [Vec<[f64; 2]>; 2]) {
    let column = |at: usize| figures.each_ref().map(|side| side.iter().map(|figures| figures[at]).collect());
    print_row(&format!("received, {what}, messages/s"), column(0), 0);
    print_row("- the agent's processor time for each, µs", column(1), 0);
}

/// Prints the medians, and the median of the ratios of the rounds.
fn print_row(what: &str, [few, many]: [Vec<f64>; 2], digits: usize) {
    let ratios = few.iter().zip(&many).map(|(few, many)| many / few).collect();
    println!("| {what} | {:.digits$} | {:.digits$} | {:.2} |", median(few), median(many), median(ratios));
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A daemon, and DIDs that have the same two key agreement keys and the same signing key.
struct Side {
    daemon: Daemon,
    dids: Vec<String>,
    /// Arguments for `did create` that name the keys.
    keys: Vec<String>,
    /// The memory after the start, in MB.
    fresh: f64,
}

impl Side {
    fn new(runtime: &Runtime, mut daemon: Daemon, count: usize) -> Self {
        let first = daemon.make_did(&CURVES.map(Curve::name));
        let document = runtime.block_on(LocalResolver::new().resolve(&first)).expect("a did:peer:2");
        let keys = |relationship| -> Vec<(Relationship, PublicKey)> {
            let keys = document.methods(relationship).map(|method| method.key.clone().expect("a key"));
            keys.map(|key| (relationship, key)).collect()
        };
        let keys = [keys(Relationship::KeyAgreement), keys(Relationship::Authentication)].concat();
        let mut dids = vec![first];
        for number in 1..count {
            let service = Service::didcomm(format!("http://127.0.0.1:{}/{number}", daemon.port), []);
            let document = peer::create_2(&keys, &[service]).expect("a DID");
            store(&daemon, number, &document);
            dids.push(document.id().to_owned());
        }
        daemon.start();
        let fresh = memory(daemon.pid()).0;
        let keys = keys.iter().flat_map(|(relationship, key)| {
            let option = if *relationship == Relationship::KeyAgreement { "--agreement" } else { "--authentication" };
            [option.to_owned(), key.to_multikey()]
        });
        let keys = keys.collect();
        Self { daemon, dids, keys, fresh }
    }

    /// Posts messages. Returns how many the daemon handles in a second, and the agent's processor time for each in
    /// microseconds.
    fn receive(&self, mail: Vec<String>) -> [f64; 2] {
        let (before, messages) = (self.processor_time(), mail.len());
        let rate = receive(&self.daemon, mail, LANES).rate;
        [rate, (self.processor_time() - before) / messages as f64]
    }

    /// The processor time of the agent, in microseconds.
    fn processor_time(&self) -> f64 {
        let line = fs::read_to_string(format!("/proc/{}/stat", self.daemon.pid())).expect("it runs");
        // The fields behind the name, which may contain spaces: utime and stime are the fields 14 and 15, in ticks of 10 ms.
        let fields = line.rsplit_once(')').expect("a name").1.split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number") * 1e4).sum()
    }

    /// Makes a DID with the same keys. Returns the seconds that the command takes.
    fn create(&self) -> f64 {
        let service = format!("http://127.0.0.1:{}/made", self.daemon.port);
        let mut words = vec!["did", "create", "--method", "peer:4", "--service", &service];
        words.extend(self.keys.iter().map(String::as_str));
        seconds(|| drop(self.daemon.json(&words)))
    }

    /// Packs a message to one of the DIDs itself. Returns the seconds that the command takes.
    fn pack(&self) -> f64 {
        let (from, to) = (&self.dids[0], &self.dids[self.dids.len() / 2]);
        let message = json!({ "id": "1", "type": load::LETTER, "from": from, "to": [to], "body": load::body() });
        let file = self.daemon.folder().join("message.json");
        fs::write(&file, message.to_string()).expect("the daemon's folder");
        let file = file.to_str().expect("UTF-8");
        seconds(|| drop(self.daemon.json(&["pack", "--offline", "--from", from, "--to", to, file])))
    }

    /// Starts the daemon again. Returns the seconds until its token is ready.
    fn restart(&mut self) -> f64 {
        self.daemon.kill();
        seconds(|| self.daemon.start())
    }
}

/// Puts a document where `did create` puts it.
fn store(daemon: &Daemon, number: usize, document: &Document) {
    let path: PathBuf = daemon.folder().join(format!("state/documents/{number}.json"));
    fs::write(path, document.as_value().to_string()).expect("`did create` has made the folder");
}

fn seconds(what: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    what();
    begun.elapsed().max(Duration::from_micros(1)).as_secs_f64()
}

/// Makes senders for a daemon, which write to DIDs from everywhere among its DIDs.
fn senders(runtime: &Runtime, side: &Side, curve: Curve, count: usize) -> Senders {
    let (all, some) = (side.dids.len(), side.dids.len().min(ADDRESSED));
    Senders::new(runtime, (0..some).map(|at| side.dids[at * all / some].clone()).collect(), curve, count)
}

//! A comparison in one run: `didcomm` 0.4.1 with keys in memory, claviger with keys in SoftHSM and in Kryoptic, and the
//! tokens' own derivation. Messages have a body of 1 KB.
//!
//! Groups are named `CURVE ENVELOPE VERB`. Measurements that are compared with each other are in one group, so they are
//! close in time. `benches/table` makes tables of the results.

#[path = "setup/mod.rs"]
mod setup;

use std::{
    cell::Cell,
    process::ExitCode,
    time::{Duration, Instant},
};

use claviger::keys::Curve;
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use futures_util::future::join_all;
use serde_json::Value;
use setup::{CURVES, KEYS, Kind, Letter, PEERS, Party, Peers, Raw, me, peer, peer_with_keys, quick, smoke};
use tokio::runtime::Runtime;

/// The number of keys in the crowded token.
const CROWD: usize = 1000;
/// The number of messages in progress at once.
const LANES: usize = 32;

fn main() -> ExitCode {
    setup::with_tokens(|runtime, tokens| {
        let mut criterion = criterion();
        let peers = Peers::new();
        let mut parties = vec![Party::didcomm(&peers)];
        let mut raws = Vec::new();
        for (name, uri) in &tokens.devices {
            parties.push(Party::claviger(runtime, name, uri, &peers).0);
            raws.extend(CURVES.map(|curve| (*name, curve, Raw::new(uri, curve))));
        }
        let crowded = tokens.crowded.as_ref().map(|uri| {
            // A smoke test is not worth the time to make a thousand keys.
            let keys = if smoke() { KEYS + 1 } else { CROWD };
            Party::crowded(runtime, uri, keys, &peers)
        });

        let bench = Bench { runtime, peers: &peers, parties: &parties, raws: &raws };
        for curve in CURVES {
            for authcrypt in [true, false] {
                bench.unpack(&mut criterion, curve, authcrypt);
                bench.pack(&mut criterion, curve, authcrypt);
            }
        }
        for keys in [1, 10, KEYS] {
            bench.keys_of_a_did(&mut criterion, keys);
        }
        if let Some(crowded) = &crowded {
            bench.keys_in_the_token(&mut criterion, crowded);
        }
        criterion.final_summary();
    })
}

fn criterion() -> Criterion {
    let (warm, measure, samples) = if quick() { (200, 800, 10) } else { (1000, 4000, 60) };
    Criterion::default()
        .warm_up_time(Duration::from_millis(warm))
        .measurement_time(Duration::from_millis(measure))
        .sample_size(samples)
        .configure_from_args()
}

struct Bench<'a> {
    runtime: &'a Runtime,
    peers: &'a Peers,
    parties: &'a [Party],
    raws: &'a [(&'static str, Curve, Raw)],
}

type Group<'g> = BenchmarkGroup<'g, WallTime>;

impl Bench<'_> {
    fn unpack(&self, criterion: &mut Criterion, curve: Curve, authcrypt: bool) {
        let mut group = criterion.benchmark_group(name(curve, authcrypt, "unpack"));
        for party in self.parties {
            self.raw(&mut group, party, curve);
            let senders = if authcrypt { PEERS } else { 1 };
            let packed = self.mail(party, &me(curve, 1), senders, curve, authcrypt);
            match (&party.kind, authcrypt) {
                (Kind::Claviger { .. }, true) => {
                    self.unpack_one(&mut group, &format!("{}, known sender", party.name), party, &packed[..1]);
                    self.unpack_one(&mut group, &format!("{}, new sender", party.name), party, &packed);
                    for (case, packed) in [("known sender", &packed[..1]), ("new sender", &packed)] {
                        let name = format!("{}, {case}, {LANES} at once", party.name);
                        self.unpack_at_once(&mut group, &name, party, packed);
                    }
                }
                _ => self.unpack_one(&mut group, &party.name, party, &packed[..1]),
            }
        }
    }

    /// Unpacks the messages in turn.
    fn unpack_one(&self, group: &mut Group<'_>, name: &str, party: &Party, packed: &[String]) {
        let mut turn = packed.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| self.runtime.block_on(party.unpack(turn.next().expect("a cycle has no end"))));
        });
    }

    /// Unpacks the messages in turn, [`LANES`] at once: the cost of a message when the token is never idle.
    fn unpack_at_once(&self, group: &mut Group<'_>, name: &str, party: &Party, packed: &[String]) {
        let next = Cell::new(0);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|messages| {
                let left = Cell::new(messages);
                let lane = || async {
                    while left.get() > 0 {
                        left.set(left.get() - 1);
                        next.set((next.get() + 1) % packed.len());
                        party.unpack(&packed[next.get()]).await;
                    }
                };
                let start = Instant::now();
                self.runtime.block_on(join_all((0..LANES).map(|_| lane())));
                start.elapsed()
            });
        });
    }

    fn pack(&self, criterion: &mut Criterion, curve: Curve, authcrypt: bool) {
        let mut group = criterion.benchmark_group(name(curve, authcrypt, "pack"));
        let from = me(curve, 1);
        let letters: Vec<Letter> = (0..PEERS).map(|number| Letter::new(&from, &peer(curve, number))).collect();
        let from = authcrypt.then_some(from.as_str());
        for party in self.parties {
            match (&party.kind, authcrypt) {
                (Kind::Claviger { .. }, true) => {
                    self.raw(&mut group, party, curve);
                    self.pack_one(&mut group, &format!("{}, known recipient", party.name), party, from, &letters[..1]);
                    self.pack_one(&mut group, &format!("{}, new recipient", party.name), party, from, &letters);
                }
                // This uses no token, so one party is enough.
                (Kind::Claviger { .. }, false) if party.name == "kryoptic" => {}
                (Kind::Claviger { .. }, false) => {
                    self.pack_one(&mut group, "claviger, no token", party, from, &letters[..1]);
                }
                (Kind::Didcomm(_), _) => self.pack_one(&mut group, &party.name, party, from, &letters[..1]),
            }
        }
    }

    fn pack_one(&self, group: &mut Group<'_>, name: &str, party: &Party, from: Option<&str>, letters: &[Letter]) {
        let mut turn = letters.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| self.runtime.block_on(party.pack(turn.next().expect("a cycle has no end"), from)));
        });
    }

    /// Unpacks messages to a DID of ours with `keys` keys, and packs messages to a peer's DID with `keys` keys. Each
    /// message is encrypted to all keys of the DID.
    fn keys_of_a_did(&self, criterion: &mut Criterion, keys: usize) {
        let curve = Curve::P256;
        let mut group = criterion.benchmark_group(format!("{curve} DID of {keys} keys unpack"));
        for party in self.parties {
            let packed = self.mail(party, &me(curve, keys), 1, curve, true);
            self.unpack_one(&mut group, &party.name, party, &packed);
        }
        drop(group);
        let mut group = criterion.benchmark_group(format!("{curve} DID of {keys} keys pack"));
        for party in self.parties {
            let from = me(curve, 1);
            let letters = [Letter::new(&from, &peer_with_keys(curve, keys))];
            self.pack_one(&mut group, &party.name, party, Some(&from), &letters);
        }
    }

    fn keys_in_the_token(&self, criterion: &mut Criterion, crowded: &Party) {
        let curve = Curve::P256;
        let mut group = criterion.benchmark_group(format!("{curve} keys in the token unpack"));
        for party in self.parties.iter().filter(|party| party.name == "softhsm").chain([crowded]) {
            let packed = self.mail(party, &me(curve, 1), PEERS, curve, true);
            self.unpack_one(&mut group, &format!("{}, known sender", party.name), party, &packed[..1]);
            self.unpack_one(&mut group, &format!("{}, new sender", party.name), party, &packed);
        }
    }

    fn mail(&self, party: &Party, to: &str, senders: usize, curve: Curve, authcrypt: bool) -> Vec<String> {
        let document: &Value = &party.documents[to];
        self.peers.write(self.runtime, to, document, senders, curve, authcrypt)
    }

    /// The token's time for one derivation, measured right before its party.
    fn raw(&self, group: &mut Group<'_>, party: &Party, curve: Curve) {
        let own = self.raws.iter().filter(|(name, its, _)| *name == party.name && *its == curve);
        for (name, _, raw) in own {
            group.bench_function(format!("{name}, raw derivation"), |bencher| {
                bencher.iter(|| raw.derive_and_destroy());
            });
            group.bench_function(format!("{name}, raw derivation and read"), |bencher| {
                bencher.iter(|| raw.derive_read_and_destroy());
            });
        }
    }
}

fn name(curve: Curve, authcrypt: bool, verb: &str) -> String {
    format!("{curve} {} {verb}", if authcrypt { "authcrypt" } else { "anoncrypt" })
}

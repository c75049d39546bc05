//! Peers that are away, busy, elsewhere or at odds with one message (threats.md "Faults to inject").

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    daemon::{Daemon, free_port},
    endpoint::{Endpoint, taken},
    peer::Peer,
};

/// What the peer has read of what came to its endpoint.
fn read(peer: &Peer, endpoint: &Endpoint) -> Vec<String> {
    let texts =
        endpoint.packed().into_iter().map(|packed| peer.open(&packed).0.body["content"].as_str().map(str::to_owned));
    texts.map(|content| content.unwrap().chars().take(20).collect()).collect()
}

#[test]
fn one_who_is_away_delays_nobody() {
    let Some(daemon) = Daemon::running("") else { return };
    let (port, live) = (free_port(), Endpoint::taking());
    let away = Peer::at("away", &format!("http://127.0.0.1:{port}"));
    let here = Peer::at("here", &live.uri());
    let ids: Vec<String> = (0..10).map(|number| daemon.say(away.did(), &number.to_string()).unwrap()).collect();
    daemon.until("it was tried", |daemon| daemon.sending(&ids[0])["tries"] != 0);
    for number in 0..10 {
        daemon.say(here.did(), &number.to_string()).unwrap();
    }
    daemon.until("the other has its messages", |_| live.packed().len() == 10);
    assert!(ids.iter().all(|id| daemon.sending(id)["state"] == "waiting"));
    // It comes back, and has them all, each once.
    let back = Endpoint::on(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| taken());
    daemon.until("all were sent", |daemon| ids.iter().all(|id| daemon.sending(id)["state"] == "sent"));
    let mut came = read(&away, &back);
    came.sort();
    assert_eq!(came, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn one_who_is_busy_is_left_alone() {
    let Some(daemon) = Daemon::running("") else { return };
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let busy = Endpoint::new(move |_| match counting.fetch_add(1, Ordering::SeqCst) {
        0 => (503, "retry-after: 3\r\n".to_owned(), String::new()),
        _ => taken(),
    });
    let peer = Peer::at("busy", &busy.uri());
    let begun = Instant::now();
    let id = daemon.say(peer.did(), "when you can").unwrap();
    daemon.until("it was sent", |daemon| daemon.sending(&id)["state"] == "sent");
    assert!(begun.elapsed() >= Duration::from_secs(3), "it came again after {:?}", begun.elapsed());
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn only_a_307_leads_elsewhere() {
    let Some(daemon) = Daemon::running("") else { return };
    let target = Endpoint::taking();
    let moved = |status: u16| {
        let to = target.uri();
        Endpoint::new(move |_| (status, format!("location: {to}/there\r\n"), String::new()))
    };
    let (followed, others) = (moved(307), [301, 302, 303, 308].map(moved));
    let peer = Peer::at("followed", &followed.uri());
    let id = daemon.say(peer.did(), "follow me").unwrap();
    let others: Vec<(Peer, &Endpoint)> = others.iter().map(|it| (Peer::at("other", &it.uri()), it)).collect();
    let not: Vec<String> = others.iter().map(|(peer, _)| daemon.say(peer.did(), "do not").unwrap()).collect();
    daemon.until("it was sent", |daemon| daemon.sending(&id)["state"] == "sent");
    daemon.until("the others were tried", |daemon| not.iter().all(|id| daemon.sending(id)["tries"] != 0));
    assert!(not.iter().all(|id| daemon.sending(id)["state"] != "sent"));
    assert_eq!(read(&peer, &target), ["follow me"]);
    assert_eq!(target.asked()[0].path, "/there");
    // Nor round in circles.
    let port = free_port();
    let round = Endpoint::on(TcpListener::bind(("127.0.0.1", port)).unwrap(), move |_| {
        (307, format!("location: http://127.0.0.1:{port}/\r\n"), String::new())
    });
    let id = daemon.say(Peer::at("round", &round.uri()).did(), "round and round").unwrap();
    daemon.until("it was tried", |daemon| daemon.sending(&id)["tries"] != 0);
    assert!(round.asked().len() <= 6, "{}", round.asked().len());
}

/// One message that a peer chokes on does not hold up the next ones, whether it is given up or tried again.
#[test]
fn one_bad_message_holds_up_nothing() {
    let Some(daemon) = Daemon::running("") else { return };
    for (status, state) in [(400, "failed"), (500, "waiting"), (413, "failed")] {
        let choking = Endpoint::new(move |asked| match asked.body.len() > 50_000 {
            true => (status, String::new(), String::new()),
            false => taken(),
        });
        let peer = Peer::at("choking", &choking.uri());
        let bad = daemon.say(peer.did(), &"x".repeat(100_000)).unwrap();
        let good: Vec<String> = (0..10).map(|number| daemon.say(peer.did(), &number.to_string()).unwrap()).collect();
        daemon.until("the others were sent", |daemon| good.iter().all(|id| daemon.sending(id)["state"] == "sent"));
        daemon.until("it was tried", |daemon| {
            let bad = daemon.sending(&bad);
            bad["state"] == state && !bad["problem"].is_null()
        });
    }
}

/// A recipient's key of low order, whose shared secret all know, or one that is no point: the token is not asked (threats.md).
#[test]
fn a_key_that_would_give_it_away_is_refused() {
    let Some(daemon) = Daemon::running("") else { return };
    // The store's own key was wrapped at the start.
    let wrapped = || daemon.figure("claviger_token_operations_total{kind=\"wrap\",result=\"done\"}");
    let before = wrapped();
    let x25519 = |u: [u8; 32]| format!("z{}", bs58::encode([&[0xec, 0x01][..], &u].concat()).into_string());
    let p256 = |x: [u8; 32]| format!("z{}", bs58::encode([&[0x80, 0x24, 0x02][..], &x].concat()).into_string());
    let one = std::array::from_fn(|at| u8::from(at == 0));
    for (why, key) in [("low order", x25519([0; 32])), ("low order", x25519(one)), ("not on P-256", p256([0xff; 32]))] {
        // A did:key is that key; a document that has others beside it is read without it.
        let unread = "has no keyAgreement key that can be encrypted to";
        for (did, why) in [(format!("did:key:{key}"), why), (format!("did:peer:2.E{key}"), unread)] {
            let id = daemon.say(&did, "a secret").unwrap();
            daemon.until("it is given up", |daemon| daemon.sending(&id)["state"] == "failed");
            let problem = daemon.sending(&id)["problem"].as_str().unwrap().to_owned();
            assert!(problem.contains(why), "{did}: {problem}");
        }
    }
    assert_eq!(wrapped(), before, "the token was asked");
    let live = Endpoint::taking();
    let peer = Peer::at("here", &live.uri());
    daemon.say(peer.did(), "a secret").unwrap();
    daemon.until("an honest key is used", |_| read(&peer, &live) == ["a secret"]);
    assert_eq!(wrapped(), before + 1.0);
}

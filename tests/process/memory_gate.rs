//! The memory gate: the memory of a working agent holds no private key, no PIN, no Z, no KEK derived from a Z, and no
//! content key of a finished message. The keeper's memory, read in the same way, holds the keys; otherwise this would
//! prove nothing.
//!
//! `CLAVIGER_GATE_SNAPSHOTS` sets how often the agent's memory is read.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use claviger_testkit::PrivateKey;
use libtest_mimic::{Failed, Trial};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    memory::{
        Needles, Process,
        agent::{self, ROLE, Ready, Settings, URI},
        may_read_memory,
        peer::{PLAINTEXT, Party, Running, Traffic, permanent},
    },
    modules::TestToken,
};

/// The number of snapshots in `make test`. `make gate` takes 1,000, and CI 100.
const SNAPSHOTS: usize = 50;
/// Messages that the agent processes at once.
const MESSAGES_AT_ONCE: usize = 8;
/// How often the process that has the token is read until a key is seen. A software token has its key in the clear only
/// while it works, for a tenth of a millisecond each time.
const MAX_KEEPER_SNAPSHOTS: usize = 2000;

/// Plays the role in which one of these tests started this process. Returns false if the process has no role.
pub fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    agent::play(&role);
    true
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("memory_gate::the_scanner_finds_secrets_unless_they_were_wiped", scanner),
        Trial::test("memory_gate::an_agent_with_a_keeper_holds_no_secret", gate),
        Trial::test("memory_gate::an_agent_without_a_keeper_fails_the_gate", control),
    ]
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Needles are masked with this, so that they are neither in the pipe nor in the buffers that read it.
const MASK: u8 = 0x5a;

/// The role of the scanner's test: places the needles that it reads, and prints a line when they are placed.
pub fn place_needles() {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    let masked: Vec<Vec<u8>> = serde_json::from_str(&line).expect("the test's JSON");
    let unmask = |needle: &[u8]| -> Box<[u8]> { needle.iter().map(|byte| byte ^ MASK).collect() };
    let heap = unmask(&masked[0]);
    let reversed: Box<[u8]> = masked[1].iter().rev().map(|byte| byte ^ MASK).collect();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let for_stack = masked[2].clone();
    thread::spawn(move || {
        let mut stack = [0u8; 32];
        stack.iter_mut().zip(&for_stack).for_each(|(byte, masked)| *byte = masked ^ MASK);
        std::hint::black_box(&mut stack);
        ready.send(()).expect("the main thread waits");
        loop {
            thread::park();
            std::hint::black_box(&mut stack);
        }
    });
    is_ready.recv().expect("the stack is filled");
    let mut wiped = Zeroizing::new(vec![0u8; 32]);
    wiped.iter_mut().zip(&masked[3]).for_each(|(byte, masked)| *byte = masked ^ MASK);
    std::hint::black_box(&mut wiped);
    wiped.zeroize();
    println!("placed");
    // Waits until the test is done.
    std::io::stdin().lock().read_line(&mut line).expect("the end");
    std::hint::black_box((&heap, &reversed, &wiped));
}

fn scanner() -> Result<(), Failed> {
    if !may_read_memory() {
        return Ok(());
    }
    let names = ["on the heap", "reversed", "on a thread's stack", "wiped"];
    let mut needles = Needles::default();
    let mut masked = Vec::new();
    for name in names {
        let mut needle = [0; 32];
        getrandom::fill(&mut needle)?;
        needles.add(name, &needle);
        masked.push(needle.map(|byte| byte ^ MASK).to_vec());
    }
    let mut child = command("needles").spawn()?;
    let (mut to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let child = Running(child);
    writeln!(to, "{}", serde_json::to_string(&masked)?)?;
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line)?;
    assert_eq!(line.trim(), "placed");
    let snapshot = Process::open(child.0.id())?.scan(&needles)?;
    let found = names.map(|name| snapshot.has(name));
    drop(to);
    assert_eq!(found, [true, true, true, false], "{names:?}");
    Ok(())
}

/// A working agent, with everything that the gate must know of it.
struct Scene {
    token: TestToken,
    traffic: Arc<Traffic>,
    permanent: Needles,
    scalars: Needles,
    marker: Needles,
    supervisor: Option<u32>,
    agent: Running,
    load: Vec<thread::JoinHandle<()>>,
}

impl Scene {
    /// Returns `None` and prints a line if something is missing and tests may be skipped.
    fn new(role: &str) -> Result<Option<Self>, Failed> {
        let Some(token) = may_read_memory().then(|| TestToken::softhsm("demo")).flatten() else { return Ok(None) };
        let (agent, peer) = (Party::new(), Party::new());
        import(&token, &agent.keys)?;
        let pin = fs::read_to_string(token.pin_file())?;
        let (permanent, scalars) = permanent(&agent, &peer, pin.trim());

        let mut random = [0; 24];
        getrandom::fill(&mut random)?;
        let settings = Settings {
            did: agent.document.id().to_owned(),
            marker: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let mut marker = Needles::default();
        marker.add("marker", settings.marker.as_bytes());

        let mut child = command(role).env(&token.env.0, &token.env.1).env(URI, &token.uri).spawn()?;
        let mut to: ChildStdin = child.stdin.take().expect("piped");
        let mut from: BufReader<ChildStdout> = BufReader::new(child.stdout.take().expect("piped"));
        let running = Running(child);
        writeln!(to, "{}", serde_json::to_string(&settings)?)?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Ready { supervisor } = serde_json::from_str(&line)?;

        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let traffic = Arc::new(runtime().block_on(Traffic::new(agent, peer)));
        let (writer, reader) = (traffic.clone(), traffic.clone());
        let load = vec![
            thread::spawn(move || runtime().block_on(writer.write(to, MESSAGES_AT_ONCE))),
            thread::spawn(move || runtime().block_on(reader.read(from))),
        ];
        Ok(Some(Self { token, traffic, permanent, scalars, marker, supervisor, agent: running, load }))
    }

    /// The process id of the keeper.
    fn keeper(&self) -> Result<u32, Failed> {
        let supervisor = self.supervisor.expect("an agent with a keeper");
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        let children: Vec<&str> = children.split_ascii_whitespace().collect();
        match children[..] {
            [keeper] => Ok(keeper.parse()?),
            _ => Err(format!("the supervisor has {} keepers", children.len()).into()),
        }
    }

    fn end(self) {
        self.traffic.stop();
        for thread in self.load {
            thread.join().expect("the load does not fail");
        }
        drop(self.agent);
        drop(self.token);
    }
}

/// Imports the keys in a process of its own, since the module reads its environment once.
fn import(token: &TestToken, keys: &[PrivateKey]) -> Result<(), Failed> {
    let keys: Vec<_> = keys.iter().map(|key| (key.public().curve().name(), key.to_bytes().to_vec())).collect();
    let mut child = command("import").env(&token.env.0, &token.env.1).env(URI, &token.uri).spawn()?;
    writeln!(child.stdin.take().expect("piped"), "{}", serde_json::to_string(&keys)?)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("import: {status}").into()) }
}

fn gate() -> Result<(), Failed> {
    let snapshots = match std::env::var("CLAVIGER_GATE_SNAPSHOTS") {
        Ok(number) => number.parse()?,
        Err(_) => SNAPSHOTS,
    };
    let Some(scene) = Scene::new("agent")? else { return Ok(()) };
    let (agent, keeper) = (Process::open(scene.agent.0.id())?, Process::open(scene.keeper()?)?);
    let start = Instant::now();
    let (mut answered, mut bytes, mut found, mut keys_seen, mut plaintexts_seen) = (0, 0, BTreeMap::new(), 0, 0);
    let mut keeper_snapshots = 0;
    for number in 0..snapshots {
        // Messages have been finished since the last snapshot.
        let (now, mut needles, plaintexts) = scene.traffic.since(answered).ok_or("the agent has ended")?;
        answered = now;
        needles.extend(&plaintexts);
        needles.extend(&scene.permanent);
        needles.extend(&scene.marker);
        let snapshot = agent.scan(&needles)?;
        bytes += snapshot.bytes;
        if !snapshot.has("marker") {
            return Err(format!("snapshot {number} has no marker, so it did not read the agent's memory").into());
        }
        plaintexts_seen += usize::from(snapshot.has(PLAINTEXT));
        for hit in snapshot.hits.iter().filter(|hit| ![PLAINTEXT, "marker"].contains(&hit.name.as_str())) {
            let (times, _) = found.entry(hit.name.clone()).or_insert((0, hit.clone()));
            *times += 1;
        }
        // Once the keeper has shown its keys, it is read only now and then, because the test is about the agent.
        if keys_seen == 0 || number % 10 == 0 {
            keys_seen += keeper.scan(&scene.scalars)?.hits.len();
            keeper_snapshots += 1;
        }
    }
    // Usually the keeper has shown a key by now. A busy machine may need more.
    while keys_seen == 0 && keeper_snapshots < MAX_KEEPER_SNAPSHOTS {
        answered = scene.traffic.since(answered).ok_or("the agent has ended")?.0;
        keys_seen += keeper.scan(&scene.scalars)?.hits.len();
        keeper_snapshots += 1;
    }
    println!(
        "{snapshots} snapshots of the agent, {} KiB each, while it answered {answered} messages in {:?}; the \
         plaintext of a message in {plaintexts_seen} of them; {keys_seen} private keys in {keeper_snapshots} snapshots of the keeper",
        (bytes / snapshots) >> 10,
        start.elapsed(),
    );
    scene.end();
    let lines: Vec<String> = found.values().map(|(times, hit)| format!("{times} times {hit}")).collect();
    assert!(found.is_empty(), "the agent's memory has secrets:\n{}", lines.join("\n"));
    assert!(plaintexts_seen > 0, "no plaintext was found in a working agent, so this proves nothing");
    assert!(keys_seen > 0, "the keeper holds the keys and they were not found, so this proves nothing");
    Ok(())
}

fn control() -> Result<(), Failed> {
    let Some(scene) = Scene::new("agent without a keeper")? else { return Ok(()) };
    let agent = Process::open(scene.agent.0.id())?;
    let (mut answered, mut seen) = (0, false);
    for _ in 0..MAX_KEEPER_SNAPSHOTS {
        answered = scene.traffic.since(answered).ok_or("the agent has ended")?.0;
        seen = !agent.scan(&scene.scalars)?.hits.is_empty();
        if seen {
            break;
        }
    }
    scene.end();
    assert!(seen, "SoftHSM is in the agent and no private key was found, so the gate cannot fail");
    Ok(())
}

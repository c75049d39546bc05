//! The memory gate: an agent at work has no private key, no PIN, no Z and no KEK made with one, and of messages that are
//! finished no content key. Its keeper, read in the same way, has the keys: else this would prove nothing.
//!
//! `CLAVIGER_GATE_SNAPSHOTS` says how often the agent is looked at.

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
        may_look,
        peer::{IN_HAND, Party, Running, Traffic, lasting},
    },
    modules::TestToken,
};

/// What is looked at in `make test`; CI says 1,000.
const SNAPSHOTS: usize = 50;
/// Messages that the agent has in hand at once.
const UNDER_WAY: usize = 8;
/// A token in software has its key in the clear while it works, some tenth of a millisecond at a time: how often the
/// process that holds it is looked at until one is seen.
const LOOKS_AT_A_KEEPER: usize = 2000;

/// Does what this process was started for, if it was started for one of these tests.
pub fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    agent::play(&role);
    true
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("memory_gate::the_scanner_finds_what_is_there_and_not_what_was_wiped", scanner),
        Trial::test("memory_gate::an_agent_with_a_keeper_holds_no_secret", gate),
        Trial::test("memory_gate::an_agent_without_a_keeper_is_found_out", control),
    ]
}

fn part(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Masked with this, a needle is not in the pipe nor where it is read.
const MASK: u8 = 0x5a;

/// The part of the scanner's test: plants what it is told to, masked, and says so.
pub fn planted() {
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
        ready.send(()).expect("it is waited for");
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
    println!("planted");
    // Until the test is done.
    std::io::stdin().lock().read_line(&mut line).expect("the end");
    std::hint::black_box((&heap, &reversed, &wiped));
}

fn scanner() -> Result<(), Failed> {
    if !may_look() {
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
    let mut child = part("needles").spawn()?;
    let (mut to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let child = Running(child);
    writeln!(to, "{}", serde_json::to_string(&masked)?)?;
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line)?;
    assert_eq!(line.trim(), "planted");
    let snapshot = Process::open(child.0.id())?.look(&needles)?;
    let found = names.map(|name| snapshot.has(name));
    drop(to);
    assert_eq!(found, [true, true, true, false], "{names:?}");
    Ok(())
}

/// An agent at work, and all that is to be known of it.
struct Scene {
    token: TestToken,
    traffic: Arc<Traffic>,
    lasting: Needles,
    scalars: Needles,
    marker: Needles,
    supervisor: Option<u32>,
    agent: Running,
    load: Vec<thread::JoinHandle<()>>,
}

impl Scene {
    /// None, and a line that says so, if something is missing that may be.
    fn new(role: &str) -> Result<Option<Self>, Failed> {
        let Some(token) = may_look().then(|| TestToken::softhsm("demo")).flatten() else { return Ok(None) };
        let (agent, peer) = (Party::new(), Party::new());
        import(&token, &agent.keys)?;
        let pin = fs::read_to_string(token.pin_file())?;
        let (lasting, scalars) = lasting(&agent, &peer, pin.trim());

        let mut random = [0; 24];
        getrandom::fill(&mut random)?;
        let settings = Settings {
            did: agent.document.id().to_owned(),
            marker: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let mut marker = Needles::default();
        marker.add("marker", settings.marker.as_bytes());

        let mut child = part(role).env(&token.env.0, &token.env.1).env(URI, &token.uri).spawn()?;
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
            thread::spawn(move || runtime().block_on(writer.write(to, UNDER_WAY))),
            thread::spawn(move || runtime().block_on(reader.read(from))),
        ];
        Ok(Some(Self { token, traffic, lasting, scalars, marker, supervisor, agent: running, load }))
    }

    /// The process of the keeper.
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

/// By a process of its own: the module reads its environment once.
fn import(token: &TestToken, keys: &[PrivateKey]) -> Result<(), Failed> {
    let keys: Vec<_> = keys.iter().map(|key| (key.public().curve().name(), key.to_bytes().to_vec())).collect();
    let mut child = part("import").env(&token.env.0, &token.env.1).env(URI, &token.uri).spawn()?;
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
    let begun = Instant::now();
    let (mut answered, mut bytes, mut found, mut keys_seen, mut in_hand_seen) = (0, 0, BTreeMap::new(), 0, 0);
    let mut looks = 0;
    for number in 0..snapshots {
        // Since the last look messages have come and gone.
        let (now, mut needles, in_hand) = scene.traffic.since(answered).ok_or("the agent has ended")?;
        answered = now;
        needles.extend(&in_hand);
        needles.extend(&scene.lasting);
        needles.extend(&scene.marker);
        let snapshot = agent.look(&needles)?;
        bytes += snapshot.bytes;
        if !snapshot.has("marker") {
            return Err(format!("snapshot {number} has no marker, so it has not read the agent's memory").into());
        }
        in_hand_seen += usize::from(snapshot.has(IN_HAND));
        for hit in snapshot.hits.iter().filter(|hit| ![IN_HAND, "marker"].contains(&hit.name.as_str())) {
            let (times, _) = found.entry(hit.name.clone()).or_insert((0, hit.clone()));
            *times += 1;
        }
        // The keeper only now and then, once it has shown its keys: it is the agent that is in question.
        if keys_seen == 0 || number % 10 == 0 {
            keys_seen += keeper.look(&scene.scalars)?.hits.len();
            looks += 1;
        }
    }
    // One who is looked at this often has shown it; more for a machine that was busy elsewhere.
    while keys_seen == 0 && looks < LOOKS_AT_A_KEEPER {
        answered = scene.traffic.since(answered).ok_or("the agent has ended")?.0;
        keys_seen += keeper.look(&scene.scalars)?.hits.len();
        looks += 1;
    }
    println!(
        "{snapshots} snapshots of the agent, {} KiB each, while it answered {answered} messages in {:?}; the \
         plaintext of one in hand in {in_hand_seen} of them; {keys_seen} private keys in {looks} of the keeper",
        (bytes / snapshots) >> 10,
        begun.elapsed(),
    );
    scene.end();
    let lines: Vec<String> = found.values().map(|(times, hit)| format!("{times} times {hit}")).collect();
    assert!(found.is_empty(), "the agent's memory has secrets:\n{}", lines.join("\n"));
    assert!(in_hand_seen > 0, "no plaintext was found in an agent at work: this has proved nothing");
    assert!(keys_seen > 0, "the keeper holds the keys, and they were not found: this has proved nothing");
    Ok(())
}

fn control() -> Result<(), Failed> {
    let Some(scene) = Scene::new("agent without a keeper")? else { return Ok(()) };
    let agent = Process::open(scene.agent.0.id())?;
    let (mut answered, mut seen) = (0, false);
    for _ in 0..LOOKS_AT_A_KEEPER {
        answered = scene.traffic.since(answered).ok_or("the agent has ended")?.0;
        seen = !agent.look(&scene.scalars)?.hits.is_empty();
        if seen {
            break;
        }
    }
    scene.end();
    assert!(seen, "SoftHSM is in the agent, and no private key was found: the gate cannot fail");
    Ok(())
}

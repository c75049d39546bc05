//! The roles of the memory gate: the agent, its supervisor and its keeper. They get no secret from the test.

use std::{
    io::{BufRead, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use claviger::{
    did::{LocalResolver, Resolver, did_of},
    didcomm::{Identities, Message, UnpackOptions},
    process::{hardening::harden, sandbox::Sandbox},
    secrets::{
        Custodian, KeyUse, Keyring, Secrets,
        keeper::{Keeper, KeeperClient, KeeperOptions, Role, Supervisor, spawn_on_socket, supervise},
        pkcs11::{PinSource, Pkcs11Token, open},
    },
};
use claviger_testkit::PrivateKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub const ROLE: &str = "CLAVIGER_TEST_MEMORY_ROLE";
pub const URI: &str = "CLAVIGER_TEST_URI";
pub const REPLY: &str = "https://example.org/gate/1.0/reply";

/// The settings of an agent: the first line of its input.
#[derive(Serialize, Deserialize)]
pub struct Settings {
    pub did: String,
    /// A text that must be found in the agent's memory.
    pub marker: String,
}

/// The first line of the agent's output.
#[derive(Serialize, Deserialize)]
pub struct Ready {
    pub supervisor: Option<u32>,
}

fn line<T: for<'a> Deserialize<'a>>() -> T {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    serde_json::from_str(&line).expect("the test's JSON")
}

fn token() -> Pkcs11Token {
    open(&std::env::var(URI).expect("the token's URI"), PinSource::uri()).expect("the token opens")
}

/// This program in another role, with the same environment.
fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role);
    command
}

/// Plays a role.
pub fn play(role: &str) {
    match role {
        "import" => import(),
        "agent" => agent(),
        "agent without a keeper" => agent_without_a_keeper(),
        "supervisor" => {
            harden();
            supervise(standard_input(), Role::Agent, |_, _| {
                let mut command = command("keeper");
                command.stdout(Stdio::null());
                spawn_on_socket(command).map(|(stream, process)| (stream, Some(process)))
            })
            .expect("an agent is served");
        }
        "keeper" => {
            harden();
            Keeper::start(Arc::new(token()), KeeperOptions { rate: None, ..KeeperOptions::default() })
                .expect("the keeper starts")
                .serve(standard_input(), Role::Agent);
        }
        "needles" => crate::memory_gate::place_needles(),
        _ => panic!("no such role: {role}"),
    }
}

fn standard_input() -> UnixStream {
    let stream: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
    stream.into()
}

/// Imports known keys into the token: pairs of a curve's name and a scalar.
fn import() {
    let keys: Vec<(String, Vec<u8>)> = line();
    let token = token();
    for (curve, scalar) in keys {
        let curve = serde_json::from_value(json!(curve)).expect("a curve");
        let key = PrivateKey::from_bytes(curve, &scalar).expect("a scalar");
        token.import(key.to_import(KeyUse::of(curve), None)).expect("the token imports it");
    }
}

/// An agent like the daemon: hardened, in the sandbox, with its keys in a keeper.
fn agent() {
    let report = harden();
    assert!(report.0.iter().any(|finding| finding.name == "not dumpable" && finding.holds), "{report:?}");
    let supervisor = Supervisor::start(command("supervisor")).expect("a supervisor starts");
    Sandbox::new().enforce().expect("one thread");
    let id = supervisor.id();
    work(Some(id), async move {
        let client = KeeperClient::start("demo", supervisor.connector("demo")).await.expect("a keeper starts");
        Arc::new(client) as Arc<dyn Secrets>
    });
}

/// An agent with the token in its own process: the control, which shows what the gate can find.
fn agent_without_a_keeper() {
    work(None, async {
        let keyring = Keyring::start([token()]).await.expect("the token starts");
        Arc::new(keyring) as Arc<dyn Secrets>
    });
}

/// Ends the process when a task panics. Otherwise the test would wait for the task's answer.
fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(101);
    }));
}

/// Unpacks each message that comes and answers it, in a task of its own, until the input ends.
fn work(supervisor: Option<u32>, secrets: impl Future<Output = Arc<dyn Secrets>>) {
    exit_on_panic();
    let settings: Settings = line();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let (me, document) = runtime.block_on(async {
        let document = LocalResolver::new().resolve(&settings.did).await.expect("a did:peer");
        (Identities::new(secrets.await, [(*document).clone()]).await.expect("the token holds its keys"), document)
    });
    let me = Arc::new(me);
    let out = Arc::new(Mutex::new(std::io::stdout()));
    let write_line = move |line: String| {
        let mut out = out.lock().expect("no thread panics here");
        writeln!(out, "{line}").and_then(|()| out.flush()).expect("the test reads");
    };
    write_line(serde_json::to_string(&Ready { supervisor }).expect("JSON"));
    let mut tasks = Vec::new();
    for packed in std::io::stdin().lock().lines() {
        let packed = packed.expect("a line");
        let (me, write_line, did) = (me.clone(), write_line.clone(), document.id().to_owned());
        tasks.push(runtime.spawn(async move { write_line(answer(&packed, &did, &me).await) }));
        tasks.retain(|task| !task.is_finished());
    }
    for task in tasks {
        runtime.block_on(task).expect("a task ends");
    }
    drop(settings.marker);
}

async fn answer(packed: &str, did: &str, me: &Identities) -> String {
    let resolver = LocalResolver::new();
    let (message, provenance) =
        Message::unpack(packed, &resolver, me, &UnpackOptions::default()).await.expect("it is unpacked");
    assert!(provenance.authenticated);
    // The sender names the key for the answer, so that every curve is used in both directions.
    let to = message.body["answer"].as_str().expect("a key id").to_owned();
    let signed = message.body["signed"].as_bool().expect("yes or no");
    let reply = Message::build(Message::new_id(), REPLY, json!({}))
        .from(did)
        .to(did_of(&to).expect("a DID URL"))
        .thid(message.id)
        .finalize();
    let packing = reply.encrypt_to(&to).from(did);
    let packing = if signed { packing.sign_by(did) } else { packing };
    packing.pack(&resolver, me).await.expect("it is packed").0
}

//! `--log json`: each line on stderr is a JSON object, whichever process writes it and whatever goes wrong.

use std::{
    fs::{self, File},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    daemon::{Daemon, TIMEOUT, free_port, write_with_mode},
    home::{CommandOutput, Home, PIN, softhsm_module},
};

/// The members that each line has. Parsing fails if one of them is there twice.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    level: String,
    message: String,
}

/// Parses all lines.
#[track_caller]
fn lines(log: &str) -> Vec<Value> {
    let parse = |text: &str| {
        let line: Line = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(line.timestamp.ends_with('Z') && !line.message.is_empty(), "{text}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&line.level.as_str()), "{text}");
        serde_json::from_str(text).unwrap()
    };
    log.lines().map(parse).collect()
}

fn start(daemon: &mut Daemon) {
    let mut command = daemon.home.command("/bin/sh");
    // The script does not use the appended arguments `serve -v`.
    command.args(["-c", "exec claviger serve --log json", "sh"]);
    daemon.start_with(command);
    daemon.wait_until_token_ready();
}

/// The agent, its supervisor, its keeper and the keeper's module each write lines.
#[test]
fn each_line_of_each_process_is_an_object() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let file = daemon.home.path().join("claviger.toml");
    // With this variable, the program loader of the C library writes text on the keeper's stderr, as a module may do.
    let configuration = fs::read_to_string(&file).unwrap();
    let with_noise = "name = \"soft\"\nenvironment = { LD_DEBUG = \"statistics\" }\n";
    fs::write(&file, configuration.replace("name = \"soft\"\n", with_noise)).unwrap();
    // The keeper warns of a PIN that others can read.
    write_with_mode(&daemon.home, "user.pin", PIN, 0o644);
    start(&mut daemon);
    daemon.kill_keepers();
    daemon.wait_until("another keeper serves", |daemon| {
        daemon.log().contains("connection to the keeper lost") && daemon.is_token_ready()
    });
    fs::write(&file, "[http]\nnonsense = 1\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_until("the configuration is refused", |daemon| daemon.log().contains("configuration not reloaded"));
    daemon.stop();
    let log = lines(&daemon.log());
    let has = |level: &str, words: &str| {
        log.iter().any(|line| line["level"] == level && line["message"].as_str().unwrap().contains(words))
    };
    for (level, words) in [
        ("INFO", "Peers are served on"),
        ("WARN", "PIN file is readable by other users"),
        ("INFO", "runtime linker statistics"),
        ("WARN", "connection to the keeper lost"),
        ("ERROR", "configuration not reloaded"),
    ] {
        assert!(has(level, words), "{words}: {}", daemon.log());
    }
    let of_the_module = log.iter().filter(|line| line["source"] == "keeper").count();
    assert!(of_the_module > 1, "{}", daemon.log());
}

/// A keeper that runs as a service of its own, and the process that listens for it.
#[test]
fn a_listening_keeper_writes_objects() {
    let Some(home) = Home::with_token() else { return };
    home.configure(&softhsm_module().unwrap(), "environment = { LD_DEBUG = \"statistics\" }\n");
    write_with_mode(&home, "user.pin", PIN, 0o644);
    let log = || fs::read_to_string(home.path().join("keeper.log")).unwrap();
    let mut command = home.command(&claviger_testkit::program!());
    command.args(["keeper", "--listen", "unix:keeper.sock", "--log", "json"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(File::create(home.path().join("keeper.log")).unwrap());
    let mut keeper = command.spawn().unwrap();
    let until = Instant::now() + TIMEOUT;
    let is_complete = |log: &str| log.contains("PIN file is readable") && log.contains("runtime linker statistics");
    while !is_complete(&log()) && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    let text = log();
    assert!(is_complete(&text) && text.contains("Serving the token"), "{text}");
    assert!(lines(&text).iter().any(|line| line["source"] == "keeper"), "{text}");
}

/// A process that cannot start says so in an object with the code and the hint.
#[test]
fn a_failure_at_start_is_an_object() {
    let Some(home) = Home::with_token() else { return };
    let failed = |output: &CommandOutput, status: i32, code: &str| {
        assert_eq!((output.status(), output.stdout()), (status, ""), "{}", output.stderr());
        let all = lines(output.stderr());
        let last = all.last().expect("there is a line");
        assert_eq!((&last["level"], &last["code"]), (&"ERROR".into(), &code.into()), "{}", output.stderr());
        assert!(last["hint"].is_string() || last["hint"].is_null());
    };
    failed(&home.run("serve --log json --nonsense"), 2, "bad-arguments");
    failed(&home.run("serve --log=json --check 1"), 2, "bad-arguments");
    failed(&home.run("--config nowhere.toml serve --log json"), 2, "config-unreadable");
    failed(&home.run("serve --log json"), 2, "no-did");
    failed(&home.run("keeper --log json --listen /not/an/address"), 2, "bad-arguments");
    failed(&home.run("keeper --log json --listen unix:/nowhere/keeper"), 1, "io");
    home.create_did("--method peer:2");
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let configuration = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let listen = format!("[http]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"http://127.0.0.1:{port}\"\n");
    home.write("claviger.toml", &format!("{configuration}{listen}"));
    failed(&home.run("serve --log json"), 1, "io");
    // With --json too, the error has the form that every command has.
    let output = home.run("--json serve --log json");
    assert_eq!(output.error(1), "io");
}

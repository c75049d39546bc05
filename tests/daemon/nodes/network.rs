//! A network of the test's own: namespaces that a bridge joins, and links between them that are cut.
//!
//! The test's process runs in a namespace itself, so nothing of it is seen outside, and nothing is left when it ends.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read, pipe},
    os::unix::process::CommandExt,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Signal, geteuid, getpgrp, kill_process_group};

/// The address of the test's process, where its peers and the round robin are.
pub const HERE: &str = "10.77.0.1";
/// The network, in which agents may send to private addresses.
pub const NETWORK: &str = "10.77.0.0/24";

const BRIDGE: &str = "hub0";
/// Set in a process that runs in a namespace.
const INSIDE: &str = "CLAVIGER_TEST_IN_NETWORK";

/// Runs the calling test, which must be an ordinary `#[test]`, in a process of its own and in a network of its own, if the
/// machine lets this user make one.
pub fn in_own_network(test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        end_with_stdin();
        make_bridge();
        return test();
    }
    let probe = in_new_namespace("true").output().expect("util-linux");
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stderr);
        assert!(!geteuid().is_root(), "root cannot make a network namespace: {reason}");
        return println!("skipped: this user may not make a network namespace: {reason}");
    }
    let this = thread::current();
    let name = this.name().expect("libtest names a test's thread after it");
    let (reader, writer) = pipe().unwrap();
    let mut command = in_new_namespace(env::current_exe().expect("this program"));
    command.args([name, "--exact", "--nocapture"]).env(INSIDE, "1").process_group(0);
    command.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    // The other process ends when this one does.
    let stdin = child.stdin.take();
    let mut has_passed = false;
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        has_passed |= line.contains("1 passed");
        println!("{line}");
    }
    let status = child.wait().unwrap();
    drop(stdin);
    assert!(status.success() && has_passed, "{name}: {status}");
}

/// A command in a new network namespace. A user who is not root is given a user namespace for that, in the first of them.
fn in_new_namespace(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !geteuid().is_root() && env::var_os(INSIDE).is_none() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.arg("--").arg(program);
    command
}

/// Ends this process, and all that it started, with the one that started it.
fn end_with_stdin() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        kill_process_group(getpgrp(), Signal::KILL)
    });
}

fn make_bridge() {
    ip("link set lo up");
    ip(&format!("link add name {BRIDGE} type bridge"));
    ip(&format!("address add {HERE}/24 dev {BRIDGE}"));
    ip(&format!("link set {BRIDGE} up"));
}

/// Runs `ip` with arguments that are separated by spaces.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert_done(arguments, &output);
}

fn assert_done(arguments: &str, output: &Output) {
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A host: a network namespace with an address, and a link to the bridge. Its link is gone when it is dropped.
pub struct Host {
    pub name: String,
    pub address: String,
    /// A process that does nothing in the namespace.
    holder: Child,
}

/// How a link is cut. Connections over it hang, as when a cable is pulled or a switch drops packets, except for
/// [`Cut::NoRoute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The interface has no carrier.
    Carrier,
    /// All packets are dropped.
    Everything,
    /// Packets to other hosts with [`Host::isolate`] are dropped. The test's process is reached.
    Isolated,
    /// Packets from the test's process are dropped. Other hosts are reached.
    Here,
    /// The host has no route to the test's process, so that its attempts to connect fail at once. Other hosts are reached.
    NoRoute,
}

impl Cut {
    pub const ALL: [Self; 5] = [Self::Carrier, Self::Everything, Self::Isolated, Self::Here, Self::NoRoute];
}

impl Host {
    /// Adds a host to the network. `number` is the last part of its address.
    pub fn new(name: &str, number: u8) -> Self {
        let mut command = in_new_namespace("sh");
        command.args(["-c", "ip link set lo up && echo ready && exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux");
        let mut ready = [0; 6];
        holder.stdout.as_mut().unwrap().read_exact(&mut ready).expect("the namespace is made");
        let host = Self { name: name.to_owned(), address: format!("10.77.0.{number}"), holder };
        let link = host.link();
        ip(&format!("link add {link} type veth peer name eth0 netns {}", host.holder.id()));
        ip(&format!("link set {link} master {BRIDGE} up"));
        host.ip(&format!("address add {}/24 dev eth0", host.address));
        host.ip("link set eth0 up");
        host
    }

    /// Runs `ip` on the host.
    fn ip(&self, arguments: &str) {
        let mut command = Command::new("nsenter");
        let output = command.args(self.enter()).arg("ip").args(arguments.split(' ')).output().expect("util-linux");
        assert_done(arguments, &output);
    }

    /// The arguments of `nsenter` before a command that runs on this host.
    pub fn enter(&self) -> [String; 2] {
        [format!("--net=/proc/{}/ns/net", self.holder.id()), "--".to_owned()]
    }

    /// Drops packets to other hosts for which this was called.
    pub fn isolate(&self) {
        ip(&format!("link set dev {} type bridge_slave isolated on", self.link()));
    }

    pub fn cut(&self, cut: Cut) {
        let link = self.link();
        match cut {
            Cut::Carrier => ip(&format!("link set {link} down")),
            Cut::Everything => ip(&format!("link set dev {link} type bridge_slave state 0")),
            Cut::Isolated => self.isolate(),
            Cut::Here => ip(&format!("route add blackhole {}/32", self.address)),
            Cut::NoRoute => self.ip(&format!("route add unreachable {HERE}/32")),
        }
    }

    pub fn mend(&self, cut: Cut) {
        let link = self.link();
        match cut {
            Cut::Carrier => ip(&format!("link set {link} up")),
            Cut::Everything => ip(&format!("link set dev {link} type bridge_slave state 3")),
            Cut::Isolated => ip(&format!("link set dev {link} type bridge_slave isolated off")),
            Cut::Here => ip(&format!("route del blackhole {}/32", self.address)),
            Cut::NoRoute => self.ip(&format!("route del unreachable {HERE}/32")),
        }
    }

    pub fn cut_for(&self, cut: Cut, time: Duration) {
        self.cut(cut);
        thread::sleep(time);
        self.mend(cut);
    }

    fn link(&self) -> String {
        format!("to-{}", self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

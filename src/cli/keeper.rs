//! `claviger keeper`: the processes that stand between the agent and a token.

use std::{
    env, fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use claviger::secrets::{
    Late, SecretsError,
    keeper::{Ended, Keeper, KeeperOptions, Peer, Role, Supervisor, refuse, spawn, supervise},
};

use super::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    serve::reread::{CONFIGURATION, Rereader},
    tokens::Opener,
};

/// Holds a token, its module and its PIN, for agents that are other processes.
///
/// Without --listen, `claviger` starts keepers by itself, and this command is not needed. With it, the keeper runs as its
/// own user, in its own unit, and an agent's [[token]] names its socket: keeper = "unix:PATH". Who may connect stands in
/// [keeper]: `agents` may use keys, `custodians` may make and delete them too.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; without it the only token
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The socket to listen on: unix:PATH
    #[arg(long, value_name = "unix:PATH", required_unless_present_any = ["connection", "listener", "supervise"])]
    listen: Option<String>,
    /// One connection, on standard input, for this role
    #[arg(long, hide = true, value_name = "ROLE", conflicts_with_all = ["listen", "listener"])]
    connection: Option<RoleName>,
    /// A socket that listens, on standard input, for as long as this process lives, which is the parent
    #[arg(long, hide = true, value_name = "PROCESS", conflicts_with = "listen")]
    listener: Option<i32>,
    /// An agent on standard input, for which keepers are started with connections for this role
    #[arg(long, hide = true, value_name = "ROLE", conflicts_with_all = ["listen", "listener", "connection"])]
    supervise: Option<RoleName>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum RoleName {
    Agent,
    Custodian,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Agent => Self::Agent,
            RoleName::Custodian => Self::Custodian,
        }
    }
}

/// The first pause before a keeper that ended is started again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A keeper that lived for so long did not fail at its start.
const LIVED: Duration = Duration::from_secs(5);

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    if let Some(role) = args.supervise {
        let agent = UnixStream::from(standard_input()?);
        let rereader = Rereader::new(config);
        let served = supervise(agent, role.into(), |name| {
            if name == CONFIGURATION {
                return rereader.answer().map(|answer| (answer, None));
            }
            match config.tokens.iter().find(|token| token.name == name).and_then(|token| token.keeper.as_deref()) {
                Some(address) => Ok((connect(address)?, None)),
                None => spawn(command(config, name, role.into())).map(|(stream, process)| (stream, Some(process))),
            }
        });
        return served.map_err(|error| Failure::io("the agent's socket", &error));
    }
    let token = config.token(args.token.as_deref())?;
    let opener = Opener::new(config, token)?;
    match (&args.listen, args.connection) {
        (Some(address), _) => listen(address, token, config, out),
        (None, Some(role)) => {
            let stream = UnixStream::from(standard_input()?);
            match keeper(config, token, opener) {
                Ok(keeper) => end(keeper.serve(stream, role.into())),
                Err(error) => refuse(stream, &error),
            }
            Ok(())
        }
        (None, None) => {
            end_with(args.listener)?;
            let listener = UnixListener::from(standard_input()?);
            let may = may_connect(config)?;
            // Who started this one starts the next when it hears something.
            let succeed = || drop(io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush()));
            let ended = keeper(config, token, opener)?.listen(listener, may, succeed);
            end(ended.map_err(|error| Failure::io("the socket", &error))?);
            Ok(())
        }
    }
}

/// A supervisor of keepers with this configuration, for connections of a role.
pub fn supervisor(config: &Config, role: Role) -> Result<Arc<Supervisor>, Failure> {
    let mut command = this_program(config);
    command.args(["keeper", "--supervise", word(role)]);
    Supervisor::start(command).map_err(|error| Failure::io("the keepers' supervisor cannot be started", &error))
}

/// What starts a keeper of a token, with one connection on its standard input.
pub fn command(config: &Config, token: &str, role: Role) -> Command {
    let mut command = this_program(config);
    command.args(["keeper", "--token", token, "--connection", word(role)]);
    // What its module reads.
    command.envs(config.tokens.iter().filter(|it| it.name == token).flat_map(|it| &it.environment));
    command
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Agent => "agent",
        Role::Custodian => "custodian",
    }
}

/// A connection to a keeper that listens.
pub fn connect(address: &str) -> io::Result<UnixStream> {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    UnixStream::connect(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// This program again, with the same configuration and the same way of talking. Its output is this one's stderr.
fn this_program(config: &Config) -> Command {
    let program = env::current_exe().unwrap_or_else(|_| "claviger".into());
    let mut command = Command::new(program);
    command.args(&config.flags);
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    command.stdout(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from));
    command
}

/// A token that is opened when it is there, kept by the rules of the configuration.
fn keeper(config: &Config, token: &TokenConfig, opener: Opener) -> Result<Arc<Keeper>, SecretsError> {
    let audit = config.audit();
    if let Some(folder) = audit.parent() {
        make_private(folder).map_err(|error| SecretsError::Audit(format!("{}: {error}", folder.display())))?;
    }
    let options = KeeperOptions {
        audit: Some(audit),
        rate: config.keeper.rate(),
        hang: config.keeper.hang(),
        policy: token.policy(),
        key_policies: config.keys.clone(),
    };
    let (name, sessions) = (token.name.clone(), token.sessions.unwrap_or(1));
    let late = Late::new(name, sessions, move |vouched| opener.open(vouched));
    Keeper::start(Arc::new(late), options)
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The connection that this process was started with.
fn standard_input() -> Result<OwnedFd, Failure> {
    let input = io::stdin().as_fd().try_clone_to_owned();
    input.map_err(|error| Failure::io("standard input", &error))
}

/// Ends the process at once if it was not simply done; it is started again.
///
/// Threads may be inside the module, a hung one or one that logs in to a token which is back just now, and exit(3) would
/// run the module's clean-up under them. A right PIN was seen refused once as a keeper ended so.
fn end(ended: Ended) {
    match ended {
        Ended::Done | Ended::UsedUp => {}
        Ended::TokenGone | Ended::Hung => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// Has one keeper after the other serve a socket.
fn listen(address: &str, token: &TokenConfig, config: &Config, out: &Out) -> Result<(), Failure> {
    let path = address.strip_prefix("unix:").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Failure::words("bad-arguments", format!("{address:?} is no address of a socket")).hint("it is unix:PATH")
    })?;
    // Said now, and not by each keeper anew.
    drop(may_connect(config)?);
    let failed = |error: io::Error| Failure::io(path.display(), &error);
    // What an earlier keeper left behind; nothing else is removed.
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(&path).is_ok() {
                return Err(Failure::new("keeper-there", format!("a keeper listens on {} already", path.display())));
            }
            fs::remove_file(&path).map_err(failed)?;
        }
        Ok(_) => return Err(Failure::new("io", format!("{} is there, and is no socket", path.display()))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Who connects is looked at one by one: the kernel says who it is.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    out.say(&format!("Keeping the token {:?} on {}.", token.name, path.display()));
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let mut command = this_program(config);
        command.args(["keeper", "--token", &token.name, "--listener", &std::process::id().to_string()]);
        command.envs(&token.environment).stdout(Stdio::piped());
        command.stdin(Stdio::from(listener.as_fd().try_clone_to_owned().map_err(failed)?));
        let mut keeper = command.spawn().map_err(|error| Failure::io("the keeper cannot be started", &error))?;
        let mut said = [0];
        let succeeded = keeper.stdout.take().is_some_and(|mut stdout| stdout.read_exact(&mut said).is_ok());
        if succeeded {
            // It goes on until all is answered that it was asked.
            thread::spawn(move || keeper.wait());
            pause = FIRST_PAUSE;
            continue;
        }
        let status = keeper.wait().map_err(|error| Failure::io("the keeper", &error))?;
        // The words were wrong: they would be again.
        if status.code() == Some(2) {
            return Err(Failure::words("keeper-failed", "the keeper was told what it cannot do: see above"));
        }
        tracing::warn!(%status, "the keeper ended, and is started again");
        if begun.elapsed() > LIVED {
            pause = FIRST_PAUSE;
        }
        thread::sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Has this process end with its parent: no connection's end tells it, and it would serve the socket on, with nobody to
/// start it again or to stop it.
fn end_with(parent: Option<i32>) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let failed = |error: rustix::io::Errno| Failure::io("PR_SET_PDEATHSIG", &error.into());
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
    // It may have ended before it could be told.
    if parent.is_some_and(|parent| getppid().map(|now| now.as_raw_nonzero().get()) != Some(parent)) {
        return Err(Failure::new("io", "the process that listens has ended"));
    }
    Ok(())
}

/// Who may connect, and as what. Without a word in the configuration: this user and root.
fn may_connect(config: &Config) -> Result<impl Fn(&Peer, Role) -> bool + Send + Sync + 'static, Failure> {
    let own = fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata));
    let own = own.map_err(|error| Failure::io("/proc/self", &error))?;
    let users = |names: &Option<Vec<String>>| match names {
        None => Ok(vec![0, own]),
        Some(names) => names.iter().map(|name| user(name)).collect::<Result<Vec<u32>, Failure>>(),
    };
    let (agents, custodians) = (users(&config.keeper.agents)?, users(&config.keeper.custodians)?);
    Ok(move |peer: &Peer, role| {
        let Some(uid) = peer.uid else { return false };
        custodians.contains(&uid) || role == Role::Agent && agents.contains(&uid)
    })
}

/// A user's number, by number or by name in /etc/passwd.
pub fn user(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(|error| Failure::io("/etc/passwd", &error))?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == name);
    entry.and_then(|entry| entry.get(2)?.parse().ok()).ok_or_else(|| {
        Failure::words("bad-config", format!("{name:?} in [keeper] is no user in /etc/passwd"))
            .hint("a user of another directory is named by number: `id -u NAME`")
    })
}

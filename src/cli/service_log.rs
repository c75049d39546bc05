//! The log of the processes that run as a service: the daemon, its supervisor and the keepers. The log goes to stderr,
//! as text or as one JSON object per line.
//!
//! As text under systemd, each event goes to the journal with its fields. With JSON, everything on stderr is such an object:
//! also a failure at start, a panic, and what a module writes there.

mod journal;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, BufRead, BufReader, IsTerminal, PipeReader, PipeWriter, Read, Write},
    panic::PanicHookInfo,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tracing::Subscriber;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{
        self,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
};

use journal::Journal;

use claviger::{did::UNUSED_PARTS, secrets::keeper::AUDIT_HEAD};

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// The most bytes of a line that another program or a module wrote. A longer line is split.
const MAX_FOREIGN_LINE: u64 = 64 * 1024;

/// How long the end of the process waits for lines of child processes.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads that write what child processes have written.
static FORWARDING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Whether everything that this process writes on stderr is a JSON object per line.
static IS_JSON: AtomicBool = AtomicBool::new(false);

impl LogFormat {
    /// The value of `--log`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Makes this process write nothing but JSON objects on stderr. Call this before anything is written.
pub fn use_json() {
    IS_JSON.store(true, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| write_line("ERROR", &panic_message(panic), panic_fields(panic))));
}

/// Whether this process writes nothing but JSON objects on stderr.
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Whether the arguments ask for a log of JSON objects. For failures that come before the arguments are parsed.
pub fn asks_for_json<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> bool {
    let mut arguments = arguments.iter().map(AsRef::as_ref).take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--log=json" || argument == "--log" && arguments.next().is_some_and(|format| format == "json") {
            return true;
        }
    }
    false
}

/// Starts the log of a keeper or a supervisor: warnings and errors, more with `--verbose`.
pub fn start(format: LogFormat, verbose: u8) {
    let subscriber = tracing_subscriber::registry().with(layer(format).with_filter(levels(verbose)));
    // Fails only if a subscriber is set already, and none is.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The layer that writes events to stderr in this format. Text goes to the journal, with its fields, if systemd has
/// connected stderr to it.
pub fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if format == LogFormat::Text
        && let Some(journal) = Journal::of_stderr()
    {
        return journal.boxed();
    }
    // An error of stderr must not lead to a line on stderr that is no JSON.
    let layer = fmt::layer().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    match format {
        // The journal adds the time.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            layer.without_time().with_ansi(false).boxed()
        }
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// The events that are logged with so many `--verbose`.
pub fn levels(verbose: u8) -> Targets {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // With one `--verbose`, a person wants to know why a key or a service in a document is not used.
    let unused_parts = if verbose == 0 { level } else { level.max(LevelFilter::DEBUG) };
    // The keeper's audit hash is for whoever keeps the log, at every level.
    let targets = [(AUDIT_HEAD, LevelFilter::INFO), (UNUSED_PARTS, unused_parts)];
    Targets::new().with_default(level).with_targets(targets)
}

/// Writes a JSON object with these members to stderr, in the form of the log's events.
pub fn write_line(level: &str, message: &str, more: Map<String, Value>) {
    // A closed stderr is no failure.
    let _ = io::stderr().write_all(&line(level, message, more));
}

fn line(level: &str, message: &str, more: Map<String, Value>) -> Vec<u8> {
    let mut timestamp = String::new();
    // Fails only if writing to the string fails.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut members = Map::new();
    members.insert("timestamp".to_owned(), timestamp.into());
    members.insert("level".to_owned(), level.into());
    members.insert("message".to_owned(), message.into());
    members.extend(more);
    let mut line = Value::Object(members).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The words of a panic.
fn panic_message(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}

/// The thread and the place of a panic, and with `RUST_BACKTRACE` its backtrace.
fn panic_fields(panic: &PanicHookInfo<'_>) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("thread".to_owned(), thread::current().name().into());
    fields.insert("location".to_owned(), panic.location().map(ToString::to_string).into());
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        fields.insert("backtrace".to_owned(), backtrace.to_string().into());
    }
    fields
}

/// A pipe for stdout and stderr of a child process that loads a vendor's module. A thread of this process writes the
/// child's JSON objects to stderr as they are, and each other line as the message of an object, until the child and all
/// that it started have closed the pipe.
///
/// # Errors
/// Those of making a pipe and a thread.
pub fn pipe_for_child() -> io::Result<PipeWriter> {
    let (reader, writer) = io::pipe()?;
    let forwarding = thread::Builder::new().name("log".to_owned()).spawn(move || forward(reader, io::stderr()))?;
    let mut all = FORWARDING.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|thread| !thread.is_finished());
    all.push(forwarding);
    Ok(writer)
}

/// Waits until everything is written that child processes have written to their pipes. Waits for a second at most, since a
/// program that a child has started may live on with the pipe.
pub fn finish() {
    let until = Instant::now() + FINISH_TIMEOUT;
    let is_writing = || FORWARDING.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|it| !it.is_finished());
    while is_writing() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}

fn forward(reader: PipeReader, mut log: impl Write) {
    let mut reader = BufReader::new(reader);
    let mut text = Vec::new();
    loop {
        text.clear();
        match reader.by_ref().take(MAX_FOREIGN_LINE).read_until(b'\n', &mut text) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() {
            continue;
        }
        // One write for each line, since other processes write to the same file.
        let _ = if serde_json::from_slice::<Map<String, Value>>(trimmed).is_ok() {
            log.write_all(&[trimmed, b"\n"].concat())
        } else {
            let source = json!({ "source": "keeper" }).as_object().cloned().unwrap_or_default();
            log.write_all(&line("INFO", &String::from_utf8_lossy(trimmed), source))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_among_the_arguments() {
        for (arguments, asks) in [
            ("claviger serve --log json", true),
            ("claviger serve --log=json --nonsense", true),
            ("claviger serve --log text", false),
            ("claviger send -- --log json", false),
            ("claviger serve --log", false),
        ] {
            let words: Vec<&str> = arguments.split(' ').collect();
            assert_eq!(asks_for_json(&words), asks, "{arguments}");
        }
    }

    /// What a module writes becomes an object, in lines of a bounded length.
    #[test]
    fn foreign_lines_become_objects() {
        let (reader, mut writer) = io::pipe().unwrap();
        let long = "x".repeat(MAX_FOREIGN_LINE as usize + 10);
        let writing = thread::spawn(move || {
            let own = r#"{"level":"WARN","message":"our own"}"#;
            writer.write_all(format!("{own}\nvendor: \"warning\"\n\n{long}\n[1]\nunfinished").as_bytes()).unwrap();
            writer.write_all(&[0xff]).unwrap();
        });
        let mut log = Vec::new();
        forward(reader, &mut log);
        writing.join().unwrap();
        let log = String::from_utf8(log).unwrap();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"level": "WARN", "message": "our own"}));
        let lengths: Vec<usize> = lines.iter().map(|line| line["message"].as_str().unwrap().len()).collect();
        assert_eq!(lengths, [7, 17, MAX_FOREIGN_LINE as usize, 10, 3, 13]);
        for line in &lines[1..] {
            assert_eq!((&line["level"], &line["source"]), (&"INFO".into(), &"keeper".into()));
            assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        }
    }

    /// A panic is one object, whatever characters are in it.
    #[test]
    fn a_panic_is_an_object() {
        static LINES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|panic| {
            LINES.lock().unwrap().push(line("ERROR", &panic_message(panic), panic_fields(panic)));
        }));
        let thread = thread::Builder::new().name("doomed".to_owned());
        let ended = thread.spawn(|| panic!("the \"end\"\nof {}", "this")).unwrap().join();
        std::panic::set_hook(before);
        assert!(ended.is_err());
        let lines = LINES.lock().unwrap();
        let lines = lines.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
        let doomed: Vec<Value> = lines.filter(|line| line["thread"] == "doomed").collect();
        let [line] = &doomed[..] else { panic!("{doomed:?}") };
        assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"panicked: the \"end\"\nof this".into()));
        assert!(line["location"].as_str().unwrap().contains("service_log.rs"));
    }
}

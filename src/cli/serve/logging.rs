//! The daemon's log: on stderr, for people or one JSON document a line. It has ids, threads and key ids, and never a body or
//! a secret.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::{Layer, filter::LevelFilter, fmt, layer::SubscriberExt};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

/// Starts it; warnings and what happened always, more with `--verbose`.
pub fn start(format: Format, verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let layer = fmt::layer().with_writer(io::stderr).with_target(false);
    let layer = match format {
        // The journal has the time.
        Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => layer.without_time().with_ansi(false).boxed(),
        Format::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(level));
    // It fails only if there is one already, and there is none.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

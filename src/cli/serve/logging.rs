//! The daemon's log: on stderr, for people or one JSON document a line. It has ids, threads and key ids, and never a body or
//! a secret.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use clap::ValueEnum;
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
};

use super::config::LogLevel;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

/// The log of this process, and what `--verbose` asks for.
static LOG: OnceLock<(Handle<LevelFilter, Registry>, LogLevel)> = OnceLock::new();

/// Starts it; warnings and what happened until the configuration says otherwise, more with `--verbose`.
pub fn start(format: Format, verbose: u8) {
    let asked = match verbose {
        0 => LogLevel::Error,
        1 => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    let (level, handle) = reload::Layer::new(filter(asked.max(LogLevel::Info)));
    // It is started once.
    let _ = LOG.set((handle, asked));
    let layer = fmt::layer().with_writer(io::stderr).with_target(false);
    let layer = match format {
        // The journal has the time.
        Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => layer.without_time().with_ansi(false).boxed(),
        Format::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    // Spans have a way of their own.
    let subscriber =
        tracing_subscriber::registry().with(layer.with_filter(level.and(filter_fn(|metadata| metadata.is_event()))));
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(super::spans::layer());
    // It fails only if there is one already, and there is none.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Has it say so much from now on, or what `--verbose` asks for, if that is more.
pub fn set_level(level: LogLevel) {
    if let Some((handle, asked)) = LOG.get() {
        // It fails if the log is gone, which lives as long as the process.
        let _ = handle.reload(filter(level.max(*asked)));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

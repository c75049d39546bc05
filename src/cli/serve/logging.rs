//! The level of the daemon's log, which may change while the daemon runs. The log contains IDs of messages, threads and
//! keys, and never a body or a secret.

use std::sync::OnceLock;

use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    layer::SubscriberExt,
    reload::{self, Handle},
};

use crate::cli::{
    config::LogLevel,
    service_log::{LogFormat, layer},
};

/// The level filter of this process's log, and the level that `--verbose` asks for.
static LOG: OnceLock<(Handle<LevelFilter, Registry>, LogLevel)> = OnceLock::new();

/// Starts the log with the level `info`, or more with `--verbose`.
pub fn start(format: LogFormat, verbose: u8) {
    let verbose_level = match verbose {
        0 => LogLevel::Error,
        1 => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    let (level, handle) = reload::Layer::new(filter(verbose_level.max(LogLevel::Info)));
    // Fails only if the log was started before.
    let _ = LOG.set((handle, verbose_level));
    // Spans are exported separately.
    let shown = level.and(filter_fn(|metadata| metadata.is_event()));
    let subscriber = tracing_subscriber::registry().with(layer(format).with_filter(shown));
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(super::spans::layer());
    // Fails only if a subscriber is set already, and none is.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Sets the level of the log. The level that `--verbose` asks for is the minimum.
pub fn set_level(level: LogLevel) {
    if let Some((handle, verbose_level)) = LOG.get() {
        // Fails only if the subscriber is gone, which lives as long as the process.
        let _ = handle.reload(filter(level.max(*verbose_level)));
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

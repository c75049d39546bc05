//! The log of a command: the library's events as lines on stderr. Warnings and errors are always printed, more with
//! `--verbose`.

use std::fmt::Write;

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt};

use super::{output, service_log};

/// Starts the log of this process. With `json`, warnings are JSON documents, and other events are not printed.
pub fn start(verbose: u8, json: bool) {
    let shown = service_log::levels(verbose);
    let subscriber = tracing_subscriber::registry().with(StderrLayer { json }.with_filter(shown));
    // Fails only if a subscriber is set already, and none is.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes events to stderr.
struct StderrLayer {
    json: bool,
}

impl<S: Subscriber> Layer<S> for StderrLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = EventText::default();
        event.record(&mut line);
        let fields = if line.fields.is_empty() { String::new() } else { format!(" ({})", line.fields) };
        let text = format!("{}{fields}", line.message);
        if *event.metadata().level() <= Level::WARN {
            output::warn(&text, self.json);
        } else if !self.json {
            let _ = std::io::Write::write_fmt(&mut anstream::stderr(), format_args!("{text}\n"));
        }
    }
}

/// The text of an event: its message, and its other fields.
#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => {
                let separator = if self.fields.is_empty() { "" } else { ", " };
                write!(self.fields, "{separator}{name} {value:?}")
            }
        };
        written.expect("writing to a string cannot fail");
    }
}

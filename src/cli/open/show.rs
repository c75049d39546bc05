//! Values as a page shows them. Peers write many of them.

use maud::{Markup, html};
use serde_json::Value;

use crate::cli::{
    output::{printable, short},
    unix_time::{date_and_minute, unix_time},
};

/// The most characters that are shown of a message or of a reason, and of a name.
pub const MAX_TEXT: usize = 4000;
pub const MAX_NAME: usize = 100;

/// The first characters of a text that may have several lines. What could hide or reorder text is replaced.
pub fn text(text: &str, max_chars: usize) -> String {
    let mut letters = text.chars();
    let shown: String = letters.by_ref().take(max_chars).collect();
    let lines: Vec<String> = shown.split('\n').map(|line| printable(line.trim_end_matches('\r'))).collect();
    lines.join("\n") + if letters.next().is_some() { "…" } else { "" }
}

/// A member of an object as text; empty if it is none.
pub fn member<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

/// The members of a list; none if it is no list.
pub fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().map_or(&[], Vec::as_slice)
}

/// The short name of a DID, key or URL of a key.
pub fn did(did: &str) -> Markup {
    html! { code { (text(&short(did), MAX_NAME)) } }
}

/// A short name, and the whole of it for those who want to copy it.
pub fn whole_did(whole: &str) -> Markup {
    html! {
        details {
            summary { (did(whole)) }
            p { code { (text(whole, 20_000)) } " " (copy_button(whole)) }
        }
    }
}

/// A button that copies a text. Without the script it is hidden.
pub fn copy_button(text: &str) -> Markup {
    html! { button type="button" data-copy=(text) hidden { "Copy" } }
}

/// A time in milliseconds since 1970. The script shows it in the zone of the browser.
pub fn time(millis: i64) -> Markup {
    let minute = date_and_minute(millis);
    let machine = minute.replacen(' ', "T", 1).replace(" UTC", "Z");
    html! { time datetime=(machine) { (minute) } }
}

/// How long ago a time in milliseconds since 1970 was.
pub fn age(millis: i64) -> String {
    duration(unix_time().saturating_sub(millis / 1000))
}

/// How long it is until a time in milliseconds since 1970.
pub fn until(millis: i64) -> String {
    duration((millis / 1000).saturating_sub(unix_time()))
}

fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit}")
}

/// A size in bytes.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// The name of a message type: without the protocol's address if that is didcomm.org.
pub fn kind(kind: &str) -> String {
    text(kind.strip_prefix("https://didcomm.org/").unwrap_or(kind), MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_strangers_are_bounded_and_keep_their_direction() {
        assert_eq!(text("a\u{202e}b\u{1b}[2J\r\nc", 100), "a\u{fffd}b\u{fffd}[2J\nc");
        assert_eq!(text("äöü", 3), "äöü");
        assert_eq!(text("äöüß", 3), "äöü…");
    }

    #[test]
    fn durations_and_sizes() {
        let shown = [-5, 119, 120, 7_199, 7_200, 200_000].map(duration);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
        assert_eq!([999, 1_500, 2_000_000].map(bytes), ["999 bytes", "1.5 kB", "2.0 MB"]);
        assert_eq!(time(0).into_string(), r#"<time datetime="1970-01-01T00:00Z">1970-01-01 00:00 UTC</time>"#);
    }
}

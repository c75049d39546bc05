//! Texts and times as a page shows them.

use std::time::{Duration, UNIX_EPOCH};

use maud::{Markup, html};

use crate::agent::{clock::Millis, label::is_misleading};

/// The first `max_chars` characters of a text, with an ellipsis if it is longer. What could hide or reorder text is left out, and
/// white space becomes one space.
pub fn shown(text: &str, max_chars: usize) -> String {
    // A bound on the work, whatever the text consists of.
    let letters = text.chars().take(max_chars * 4).map(|letter| if letter.is_whitespace() { ' ' } else { letter });
    let mut shown = String::new();
    let mut count = 0;
    for letter in letters.filter(|letter| !is_misleading(*letter)) {
        if letter == ' ' && (shown.is_empty() || shown.ends_with(' ')) {
            continue;
        }
        if count == max_chars {
            return shown.trim_end().to_owned() + "…";
        }
        shown.push(letter);
        count += 1;
    }
    shown.trim_end().to_owned()
}

/// A time to the minute, in UTC. The script shows it in the zone of the browser.
pub fn time(millis: Millis) -> Markup {
    let since_1970 = Duration::from_millis(millis.unsigned_abs());
    // The last second of the year 9999, with which RFC 3339 ends.
    let seconds = since_1970.as_secs().min(253_402_300_799);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    let minute = text.get(..16).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) { (minute) " UTC" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_keep_their_direction() {
        assert_eq!(shown("  To\n\ttalk ", 10), "To talk");
        assert_eq!(shown("Evil \u{202e}txet\u{200b} \u{1b}[1m", 100), "Evil txet [1m");
        assert_eq!(shown("äöüß", 4), "äöüß");
        assert_eq!(shown("äöü ß", 4), "äöü…");
        assert_eq!(shown("می\u{200c}خواهم", 100), "می\u{200c}خواهم");
        assert_eq!(shown(&"\u{202e}".repeat(1_000_000), 10), "");
    }

    #[test]
    fn times_are_shown_to_the_minute() {
        let shown = |millis| time(millis).into_string();
        assert_eq!(shown(1_767_225_599_000), r#"<time datetime="2025-12-31T23:59:59Z">2025-12-31 23:59 UTC</time>"#);
        assert!(shown(Millis::MAX).contains("9999-12-31 23:59 UTC"));
    }
}

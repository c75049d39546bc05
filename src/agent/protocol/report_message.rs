//! Makes and parses problem reports (DIDComm v2.1 "Problem Reports").

use std::collections::HashSet;

use serde_json::Value;

use super::{problem::Problem, problem_code::ProblemCode, received::Received, text::truncate_to};
use crate::didcomm::{Message, MessageType};

/// The type of a problem report.
pub const PROBLEM_REPORT: &str = "https://didcomm.org/report-problem/2.0/problem-report";
/// The longest comment with its arguments, in bytes. Without this limit, a comment that repeats `{1}` could expand a
/// message of 1 MB to many gigabytes.
const MAX_TEXT: usize = 4096;
/// The longest argument that is sent, in bytes. Most arguments are a peer's text.
const MAX_ARG: usize = 256;

/// A problem report of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemReport {
    /// The problem code, which is well-formed.
    pub code: String,
    /// The comment with its arguments filled in, for people. The peer has written it.
    pub text: String,
    /// A URI where help can be found. Do not fetch the URI unless a person asks for it: the peer has chosen it.
    pub escalate_to: Option<String>,
    /// The thread in which the problem happened.
    pub thread: String,
}

impl ProblemReport {
    /// Reads a message as a report. `None` if it is another message, or has no valid `code` or no `pthid`.
    pub fn read(message: &Message) -> Option<Self> {
        if !is_report(message) {
            return None;
        }
        let text = |name: &str| message.body.get(name).and_then(Value::as_str);
        let code = text("code").filter(|code| ProblemCode::parse(code).is_some())?;
        let args = message.body.get("args").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Some(Self {
            code: code.to_owned(),
            text: interpolate(text("comment").unwrap_or(""), args),
            escalate_to: text("escalate_to").map(str::to_owned),
            thread: message.pthid.clone()?,
        })
    }
}

/// Makes the report of a problem with a received message. The report begins a child thread of the message's thread, and
/// acknowledges the message. `None` if the message has no authenticated sender, or is a report itself.
pub fn for_message(received: &Received, problem: &Problem) -> Option<Message> {
    (!is_report(&received.message)).then(|| for_thread(received, received.message.thread(), problem))?
}

/// Makes a report to the sender of a message, about a thread. `None` if the message has no authenticated sender. A
/// malformed problem code is replaced by `e.m.me`.
pub(super) fn for_thread(received: &Received, thread: &str, problem: &Problem) -> Option<Message> {
    let sender = received.sender.as_deref()?;
    let mut problem = problem.clone();
    if ProblemCode::parse(&problem.code).is_none() {
        tracing::error!(code = problem.code, "problem code of a protocol is malformed; e.m.me reported");
        problem = Problem::new("e.m.me", "Internal error.");
    }
    for arg in &mut problem.args {
        arg.truncate(truncate_to(arg, MAX_ARG).len());
    }
    let report = Message::build(Message::new_id(), PROBLEM_REPORT, problem.body())
        .from(&received.recipient)
        .to(sender)
        .pthid(thread)
        .ack(vec![received.message.id.clone()])
        .lang("en");
    Some(report.finalize())
}

/// Whether a message is a problem report.
pub fn is_report(message: &Message) -> bool {
    let report = MessageType::parse(PROBLEM_REPORT);
    message.message_type().is_some_and(|kind| report.is_some_and(|report| kind.is_compatible_with(&report)))
}

/// Returns a comment with its arguments in the places of `{1}`, `{2}` and so forth. "Missing or null args MUST be
/// replaced with a question mark character (?) during interpolation; extra args MUST be appended to the main text as
/// comma-separated values." The text of an argument is not interpolated again.
pub fn interpolate(comment: &str, args: &[Value]) -> String {
    let mut text = String::new();
    let mut used = HashSet::new();
    let mut rest = comment;
    while let Some((before, after)) = rest.split_once('{').filter(|_| text.len() < MAX_TEXT) {
        push_truncated(&mut text, before);
        match after.split_once('}') {
            Some((number, after)) if is_number(number) => {
                // A number that is too large for `usize` names no argument.
                let index = number.parse().unwrap_or(usize::MAX) - 1;
                used.insert(index);
                push_truncated(&mut text, &display_arg(args.get(index)));
                rest = after;
            }
            _ => {
                push_truncated(&mut text, "{");
                rest = after;
            }
        }
    }
    push_truncated(&mut text, rest);
    for (_, extra) in args.iter().enumerate().filter(|(index, _)| !used.contains(index)) {
        if text.len() >= MAX_TEXT {
            break;
        }
        if !text.is_empty() {
            push_truncated(&mut text, ", ");
        }
        push_truncated(&mut text, &display_arg(Some(extra)));
    }
    text
}

/// Whether a text is a positive decimal number without leading zeros.
fn is_number(text: &str) -> bool {
    !text.starts_with('0') && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn display_arg(arg: Option<&Value>) -> String {
    match arg {
        None | Some(Value::Null) => "?".to_owned(),
        Some(Value::String(text)) => truncate_to(text, MAX_TEXT).to_owned(),
        Some(other) => other.to_string(),
    }
}

/// Appends as much of `more` as [`MAX_TEXT`] allows.
fn push_truncated(text: &mut String, more: &str) {
    text.push_str(truncate_to(more, MAX_TEXT.saturating_sub(text.len())));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::testing::{ALICE, OWN_DID, anonymous, from, from_with};

    #[test]
    fn arguments_are_interpolated() {
        for (comment, args, text) in [
            ("Unable to use the {1} endpoint for {2}.", json!(["a", "b"]), "Unable to use the a endpoint for b."),
            ("{2} {1} {2}", json!(["a", "b"]), "b a b"),
            ("{1} and {2} and {3}", json!(["a", null]), "a and ? and ?"),
            ("Too much.", json!(["a", null, 3, {"b": []}]), "Too much., a, ?, 3, {\"b\":[]}"),
            ("{2}", json!(["a", "b"]), "b, a"),
            ("", json!(["a", "b"]), "a, b"),
            ("{1}", json!(["{2}", "b"]), "{2}, b"),
            ("{0} {01} {} {x} {1 {{1}} }{", json!(["a"]), "{0} {01} {} {x} {1 {a} }{"),
            ("{99999999999999999999999}", json!([]), "?"),
            ("é{1}é", json!(["é"]), "ééé"),
        ] {
            assert_eq!(interpolate(comment, args.as_array().unwrap()), text, "{comment}");
        }
        let long = interpolate(&"{1}".repeat(100_000), &[json!("é".repeat(100_000))]);
        assert!(long.len() <= MAX_TEXT);
        assert!(interpolate("", &vec![json!("x"); 1_000_000]).len() <= MAX_TEXT);
    }

    proptest! {
        #[test]
        fn interpolation_accepts_any_text(comment in "[{}0-9a-é]{0,40}", args: Vec<Option<String>>) {
            let args: Vec<Value> = args.into_iter().map(|arg| json!(arg)).collect();
            let text = interpolate(&comment, &args);
            prop_assert!(text.len() <= MAX_TEXT);
        }

        #[test]
        fn a_comment_without_braces_is_unchanged(comment in "[^{]{0,200}") {
            prop_assert_eq!(interpolate(&comment, &[]), comment);
        }
    }

    #[test]
    fn a_report_names_the_thread_and_acknowledges() {
        let received =
            from_with(ALICE, "https://didcomm.org/tictactoe/1.0/move", json!({}), |message| message.thid("t"));
        let problem = Problem::new("e.m.msg.bad-move", "{1} is no move.").arg("é".repeat(1000));
        let report = for_message(&received, &problem).unwrap();
        let mut json: Value = serde_json::from_str(&report.to_json()).unwrap();
        let arg = json["body"]["args"][0].take();
        assert!(arg.as_str().unwrap().len() <= MAX_ARG);
        assert_eq!(
            json,
            json!({
                "id": report.id,
                "typ": "application/didcomm-plain+json",
                "type": PROBLEM_REPORT,
                "body": {"code": "e.m.msg.bad-move", "comment": "{1} is no move.", "args": [null]},
                "from": OWN_DID,
                "to": [ALICE],
                "pthid": "t",
                "ack": [received.message.id],
                "lang": "en",
            })
        );
        let invalid_code = for_message(&received, &Problem::new("Bad move", "")).unwrap();
        assert_eq!(invalid_code.body, json!({"code": "e.m.me", "comment": "Internal error."}));

        let problem = Problem::new("e.m.msg", "Bad message.");
        assert_eq!(for_message(&from(ALICE, PROBLEM_REPORT, json!({})), &problem), None);
        assert_eq!(
            for_message(&from(ALICE, "https://didcomm.org/ReportProblem/2.1/ProblemReport", json!({})), &problem),
            None
        );
        assert_eq!(for_message(&anonymous("https://didcomm.org/tictactoe/1.0/move", json!({})), &problem), None);
    }
}

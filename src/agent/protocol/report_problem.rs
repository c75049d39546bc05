//! Report problem 2.0 (DIDComm v2.1 "Problem Reports"): to tell of a problem, and to be told of one.

use std::collections::HashSet;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Code, Fault, Problem, Protocol, Received, Scope, Sorter, Turn,
    cascade::{self, ProblemLimits},
    start_of,
};
use crate::didcomm::{Message, MessageType};

/// The type of a problem report.
pub const PROBLEM_REPORT: &str = "https://didcomm.org/report-problem/2.0/problem-report";
/// How long a comment becomes with its arguments: a megabyte of `{1}` must not become a terabyte.
const MAX_TEXT: usize = 4096;
/// How much of an argument of ours is sent: most are foreign.
const MAX_ARG: usize = 256;

/// Hands problem reports to the application; an error that ends a protocol closes its thread.
#[derive(Debug, Clone, Default)]
pub struct ReportProblem {
    limits: ProblemLimits,
}

impl ReportProblem {
    /// One that bears so many problems.
    pub fn new(limits: ProblemLimits) -> Self {
        Self { limits }
    }
}

#[async_trait]
impl Protocol for ReportProblem {
    fn piuri(&self) -> &str {
        "https://didcomm.org/report-problem/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["notifier", "notified"]
    }

    /// A malformed report is delivered as well: there must be no report about a report.
    async fn handle(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
        turn.deliver();
        let Some(report) = Report::read(&received.message) else {
            tracing::info!(sender = received.theirs, "a problem report without a sound code or a pthid");
            return Ok(());
        };
        tracing::info!(sender = received.theirs, code = report.code, "the peer reports a problem");
        let code = Code::parse(&report.code);
        match code.map(|code| (code.sorter, code.scope)) {
            Some((Sorter::Error, Scope::Protocol)) => {
                cascade::close(received, &report.thread, &report.code, turn, &self.limits).await
            }
            Some((Sorter::Error, _)) => cascade::was_told(received, &report.thread, turn, &self.limits).await,
            _ => Ok(()),
        }
    }
}

/// A problem report that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The code, which is sound.
    pub code: String,
    /// The comment with its arguments, for people. It is the peer's word.
    pub text: String,
    /// Where help can be found: a URI, not to be fetched unasked.
    pub escalate_to: Option<String>,
    /// The thread in which it happened.
    pub thread: String,
}

impl Report {
    /// Reads a message as a report; nothing if it is none, or lacks what is required: `code` and `pthid`.
    pub fn read(message: &Message) -> Option<Self> {
        if !is_report(message) {
            return None;
        }
        let text = |name: &str| message.body.get(name).and_then(Value::as_str);
        let code = text("code").filter(|code| Code::parse(code).is_some())?;
        let args = message.body.get("args").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Some(Self {
            code: code.to_owned(),
            text: interpolate(text("comment").unwrap_or(""), args),
            escalate_to: text("escalate_to").map(str::to_owned),
            thread: message.pthid.clone()?,
        })
    }
}

/// The report of a problem with a received message: a child thread of its thread, which acknowledges it. Nothing where
/// nobody is known to be told, or the message is a report itself.
pub fn report(received: &Received, problem: &Problem) -> Option<Message> {
    (!is_report(&received.message)).then(|| tell(received, received.message.thread(), problem))?
}

/// A report to the sender of a message, about a thread.
pub(super) fn tell(received: &Received, thread: &str, problem: &Problem) -> Option<Message> {
    let theirs = received.theirs.as_deref()?;
    let mut problem = problem.clone();
    if Code::parse(&problem.code).is_none() {
        tracing::error!(code = problem.code, "a protocol's problem has no sound code; e.m.me is reported");
        problem = Problem::new("e.m.me", "Internal error.");
    }
    for arg in &mut problem.args {
        arg.truncate(start_of(arg, MAX_ARG).len());
    }
    let report = Message::build(Message::new_id(), PROBLEM_REPORT, problem.body())
        .from(&received.ours)
        .to(theirs)
        .pthid(thread)
        .ack(vec![received.message.id.clone()])
        .lang("en");
    Some(report.finalize())
}

/// Whether a message is a problem report.
pub fn is_report(message: &Message) -> bool {
    let report = MessageType::parse(PROBLEM_REPORT);
    message.message_type().is_some_and(|kind| report.is_some_and(|report| kind.is(&report)))
}

/// A comment with its arguments in the places of `{1}`, `{2}` and so forth. "Missing or null args MUST be replaced with a
/// question mark character (?) during interpolation; extra args MUST be appended to the main text as comma-separated
/// values." What an argument holds is not interpolated again.
pub fn interpolate(comment: &str, args: &[Value]) -> String {
    let mut text = String::new();
    let mut used = HashSet::new();
    let mut rest = comment;
    while let Some((before, after)) = rest.split_once('{').filter(|_| text.len() < MAX_TEXT) {
        push(&mut text, before);
        match after.split_once('}') {
            Some((number, after)) if is_number(number) => {
                // One that is too large for the machine is missing.
                let index = number.parse().unwrap_or(usize::MAX) - 1;
                used.insert(index);
                push(&mut text, &shown(args.get(index)));
                rest = after;
            }
            _ => {
                push(&mut text, "{");
                rest = after;
            }
        }
    }
    push(&mut text, rest);
    for (_, extra) in args.iter().enumerate().filter(|(index, _)| !used.contains(index)) {
        if text.len() >= MAX_TEXT {
            break;
        }
        if !text.is_empty() {
            push(&mut text, ", ");
        }
        push(&mut text, &shown(Some(extra)));
    }
    text
}

/// A counting number as `{1}` has it.
fn is_number(text: &str) -> bool {
    !text.starts_with('0') && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn shown(arg: Option<&Value>) -> String {
    match arg {
        None | Some(Value::Null) => "?".to_owned(),
        Some(Value::String(text)) => start_of(text, MAX_TEXT).to_owned(),
        Some(other) => other.to_string(),
    }
}

/// Adds what there is room for.
fn push(text: &mut String, more: &str) {
    text.push_str(start_of(more, MAX_TEXT.saturating_sub(text.len())));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::testing::{ALICE, OURS, World, anonymous, from, from_with};

    #[test]
    fn a_comment_gets_its_arguments() {
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
        fn interpolation_takes_anything(comment in "[{}0-9a-é]{0,40}", args: Vec<Option<String>>) {
            let args: Vec<Value> = args.into_iter().map(|arg| json!(arg)).collect();
            let text = interpolate(&comment, &args);
            prop_assert!(text.len() <= MAX_TEXT);
        }

        #[test]
        fn a_comment_without_braces_stays(comment in "[^{]{0,200}") {
            prop_assert_eq!(interpolate(&comment, &[]), comment);
        }
    }

    #[test]
    fn a_report_names_the_thread_and_acknowledges() {
        let received =
            from_with(ALICE, "https://didcomm.org/tictactoe/1.0/move", json!({}), |message| message.thid("t"));
        let problem = Problem::new("e.m.msg.bad-move", "{1} is no move.").arg("é".repeat(1000));
        let told = report(&received, &problem).unwrap();
        let mut json: Value = serde_json::from_str(&told.to_json()).unwrap();
        let arg = json["body"]["args"][0].take();
        assert!(arg.as_str().unwrap().len() <= MAX_ARG);
        assert_eq!(
            json,
            json!({
                "id": told.id,
                "typ": "application/didcomm-plain+json",
                "type": PROBLEM_REPORT,
                "body": {"code": "e.m.msg.bad-move", "comment": "{1} is no move.", "args": [null]},
                "from": OURS,
                "to": [ALICE],
                "pthid": "t",
                "ack": [received.message.id],
                "lang": "en",
            })
        );
        let unsound = report(&received, &Problem::new("Bad move", "")).unwrap();
        assert_eq!(unsound.body, json!({"code": "e.m.me", "comment": "Internal error."}));

        let problem = Problem::new("e.m.msg", "Bad message.");
        assert_eq!(report(&from(ALICE, PROBLEM_REPORT, json!({})), &problem), None);
        assert_eq!(
            report(&from(ALICE, "https://didcomm.org/ReportProblem/2.1/ProblemReport", json!({})), &problem),
            None
        );
        assert_eq!(report(&anonymous("https://didcomm.org/tictactoe/1.0/move", json!({})), &problem), None);
    }

    /// The example of the specification.
    #[tokio::test]
    async fn a_report_is_read_and_delivered() {
        let body = json!({
            "code": "e.p.xfer.cant-use-endpoint",
            "comment": "Unable to use the {1} endpoint for {2}.",
            "args": ["https://agents.r.us/inbox", "did:sov:C805sNYhMrjHiqZDTUASHg"],
            "escalate_to": "mailto:admin@foo.org"
        });
        let thread = "1e513ad4-48c9-444e-9e7e-5b8b45c5e325";
        let received = from_with(ALICE, PROBLEM_REPORT, body, |message| message.pthid(thread));
        let report = Report::read(&received.message).unwrap();
        assert_eq!(
            report,
            Report {
                code: "e.p.xfer.cant-use-endpoint".into(),
                text: "Unable to use the https://agents.r.us/inbox endpoint for did:sov:C805sNYhMrjHiqZDTUASHg.".into(),
                escalate_to: Some("mailto:admin@foo.org".into()),
                thread: thread.into(),
            }
        );
        let outcome = World::default().handle(&ReportProblem::default(), &received).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        assert_eq!(outcome.written, ["thread"]);
    }

    #[tokio::test]
    async fn a_malformed_report_is_not_answered() {
        for body in [json!({}), json!({"code": 1}), json!({"code": "bad"}), json!({"code": "e.p.msg", "args": "x"})] {
            let received = from(ALICE, PROBLEM_REPORT, body);
            let outcome = World::default().handle(&ReportProblem::default(), &received).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty() && outcome.written.is_empty());
        }
    }
}

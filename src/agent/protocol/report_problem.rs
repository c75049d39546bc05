//! Report problem 2.0 (DIDComm v2.1 "Problem Reports"): reads the reports of peers.

use async_trait::async_trait;

use super::{
    handler::Protocol,
    problem::HandleError,
    problem_code::{ProblemCode, ProblemScope, Sorter},
    problem_limits::{self, ProblemLimits},
    received::Received,
    report_message::ProblemReport,
    transaction::Transaction,
};

/// Hands problem reports to the application. An error of scope `p` closes its thread.
#[derive(Debug, Clone, Default)]
pub struct ReportProblem {
    limits: ProblemLimits,
}

impl ReportProblem {
    /// Makes the handler of the protocol, with these limits.
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

    /// A malformed report is delivered too, since no report may be answered by a report.
    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        tx.deliver();
        let Some(report) = ProblemReport::read(&received.message) else {
            tracing::info!(sender = received.sender, "problem report has no valid code or no pthid");
            return Ok(());
        };
        tracing::info!(sender = received.sender, code = report.code, "peer reports a problem");
        let code = ProblemCode::parse(&report.code);
        match code.map(|code| (code.sorter, code.scope)) {
            Some((Sorter::Error, ProblemScope::Protocol)) => {
                problem_limits::close_thread(received, &report.thread, &report.code, tx, &self.limits).await
            }
            Some((Sorter::Error, _)) => {
                problem_limits::count_reported_error(received, &report.thread, tx, &self.limits).await
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        report_message::PROBLEM_REPORT,
        testing::{ALICE, Harness, from, from_with},
    };

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
        let report = ProblemReport::read(&received.message).unwrap();
        assert_eq!(
            report,
            ProblemReport {
                code: "e.p.xfer.cant-use-endpoint".into(),
                text: "Unable to use the https://agents.r.us/inbox endpoint for did:sov:C805sNYhMrjHiqZDTUASHg.".into(),
                escalate_to: Some("mailto:admin@foo.org".into()),
                thread: thread.into(),
            }
        );
        let outcome = Harness::default().handle(&ReportProblem::default(), &received).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        assert_eq!(outcome.written, ["thread"]);
    }

    #[tokio::test]
    async fn a_malformed_report_is_not_answered() {
        for body in [json!({}), json!({"code": 1}), json!({"code": "bad"}), json!({"code": "e.p.msg", "args": "x"})] {
            let received = from(ALICE, PROBLEM_REPORT, body);
            let outcome = Harness::default().handle(&ReportProblem::default(), &received).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty() && outcome.written.is_empty());
        }
    }
}

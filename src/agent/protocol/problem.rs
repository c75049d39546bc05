//! A problem to report to a peer (report-problem 2.0), and the error of a protocol.

use serde_json::{Value, json};

use crate::agent::store::error::StoreError;

/// Why a protocol did not handle a message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The message is invalid. The problem is reported to the sender.
    #[error("{0}")]
    Problem(Problem),
    /// The message cannot be handled now, and is handled again later.
    #[error("the message cannot be handled now: {0}")]
    Retry(String),
}

/// The content of a problem report (report-problem 2.0 "Structure").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {comment}")]
pub struct Problem {
    /// The problem code: sorter, scope and descriptors, such as `e.p.msg`.
    pub code: String,
    /// A text for people, the same for each problem of this code. `{1}` stands for the first argument.
    pub comment: String,
    /// The arguments of the comment.
    pub args: Vec<String>,
    /// A URI where help can be found.
    pub escalate_to: Option<String>,
}

impl Problem {
    /// Makes a problem without arguments.
    pub fn new(code: impl Into<String>, comment: impl Into<String>) -> Self {
        Self { code: code.into(), comment: comment.into(), args: Vec::new(), escalate_to: None }
    }

    /// Adds an argument of the comment.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Returns the body of the problem report.
    pub fn body(&self) -> Value {
        let mut body = json!({ "code": self.code, "comment": self.comment });
        if !self.args.is_empty() {
            body["args"] = json!(self.args);
        }
        if let Some(uri) = &self.escalate_to {
            body["escalate_to"] = json!(uri);
        }
        body
    }
}

impl From<Problem> for HandleError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<StoreError> for HandleError {
    fn from(error: StoreError) -> Self {
        Self::Retry(error.to_string())
    }
}

//! Problem reports (report-problem 2.0): what one is, and how a protocol says that it has one.

use serde_json::{Value, json};

use crate::agent::store::StoreError;

/// Why a protocol did not handle a message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The sender is told.
    #[error("{0}")]
    Problem(Problem),
    /// It is tried again later.
    #[error("it cannot be handled now: {0}")]
    Later(String),
}

/// What a problem report says (report-problem 2.0 "Structure").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {comment}")]
pub struct Problem {
    /// `e.p.msg` and the like: sorter, scope, descriptors.
    pub code: String,
    /// For people, one text for each code; `{1}` is the first argument.
    pub comment: String,
    /// The arguments.
    pub args: Vec<String>,
    /// Where help can be found: a URI.
    pub escalate_to: Option<String>,
}

impl Problem {
    /// A problem of this code.
    pub fn new(code: impl Into<String>, comment: impl Into<String>) -> Self {
        Self { code: code.into(), comment: comment.into(), args: Vec::new(), escalate_to: None }
    }

    /// Adds an argument of the comment.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The body of its report.
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

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

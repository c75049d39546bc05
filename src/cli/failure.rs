//! What a command says when it does not do what it was asked: what was wrong, with what, and what to do next.
//!
//! The codes are part of the interface: docs/cli.md lists them, and a test compares.

use std::{fmt::Display, io};

use serde_json::{Value, json};

use claviger::{
    agent::store::StoreError,
    did::{LoadError, ResolveError, peer::PeerError},
    didcomm::{Error, MessageError},
    jose::JoseError,
    secrets::{ImportError, SecretsError, TokenError},
};

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// One word for programs.
    pub code: &'static str,
    pub status: Status,
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// The exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Whoever read our output has gone: nothing to say, and no one to say it to.
    Unread = 0,
    Failed = 1,
    WrongWords = 2,
    TokenNotReady = 3,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, status: Status::Failed, message: message.into(), hint: None }
    }

    /// The arguments or the configuration are wrong.
    pub fn words(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::WrongWords, ..Self::new(code, message) }
    }

    /// The token is absent, locked, or has no PIN.
    pub fn not_ready(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::TokenNotReady, ..Self::new(code, message) }
    }

    /// A file, a folder or the terminal.
    pub fn io(what: impl Display, error: &io::Error) -> Self {
        Self::new("io", format!("{what}: {error}"))
    }

    /// Stdout.
    pub fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { status: Status::Unread, ..Self::new("io", "") },
            _ => Self::io("stdout", error),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure as programs read it.
    pub fn to_json(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message, "hint": self.hint } })
    }

    /// What a token says while it is opened, or when it is asked for something.
    pub fn of_token(name: &str, error: &TokenError) -> Self {
        let mut said = error.to_string();
        if !said.starts_with("the token ") {
            said = format!("the token {name:?}: {said}");
        }
        match error {
            TokenError::Away(_) => {
                Self::not_ready("token-absent", said).hint("`claviger token list` shows the tokens that are there")
            }
            TokenError::Pin(_) => Self::not_ready("pin-refused", said).hint(format!(
                "look at the `pin-source` of the token's URI; `claviger token unlock {name}` then tries the PIN once more"
            )),
            TokenError::Config(_) => Self::words("token-misconfigured", said),
            TokenError::Custody(_) => Self::new("custody-too-low", said)
                .hint(format!("`claviger token doctor {name}` shows what the token can do")),
            TokenError::Unsupported(_) => Self::new("token-cannot", said)
                .hint(format!("`claviger token doctor {name}` shows what the token can do")),
            TokenError::KnownAnswer(_) => Self::new("known-answer-failed", said),
            TokenError::Unprotected(_) => Self::new("key-unprotected", said)
                .hint("`allow_unprotected` in its [[token]] lists keys that may be used all the same"),
            TokenError::KeyGone => Self::new("key-gone", said).hint("`claviger key list` shows the keys"),
            TokenError::Unwrap | TokenError::PeerKey(_) => Self::new("decrypt-failed", said),
            _ => Self::new("token-failed", said),
        }
    }
}

/// What clap found wrong, in one message.
pub fn wrong_words(error: &clap::Error, json: bool) -> Failure {
    let text = if json { error.render().to_string() } else { error.render().ansi().to_string() };
    let text = text.trim_end();
    match text.split_once("\n\n").filter(|_| json) {
        Some((message, _)) => {
            let message = message.strip_prefix("error: ").unwrap_or(message).replace("\n  ", " ");
            Failure::words("bad-arguments", message).hint("see `claviger --help`")
        }
        None => Failure::words("bad-arguments", text),
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        let said = error.to_string();
        match error {
            SecretsError::Token { token, error } => Self::of_token(&token, &error),
            SecretsError::NotHeld(_) => {
                Self::new("key-not-held", said).hint("`claviger key list` shows the keys of the configured tokens")
            }
            SecretsError::NotAllowed { .. } => Self::new("not-allowed", said),
            SecretsError::Busy { .. } | SecretsError::Deadline { .. } => Self::not_ready("token-busy", said),
            _ => Self::new("token-failed", said),
        }
    }
}

impl From<JoseError> for Failure {
    fn from(error: JoseError) -> Self {
        let code = match &error {
            JoseError::Secrets(_) => "token-failed",
            JoseError::TooLarge { .. } | JoseError::TooManyRecipients { .. } => "message-too-large",
            JoseError::Algorithm(_)
            | JoseError::Encryption(_)
            | JoseError::AuthcryptEncryption(_)
            | JoseError::KeyAlgorithm { .. } => "algorithm-not-allowed",
            JoseError::Decrypt(_) => "decrypt-failed",
            JoseError::Signature => "signature-wrong",
            _ => "envelope-malformed",
        };
        match error {
            JoseError::Secrets(error) => error.into(),
            error => Self::new(code, error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let said = error.to_string();
        let new = |code| Self::new(code, said.clone());
        match error {
            Error::Envelope(error) => error.into(),
            Error::Resolve(error) => error.into(),
            Error::Message(error) => error.into(),
            Error::NotForUs(_) => new("not-for-us").hint("`claviger key list` shows our keys, and the DIDs they serve"),
            Error::Nesting { .. } => new("nesting-forbidden"),
            Error::KeyId(_) => new("bad-key-id"),
            Error::NotAuthorised { .. } => new("key-not-authorised"),
            Error::Key { .. } => new("key-refused"),
            Error::FromAbsent(_) | Error::From { .. } => new("from-mismatch"),
            Error::To { .. } | Error::ToAbsent => new("to-mismatch"),
            Error::FromPrior(_) => new("from-prior-refused"),
            Error::ForwardLoop | Error::Forward(_) => new("forward-refused"),
            Error::Stranger { .. } => new("stranger").hint("--known DID names one for whom a person is asked"),
            Error::NoTokenHolds(_) => new("key-not-held"),
            Error::NotOurs { .. } => {
                new("not-ours").hint("`claviger key list` shows our keys, and the DIDs they serve")
            }
            Error::NoRecipientKey(_) => new("no-recipient-key"),
            Error::NoCommonCurve { .. } => new("no-common-curve")
                .hint("make a key on one of the recipient's curves and a DID with it: `claviger key generate`"),
            Error::Header { .. } => new("header-mismatch"),
            Error::Combination(_) => Self::words("combination-forbidden", said),
            Error::Service { .. } => new("service-unusable").hint("--no-forward packs for the recipient alone"),
            _ => new("failed"),
        }
    }
}

impl Failure {
    /// What a running agent has answered.
    pub fn of_agent(code: &str, message: String) -> Self {
        let code = match code {
            "store-full" => "store-full",
            "store-unavailable" | "store-unusable" => "store-unusable",
            "not-found" => "not-found",
            "bad-message" => "bad-message",
            "token-away" => return Self::not_ready("token-absent", message),
            "mediator-away" => "mediator-away",
            "mediator-denied" => "mediator-denied",
            "mediator-unusable" => "mediator-unusable",
            _ => "agent-refuses",
        };
        Self::new(code, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let said = error.to_string();
        match error {
            StoreError::InUse(_) => Self::new("agent-there", said).hint("one agent has one store: end the other first"),
            StoreError::TooNew { .. } => Self::new("store-too-new", said),
            StoreError::Full(_) => Self::new("store-full", said),
            _ => Self::new("store-unusable", said),
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::new("bad-message", error.to_string())
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let said = error.to_string();
        match error {
            ResolveError::LongFormUnknown(_) => Self::new("did-long-form-unknown", said)
                .hint("`claviger did resolve` with its long form keeps that for next time"),
            ResolveError::UnsupportedMethod(_) => Self::new("did-method-unsupported", said)
                .hint("a document at hand is used if `documents` in [did] names its file or folder"),
            ResolveError::Unavailable { .. } => Self::new("did-unavailable", said),
            _ => Self::new("did-unresolved", said),
        }
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Self::new("did-not-made", format!("the DID cannot be made: {error}"))
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let hint = match error {
            LoadError::Log { .. } => "somebody has changed it: a backup has it as it was, and so has who resolved it",
            _ => "see `documents` in [did] of the configuration",
        };
        Self::words("bad-document", error.to_string()).hint(hint)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        Self::new("bad-jwk", error.to_string())
    }
}

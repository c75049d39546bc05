//! The failure of a command: what went wrong, and what to do next.
//!
//! The codes are part of the interface. docs/cli.md lists them, and a test compares the list.

use std::{fmt::Display, io};

use serde_json::{Value, json};

use claviger::{
    agent::store::StoreError,
    did::{LoadError, ResolveError, peer::PeerError},
    didcomm::{Error, MessageError},
    jose::JoseError,
    net::NetError,
    secrets::{ImportError, SecretsError, TokenError},
};

use super::shell::quoted;

/// Why a command failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The error code for programs, in kebab-case.
    pub code: &'static str,
    pub status: Status,
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// The exit status of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The reader of stdout has closed the pipe. Nothing is reported.
    OutputClosed = 0,
    Failed = 1,
    /// The arguments or the configuration are wrong.
    Usage = 2,
    /// The token is absent or locked, or its PIN was refused.
    TokenNotReady = 3,
}

impl Failure {
    /// A failure with exit status 1 and no hint. `code` is one of the documented codes.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, status: Status::Failed, message: message.into(), hint: None }
    }

    /// A failure because the arguments or the configuration are wrong.
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::Usage, ..Self::new(code, message) }
    }

    /// A failure because a token is absent or locked, or its PIN was refused.
    pub fn not_ready(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::TokenNotReady, ..Self::new(code, message) }
    }

    /// A failure of a file, a folder, a socket or the terminal.
    pub fn io(what: impl Display, error: &io::Error) -> Self {
        Self::new("io", format!("{what}: {error}"))
    }

    /// A failure to write to stdout.
    pub fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { status: Status::OutputClosed, ..Self::new("io", "") },
            _ => Self::io("stdout", error),
        }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The JSON form of the failure.
    pub fn to_json(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message, "hint": self.hint } })
    }

    /// The failure to open a token, or of an operation of a token.
    pub fn from_token(name: &str, error: &TokenError) -> Self {
        let (message, name) = (error.message_of(name), quoted(name));
        match error {
            TokenError::Away(_) => Self::not_ready("token-absent", message.clone()).hint(match message.contains(NO_START) {
                true => "check what the module needs to start: `environment` in the [[token]], its device, its own log",
                false => "`claviger token list` shows which tokens are present",
            }),
            TokenError::Pin(_) => {
                let unlock = format!("`claviger token unlock {name}`");
                let hint = match &message {
                    refused if refused.contains(PIN_REFUSED) => format!(
                        "correct the PIN where `pin-source` in the token's URI says: a changed PIN is tried once, a credential or \
                         pin-value after a restart. If the PIN is correct now, run {unlock}"
                    ),
                    message if message.contains(&unlock) => format!("once the PIN is correct, run {unlock}"),
                    // The command that sets a new PIN.
                    message if message.contains('`') => return Self::not_ready("pin-refused", message.as_str()),
                    _ => format!("check the `pin-source` in the token's URI; {unlock} then tries the PIN once more"),
                };
                Self::not_ready("pin-refused", message).hint(hint)
            }
            TokenError::Config(_) => Self::usage("token-misconfigured", message),
            TokenError::Custody(_) => Self::new("custody-too-low", message)
                .hint(format!("`claviger token doctor {name}` shows what the token can do")),
            TokenError::Unsupported(_) => Self::new("token-cannot", message)
                .hint(format!("`claviger token doctor {name}` shows what the token can do")),
            TokenError::KnownAnswer(_) => Self::new("known-answer-failed", message).hint(format!(
                "the token is not used for this: `claviger token doctor {name}` tests each algorithm, and the manufacturer \
                 may have newer firmware"
            )),
            TokenError::Unprotected(_) => Self::new("key-unprotected", message)
                .hint("`allow_unprotected` in the [[token]] lists keys that may be used anyway"),
            TokenError::Unproved { .. } => Self::new("key-unproved", message).hint(
                "no DID may name this key; `claviger key list` shows why keys are not served, and `claviger key \
                 generate` makes another",
            ),
            TokenError::KeyGone => Self::new("key-gone", message).hint("`claviger key list` shows the keys"),
            TokenError::Unwrap | TokenError::Refused(_) => Self::new("decrypt-failed", message),
            _ => Self::new("token-failed", message),
        }
    }
}

/// What the messages of two errors of tokens contain, which have hints of their own.
const NO_START: &str = "does not start";
const PIN_REFUSED: &str = "refused its PIN";

/// The failure for arguments that clap refused.
pub fn invalid_arguments(error: &clap::Error, json: bool) -> Failure {
    let text = if json { error.render().to_string() } else { error.render().ansi().to_string() };
    let text = text.trim_end();
    match text.split_once("\n\n").filter(|_| json) {
        Some((message, _)) => {
            let message = message.strip_prefix("error: ").unwrap_or(message).replace("\n  ", " ");
            Failure::usage("bad-arguments", message).hint("see `claviger --help`")
        }
        None => Failure::usage("bad-arguments", text),
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        let message = error.to_string();
        match error {
            SecretsError::Token { token, error } => Self::from_token(&token, &error),
            SecretsError::NotHeld(_) => {
                Self::new("key-not-held", message).hint("`claviger key list` shows the keys of the configured tokens")
            }
            SecretsError::NotAllowed { .. } => Self::new("not-allowed", message),
            SecretsError::Busy { .. } | SecretsError::DeadlineExceeded { .. } => Self::not_ready("token-busy", message),
            _ => Self::new("token-failed", message),
        }
    }
}

impl From<JoseError> for Failure {
    fn from(error: JoseError) -> Self {
        let code = match &error {
            JoseError::Secrets(_) => "token-failed",
            JoseError::TooLarge { .. } | JoseError::TooManyRecipients { .. } => "message-too-large",
            JoseError::UnsupportedAlgorithm(_)
            | JoseError::UnsupportedEncryption(_)
            | JoseError::AuthcryptEncryption(_)
            | JoseError::AlgorithmMismatch { .. } => "algorithm-not-allowed",
            JoseError::Decrypt(_) => "decrypt-failed",
            JoseError::InvalidSignature => "signature-wrong",
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
        let message = error.to_string();
        let new = |code| Self::new(code, message.clone());
        match error {
            Error::Envelope(error) => error.into(),
            Error::Resolve(error) => error.into(),
            Error::Message(error) => error.into(),
            Error::NotForUs(_) => new("not-for-us").hint("`claviger key list` shows our keys, and the DIDs they serve"),
            Error::ForbiddenNesting { .. } => new("nesting-forbidden"),
            Error::InvalidKeyId(_) => new("bad-key-id"),
            Error::NotAuthorised { .. } => new("key-not-authorised"),
            Error::UnusableKey { .. } => new("key-refused"),
            Error::FromAbsent(_) | Error::FromMismatch { .. } => new("from-mismatch"),
            Error::ToMismatch { .. } | Error::ToAbsent => new("to-mismatch"),
            Error::NotAuthenticated => new("not-authenticated"),
            Error::FromPrior(_) => new("from-prior-refused"),
            Error::ForwardLoop | Error::Forward(_) => new("forward-refused"),
            Error::PromptNotAllowed { .. } => new("stranger").hint(
                "if you trust the sender, name the DID with --known: a person is then asked for the PIN or touch",
            ),
            Error::KeyNotHeld(_) => new("key-not-held"),
            Error::NoReadyKey { .. } | Error::NotOurs { .. } => {
                new("not-ours").hint("`claviger key list` shows our keys, and the DIDs they serve")
            }
            Error::NoRecipientKey(_) => new("no-recipient-key"),
            Error::NoCommonCurve { .. } => new("no-common-curve")
                .hint("make a key on one of the recipient's curves and a DID with it: `claviger key generate`"),
            Error::HeaderMismatch { .. } => new("header-mismatch"),
            Error::ForbiddenCombination(_) => Self::usage("combination-forbidden", message),
            Error::UnusableService { .. } => new("service-unusable").hint("--no-forward packs for the recipient alone"),
            _ => new("failed"),
        }
    }
}

impl Failure {
    /// The failure that a running agent returned.
    pub fn from_agent(code: &str, message: String) -> Self {
        let code = match code {
            "store-full" => "store-full",
            "store-unavailable" => {
                return Self::new("store-unavailable", message)
                    .hint("`claviger status` shows whether a token is ready, and if not, what to do");
            }
            "store-unusable" => "store-unusable",
            "not-found" => "not-found",
            "bad-message" => "bad-message",
            "id-taken" => "id-taken",
            "no-endpoint" => "no-endpoint",
            "not-waiting" => "not-waiting",
            "no-did" => {
                return Self::new("no-did", message)
                    .hint("`claviger status` shows DIDs that are refused; `claviger did create` makes a DID");
            }
            "token-away" => return Self::not_ready("token-absent", message),
            "connection-ended" => {
                return Self::new("connection-ended", message).hint(
                    "`claviger connections resume` takes the connection up again; --from another DID of ours begins a new one",
                );
            }
            "peer-blocked" => {
                return Self::new("peer-blocked", message).hint("`claviger connections unblock` unblocks the peer");
            }
            "label-taken" => {
                return Self::new("label-taken", message)
                    .hint("choose another label, or give that peer another one: `claviger connections label`");
            }
            "bad-label" => return Self::usage("bad-label", message),
            "token-not-served" => {
                return Self::new("token-not-served", message).hint(
                    "the agent serves the tokens that its configuration named when it was started: restart it with the \
                     configuration that names the token",
                );
            }
            "unauthorized" => {
                return Self::new("agent-refuses", message).hint(
                    "the commands show the token of `token_file`; after a change of the file, send SIGHUP to the agent",
                );
            }
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
        let message = error.to_string();
        match error {
            StoreError::InUse(_) => Self::new("agent-there", message)
                .hint("stop the other agent first, or give each agent that shares a database in PostgreSQL a `node` of its own"),
            StoreError::TooNew { .. } => Self::new("store-too-new", message),
            StoreError::Full(_) => Self::new("store-full", message),
            StoreError::Unavailable(_) => Self::new("store-unavailable", message),
            _ => Self::new("store-unusable", message),
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
        let message = error.to_string();
        match error {
            ResolveError::LongFormUnknown(_) => {
                Self::new("did-long-form-unknown", message).hint("`claviger did resolve` with the long form stores it")
            }
            ResolveError::UnsupportedMethod(_) => Self::new("did-method-unsupported", message)
                .hint("`documents` in [did] can name a file with the DID's document"),
            ResolveError::Unavailable { .. } => Self::new("did-unavailable", message)
                .hint("without a network, `documents` in [did] can name a file with the DID's document"),
            ResolveError::NotFetched { source, .. } if is_refused_address(&*source) => {
                Self::new("did-unresolved", message)
                    .hint("`allow_private` in [net] allows servers at private addresses")
            }
            _ => Self::new("did-unresolved", message),
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
            LoadError::Log { .. } => {
                "the log was changed: restore it from a backup, or from a peer that resolved the DID"
            }
            _ => "check `documents` in [did] of the configuration",
        };
        Self::usage("bad-document", error.to_string()).hint(hint)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        Self::new("bad-jwk", error.to_string())
    }
}

/// Whether the guard has refused to connect to a private address.
fn is_refused_address(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(NetError::Refused { .. }))
}

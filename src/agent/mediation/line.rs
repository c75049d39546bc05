//! A way to a mediator on which it answers: a WebSocket that stays, or one POST after the other.

use std::{collections::VecDeque, time::Duration};

use hyper::body::Bytes;

use super::MediationError;
use crate::{
    agent::net::{HttpClient, Limits, WebSocketReceiver, WebSocketSender},
    didcomm::ENCRYPTED,
};

/// How long a POST may take.
const POST: Duration = Duration::from_secs(30);

/// How long the mediator has to close its side too.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) enum Line {
    /// What the mediator says comes on it, asked for or not.
    Socket { sender: Box<WebSocketSender>, receiver: Box<WebSocketReceiver> },
    /// What the mediator says is the answer to a POST.
    Http { client: Box<HttpClient>, uri: String, largest: usize, answers: VecDeque<Bytes> },
}

impl Line {
    /// Whether the mediator may speak unasked.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Socket { .. })
    }

    pub async fn send(&mut self, packed: String) -> Result<(), MediationError> {
        match self {
            Self::Socket { sender, .. } => Ok(sender.send(packed).await?),
            Self::Http { client, uri, largest, answers } => {
                let limits = Limits { within: POST, answer: *largest };
                let answer = client.post(uri, ENCRYPTED, packed.into(), limits).await?;
                if !answer.is_success() {
                    return Err(MediationError::Away(format!("{uri} answers with status {}", answer.status)));
                }
                answers.extend(Some(answer.body?).filter(|body| !body.is_empty()));
                Ok(())
            }
        }
    }

    /// The next thing that it says; nothing if it has said all there is. It may be given up and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MediationError> {
        match self {
            Self::Socket { receiver, .. } => Ok(receiver.receive().await?),
            Self::Http { answers, .. } => Ok(answers.pop_front()),
        }
    }

    pub async fn close(self) {
        if let Self::Socket { sender, mut receiver } = self {
            let closed = async {
                sender.close().await;
                while let Ok(Some(_)) = receiver.receive().await {}
            };
            let _ = tokio::time::timeout(GOODBYE, closed).await;
        }
    }
}

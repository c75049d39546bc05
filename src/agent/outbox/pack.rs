//! From what is to be sent to what goes on the wire.

use super::{Outbox, SendError};
use crate::{
    agent::{
        books::Intent,
        ours::canonical,
        protocol::connections::{CONNECTION, Connection},
        store::{Outgoing, StoreError},
    },
    did::ResolveError,
    didcomm::{Error, Message, PackEncryptedOptions},
    jose::JoseError,
    secrets::{SecretsError, TokenError},
};

/// A packed message, and where it goes.
pub(super) struct Packed {
    pub text: String,
    /// The endpoint that the peer's document names, if it names one.
    pub uri: Option<String>,
}

/// Why a message was not packed.
pub(in crate::agent) enum NotPacked {
    /// A token of ours does not do it now: it is waited for.
    Token(String),
    /// Another reason, which passes or not.
    Other(SendError),
}

impl Outbox {
    /// Encrypts a message, with forwards around it unless it goes back on the peer's own connection. `tries` chooses among
    /// the peer's endpoints: after a failure another one has its turn (routing 2.0 "Failover").
    pub(super) async fn pack(&self, outgoing: &Outgoing, back: bool) -> Result<Packed, NotPacked> {
        let intent = match self.books.intent(outgoing) {
            Ok(intent) => intent,
            Err(StoreError::Unavailable(why)) => return Err(NotPacked::Token(why)),
            Err(error) => return Err(lasting(error.to_string())),
        };
        self.pack_intent(intent, &outgoing.peer, outgoing.tries, back).await
    }

    /// Packs a message for the peer alone: it goes there on a way that the caller has.
    pub(in crate::agent) async fn pack_to(&self, intent: Intent, peer: &str) -> Result<String, NotPacked> {
        self.pack_intent(intent, peer, 0, true).await.map(|packed| packed.text)
    }

    async fn pack_intent(&self, intent: Intent, peer: &str, tries: u32, back: bool) -> Result<Packed, NotPacked> {
        let mut message = intent.message;
        let from = match message.from.take() {
            Some(from) => {
                let from = self.ours.document(&from).map_or(from, |document| document.id().to_owned());
                Some(self.books.ours_by_now(&from).await.map_err(unread)?)
            }
            None => None,
        };
        message.from.clone_from(&from);
        if let Some(from) = &from {
            self.follow_connection(from, peer, &mut message).await?;
        }
        let me = self.ours.identities();
        let sign_by = from.as_deref().filter(|_| intent.sign);
        let to = message.to.as_ref().and_then(|to| to.first()).cloned().unwrap_or_else(|| peer.to_owned());
        let mut options = PackEncryptedOptions {
            forward: !back,
            protect_sender: intent.protect_sender,
            ..PackEncryptedOptions::default()
        };
        if !back && tries > 0 {
            options.messaging_service = self.another_service(&to, tries).await;
        }
        let packed = message.pack_encrypted(&to, from.as_deref(), sign_by, &self.resolver, &me, &options).await;
        match packed {
            Ok((text, metadata)) => {
                Ok(Packed { text, uri: metadata.messaging_service.map(|service| service.service_endpoint) })
            }
            Err(error) => Err(self.not_packed(&error, from.as_deref())),
        }
    }

    /// What is remembered of the peer: that it has another DID by now, that it has ended the relationship, or does not know
    /// yet that our DID is another.
    async fn follow_connection(&self, from: &str, peer: &str, message: &mut Message) -> Result<(), NotPacked> {
        let theirs = self.books.theirs_by_now(from, peer).await.map_err(unread)?;
        if canonical(&theirs) != peer {
            message.to = Some(vec![theirs.clone()]);
        }
        let connection = self.books.remembered::<Connection>(CONNECTION, &Connection::key(from, &theirs)).await;
        let connection = connection.map_err(unread)?;
        let Some(connection) = connection else { return Ok(()) };
        if connection.ended.is_some() {
            return Err(lasting("the peer has ended the relationship".to_owned()));
        }
        if message.from_prior.is_none() {
            message.from_prior = connection.from_prior;
        }
        Ok(())
    }

    async fn another_service(&self, to: &str, tries: u32) -> Option<String> {
        let document = self.resolver.resolve(crate::did::did_of(to)?).await.ok()?;
        let services: Vec<&str> = document.didcomm_services().map(|service| service.id.as_str()).collect();
        let count = services.len().max(1);
        services.get(tries as usize % count).map(|id| (*id).to_owned()).filter(|_| count > 1)
    }

    fn not_packed(&self, error: &Error, from: Option<&str>) -> NotPacked {
        let said = error.to_string();
        match error {
            Error::Envelope(JoseError::Secrets(SecretsError::Token { error: TokenError::PeerKey(_), .. })) => {
                lasting(said)
            }
            Error::Envelope(JoseError::Secrets(_)) => NotPacked::Token(said),
            // Ours, and no token is ready that holds its keys.
            Error::NotOurs { .. } if from.is_some_and(|from| self.ours.document(from).is_some()) => {
                NotPacked::Token(said)
            }
            Error::Resolve(ResolveError::Unavailable { .. }) => NotPacked::Other(SendError::passing(said)),
            _ => lasting(said),
        }
    }
}

fn lasting(reason: String) -> NotPacked {
    NotPacked::Other(SendError::lasting(reason))
}

/// What is damaged stays so.
fn unread(error: StoreError) -> NotPacked {
    match error {
        StoreError::Unusable(_) => lasting(error.to_string()),
        _ => NotPacked::Other(SendError::passing(error.to_string())),
    }
}

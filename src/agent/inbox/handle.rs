//! From an opened message to what is done about it, in one commit.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::{sync::oneshot, time::Duration};

use super::{Fate, Inbox, ReturnRoute};
use crate::{
    agent::{
        clock::{SKEW, now, of_seconds},
        ours::canonical,
        protocol::{Effect, Fault, Received, Turn, acks, cascade, connections, invitations},
        store::{Change, Commit, Committed, Envelope, Handled, Millis},
    },
    did::did_of,
    didcomm::{Layer, Message, Provenance},
};

/// A record may change while a message is handled; so often it is handled again at once.
const ATTEMPTS: usize = 10;
/// How long the connection may take until the way back is open.
const GO: Duration = Duration::from_secs(1);

impl Inbox {
    pub(super) async fn handle(
        &self,
        envelope: &Envelope,
        message: Message,
        provenance: Provenance,
        fate: Option<oneshot::Sender<Fate>>,
    ) {
        let kind = &message.type_.clone();
        let received = match self.received(envelope, message, provenance) {
            Ok(received) => received,
            Err(why) => return self.let_go(envelope, kind, why).await,
        };
        let handled = match self.mark(&received) {
            Ok(handled) => handled,
            Err(why) => return self.let_go(envelope, kind, why).await,
        };
        let replied = tell(&received, fate).await;
        for _ in 0..ATTEMPTS {
            let (effects, result) = match self.take_turn(&received, envelope.charged).await {
                Ok(taken) => taken,
                Err(why) => return self.postpone(envelope, kind, &why).await,
            };
            let effects = match self.answerable(&received, effects).await {
                Ok(effects) => effects,
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            };
            let changes = match self.parts.books.changes(&received, effects, self.parts.options.life) {
                Ok(changes) => changes,
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            };
            let commit =
                Commit { envelope: Some(envelope.id), handled: Some(handled.clone()), changes: changes.clone() };
            match self.parts.books.store().commit(commit).await {
                Ok(Committed::Done) => {
                    let replies = changes.iter().any(|change| matches!(change, Change::Send(_)));
                    (self.parts.after)(&changes);
                    self.parts.metrics.handled(kind, result);
                    if let Some(replied) = replied {
                        let _ = replied.send(replies);
                    }
                    return;
                }
                Ok(Committed::HandledBefore) => {
                    tracing::info!(id = received.message.id, "a message came twice, and was handled once");
                    self.parts.metrics.handled(kind, "again");
                    return;
                }
                Ok(Committed::Conflict) => {}
                Err(error) => return self.postpone(envelope, kind, &error.to_string()).await,
            }
        }
        self.postpone(envelope, kind, "what it changes is changed by others").await;
    }

    /// By what it is known that it was handled; or why it is too late for it.
    fn mark(&self, received: &Received) -> Result<Handled, &'static str> {
        let message = &received.message;
        let time = now();
        let longest = self.parts.options.longest_age;
        let until = match (message.expires_time.map(of_seconds), message.created_time.map(of_seconds)) {
            (Some(expires), _) if expires.saturating_add(SKEW) <= time => return Err("it has expired"),
            (_, Some(created)) if created.saturating_add(longest) <= time => return Err("it is too old"),
            (Some(expires), Some(created)) => expires.saturating_add(SKEW).min(created.saturating_add(longest)),
            (Some(expires), None) => expires.saturating_add(SKEW),
            (None, Some(created)) => created.saturating_add(longest),
            // Nothing bounds its age: it is remembered for good.
            (None, None) => Millis::MAX,
        };
        let id = message.id.to_ascii_lowercase();
        // Without a proved sender anyone may use an id: so that nobody spoils another's, it is bound to the content.
        let id = match &received.theirs {
            Some(_) => id,
            None => format!("{id} {}", URL_SAFE_NO_PAD.encode(Sha256::digest(message.to_json()))),
        };
        Ok(Handled {
            sender: received.theirs.clone().unwrap_or_default(),
            recipient: received.ours.clone(),
            message: id,
            until,
        })
    }

    /// What is to be done about a message, and whether that is what it asks for, as a label.
    ///
    /// # Errors
    /// Why it cannot be handled now.
    async fn take_turn(&self, received: &Received, charged: bool) -> Result<(Vec<Effect>, &'static str), String> {
        let mut turn = Turn::new(received, &*self.parts.books, &self.parts.features);
        let problem = match self.hand_over(received, &mut turn).await {
            Ok(()) => {
                let effects = turn.effects();
                match self.overcharge(received, charged, &effects).await.map_err(|error| error.to_string())? {
                    None => return Ok((effects, "done")),
                    Some(problem) => problem,
                }
            }
            Err(Fault::Later(why)) => return Err(why),
            Err(Fault::Problem(problem)) => problem,
        };
        tracing::info!(id = received.message.id, kind = received.message.type_, %problem, "a problem with a message");
        // Nothing of what the protocol began is done.
        let mut turn = Turn::new(received, &*self.parts.books, &self.parts.features);
        // What the message says about its sender holds all the same: a peer stops telling its new DID once it was answered.
        let known = async {
            connections::rotate(received, &mut turn).await?;
            connections::meet(received, &mut turn).await?;
            acks::note(received, &mut turn).await
        };
        if let Err(fault) = known.await {
            return Err(fault.to_string());
        }
        match cascade::report_on(received, &problem, &mut turn, &self.parts.options.problems).await {
            Ok(()) => Ok((turn.effects(), "problem")),
            Err(fault) => Err(fault.to_string()),
        }
    }

    async fn hand_over(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
        if connections::has_moved(received, turn).await? {
            tracing::info!(id = received.message.id, "a message from a DID that its owner has left is passed over");
            return Ok(());
        }
        if cascade::is_closed(received, turn).await? {
            tracing::info!(id = received.message.id, "a message of a thread that had too many problems is passed over");
            return Ok(());
        }
        connections::rotate(received, turn).await?;
        connections::meet(received, turn).await?;
        acks::note(received, turn).await?;
        invitations::note_response(received, turn).await?;
        match self.parts.registry.find(&received.message.type_)? {
            Some(protocol) if received.theirs.is_none() && !protocol.reads_anonymous() => {
                tracing::info!(kind = received.message.type_, "an anonymous message is passed over");
                return Ok(());
            }
            Some(protocol) => protocol.handle(received, turn).await?,
            None => turn.deliver(),
        }
        acks::honour(received, turn).await
    }

    /// What is known of the message, said once: whose it is, and for whom.
    fn received(
        &self,
        envelope: &Envelope,
        message: Message,
        provenance: Provenance,
    ) -> Result<Received, &'static str> {
        if !provenance.encrypted {
            return Err("it is not encrypted");
        }
        let opened_by = provenance.layers.iter().rev().find_map(|layer| match layer {
            Layer::Authcrypt { kid, .. } | Layer::Anoncrypt { kid, .. } => did_of(kid),
            _ => None,
        });
        let named = opened_by.unwrap_or(&envelope.recipient);
        // One name for a DID that has two.
        let ours =
            self.parts.ours.document(named).map_or_else(|| named.to_owned(), |document| document.id().to_owned());
        let theirs = message.from.as_deref().filter(|_| provenance.authenticated).map(|did| canonical(did).to_owned());
        Ok(Received { message, provenance, ours, theirs, time: envelope.received })
    }
}

/// Tells the connection that replies may go back on it, and waits until the way is open. Where it is told whether there are any.
async fn tell(received: &Received, fate: Option<oneshot::Sender<Fate>>) -> Option<oneshot::Sender<bool>> {
    let sender = received.theirs.clone()?;
    let return_route = match received.message.return_route.as_deref() {
        Some("all") => ReturnRoute::All,
        Some("thread") => {
            let thread = received.message.return_route_thread.as_deref();
            ReturnRoute::Thread(thread.unwrap_or(received.message.thread()).to_owned())
        }
        _ => return None,
    };
    let (go, open) = oneshot::channel();
    let (replied, told) = oneshot::channel();
    fate?.send(Fate { sender, return_route, go, replied: told }).ok()?;
    let _ = tokio::time::timeout(GO, open).await;
    Some(replied)
}

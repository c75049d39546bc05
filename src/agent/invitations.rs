//! Issues, fetches and accepts invitations (out-of-band 2.0).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    blocked_peers::BlockedPeers,
    canonical_did::canonical_did,
    clock::{Millis, now, seconds_to_millis},
    error::AgentError,
    event::EventKind,
    give_label::label_changes,
    known_peers::KnownPeers,
    label::Label,
    outgoing_message::{OutgoingMessage, new_message},
    own_dids::OwnDids,
    protocol::{
        connections::Connection,
        issued_invitation::IssuedInvitation,
        out_of_band::{Invitation, MAX_LENGTH, ParsedInvitation},
        trust_ping::PING,
    },
    repeatable::Repeatable,
    sealed_store::SealedStore,
    store::{
        error::StoreError,
        types::{Change, CommitOutcome},
    },
};
use crate::{
    did::Resolver,
    didcomm::Message,
    net::{HttpClient, RequestLimits},
};

/// The content of a new invitation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct InvitationOptions {
    /// Our DID that invites. `None` means the newest.
    pub from: Option<String>,
    /// The goal, for people.
    pub goal: Option<String>,
    /// The goal, for programs.
    pub goal_code: Option<String>,
    /// Whether more than one peer may accept the invitation.
    pub multi_use: bool,
    /// How long the invitation can be accepted, in milliseconds. `None` sets no limit.
    pub valid_for: Option<Millis>,
}

/// An invitation that the agent has accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcceptedInvitation {
    /// Our DID in the new connection.
    pub own_did: String,
    /// The inviter's DID.
    pub peer_did: String,
    /// The invitation.
    pub invitation: Invitation,
    /// The outbox id of the trust ping that tells the inviter of the acceptance.
    pub ping: String,
}

/// The media types that the agent accepts at a short URL.
const ACCEPT: &str = "application/didcomm-plain+json, application/json";
/// The base of an invitation's URL if the agent has no public URL. Agents read the invitation in the URL, and fetch
/// nothing.
const NO_PUBLIC_URL: &str = "didcomm://invite";

/// Issues and accepts invitations.
pub(super) struct Invitations {
    pub store: Arc<SealedStore>,
    pub known_peers: Arc<KnownPeers>,
    pub own_dids: Arc<OwnDids>,
    pub blocked: Arc<BlockedPeers>,
    pub resolver: Arc<dyn Resolver>,
    /// Fetches invitations from short URLs. Without it they are refused.
    pub http: Option<HttpClient>,
    /// The URL of this agent's public side. The URLs of invitations begin with it.
    pub public_url: Option<String>,
    /// How long the agent tries to send a message to a peer, in milliseconds.
    pub message_lifetime: Millis,
}

impl Invitations {
    /// Issues an invitation.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `from` is not one of our DIDs, or the invitation of a repeated request was revoked;
    /// [`AgentError::IdTaken`] if another invitation was issued under the id; [`AgentError::Store`] if the store fails.
    pub async fn issue(
        &self,
        from: String,
        options: InvitationOptions,
        request: Option<&Repeatable<'_>>,
    ) -> Result<IssuedInvitation, AgentError> {
        if let Some(issued) = self.issued_before(request).await? {
            return Ok(issued);
        }
        if self.own_dids.document(&from).is_none() {
            return Err(invalid(format!("{from} is not one of our DIDs")));
        }
        let created = now();
        let mut invitation = Invitation::new(from);
        invitation.goal = options.goal;
        invitation.goal_code = options.goal_code;
        let expires = options.valid_for.map(|time| created.saturating_add(time));
        invitation.expires_time = expires.map(|time| time.unsigned_abs() / 1000);
        let issued = IssuedInvitation { invitation, created, expires, multi_use: options.multi_use, used_by: None };
        let key = IssuedInvitation::key(&issued.invitation.id);
        let mut changes = vec![self.store.put_change(&key, &issued, 0, None)?];
        if let Some(request) = request {
            changes.push(request.change(&key)?);
        }
        match self.store.commit_changes(changes).await? {
            CommitOutcome::Committed => Ok(issued),
            // The same request was made at the same time.
            _ => match self.issued_before(request).await? {
                Some(issued) => Ok(issued),
                None => Err(invalid("an invitation with this id exists already")),
            },
        }
    }

    /// Returns the invitation that the same request has issued.
    async fn issued_before(&self, request: Option<&Repeatable<'_>>) -> Result<Option<IssuedInvitation>, AgentError> {
        let Some(request) = request else { return Ok(None) };
        let Some(key) = request.answer::<String>().await? else { return Ok(None) };
        match self.store.get::<IssuedInvitation>(&key).await? {
            Some((issued, _)) => Ok(Some(issued)),
            None => Err(invalid("the invitation of this request was revoked")),
        }
    }

    /// Returns at most `limit` issued invitations with keys after `after`, each with its key.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn list(&self, after: &str, limit: usize) -> Result<Vec<(String, IssuedInvitation)>, StoreError> {
        self.store.list(after, limit).await
    }

    /// Returns the issued invitation with this id, also if it was used or has expired.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn find(&self, id: &str) -> Result<Option<IssuedInvitation>, StoreError> {
        let issued = self.store.get::<IssuedInvitation>(&IssuedInvitation::key(id)).await?;
        Ok(issued.map(|(issued, _)| issued))
    }

    /// Revokes an issued invitation. An unknown id is no error.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn revoke(&self, id: &str) -> Result<(), StoreError> {
        self.store.delete::<IssuedInvitation>(&IssuedInvitation::key(id)).await
    }

    /// Returns the URL that contains an invitation, and the short URL to fetch the invitation from, if there is a
    /// public URL.
    pub fn urls(&self, invitation: &Invitation) -> (String, Option<String>) {
        let base = self.public_url.as_deref();
        let short = base.map(|base| format!("{}?_oobid={}", with_path(base), invitation.id));
        (invitation.to_url(&base.map_or_else(|| NO_PUBLIC_URL.to_owned(), with_path)), short)
    }

    /// Accepts an invitation, given as a URL or as JSON. The connection and a ping in the invitation's thread are
    /// stored together. `label` is our name for the peer.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if `text` contains no invitation or the invitation cannot be fetched, has expired or is
    /// our own, if the inviter's DID cannot be resolved, or if `from` is not one of our DIDs;
    /// [`AgentError::ConnectionEnded`] if the connection with the inviter has ended; [`AgentError::Blocked`] if the inviter
    /// is blocked; [`AgentError::LabelTaken`] if another peer has the label; [`AgentError::Store`] if the store fails.
    pub async fn accept(
        &self,
        text: &str,
        from: &str,
        label: Option<&Label>,
        request: Option<&Repeatable<'_>>,
    ) -> Result<AcceptedInvitation, AgentError> {
        if let Some(request) = request
            && let Some(accepted) = request.answer().await?
        {
            return Ok(accepted);
        }
        let invitation = match Invitation::parse(text).map_err(|error| invalid(error.to_string()))? {
            ParsedInvitation::Invitation(invitation) => *invitation,
            ParsedInvitation::Url(url) => self.fetch(&url).await?,
        };
        let Some(document) = self.own_dids.document(from) else {
            return Err(invalid(format!("{from} is not one of our DIDs")));
        };
        let own_did = document.id().to_owned();
        if invitation.expires_time.is_some_and(|expires| seconds_to_millis(expires) <= now()) {
            return Err(invalid("the invitation has expired"));
        }
        if self.own_dids.document(&invitation.from).is_some() {
            return Err(invalid("the invitation is our own"));
        }
        if self.blocked.contains(&invitation.from) {
            return Err(AgentError::Blocked(invitation.from));
        }
        self.resolver.resolve(&invitation.from).await.map_err(|error| invalid(error.to_string()))?;
        let peer_did = canonical_did(&invitation.from).into_owned();
        let key = Connection::key(&own_did, &peer_did);
        let existing = self.store.get::<Connection>(&key).await?;
        let begin = || (Connection::begun_by_us(&own_did, &peer_did, now()), 0);
        let (mut connection, revision) = existing.unwrap_or_else(begin);
        // A ping would not be sent.
        connection.check_open()?;
        let is_made = connection.become_known(now());
        let mut changes = vec![Change::Keep(peer_did.clone())];
        if let Some(label) = label {
            changes.extend(label_changes(&self.store, &peer_did, Some(label), Some(&key)).await?);
            connection.label = Some(label.as_str().to_owned());
        }
        if is_made {
            changes.extend(self.store.recorded_events().change(EventKind::ConnectionMade, || connection.made_data()));
        }
        changes.extend(self.known_peers.keep_long_form(&invitation.from).await?);
        connection.long_form_kept |= invitation.from.len() != peer_did.len();
        changes.push(self.store.put_change(&key, &connection, revision, None)?);
        let ping = new_message(PING, json!({ "response_requested": true }))
            .from(&own_did)
            .to(&peer_did)
            .pthid(&invitation.id)
            .finalize();
        let (id, ping) = (Message::new_id(), OutgoingMessage::new(ping));
        changes.push(self.store.send_change_as(&id, &ping, self.message_lifetime, true)?);
        let accepted = AcceptedInvitation { own_did, peer_did, invitation, ping: id };
        if let Some(request) = request {
            changes.push(request.change(&accepted)?);
        }
        if self.store.commit_changes(changes).await? == CommitOutcome::Committed {
            return Ok(accepted);
        }
        // The same request may have been made at the same time.
        let before = match request {
            Some(request) => request.answer().await?,
            None => None,
        };
        match before {
            Some(accepted) => Ok(accepted),
            None => Err(AgentError::Store(StoreError::Unavailable("the connection was changed meanwhile".to_owned()))),
        }
    }

    /// Fetches the invitation at a short URL. The server gives the invitation in the address of a redirect, or in the
    /// response body.
    async fn fetch(&self, url: &str) -> Result<Invitation, AgentError> {
        let client = self
            .http
            .as_ref()
            .ok_or_else(|| invalid(format!("{url} is not fetched: this agent has no HTTP client")))?;
        let limits = RequestLimits { max_response_bytes: MAX_LENGTH, ..RequestLimits::default() };
        let answer = client.get_untrusted(url, ACCEPT, limits).await.map_err(|error| invalid(error.to_string()))?;
        let found = match (answer.status, answer.location, answer.body) {
            (200, _, Ok(body)) => Invitation::parse(&String::from_utf8_lossy(&body)),
            (300..400, Some(to), _) => Invitation::parse(&to),
            (404 | 410, ..) => {
                return Err(invalid(format!("there is no invitation at {url}: it may have expired, or was revoked")));
            }
            (status, ..) => return Err(invalid(format!("{url} answers with status {status}"))),
        };
        match found.map_err(|error| invalid(format!("{url} leads to no valid invitation: {error}")))? {
            ParsedInvitation::Invitation(invitation) => Ok(*invitation),
            ParsedInvitation::Url(_) => Err(invalid(format!("{url} leads to a short URL again"))),
        }
    }
}

fn invalid(reason: impl Into<String>) -> AgentError {
    AgentError::Invalid(reason.into())
}

/// Adds the path `/` to a URL without a path, so that a query can be appended.
fn with_path(base: &str) -> String {
    let host = base.split_once("://").map_or(base, |(_, rest)| rest);
    if host.contains('/') { base.to_owned() } else { format!("{base}/") }
}

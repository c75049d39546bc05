//! Invitations, made and accepted (out-of-band 2.0).

use std::sync::Arc;

use serde_json::json;

use super::{
    Agent, Intent, NotSent,
    books::Books,
    clock::{now, of_seconds},
    net::Limits,
    ours::canonical,
    protocol::{
        Records,
        connections::{CONNECTION, Connection},
        invitations::{INVITATION, Issued},
        out_of_band::{Found, Invitation, MAX_LENGTH},
        trust_ping::PING,
    },
    store::{Change, Committed, Millis, StoreError},
};

/// An invitation that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Our DID that invites.
    pub from: String,
    /// What it is for, for people.
    pub goal: Option<String>,
    /// What it is for, for programs.
    pub goal_code: Option<String>,
    /// Whether any number of others may accept it.
    pub multi_use: bool,
    /// How long it is good, in milliseconds; without an end if none.
    pub good_for: Option<Millis>,
}

/// An invitation that was accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Our DID.
    pub ours: String,
    /// The DID of the one who invites.
    pub theirs: String,
    /// The invitation.
    pub invitation: Invitation,
    /// The name in the outbox of the ping that tells of it.
    pub ping: String,
}

/// What is asked for at a short URL.
const ACCEPT: &str = "application/didcomm-plain+json, application/json";
/// Where a URL points if the agent has no public one: an agent reads what is in it, and asks nobody.
const NOWHERE: &str = "didcomm://invite";

/// The invitations that were made here.
pub(super) struct Invitations {
    pub books: Arc<Books>,
    /// The URL of the page that people see who open one.
    pub public_url: Option<String>,
}

impl Invitations {
    /// One that is still good.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn find(&self, id: &str) -> Result<Option<Issued>, StoreError> {
        let record = self.books.read(INVITATION, &Issued::key(id)).await?;
        let issued = record.and_then(|(value, _)| serde_json::from_value::<Issued>(value).ok());
        Ok(issued.filter(|issued| issued.expires.is_none_or(|expires| expires > now())))
    }

    /// The URL that holds the invitation of this id, if it is still good.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn long_url(&self, id: &str) -> Result<Option<String>, StoreError> {
        Ok(self.find(id).await?.map(|issued| self.urls(&issued.invitation).0))
    }

    /// The URL that holds an invitation, and a short one by which it is fetched, if there is a public URL.
    pub fn urls(&self, invitation: &Invitation) -> (String, Option<String>) {
        let base = self.public_url.as_deref();
        let short = base.map(|base| format!("{}?_oobid={}", with_path(base), invitation.id));
        (invitation.to_url(&base.map_or_else(|| NOWHERE.to_owned(), with_path)), short)
    }
}

impl Agent {
    /// Makes an invitation.
    ///
    /// # Errors
    /// If `from` is none of our DIDs, or it cannot be kept.
    pub async fn invite(&self, wanted: Wanted) -> Result<Issued, NotSent> {
        if self.ours.document(&wanted.from).is_none() {
            return Err(NotSent::Message(format!("{} is none of our DIDs", wanted.from)));
        }
        let created = now();
        let mut invitation = Invitation::new(wanted.from);
        invitation.goal = wanted.goal;
        invitation.goal_code = wanted.goal_code;
        let expires = wanted.good_for.map(|time| created.saturating_add(time));
        invitation.expires_time = expires.map(|time| time.unsigned_abs() / 1000);
        let issued = Issued { invitation, created, expires, multi_use: wanted.multi_use, used_by: None };
        match self.books.put(INVITATION, &Issued::key(&issued.invitation.id), 0, &issued).await? {
            true => Ok(issued),
            false => Err(NotSent::Message("there is an invitation of this id".to_owned())),
        }
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revoke_invitation(&self, id: &str) -> Result<(), StoreError> {
        let change = Change::Delete { kind: INVITATION.to_owned(), key: Issued::key(id) };
        self.commit(vec![change]).await.map(drop)
    }

    /// Accepts an invitation, which is a URL or JSON: it is remembered whom we talk to, and a ping in its thread is kept, both or
    /// neither.
    ///
    /// # Errors
    /// If it is none, or has expired; or if it cannot be kept.
    pub async fn accept(&self, text: &str, from: &str, label: Option<String>) -> Result<Accepted, NotSent> {
        let wrong = |said: String| NotSent::Message(said);
        let invitation = match Invitation::find(text).map_err(|error| wrong(error.to_string()))? {
            Found::Invitation(invitation) => *invitation,
            Found::Fetch(url) => self.fetch_invitation(&url).await?,
        };
        let Some(document) = self.ours.document(from) else {
            return Err(wrong(format!("{from} is none of our DIDs")));
        };
        let ours = document.id().to_owned();
        if invitation.expires_time.is_some_and(|expires| of_seconds(expires) <= now()) {
            return Err(wrong("the invitation has expired".to_owned()));
        }
        if self.ours.document(&invitation.from).is_some() {
            return Err(wrong("the invitation is our own".to_owned()));
        }
        self.resolver.resolve(&invitation.from).await.map_err(|error| wrong(error.to_string()))?;
        let theirs = canonical(&invitation.from).to_owned();
        let key = Connection::key(&ours, &theirs);
        let known = self.books.read(CONNECTION, &key).await?;
        let (mut connection, revision) = match known {
            Some((value, revision)) => match serde_json::from_value(value) {
                Ok(connection) => (connection, revision),
                Err(error) => return Err(wrong(format!("the connection is damaged: {error}"))),
            },
            None => (Connection::new(&ours, &theirs, now()), 0),
        };
        connection.label = label.or(connection.label);
        let put = self.books.remember(CONNECTION.to_owned(), key, &connection, revision, None)?;
        let ping = Self::message(PING, json!({ "response_requested": true }))
            .from(&ours)
            .to(&theirs)
            .pthid(&invitation.id)
            .finalize();
        let intent = Intent { message: ping, sign: false, protect_sender: false };
        let (ping, send) = self.books.outgoing(&intent, self.options.outbox.life)?;
        match self.commit(vec![put, send]).await? {
            Committed::Done => Ok(Accepted { ours, theirs, invitation, ping }),
            _ => Err(NotSent::Store(StoreError::Unavailable("the connection was changed meanwhile".to_owned()))),
        }
    }
}

/// A URL with a path, so that a query can stand behind it.
fn with_path(base: &str) -> String {
    let host = base.split_once("://").map_or(base, |(_, rest)| rest);
    if host.contains('/') { base.to_owned() } else { format!("{base}/") }
}

impl Agent {
    /// What is found where a short URL leads: the address of a redirect, or the body.
    async fn fetch_invitation(&self, url: &str) -> Result<Invitation, NotSent> {
        let wrong = |said: String| NotSent::Message(said);
        let client = self.http.as_ref().ok_or_else(|| wrong(format!("{url}: nothing is fetched here")))?;
        let limits = Limits { answer: MAX_LENGTH, ..Limits::default() };
        let answer = client.get_untrusted(url, ACCEPT, limits).await.map_err(|error| wrong(error.to_string()))?;
        let found = match (answer.status, answer.location, answer.body) {
            (200, _, Ok(body)) => Invitation::find(&String::from_utf8_lossy(&body)),
            (300..400, Some(to), _) => Invitation::find(&to),
            (404 | 410, ..) => return Err(wrong(format!("there is no invitation at {url}: it may no longer be good"))),
            (status, ..) => return Err(wrong(format!("{url} answers with status {status}"))),
        };
        match found.map_err(|error| wrong(format!("what {url} leads to: {error}")))? {
            Found::Invitation(invitation) => Ok(*invitation),
            Found::Fetch(_) => Err(wrong(format!("{url} leads to a short URL again"))),
        }
    }
}

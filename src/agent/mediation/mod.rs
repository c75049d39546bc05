//! Behind a mediator (coordinate-mediation 2.0 and 3.0, messagepickup 3.0, message-pickup 4.0, as their recipient).
//!
//! An agent that nobody can connect to has a DID whose service names a mediator's routing DID. Peers leave what is for it
//! there, wrapped for the mediator, and it is fetched: as it comes on a WebSocket, else by asking now and then. The mediator is
//! told that it may forget a message once that is kept here. What it delivers twice is known by its digest.
//!
//! The conversation with a mediator is about nothing that has to outlive the process, so it goes neither by the inbox nor by
//! the outbox: a request that was not answered is made again.

mod error;
mod line;
mod session;
mod versions;

pub use error::MediationError;
pub use versions::{Coordination, Pickup};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::Instant,
};

use super::{
    books::Books,
    clock::{full_jitter, now},
    inbox::Inbox,
    net::{HttpClient, WebSocketClient},
    ours::{Ours, canonical},
    outbox::Outbox,
    protocol::{
        Records,
        connections::{CONNECTION, Connection},
    },
    store::{Change, Commit, Committed, Millis, StoreError},
    told_to_end,
};
use crate::did::Resolver;
use session::Session;

/// The kind of the records of mediators, by their DIDs.
pub const MEDIATOR: &str = "mediator";

/// A mediator that takes messages for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mediator {
    /// Its DID.
    pub did: String,
    /// Our DID that it knows.
    pub ours: String,
    /// The versions of its protocols.
    pub coordination: Coordination,
    /// The same of how messages are fetched.
    pub pickup: Pickup,
    /// The DIDs that a service of ours names, so that messages come to it.
    pub routing: Vec<String>,
    /// Since when.
    pub since: Millis,
    /// The names of our DIDs for which it takes messages.
    pub registered: Vec<String>,
}

/// How it stands with a mediator now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "problem")]
pub enum Reach {
    /// It is not known yet.
    #[default]
    Connecting,
    /// It delivers messages as they come.
    Live,
    /// It is asked now and then.
    Polling,
    /// It is not reached, and tried again.
    Away(String),
}

/// How messages are fetched from mediators.
#[derive(Debug, Clone)]
pub struct MediationOptions {
    /// Whether a WebSocket is used where there is one.
    pub live: bool,
    /// How often a mediator is asked that does not deliver as messages come: every 30 seconds.
    pub poll: Duration,
}

impl Default for MediationOptions {
    fn default() -> Self {
        Self { live: true, poll: Duration::from_secs(30) }
    }
}

/// Messages that are fetched at once.
const AT_ONCE: usize = 10;
/// A mediator that delivers as messages come is asked for what it may have passed over; one that has a WebSocket and did not
/// open it is tried again.
const LOOK: Duration = Duration::from_secs(300);
/// The first pause before a mediator is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Mediators of one agent, at most.
const MOST: usize = 100;
/// A record may be changed meanwhile.
const ATTEMPTS: usize = 10;

/// Uses mediators.
pub struct Mediation {
    parts: Parts,
    options: MediationOptions,
    reach: Mutex<HashMap<String, Reach>>,
    /// Held by who tells a mediator of our DIDs, until what it has taken is written: the record and the mediator agree.
    telling: tokio::sync::Mutex<()>,
    /// Counts what has changed: our documents, the mediators.
    changed: watch::Sender<u64>,
}

/// What it stands on.
pub(super) struct Parts {
    pub books: Arc<Books>,
    pub ours: Arc<Ours>,
    pub resolver: Arc<dyn Resolver>,
    pub inbox: Arc<Inbox>,
    pub outbox: Arc<Outbox>,
    pub http: Option<HttpClient>,
    pub sockets: Option<WebSocketClient>,
}

impl Mediation {
    /// One that has not begun to work.
    pub(super) fn new(parts: Parts, options: MediationOptions) -> Self {
        Self {
            parts,
            options,
            reach: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Our documents have changed: mediators may have to be told.
    pub fn look_again(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Asks a mediator to be ours; one that is already is asked again, and may say something else today.
    ///
    /// # Errors
    /// Why it is not: nothing is kept then.
    pub async fn adopt(&self, did: &str, ours: &str) -> Result<Mediator, MediationError> {
        let Some(document) = self.parts.ours.document(&self.parts.books.ours_by_now(ours).await?) else {
            return Err(MediationError::Wrong(format!("{ours} is none of our DIDs")));
        };
        if self.parts.books.list::<Mediator>(MEDIATOR, "", MOST).await?.len() >= MOST {
            return Err(MediationError::Wrong(format!("there are {MOST} mediators already")));
        }
        if document.names(did) {
            return Err(MediationError::Wrong("a mediator is somebody else".to_owned()));
        }
        let mut session =
            Session::open(&self.parts, did, document.id(), self.options.live, (Coordination::V3, Pickup::V3)).await?;
        let granted = async {
            let says = session.discover().await?;
            match session.request().await {
                Err(MediationError::Away(_)) if says == Some(false) => Err(MediationError::Unusable(
                    "it does not say that it speaks coordinate-mediation, and does not answer".to_owned(),
                )),
                // It may speak the older version, and not have said so.
                Err(MediationError::Denied(why))
                    if session.coordination == Coordination::V3 && why.starts_with("e.") =>
                {
                    session.coordination = Coordination::V2;
                    session.request().await
                }
                answer => answer,
            }
        };
        let granted = granted.await;
        let (coordination, pickup) = (session.coordination, session.pickup);
        session.close().await;
        let routing: Vec<String> = granted?.into_iter().filter(|did| did.starts_with("did:")).collect();
        if routing.is_empty() {
            return Err(MediationError::Unusable("it grants mediation, and names no DID that routes to it".to_owned()));
        }
        let ours = document.id().to_owned();
        let mediator = Mediator {
            did: did.to_owned(),
            ours: ours.clone(),
            coordination,
            pickup,
            routing,
            since: now(),
            registered: Vec::new(),
        };
        self.keep(&mediator).await?;
        self.look_again();
        Ok(mediator)
    }

    /// Remembers it, and that we know each other: a change of our DID is told it too.
    async fn keep(&self, mediator: &Mediator) -> Result<(), MediationError> {
        let books = &self.parts.books;
        for _ in 0..ATTEMPTS {
            let revision = books.read(MEDIATOR, canonical(&mediator.did)).await?.map_or(0, |(_, revision)| revision);
            let key = canonical(&mediator.did).to_owned();
            let mut changes = vec![books.remember(MEDIATOR.to_owned(), key, mediator, revision, None)?];
            let connection = Connection::key(&mediator.ours, &mediator.did);
            if books.read(CONNECTION, &connection).await?.is_none() {
                let met = Connection::new(&mediator.ours, &mediator.did, mediator.since);
                changes.push(books.remember(CONNECTION.to_owned(), connection, &met, 0, None)?);
            }
            if books.store().commit(Commit { changes, ..Commit::default() }).await? == Committed::Done {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("the mediator's record is changed by others".to_owned()).into())
    }

    /// Leaves a mediator: it is asked to take no more messages for us, and what waits there is fetched first.
    ///
    /// # Errors
    /// If it cannot be told; with `force` it is forgotten all the same.
    pub async fn leave(&self, did: &str, force: bool) -> Result<Mediator, MediationError> {
        let _telling = self.telling.lock().await;
        let mediator = self.mediator(did).await?.ok_or_else(|| MediationError::Unknown(did.to_owned()))?;
        let told = async {
            let mut session = self.session(&mediator, false).await?;
            session.drain(AT_ONCE).await?;
            if !mediator.registered.is_empty() {
                session.update(&[], &mediator.registered).await?;
            }
            session.drain(AT_ONCE).await?;
            session.close().await;
            Ok::<_, MediationError>(())
        };
        match told.await {
            Err(error) if !force => return Err(error),
            told => {
                if let Err(error) = told {
                    tracing::warn!(%error, mediator = did, "a mediator is left without a word");
                }
            }
        }
        let delete = Change::Delete { kind: MEDIATOR.to_owned(), key: canonical(&mediator.did).to_owned() };
        self.parts.books.store().commit(Commit { changes: vec![delete], ..Commit::default() }).await?;
        self.look_again();
        Ok(mediator)
    }

    /// The mediators, how it stands with each, and those names of our DIDs that it does not take messages for yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn mediators(&self) -> Result<Vec<(Mediator, Reach, Vec<String>)>, StoreError> {
        let all = self.parts.books.list::<Mediator>(MEDIATOR, "", MOST).await?;
        let each = all.into_iter().map(|(key, mediator)| {
            let reach = self.reach().get(&key).cloned().unwrap_or_default();
            let missing = self.parts.ours.behind(&mediator.routing);
            let missing = missing.into_iter().filter(|name| !mediator.registered.contains(name)).collect();
            (mediator, reach, missing)
        });
        Ok(each.collect())
    }

    async fn mediator(&self, did: &str) -> Result<Option<Mediator>, StoreError> {
        self.parts.books.remembered(MEDIATOR, canonical(did)).await
    }

    /// Fetches messages from all of them until `shutdown` says so.
    pub async fn work(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.parts.books.unlocked() => {}
            () = told_to_end(&mut shutdown) => return,
        }
        let mut changed = self.changed.subscribe();
        let mut served: HashMap<Id, String> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            changed.borrow_and_update();
            match self.parts.books.list::<Mediator>(MEDIATOR, "", MOST).await {
                Ok(all) => {
                    for (key, _) in all {
                        if !served.values().any(|other| *other == key) {
                            let task = tasks.spawn(self.clone().attend(key.clone(), shutdown.clone()));
                            served.insert(task.id(), key);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the mediators are not known yet"),
            }
            tokio::select! {
                () = told_to_end(&mut shutdown) => break,
                _ = changed.changed() => {}
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => match ended {
                    Ok((task, ())) => drop(served.remove(&task)),
                    Err(error) => {
                        tracing::error!(%error, "a task for a mediator ended by a fault of this program, and is begun again");
                        served.remove(&error.id());
                        tokio::time::sleep(FIRST_PAUSE).await;
                    }
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Stays in touch with one mediator for as long as it is ours.
    async fn attend(self: Arc<Self>, key: String, mut shutdown: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut at_once = AT_ONCE;
        let mut changed = self.changed.subscribe();
        let mut keys = self.parts.ours.secrets().keys();
        while !*shutdown.borrow() {
            changed.borrow_and_update();
            keys.borrow_and_update();
            let mut well = false;
            let ended = match self.mediator(&key).await {
                Ok(None) => break,
                Ok(Some(mediator)) => tokio::select! {
                    ended = self.converse(mediator, at_once, &mut changed, &mut well) => ended,
                    // Given up anywhere, nothing is lost: what was not acknowledged stays with the mediator.
                    () = told_to_end(&mut shutdown) => break,
                },
                Err(error) => Err(error.into()),
            };
            failures = if well { 0 } else { failures + 1 };
            if well {
                // What was too large together has come one by one.
                at_once = AT_ONCE;
            }
            let Err(error) = ended else { continue };
            tracing::info!(%error, mediator = key, "a mediator is tried again");
            if let MediationError::TooLarge(_) = error {
                at_once = 1;
            }
            self.note(&key, Reach::Away(error.to_string()));
            let token = matches!(error, MediationError::Token(_));
            let pause = full_jitter(FIRST_PAUSE, LONGEST_PAUSE, failures.max(1));
            tokio::select! {
                () = told_to_end(&mut shutdown) => {}
                _ = changed.changed() => {}
                Ok(()) = keys.changed(), if token => self.parts.ours.refresh(),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.reach().remove(&key);
    }

    /// One conversation: it ends with an error, when the mediator is left, or to look whether there is a WebSocket now. `well` is
    /// set once all is said that has to be.
    async fn converse(
        &self,
        mediator: Mediator,
        at_once: usize,
        changed: &mut watch::Receiver<u64>,
        well: &mut bool,
    ) -> Result<(), MediationError> {
        let mut session = self.session(&mediator, self.options.live).await?;
        // Said again each time: it may have forgotten.
        self.register(&mut session, &mediator.did, true).await?;
        let live = session.is_live() && session.go_live().await?;
        session.drain(at_once).await?;
        *well = true;
        self.note(&mediator.did, if live { Reach::Live } else { Reach::Polling });
        tracing::info!(mediator = mediator.did, live, "messages are fetched from a mediator");
        let every = if live { LOOK } else { self.options.poll };
        let begun = Instant::now();
        let mut look = begun + every;
        loop {
            tokio::select! {
                _ = changed.changed() => {
                    if !self.register(&mut session, &mediator.did, false).await? {
                        break;
                    }
                }
                frame = session.frame(), if session.is_live() => session.hear(frame?).await?,
                () = tokio::time::sleep_until(look) => {
                    session.drain(at_once).await?;
                    look = Instant::now() + every;
                }
            }
            if std::mem::take(&mut session.more) {
                session.drain(at_once).await?;
            }
            if self.options.live && !session.is_live() && begun.elapsed() > LOOK {
                break;
            }
        }
        session.close().await;
        Ok(())
    }

    async fn session(&self, mediator: &Mediator, live: bool) -> Result<Session<'_>, MediationError> {
        let versions = (mediator.coordination, mediator.pickup);
        // Either may have moved; the mediator is told by the outbox, as every peer.
        let ours = self.parts.books.ours_by_now(&mediator.ours).await?;
        let theirs = self.parts.books.theirs_by_now(&ours, &mediator.did).await?;
        Session::open(&self.parts, &theirs, &ours, live, versions).await
    }

    /// Has the mediator take messages for those DIDs of ours that name it, and for no others. False if it was left.
    async fn register(&self, session: &mut Session<'_>, did: &str, all: bool) -> Result<bool, MediationError> {
        let _telling = self.telling.lock().await;
        let Some(mediator) = self.mediator(did).await? else { return Ok(false) };
        let wanted = self.parts.ours.behind(&mediator.routing);
        let known = |name: &&String| mediator.registered.contains(*name);
        let add: Vec<String> = wanted.iter().filter(|name| all || !known(name)).cloned().collect();
        // One whose token has not come yet may be behind it still.
        let stays = |name: &&String| wanted.contains(name) || self.parts.ours.is_undecided(name);
        let remove: Vec<String> = mediator.registered.iter().filter(|name| !stays(name)).cloned().collect();
        if add.is_empty() && remove.is_empty() {
            return Ok(true);
        }
        let taken = session.update(&add, &remove).await?;
        let mut registered: Vec<String> =
            mediator.registered.iter().filter(|name| !add.contains(name) && !remove.contains(name)).cloned().collect();
        registered.extend(taken);
        registered.sort();
        if registered == mediator.registered {
            return Ok(true);
        }
        for _ in 0..ATTEMPTS {
            let key = canonical(&mediator.did);
            let Some((value, revision)) = self.parts.books.read(MEDIATOR, key).await? else { return Ok(false) };
            let Ok(mut now) = serde_json::from_value::<Mediator>(value) else { return Ok(true) };
            now.registered.clone_from(&registered);
            if self.parts.books.put(MEDIATOR, key, revision, &now).await? {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn note(&self, did: &str, reach: Reach) {
        self.reach().insert(canonical(did).to_owned(), reach);
    }

    fn reach(&self) -> MutexGuard<'_, HashMap<String, Reach>> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

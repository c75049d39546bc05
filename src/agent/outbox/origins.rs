//! How much of the outbox each origin may hold: a window of permits, and a circuit breaker.
//!
//! An origin is the server of an endpoint. Strangers name origins, and some of them never answer. So an origin that has
//! not accepted a message yet gets two permits, shares a few with its *neighbourhood* (the network of its address, or the
//! domain of its name), and shares [`OutboxOptions::concurrent_unknown`] with all such origins. With each accepted message
//! its window grows. With each failure the window shrinks, and the breaker opens for a pause that doubles. Every waiting
//! line is first come, first served. Messages to strangers wait in lines of their own, and leave one permit of an origin:
//! a stranger may name the server of a known peer. A server that behaves may stop doing so: the messages to strangers of
//! one neighbourhood have a limit whatever it has accepted, and less time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    gate::{FIRST_SEND_LIMIT, Gate, OriginLimits, Paused},
    neighbourhood::names,
    options::OutboxOptions,
};

/// The window of an origin that has accepted no message yet.
const FIRST_WINDOW: usize = 2;
/// The permits of the unproven origins of one neighbourhood.
const NEIGHBOURHOOD_WINDOW: usize = 4;
/// The part of the strangers' permits that the proven origins of one neighbourhood may hold.
const NEIGHBOURHOOD_PART: usize = 12;
/// The part of all permits, in quarters, that messages to strangers may hold.
const STRANGERS_QUARTERS: usize = 3;
/// How many messages to known peers in a row an origin may answer with an error. It may serve its other peers well.
const MAX_ERROR_ANSWERS: u32 = 8;
/// How many failures in a row end the proof that an origin accepts messages.
const UNPROVEN_AFTER: u32 = 5;
/// How many origins and neighbourhoods are remembered.
const MAX_REMEMBERED: usize = 4096;

/// The time to connect to an origin that is not proven.
const REACH_LIMIT: Duration = Duration::from_secs(5);

/// The origins that messages go to.
pub(super) struct Origins {
    known: Mutex<HashMap<String, Arc<Gate>>>,
    /// All permits.
    all: Arc<Semaphore>,
    /// The permits of messages to strangers. The rest is kept for the application's messages and known peers.
    strangers: Arc<Semaphore>,
    /// The permits of origins that have accepted no message yet.
    unknown: Arc<Semaphore>,
    /// The permits of messages to strangers that are connected. They are not among all permits: a stranger may read slowly.
    connected_strangers: Arc<Semaphore>,
    /// The permits of messages to strangers at the proven origins of one neighbourhood.
    proven_neighbourhood: usize,
    limits: OriginLimits,
}

/// The permission to send one message to an origin. Dropping it without a result leaves the origin as it was.
pub(super) struct OriginPermit {
    gate: Arc<Gate>,
    limits: OriginLimits,
    slot: Option<OwnedSemaphorePermit>,
    _others: Vec<OwnedSemaphorePermit>,
    /// Not forgotten as long as one of its permits is held.
    _neighbourhood: Option<Arc<Gate>>,
    had_room: bool,
    is_proven: bool,
    send_limit: Duration,
    audience: Audience,
}

/// Who the message of a permit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A peer that the application or the operator knows.
    Known,
    /// A stranger, who gets an automatic reply.
    Stranger,
}

impl Origins {
    pub fn new(options: &OutboxOptions) -> Self {
        let strangers = (options.concurrent * STRANGERS_QUARTERS / 4).max(1);
        Self {
            known: Mutex::default(),
            all: Arc::new(Semaphore::new(options.concurrent.max(1))),
            strangers: Arc::new(Semaphore::new(strangers)),
            unknown: Arc::new(Semaphore::new(options.concurrent_unknown.clamp(1, strangers))),
            connected_strangers: Arc::new(Semaphore::new((options.concurrent / 4).max(1))),
            proven_neighbourhood: (strangers / NEIGHBOURHOOD_PART).max(NEIGHBOURHOOD_WINDOW),
            limits: OriginLimits {
                max_window: options.concurrent_per_origin.max(1),
                first_pause: options.first_pause,
                longest_pause: options.longest_origin_pause,
            },
        }
    }

    /// Waits for the permits to send one message to the origin of `uri`.
    ///
    /// # Errors
    /// [`Paused`] if the origin's breaker is open, or opens meanwhile.
    pub async fn enter(&self, uri: &str, audience: Audience) -> Result<OriginPermit, Paused> {
        let (origin, neighbourhood) = names(uri);
        let gate = self.gate(origin, FIRST_WINDOW);
        gate.check()?;
        let mut others = Vec::new();
        let mut near = None;
        let was_proven = gate.state().is_proven;
        if audience == Audience::Stranger {
            others.extend(acquire(&gate.strangers).await);
            gate.check()?;
            let (name, window) = match was_proven {
                true => (format!("{neighbourhood}, proven"), self.proven_neighbourhood),
                false => (neighbourhood, NEIGHBOURHOOD_WINDOW),
            };
            let gate = near.insert(self.gate(name, window));
            others.extend(acquire(&gate.window).await);
        }
        // A stranger's messages wait in several lines.
        let is_free = |permits: &Semaphore| audience == Audience::Known && permits.available_permits() > 0;
        let had_room = is_free(&gate.window) && is_free(&self.all);
        let slot = acquire(&gate.window).await;
        gate.check()?;
        // The application's own messages do not stand in the line of the strangers' servers.
        if audience == Audience::Stranger {
            if !was_proven {
                others.extend(acquire(&self.unknown).await);
            }
            others.extend(acquire(&self.strangers).await);
        }
        others.extend(acquire(&self.all).await);
        gate.check()?;
        let (is_proven, mut send_limit) = {
            let state = gate.state();
            (state.is_proven && state.failures == 0, state.send_limit())
        };
        if audience == Audience::Stranger {
            send_limit = send_limit.min(FIRST_SEND_LIMIT);
        }
        let (limits, _others, _neighbourhood) = (self.limits, others, near);
        Ok(OriginPermit { gate, limits, slot, _others, _neighbourhood, had_room, is_proven, send_limit, audience })
    }

    /// Waits for a permit for a message that needs no origin, since its peer is connected or one of our DIDs.
    pub async fn enter_any(&self, audience: Audience) -> Option<OwnedSemaphorePermit> {
        match audience {
            Audience::Known => acquire(&self.all).await,
            Audience::Stranger => acquire(&self.connected_strangers).await,
        }
    }

    /// Closes the breaker of the origin of `uri` for one attempt, because a person asks for it.
    pub fn allow_attempt(&self, uri: &str) {
        self.gate(names(uri).0, FIRST_WINDOW).state().open_until = Instant::now();
    }

    /// How many breakers are open.
    pub fn open_breakers(&self) -> usize {
        let now = Instant::now();
        self.known().values().filter(|gate| gate.state().open_until > now).count()
    }

    fn gate(&self, name: String, window: usize) -> Arc<Gate> {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED && !known.contains_key(&name) {
            forget_some(&mut known);
        }
        let gate = known.entry(name).or_insert_with(|| Arc::new(Gate::new(window))).clone();
        drop(known);
        gate.state().used = Instant::now();
        gate
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Gate>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OriginPermit {
    /// Whether the origin accepted the last message. Otherwise it should be reached before a message is packed.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Whether the origin had a permit that nobody waited for.
    pub fn had_room(&self) -> bool {
        self.had_room
    }

    /// The time to connect.
    pub fn reach_limit(&self) -> Duration {
        REACH_LIMIT.min(self.send_limit)
    }

    /// The time for the message.
    pub fn send_limit(&self) -> Duration {
        self.send_limit
    }

    /// The origin has accepted the message.
    pub fn accepted(self) {
        let (grows, is_largest) = {
            let mut state = self.gate.state();
            (state.is_proven, state.failures, state.error_answers) = (true, 0, 0);
            state.open_until = Instant::now();
            let grows = state.size < self.limits.max_window && state.earns_growth();
            state.size += usize::from(grows);
            // A permit that would be taken back stays.
            let keeps = grows && state.excess > 0;
            state.excess -= usize::from(keeps);
            let is_largest = state.size > state.largest;
            state.largest = state.largest.max(state.size);
            (grows && !keeps, is_largest)
        };
        self.gate.window.add_permits(grows.into());
        self.gate.strangers.add_permits(is_largest.into());
    }

    /// The origin has answered, and not accepted the message. Strangers can cause that at any server, such as a mediator
    /// that does not know them: their failures must not pause it for others.
    pub fn answered_with_error(self, problem: &str) {
        let mut state = self.gate.state();
        state.error_answers += u32::from(self.audience == Audience::Known);
        if state.error_answers >= MAX_ERROR_ANSWERS && self.audience == Audience::Known {
            state.failures = state.failures.saturating_add(1);
            state.open(self.limits, problem);
        }
    }

    /// The origin cannot be reached, or has not answered in time.
    pub fn failed(self, problem: &str) {
        let mut state = self.gate.state();
        state.failures = state.failures.saturating_add(1);
        let size = (state.size / 2).max(1);
        state.excess += state.size - size;
        (state.size, state.threshold, state.accepted) = (size, size, 0);
        // One broken connection among many says little about a server that serves others.
        if !state.is_proven || state.failures > 1 {
            state.open(self.limits, problem);
        }
        state.is_proven &= state.failures < UNPROVEN_AFTER;
    }
}

impl Drop for OriginPermit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.excess > 0
            && let Some(slot) = self.slot.take()
        {
            state.excess -= 1;
            slot.forget();
        }
    }
}

/// Returns `None` never: the semaphores are not closed.
async fn acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    semaphore.clone().acquire_owned().await.ok()
}

/// Forgets a quarter of the gates that nobody uses now: first those that are not proven, and of these the oldest.
fn forget_some(known: &mut HashMap<String, Arc<Gate>>) {
    let mut idle: Vec<_> = known
        .iter()
        .filter(|(_, gate)| Arc::strong_count(gate) == 1)
        .map(|(name, gate)| {
            let state = gate.state();
            (state.is_proven, state.used, name.clone())
        })
        .collect();
    idle.sort();
    for (.., name) in idle.into_iter().take(MAX_REMEMBERED / 4) {
        known.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, future::join_all};
    use tokio::task::unconstrained;

    use super::*;
    use crate::agent::outbox::gate::{SEND_LIMIT, SHORT_SEND_LIMIT};

    const HERE: &str = "https://a.example/in";

    fn origins() -> Origins {
        Origins::new(&OutboxOptions { concurrent_per_origin: 8, concurrent_unknown: 6, ..OutboxOptions::default() })
    }

    async fn prove(origins: &Origins, uri: &str) {
        origins.enter(uri, Audience::Known).await.ok().unwrap().accepted();
    }

    /// `None` if the permit would have to be waited for. Tokio's budget for one task does not count.
    fn try_enter(origins: &Origins, uri: &str, audience: Audience) -> Option<Result<OriginPermit, Paused>> {
        unconstrained(origins.enter(uri, audience)).now_or_never()
    }

    /// Takes permits until the next one would have to wait.
    fn take_all(origins: &Origins, audience: Audience, uri: impl Fn(usize) -> String) -> Vec<OriginPermit> {
        let take = |number| try_enter(origins, &uri(number), audience)?.ok();
        (0..1000).map_while(take).collect()
    }

    #[tokio::test]
    async fn a_window_grows_with_success_and_shrinks_with_failures() {
        let origins = origins();
        let here = |origins: &Origins| take_all(origins, Audience::Known, |_| HERE.to_owned());
        assert_eq!(here(&origins).len(), FIRST_WINDOW);
        prove(&origins, HERE).await;
        assert_eq!(here(&origins).len(), FIRST_WINDOW + 1);
        for _ in 0..10 {
            prove(&origins, HERE).await;
        }
        let mut permits = here(&origins);
        assert_eq!(permits.len(), 8, "the largest window");
        assert!(permits.iter().all(|permit| permit.is_proven() && permit.send_limit() == SEND_LIMIT));
        // All hang. The window closes while the permits are out, and the breaker opens at the second failure.
        permits.remove(0).failed("no answer");
        assert!(try_enter(&origins, HERE, Audience::Known).is_none(), "the window is full");
        permits.remove(0).failed("no answer");
        let paused = origins.enter(HERE, Audience::Known).await.err().unwrap();
        assert_eq!(paused.problem, "no answer");
        drop(permits);
        origins.gate(names(HERE).0, 0).state().open_until = Instant::now();
        let one = here(&origins);
        assert_eq!(one.len(), 2, "a quarter of 8");
        assert!(one.iter().all(|permit| !permit.is_proven() && permit.send_limit() == SHORT_SEND_LIMIT));
        one.into_iter().for_each(OriginPermit::accepted);
        // From half of the largest window that failed, it grows by one with as many successes as it has permits.
        assert_eq!(here(&origins).len(), 3);
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_paused_at_once() {
        let origins = origins();
        origins.enter(HERE, Audience::Stranger).await.ok().unwrap().failed("connection refused");
        // The pause is random and may be over.
        origins.gate(names(HERE).0, 0).state().open_until = Instant::now() + Duration::from_secs(60);
        assert_eq!(origins.enter(HERE, Audience::Known).await.err().unwrap().problem, "connection refused");
        assert_eq!(origins.open_breakers(), 1);
    }

    #[tokio::test]
    async fn a_server_is_not_paused_for_the_errors_of_strangers() {
        let origins = origins();
        for number in 0..=3 * (MAX_ERROR_ANSWERS - 1) {
            let audience = if number % 3 == 0 { Audience::Known } else { Audience::Stranger };
            assert_eq!(origins.open_breakers(), 0);
            origins.enter(HERE, audience).await.ok().unwrap().answered_with_error("status 404");
        }
        assert_eq!(origins.gate(names(HERE).0, 0).state().problem, "status 404");
    }

    #[tokio::test]
    async fn those_who_wait_are_told_when_the_breaker_opens() {
        let origins = Arc::new(origins());
        let mut permits = take_all(&origins, Audience::Stranger, |_| HERE.to_owned());
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let origins = origins.clone();
                tokio::spawn(async move { origins.enter(HERE, Audience::Stranger).await.err() })
            })
            .collect();
        tokio::task::yield_now().await;
        permits.remove(0).failed("no answer");
        origins.gate(names(HERE).0, 0).state().open_until = Instant::now() + Duration::from_secs(60);
        drop(permits);
        let told = join_all(waiting).await;
        assert!(told.into_iter().all(|paused| paused.unwrap().is_some_and(|paused| paused.problem == "no answer")));
    }

    #[tokio::test]
    async fn strangers_share_few_permits_and_leave_the_rest() {
        let origins = origins();
        let honest = "http://127.0.0.1:1/";
        prove(&origins, honest).await;
        // Many ports of one address, many subdomains, many networks.
        let ports = take_all(&origins, Audience::Stranger, |number| format!("http://127.0.0.1:{}/", number + 2));
        assert_eq!(ports.len(), NEIGHBOURHOOD_WINDOW);
        let names = take_all(&origins, Audience::Stranger, |number| format!("https://{number}.evil.example/"));
        assert_eq!(names.len(), 6 - NEIGHBOURHOOD_WINDOW, "the permits of unknown origins");
        assert!(take_all(&origins, Audience::Stranger, |number| format!("http://10.{number}.0.1/")).is_empty());
        // A proven origin is served, and so is the application's first message to a new origin.
        assert!(try_enter(&origins, honest, Audience::Stranger).is_some());
        assert!(try_enter(&origins, "http://127.0.0.1:2000/", Audience::Known).is_some());
        drop((ports, names));
        // Proven origins of strangers leave a quarter.
        let proven: Vec<String> = (0..100).map(|number| format!("http://10.{number}.0.1/")).collect();
        for uri in &proven {
            prove(&origins, uri).await;
        }
        let held: Vec<_> =
            proven.iter().flat_map(|uri| take_all(&origins, Audience::Stranger, |_| uri.clone())).collect();
        assert_eq!(held.len(), 192);
        assert!(try_enter(&origins, honest, Audience::Stranger).is_none());
        assert!(try_enter(&origins, honest, Audience::Known).is_some());
    }

    /// Servers of strangers may accept messages until their windows are large, and then stall.
    #[tokio::test]
    async fn proven_servers_of_one_neighbourhood_share_permits() {
        let origins = origins();
        let port = |number: usize| format!("http://127.0.0.1:{number}/");
        for number in 1..=4 {
            for _ in 0..10 {
                prove(&origins, &port(number)).await;
            }
        }
        let held: Vec<_> =
            (1..=4).flat_map(|number| take_all(&origins, Audience::Stranger, |_| port(number))).collect();
        assert_eq!(held.len(), 16);
        assert!(held.iter().all(|permit| permit.is_proven() && permit.send_limit() == FIRST_SEND_LIMIT));
        // Known peers, new servers, and servers elsewhere are served.
        assert!(try_enter(&origins, &port(4), Audience::Known).is_some());
        assert!(try_enter(&origins, &port(5), Audience::Stranger).is_some());
        prove(&origins, HERE).await;
        assert!(try_enter(&origins, HERE, Audience::Stranger).is_some());
        // The permits are held, so the neighbourhood is not forgotten.
        for number in 0..2 * MAX_REMEMBERED {
            drop(origins.gate(number.to_string(), 1));
        }
        assert!(try_enter(&origins, &port(1), Audience::Stranger).is_none());
        drop(held);
        assert!(try_enter(&origins, &port(1), Audience::Stranger).is_some());
    }

    /// Strangers may name the server of a known peer, and may be connected and read nothing.
    #[tokio::test]
    async fn messages_to_known_peers_do_not_wait_behind_those_to_strangers() {
        let origins = origins();
        assert_eq!(take_all(&origins, Audience::Stranger, |_| HERE.to_owned()).len(), FIRST_WINDOW - 1);
        for _ in 0..20 {
            prove(&origins, HERE).await;
        }
        let held = take_all(&origins, Audience::Stranger, |_| HERE.to_owned());
        assert_eq!(held.len(), 7, "all but one");
        let mut waiting = Box::pin(origins.enter(HERE, Audience::Stranger));
        assert!(unconstrained(&mut waiting).now_or_never().is_none());
        assert!(try_enter(&origins, HERE, Audience::Known).is_some());
        let enter_any = |audience| unconstrained(origins.enter_any(audience)).now_or_never().flatten();
        let connected: Vec<_> = std::iter::from_fn(|| enter_any(Audience::Stranger)).collect();
        assert_eq!(connected.len(), 64);
        assert!(enter_any(Audience::Known).is_some());
    }

    #[test]
    fn the_number_of_remembered_origins_is_bounded() {
        let origins = origins();
        let kept = origins.gate("kept".to_owned(), 1);
        kept.state().is_proven = true;
        drop(kept);
        for number in 0..3 * MAX_REMEMBERED {
            drop(origins.gate(number.to_string(), 1));
        }
        assert!(origins.known().len() <= MAX_REMEMBERED);
        assert!(origins.known().contains_key("kept"));
    }
}

//! The events of tokens that get ready, go away or are locked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    agent::Agent,
    clock::{Millis, now},
    event::EventKind,
    store::StoreError,
    token_report::{TokenReport, state_name},
};
use crate::secrets::KeyState;

/// The interval at which the states are read. Reading them costs no operation of a token.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a token must be away before that is told: a keeper that is replaced takes a moment.
const MIN_AWAY: Millis = 5000;
/// The same after the start of the agent: a token takes a while to get ready.
const START_TIME: Duration = Duration::from_secs(30);
/// How many earlier events are read at once.
const PAGE_SIZE: usize = 1000;

/// What was told of each token last: its state, and why.
type Told = HashMap<String, (String, Option<String>)>;

impl Agent {
    /// Records changes of the tokens' states, until `shutdown` is cancelled. What was told before a restart is not told again.
    pub(super) async fn record_token_changes(self: Arc<Self>, shutdown: CancellationToken) {
        let start = Instant::now();
        let mut told = None;
        loop {
            if self.store.recorded_events().contains(EventKind::TokenChanged)
                && let Err(error) = self.record_tokens(&mut told, start.elapsed() >= START_TIME).await
            {
                tracing::debug!(%error, "token states not recorded yet");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(INTERVAL) => {}
            }
        }
    }

    async fn record_tokens(&self, told: &mut Option<Told>, has_started: bool) -> Result<(), StoreError> {
        let told = match told {
            Some(told) => told,
            None => told.insert(self.told_tokens().await?),
        };
        for report in self.tokens() {
            let is_settled = report.state != KeyState::Away || (has_started && now() - report.since >= MIN_AWAY);
            let code = report.problem.as_ref().map(|problem| problem.code.to_owned());
            let new = (state_name(report.state).to_owned(), code);
            // A token of which nothing was told is expected to be ready.
            let is_known = match told.get(&report.name) {
                Some(old) => *old == new,
                None => report.state == KeyState::Ready,
            };
            if !is_settled || is_known {
                continue;
            }
            let node = self.node_name().await?;
            let change =
                self.store.recorded_events().change(EventKind::TokenChanged, || data(&report, node.as_deref()));
            self.store.commit_changes(change.into_iter().collect()).await?;
            told.insert(report.name, new);
        }
        Ok(())
    }

    /// The name of this node; `None` if the store has no nodes.
    async fn node_name(&self) -> Result<Option<String>, StoreError> {
        Ok(self.nodes().await?.into_iter().find(|node| node.is_this).map(|node| node.name))
    }

    /// What the recorded events of this node say of each token last.
    async fn told_tokens(&self) -> Result<Told, StoreError> {
        let node = self.node_name().await?;
        let (mut told, mut after) = (Told::new(), 0);
        loop {
            let page = self.store.inner().events(after, &[EventKind::TokenChanged.name()], PAGE_SIZE).await?;
            let Some(last) = page.last() else { return Ok(told) };
            after = last.cursor;
            for event in page {
                let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                let text = |name: &str| data[name].as_str().map(str::to_owned);
                if let (Some(token), Some(state)) = (text("token"), text("state"))
                    && text("node") == node
                {
                    told.insert(token, (state, text("code")));
                }
            }
        }
    }
}

/// The members of the API's token, and its name. Each node has tokens of its own, so it names itself.
fn data(report: &TokenReport, node: Option<&str>) -> Value {
    let TokenReport { name, state, since, problem } = report;
    let mut data = json!({
        "token": name, "state": state_name(*state), "since": since,
        "code": problem.as_ref().map(|problem| problem.code),
        "reason": problem.as_ref().map(|problem| &problem.reason),
        "action": problem.as_ref().and_then(|problem| problem.action.as_ref())
    });
    if let Some(node) = node {
        data["node"] = node.into();
    }
    data
}

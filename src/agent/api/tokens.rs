//! The request that reads the state of each configured token.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::context::ApiContext;
use crate::agent::token_report::{OpeningWaits, TokenReport, state_name};

/// A configured token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenStatus {
    /// The token's name in the configuration.
    name: String,
    /// `ready`, `away`, or `locked`: its PIN is absent, wrong or locked, and a person must act.
    state: &'static str,
    /// Since when the token is in this state, in milliseconds since 1970.
    since: i64,
    /// Why the token is not ready, as a code of the command line; null if it is ready.
    code: Option<&'static str>,
    /// Why the token is not ready, for a person; null if it is ready.
    reason: Option<String>,
    /// What a person does about it; null if the reason says it, or nothing is to be done.
    action: Option<String>,
}

/// The tokens, and what received messages wait for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokensStatus {
    /// The tokens, in configured order.
    tokens: Vec<TokenStatus>,
    /// What received messages wait for: `did` (the agent serves no DID), `token` (no ready token has a key agreement key of
    /// our DIDs), `store` (no ready token has unwrapped the store's key since the start). Null if messages are opened.
    waits_for: Option<&'static str>,
    /// The ids of the keys in the documents of our DIDs that no token has shown since the start.
    missing: Vec<String>,
}

impl From<TokenReport> for TokenStatus {
    fn from(report: TokenReport) -> Self {
        let TokenReport { name, state, since, problem } = report;
        let code = problem.as_ref().map(|problem| problem.code);
        let (reason, action) = problem.map_or((None, None), |problem| (Some(problem.reason), problem.action));
        Self { name, state: state_name(state), since, code, reason, action }
    }
}

/// The state of each configured token: since when, why, and what to do.
#[utoipa::path(
    get,
    path = "/v1/tokens/status",
    operation_id = "tokens_status",
    responses((status = 200, description = "The tokens", body = TokensStatus))
)]
pub(super) async fn status(State(context): State<ApiContext>) -> Json<TokensStatus> {
    let tokens = context.agent.tokens().into_iter().map(Into::into).collect();
    let waits_for = context.agent.opening_waits().map(OpeningWaits::name);
    Json(TokensStatus { tokens, waits_for, missing: context.agent.own_dids().missing_keys() })
}

//! Requests that list and resume webhooks, and list, resend and drop dead letters.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
    webhooks::{DeadLetter, KeptLetter, RunningWebhook, Status, Webhooks},
};

/// What a webhook is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WebhookState {
    /// The receiver has accepted the last letter, or no letter waits.
    Delivering,
    /// The last attempt failed. The webhook tries again.
    Retrying,
    /// The receiver has answered with 410: it wants no more. The webhook waits for a person.
    Paused,
    /// Another node of the store leads, posts to the webhook, and knows how it is doing.
    OtherNode,
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookView {
    /// The name.
    name: String,
    /// The host of the URL. The rest of the URL may be a secret.
    host: String,
    /// The kinds of what is posted; `message` stands for the messages of the inbox.
    events: Vec<String>,
    /// The types of the messages that are posted. Empty: all.
    types: Vec<String>,
    state: WebhookState,
    /// When the first of the failures in a row was, in milliseconds since 1970. Null after a letter was accepted.
    since: Option<i64>,
    /// The number of failed attempts in a row.
    failures: u32,
    /// Why the last attempt failed. Null after a letter was accepted.
    problem: Option<String>,
    /// When the next attempt is made, in milliseconds since 1970. Null if it is being made, or nothing is in the way.
    next_try: Option<i64>,
    /// The number of dead letters. Null if another node posts to the webhook.
    dead_letters: Option<usize>,
}

impl WebhookView {
    fn new(webhooks: &Webhooks, webhook: &RunningWebhook) -> Self {
        let options = webhook.webhook.options();
        let Status { is_paused, since, failures, problem, next_try } = webhook.status();
        let posts_here = webhooks.posts_here();
        Self {
            name: options.name.clone(),
            host: webhook.webhook.host().to_owned(),
            events: options.events.clone(),
            types: options.types.clone(),
            state: match failures {
                _ if !posts_here => WebhookState::OtherNode,
                _ if is_paused => WebhookState::Paused,
                0 => WebhookState::Delivering,
                _ => WebhookState::Retrying,
            },
            since,
            failures,
            problem,
            next_try,
            dead_letters: posts_here.then(|| webhooks.dead_letters().count(&options.name)),
        }
    }
}

/// A page of the webhooks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhooks)]
pub(super) struct WebhookPage {
    /// The webhooks, in configured order.
    webhooks: Vec<WebhookView>,
    /// `after` of the next page.
    cursor: String,
}

/// A letter that a webhook has set aside, because the receiver refused it, or was away for too long.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(super) struct DeadLetterView {
    /// The id of the dead letter.
    id: String,
    /// The name of the webhook.
    webhook: String,
    /// The `webhook-id` of the requests.
    webhook_id: String,
    /// The kind: `message`, or the kind of an event.
    event: String,
    /// Of a message: its id in the inbox, where it waits unacknowledged. Else null.
    message: Option<String>,
    /// Of a message: its type. Else null.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Of an event: its data. Else null.
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
    /// How often the letter was posted.
    attempts: u32,
    /// The HTTP status of the last answer; null if there was no answer.
    status: Option<u16>,
    /// Why the last attempt failed.
    problem: String,
    /// When the first attempt failed, in milliseconds since 1970.
    since: i64,
    /// When the last attempt failed, in milliseconds since 1970.
    time: i64,
    /// Whether the letter is to be posted again soon.
    resending: bool,
}

impl DeadLetterView {
    fn new(webhooks: &Webhooks, dead: DeadLetter) -> Self {
        let id = dead.id();
        let resending = webhooks.get(&dead.webhook).is_some_and(|webhook| webhook.is_resent(&id));
        let (webhook_id, event) = (dead.letter.id().to_owned(), dead.letter.event().to_owned());
        let (message, kind, data) = match dead.letter {
            KeptLetter::Message { id, kind } => (Some(id), Some(kind), None),
            KeptLetter::Event { data, .. } => (None, None, serde_json::from_str(&data).ok()),
        };
        let DeadLetter { webhook, attempts, status, problem, since, time, .. } = dead;
        Self { id, webhook, webhook_id, event, message, kind, data, attempts, status, problem, since, time, resending }
    }
}

/// A page of the dead letters.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub(super) struct DeadLetterPage {
    /// The dead letters, by id.
    dead_letters: Vec<DeadLetterView>,
    /// `after` of the next page.
    cursor: String,
}

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetterQuery {
    /// The cursor of the page before; without it, the first page.
    #[serde(default)]
    after: String,
    /// The size of the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// Only those of the webhook with this name.
    #[param(nullable = false)]
    webhook: Option<String>,
}

/// The webhooks, and what each is doing.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    operation_id = "webhooks",
    params(PageQuery),
    responses(
        (status = 200, description = "The webhooks", body = WebhookPage),
        (status = 400, description = "The query is invalid", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<WebhookPage>, ApiError> {
    let Query(PageQuery { after, limit }) = query?;
    let all = context.webhooks.list();
    let found = page::of_list(all, |webhook| webhook.name(), &after, page::limit(limit)?)?;
    let cursor = found.last().map_or(after, |last| last.name().to_owned());
    let webhooks = found.iter().map(|webhook| WebhookView::new(&context.webhooks, webhook)).collect();
    Ok(Json(WebhookPage { webhooks, cursor }))
}

/// Resumes a paused webhook. One that waits for its next attempt makes it now.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{name}/resume",
    operation_id = "resume_webhook",
    params(("name" = String, Path, description = "The name of the webhook")),
    responses(
        (status = 202, description = "The webhook goes on soon", body = WebhookView),
        (status = 400, description = "The name is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such webhook", body = ApiError),
        (status = 409, description = "Another node posts to the webhooks: ask that one", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn resume(
    State(context): State<ApiContext>,
    name: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<WebhookView>), ApiError> {
    let Path(name) = name?;
    let no_webhook = || ApiError::not_found(format!("there is no webhook {name:?}"));
    let webhook = context.webhooks.get(&name).ok_or_else(no_webhook)?;
    check_posts_here(&context).await?;
    webhook.resume();
    Ok((StatusCode::ACCEPTED, Json(WebhookView::new(&context.webhooks, &webhook))))
}

/// The letters that webhooks have set aside. A message among them waits unacknowledged in the inbox.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "dead_letters",
    params(DeadLetterQuery),
    responses(
        (status = 200, description = "Dead letters", body = DeadLetterPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn dead_letters(
    State(context): State<ApiContext>,
    query: Result<Query<DeadLetterQuery>, QueryRejection>,
) -> Result<Json<DeadLetterPage>, ApiError> {
    let Query(DeadLetterQuery { after, limit, webhook }) = query?;
    let letters = context.webhooks.dead_letters();
    let found = letters.list(webhook.as_deref(), &after, page::limit(limit)?).await?;
    let cursor = found.last().map_or(after, DeadLetter::id);
    let dead_letters = found.into_iter().map(|dead| DeadLetterView::new(&context.webhooks, dead)).collect();
    Ok(Json(DeadLetterPage { dead_letters, cursor }))
}

/// Posts a dead letter again, soon and out of its order. If the receiver accepts it, the dead letter is gone; else it has the new
/// problem. A restart of the agent, and SIGHUP, forget the request.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/resend",
    operation_id = "resend",
    params(("id" = String, Path, description = "The id of the dead letter")),
    responses(
        (status = 202, description = "The letter is posted soon", body = DeadLetterView),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such dead letter", body = ApiError),
        (status = 409, description = "The configuration has no such webhook any more, or another node posts to the webhooks", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn resend(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<DeadLetterView>), ApiError> {
    let dead = found(&context, &id?.0).await?;
    let no_webhook = || {
        let message = format!("the configuration has no webhook {:?} any more", dead.webhook);
        ApiError::new(StatusCode::CONFLICT, "no-webhook", message)
    };
    let webhook = context.webhooks.get(&dead.webhook).ok_or_else(no_webhook)?;
    check_posts_here(&context).await?;
    webhook.resend(dead.id());
    Ok((StatusCode::ACCEPTED, Json(DeadLetterView::new(&context.webhooks, dead))))
}

/// Drops a dead letter. For a message this counts as accepted by the webhook: if no other webhook wants the message, it is
/// acknowledged, and its content is deleted.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{id}",
    operation_id = "drop_dead_letter",
    params(("id" = String, Path, description = "The id of the dead letter")),
    responses(
        (status = 204, description = "The dead letter is dropped"),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 404, description = "There is no such dead letter", body = ApiError),
        (status = 409, description = "Another node posts to the webhooks: ask that one", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn drop_letter(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let dead = found(&context, &id?.0).await?;
    check_posts_here(&context).await?;
    context.webhooks.drop_letter(&dead).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn found(context: &ApiContext, id: &str) -> Result<DeadLetter, ApiError> {
    let found = context.webhooks.dead_letters().get(id).await?;
    found.ok_or_else(|| ApiError::not_found("there is no such dead letter: it was accepted, dropped, or acknowledged"))
}

/// Checks that this node posts to the webhooks. Another one knows where they are, and what they wait for.
async fn check_posts_here(context: &ApiContext) -> Result<(), ApiError> {
    if context.webhooks.posts_here() {
        return Ok(());
    }
    let nodes = context.agent.store().nodes().await?;
    let leader = nodes.iter().find(|node| node.leads).map(|node| format!(", {:?}", node.name)).unwrap_or_default();
    let message = format!("another node posts to the webhooks: ask the one that leads{leader}");
    Err(ApiError::new(StatusCode::CONFLICT, "other-node", message))
}

//! Requests that create, list, revoke and accept invitations (out-of-band 2.0).

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    context::ApiContext,
    error::ApiError,
    page::{self, PageQuery},
};
use crate::agent::{
    agent::Agent,
    invitations::{AcceptedInvitation, InvitationOptions},
    label::Label,
    protocol::{
        issued_invitation::IssuedInvitation,
        out_of_band::{qr_svg, qr_text},
    },
};

/// An invitation to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvitation {
    /// An id of the caller for this request: 1 to 64 lower-case letters, digits, and characters of `-._~`, such as a UUID. With it
    /// the request can be repeated: it makes one invitation. It is not the id of the invitation.
    #[schema(min_length = 1, max_length = 64)]
    id: Option<String>,
    /// Our DID that invites. Without it, the newest.
    from: Option<String>,
    /// The goal, for people: at most 1000 characters.
    #[schema(max_length = 1000)]
    goal: Option<String>,
    /// The goal, for programs: at most 1000 characters.
    #[schema(max_length = 1000)]
    goal_code: Option<String>,
    /// Whether more than one peer may accept the invitation.
    #[serde(default)]
    multi_use: bool,
    /// For how many hours the invitation is valid: 1 to 87600 (ten years). Without it, there is no limit.
    #[schema(minimum = 1, maximum = 87600)]
    hours: Option<u32>,
    /// Whether the answer has the QR codes `svg` and `terminal`.
    #[serde(default)]
    qr_codes: bool,
}

/// An invitation of ours.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invitation)]
pub(super) struct InvitationView {
    /// The id.
    id: String,
    /// The URL to give to the peer. It contains the invitation.
    url: String,
    /// A short URL that leads to the invitation; null without a public URL.
    short_url: Option<String>,
    /// The invitation.
    #[schema(value_type = Object)]
    invitation: Value,
    /// When the invitation was created, in milliseconds since 1970.
    created: i64,
    /// When the invitation expires, in milliseconds since 1970; null for never.
    expires: Option<i64>,
    /// Whether more than one peer may accept the invitation.
    multi_use: bool,
    /// The DID of the peer that has accepted it, if only one may.
    used_by: Option<String>,
    /// The URL as a QR code in SVG, if the request asks for it; null if the URL is too long for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    svg: Option<String>,
    /// The QR code in characters for a terminal, if the request asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    terminal: Option<String>,
}

/// A page of our invitations.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invitations)]
pub(super) struct InvitationPage {
    /// The invitations, by id.
    invitations: Vec<InvitationView>,
    /// `after` of the next page.
    cursor: String,
}

/// An invitation to accept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AcceptInvitation {
    /// An id of the caller for this request, as in [NewInvitation]. With it the request can be repeated: the invitation is accepted
    /// once, and one ping is sent.
    #[schema(min_length = 1, max_length = 64)]
    id: Option<String>,
    /// The URL, or the invitation as JSON.
    invitation: String,
    /// Our DID that accepts the invitation. Without it, the newest.
    from: Option<String>,
    /// Our name for the peer: at most 64 characters. No two peers have the same.
    label: Option<String>,
}

const MAX_GOAL_CHARS: usize = 1000;
const MAX_HOURS: u32 = 10 * 365 * 24;
const HOUR_MILLIS: i64 = 60 * 60 * 1000;

impl InvitationView {
    fn new(agent: &Agent, issued: IssuedInvitation) -> Self {
        let (url, short_url) = agent.invitation_urls(&issued.invitation);
        Self {
            id: issued.invitation.id.clone(),
            svg: None,
            terminal: None,
            url,
            short_url,
            invitation: json!(issued.invitation.to_message()),
            created: issued.created,
            expires: issued.expires,
            multi_use: issued.multi_use,
            used_by: issued.used_by,
        }
    }

    /// Adds the QR codes. A list has none: making the codes of a whole page would block the thread for seconds.
    fn with_qr_codes(self) -> Self {
        Self { svg: qr_svg(&self.url).ok(), terminal: qr_text(&self.url).ok(), ..self }
    }
}

/// Creates an invitation.
#[utoipa::path(
    post,
    path = "/v1/invitations",
    operation_id = "invite",
    request_body = NewInvitation,
    responses(
        (status = 201, description = "The invitation is created", body = InvitationView),
        (status = 400, description = "The invitation cannot be created", body = ApiError),
        (status = 409, description = "Another invitation was created under this id", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn create(
    State(context): State<ApiContext>,
    new: Result<Json<NewInvitation>, JsonRejection>,
) -> Result<(StatusCode, Json<InvitationView>), ApiError> {
    let Json(new) = new?;
    let is_too_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.chars().count() > MAX_GOAL_CHARS);
    if is_too_long(&new.goal) || is_too_long(&new.goal_code) {
        return Err(ApiError::invalid("bad-request", format!("a goal has at most {MAX_GOAL_CHARS} characters")));
    }
    if new.hours.is_some_and(|hours| !(1..=MAX_HOURS).contains(&hours)) {
        return Err(ApiError::invalid("bad-request", format!("hours is 1 to {MAX_HOURS}")));
    }
    let options = InvitationOptions {
        from: new.from,
        goal: new.goal,
        goal_code: new.goal_code,
        multi_use: new.multi_use,
        valid_for: new.hours.map(|hours| HOUR_MILLIS * i64::from(hours)),
    };
    let issued = context.agent.issue_invitation(options, new.id.as_deref()).await?;
    let view = InvitationView::new(&context.agent, issued);
    Ok((StatusCode::CREATED, Json(if new.qr_codes { view.with_qr_codes() } else { view })))
}

/// Our invitations.
#[utoipa::path(
    get,
    path = "/v1/invitations",
    operation_id = "invitations",
    params(PageQuery),
    responses(
        (status = 200, description = "Invitations", body = InvitationPage),
        (status = 400, description = "The query is invalid", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(context): State<ApiContext>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<InvitationPage>, ApiError> {
    let Query(query) = query?;
    let found = context.agent.invitations(&query.after, page::limit(query.limit)?).await?;
    let cursor = found.last().map_or(query.after, |(key, _)| key.clone());
    let invitations = found.into_iter().map(|(_, issued)| InvitationView::new(&context.agent, issued)).collect();
    Ok(Json(InvitationPage { invitations, cursor }))
}

/// Revokes an invitation: no further peer can accept it.
#[utoipa::path(
    delete,
    path = "/v1/invitations/{id}",
    operation_id = "revoke",
    params(("id" = String, Path, description = "The id of the invitation")),
    responses(
        (status = 204, description = "The invitation is revoked, or there was none"),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn revoke(
    State(context): State<ApiContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    context.agent.revoke_invitation(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The connection that an accepted invitation has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewConnection {
    /// Our DID.
    ours: String,
    /// The inviter's DID.
    theirs: String,
    /// The invitation's id: the parent thread of the messages that follow.
    invitation: String,
    /// The id of the outbox entry of the trust ping to the inviter.
    ping: String,
    /// The goal, in the inviter's words.
    goal: Option<String>,
    /// The goal, for programs.
    goal_code: Option<String>,
}

/// Accepts an invitation. A trust ping in its thread tells the inviter.
#[utoipa::path(
    post,
    path = "/v1/invitations/accept",
    operation_id = "accept",
    request_body = AcceptInvitation,
    responses(
        (status = 202, description = "The invitation is accepted. A trust ping is in the outbox", body = NewConnection),
        (status = 400, description = "This is no invitation, or it cannot be accepted", body = ApiError),
        (status = 409, description = "The connection with the inviter has ended, the inviter is blocked, or another peer has the label; or another invitation was accepted under this id", body = ApiError),
        (status = 413, description = "The request is too large", body = ApiError),
        (status = 415, description = "The media type is not JSON", body = ApiError),
        (status = 422, description = "The JSON does not have this form", body = ApiError),
        (status = 503, description = "The store is unavailable", body = ApiError)
    )
)]
pub(super) async fn accept(
    State(context): State<ApiContext>,
    request: Result<Json<AcceptInvitation>, JsonRejection>,
) -> Result<(StatusCode, Json<NewConnection>), ApiError> {
    let Json(AcceptInvitation { id, invitation, from, label }) = request?;
    let label = label.map(|label| Label::parse(&label)).transpose()?;
    let accepted = context.agent.accept_invitation(&invitation, from.as_deref(), label.as_ref(), id.as_deref()).await?;
    let AcceptedInvitation { own_did, peer_did, invitation, ping } = accepted;
    let connection = NewConnection {
        ours: own_did,
        theirs: peer_did,
        ping,
        goal: invitation.goal,
        goal_code: invitation.goal_code,
        invitation: invitation.id,
    };
    Ok((StatusCode::ACCEPTED, Json(connection)))
}

//! Invitations: made, shown, taken back, accepted (out-of-band 2.0).

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
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, Shared};
use crate::agent::{
    invitations::{Accepted, Wanted},
    protocol::{
        invitations::{INVITATION, Issued},
        out_of_band::{qr_svg, qr_text},
    },
};

/// An invitation to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvitation {
    /// Our DID that invites.
    from: String,
    /// What it is for, for people: 1000 characters at most.
    #[schema(max_length = 1000)]
    goal: Option<String>,
    /// What it is for, for programs: 1000 characters at most.
    #[schema(max_length = 1000)]
    goal_code: Option<String>,
    /// Whether any number of others may accept it.
    #[serde(default)]
    multi_use: bool,
    /// It is good for so many hours, 1 to 87600 (ten years); without an end, if it is not said.
    #[schema(minimum = 1, maximum = 87600)]
    hours: Option<u32>,
}

/// An invitation of ours.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invited {
    /// Its id.
    id: String,
    /// What another agent is given.
    url: String,
    /// A shorter URL by which it is fetched; null without a public URL.
    short_url: Option<String>,
    /// The invitation itself.
    #[schema(value_type = Object)]
    invitation: Value,
    /// When it was made, in milliseconds since 1970.
    created: i64,
    /// Until when it is good, in milliseconds since 1970; null without an end.
    expires: Option<i64>,
    /// Whether any number of others may accept it.
    multi_use: bool,
    /// Who has accepted it, if only one may.
    used_by: Option<String>,
    /// The URL as a picture, in SVG; null if it is too long for one, and in a list.
    svg: Option<String>,
    /// The same in the letters of a terminal.
    terminal: Option<String>,
}

/// Which invitations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Those behind this cursor.
    #[serde(default)]
    after: String,
}

/// Invitations of ours.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invitations)]
pub(super) struct Page {
    /// By their ids.
    invitations: Vec<Invited>,
    /// `after` of the next page.
    cursor: String,
}

/// An invitation to be accepted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Accept {
    /// Its URL, or the JSON that it holds.
    invitation: String,
    /// Our DID that accepts.
    from: String,
    /// What we call the other.
    label: Option<String>,
}

/// Invitations that are shown at once.
const PAGE: usize = 100;
const LONGEST_GOAL: usize = 1000;
const MOST_HOURS: u32 = 10 * 365 * 24;
const HOUR: i64 = 60 * 60 * 1000;

impl Invited {
    fn new(shared: &Shared, issued: Issued) -> Self {
        let (url, short_url) = shared.agent.invitations.urls(&issued.invitation);
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

    /// With its pictures. Those of a whole list would take seconds, in which nothing else is done.
    fn drawn(self) -> Self {
        Self { svg: qr_svg(&self.url).ok(), terminal: qr_text(&self.url).ok(), ..self }
    }
}

/// Makes an invitation.
#[utoipa::path(
    post,
    path = "/v1/invitations",
    operation_id = "invite",
    request_body = NewInvitation,
    responses(
        (status = 201, description = "It is made", body = Invited),
        (status = 400, description = "It cannot be made", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "It cannot be kept now", body = ApiError)
    )
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    new: Result<Json<NewInvitation>, JsonRejection>,
) -> Result<(StatusCode, Json<Invited>), ApiError> {
    let Json(new) = new?;
    let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.chars().count() > LONGEST_GOAL);
    if long(&new.goal) || long(&new.goal_code) {
        return Err(ApiError::bad("bad-request", format!("a goal has at most {LONGEST_GOAL} characters")));
    }
    if new.hours.is_some_and(|hours| !(1..=MOST_HOURS).contains(&hours)) {
        return Err(ApiError::bad("bad-request", format!("hours is 1 to {MOST_HOURS}")));
    }
    let wanted = Wanted {
        from: new.from,
        goal: new.goal,
        goal_code: new.goal_code,
        multi_use: new.multi_use,
        good_for: new.hours.map(|hours| HOUR * i64::from(hours)),
    };
    let issued = shared.agent.invite(wanted).await?;
    Ok((StatusCode::CREATED, Json(Invited::new(&shared, issued).drawn())))
}

/// Our invitations.
#[utoipa::path(
    get,
    path = "/v1/invitations",
    operation_id = "invitations",
    params(Which),
    responses(
        (status = 200, description = "Invitations", body = Page),
        (status = 400, description = "The question is wrong", body = ApiError),
        (status = 503, description = "The store does not answer, or is sealed until a token is ready", body = ApiError)
    )
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let Query(which) = which?;
    let found = shared.agent.books.list::<Issued>(INVITATION, &which.after, PAGE).await?;
    let cursor = found.last().map_or(which.after, |(key, _)| key.clone());
    Ok(Json(Page { invitations: found.into_iter().map(|(_, issued)| Invited::new(&shared, issued)).collect(), cursor }))
}

/// Takes an invitation back: nobody new may accept it.
#[utoipa::path(
    delete,
    path = "/v1/invitations/{id}",
    operation_id = "revoke",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is no longer good, or never was"),
        (status = 400, description = "The id is not UTF-8", body = ApiError),
        (status = 503, description = "The store does not answer", body = ApiError)
    )
)]
pub(super) async fn revoke(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    shared.agent.revoke_invitation(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What became of an acceptance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Began {
    /// Our DID.
    ours: String,
    /// The DID of the one who invites.
    theirs: String,
    /// The invitation's id: the parent thread of what comes of it.
    invitation: String,
    /// The name in the outbox of the ping that tells of it.
    ping: String,
    /// What it is for, in the words of the one who invites.
    goal: Option<String>,
    /// The same, for programs.
    goal_code: Option<String>,
}

/// Accepts an invitation: a trust ping in its thread tells the one who invites.
#[utoipa::path(
    post,
    path = "/v1/invitations/accept",
    operation_id = "accept",
    request_body = Accept,
    responses(
        (status = 202, description = "It is accepted, and the other is told soon", body = Began),
        (status = 400, description = "It is no invitation, or cannot be accepted", body = ApiError),
        (status = 413, description = "It is too large", body = ApiError),
        (status = 415, description = "It is not JSON by its media type", body = ApiError),
        (status = 422, description = "It is not of this form", body = ApiError),
        (status = 503, description = "It cannot be kept, or fetched, now", body = ApiError)
    )
)]
pub(super) async fn accept(
    State(shared): State<Shared>,
    accept: Result<Json<Accept>, JsonRejection>,
) -> Result<(StatusCode, Json<Began>), ApiError> {
    let Json(Accept { invitation, from, label }) = accept?;
    let Accepted { ours, theirs, invitation, ping } = shared.agent.accept(&invitation, &from, label).await?;
    let began =
        Began { ours, theirs, ping, goal: invitation.goal, goal_code: invitation.goal_code, invitation: invitation.id };
    Ok((StatusCode::ACCEPTED, Json(began)))
}

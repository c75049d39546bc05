//! What a person can change: each action is one request of the API.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Form,
    extract::State,
    response::{IntoResponse, Redirect},
};
use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::{
    app::App,
    frame::{Answer, PageFailure},
    guard::FORM_TOKEN,
};
use crate::cli::{
    agent_client::percent_encoded,
    agent_commands::{BASIC_MESSAGE, choose_own_did, reply},
    failure::Failure,
};

/// The fields of a form.
type Fields = Form<HashMap<String, String>>;

pub async fn acknowledge(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    app.client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": [field(&fields, "id")] })).await?;
    done("/inbox", "acknowledged")
}

pub async fn reply_to(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let received: Value = app.client.get(&format!("/v1/inbox/{}", percent_encoded(field(&fields, "id")))).await?;
    let to = reply::recipient(&received).ok_or_else(|| invalid(reply::NO_SENDER))?;
    let text = field(&fields, "text").replace("\r\n", "\n");
    let message = reply::answer(&received, to, &Message::new_id(), &text);
    app.client.post_repeatable::<Value>("/v1/messages", &message).await?;
    done("/inbox", "queued")
}

pub async fn send(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let message = json!({
        "id": Message::new_id(),
        "to": field(&fields, "to"),
        "from": field(&fields, "from"),
        "type": BASIC_MESSAGE,
        "body": { "content": field(&fields, "text").replace("\r\n", "\n") },
    });
    app.client.post_repeatable::<Value>("/v1/messages", &message).await?;
    done("/contacts", "queued")
}

pub async fn cancel(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let path = format!("/v1/messages/{}/cancel", percent_encoded(field(&fields, "id")));
    app.client.post::<Value>(&path, &json!({})).await?;
    done("/outbox", "cancelled")
}

pub async fn retry(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let path = format!("/v1/messages/{}/retry", percent_encoded(field(&fields, "id")));
    app.client.post::<Value>(&path, &json!({})).await?;
    done("/outbox", "retried")
}

pub async fn label(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let label = Some(field(&fields, "label")).filter(|label| !label.trim().is_empty());
    change_contact(&app, &fields, &json!({ "label": label })).await?;
    done("/contacts", "labelled")
}

pub async fn block(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let blocked = field(&fields, "blocked") == "yes";
    change_contact(&app, &fields, &json!({ "blocked": blocked })).await?;
    done("/contacts", if blocked { "blocked" } else { "unblocked" })
}

pub async fn invite(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let from = choose_own_did(&app.client, None).await?;
    let hours: u32 = field(&fields, "hours").parse().map_err(|_| invalid("the hours are not a number"))?;
    let mut request = json!({
        "id": Message::new_id(),
        "from": from,
        "hours": hours,
        "multi_use": field(&fields, "multi_use") == "yes",
    });
    let goal = field(&fields, "goal").trim();
    if !goal.is_empty() {
        request["goal"] = goal.into();
    }
    app.client.post_repeatable::<Value>("/v1/invitations", &request).await?;
    done("/invitations", "invited")
}

pub async fn revoke(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let path = format!("/v1/invitations/{}", percent_encoded(field(&fields, "id")));
    app.client.delete::<Value>(&path).await?;
    done("/invitations", "revoked")
}

pub async fn accept(State(app): State<Arc<App>>, Form(fields): Fields) -> Answer {
    check(&app, &fields)?;
    let from = choose_own_did(&app.client, None).await?;
    let mut request = json!({
        "id": Message::new_id(),
        "from": from,
        "invitation": field(&fields, "invitation").trim(),
    });
    let label = field(&fields, "label").trim();
    if !label.is_empty() {
        request["label"] = label.into();
    }
    app.client.post_repeatable::<Value>("/v1/invitations/accept", &request).await?;
    done("/contacts", "accepted")
}

async fn change_contact(app: &App, fields: &HashMap<String, String>, change: &Value) -> Result<(), PageFailure> {
    let path = format!("/v1/connections?peer={}", percent_encoded(field(fields, "peer")));
    app.client.patch::<Value>(&path, change).await?;
    Ok(())
}

/// Fails unless the form is one of ours.
fn check(app: &App, fields: &HashMap<String, String>) -> Result<(), PageFailure> {
    match app.guard.is_our_form(fields.get(FORM_TOKEN)) {
        true => Ok(()),
        false => Err(invalid("the form is not one of this page")),
    }
}

fn field<'a>(fields: &'a HashMap<String, String>, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

fn invalid(message: &str) -> PageFailure {
    Failure::new("bad-request", message).into()
}

/// Leads back to a page, so that a reload does not repeat the action.
fn done(page: &str, what: &str) -> Answer {
    Ok(Redirect::to(&format!("{page}?done={what}")).into_response())
}

//! The choice of our DID when the command line names none, and our DID by its short name.

use serde_json::Value;

use claviger::did::{did_of, short_name_beginning};

use crate::cli::{agent_client::AgentClient, arguments::not_a_did, failure::Failure, output::short};

/// Sets the sender of a message. If none is named, the agent chooses: our DID in the connection with the peer, else our
/// newest DID.
pub async fn set_sender(client: &AgentClient, message: &mut Value, named: Option<&str>) -> Result<(), Failure> {
    match named {
        Some(did) => message["from"] = own_did(client, did).await?.into(),
        // An agent of an older release would send the message anonymously. It does not know this member, and refuses.
        None => message["anonymous"] = false.into(),
    }
    Ok(())
}

/// Explains why the agent refuses a message: it is of an older release, and cannot choose the sender; or the recipient has no
/// endpoint.
pub fn explain_refusal(failure: Failure) -> Failure {
    match failure.message.contains("unknown field `anonymous`") {
        true => failure.hint("the running agent is of an older release: restart it, or name our DID with --from"),
        false if failure.code == "no-endpoint" => {
            failure.hint("`claviger send --hold` lets the message wait until the recipient connects")
        }
        false => failure,
    }
}

/// Returns the DID that was named, else our newest DID that has not rotated to another.
pub async fn choose_own_did(client: &AgentClient, named: Option<&str>) -> Result<String, Failure> {
    if let Some(did) = named {
        return own_did(client, did).await;
    }
    let ours = client.get_all("/v1/dids", "dids").await?;
    match ours.iter().find(|own| own["rotated_to"].is_null()).and_then(|own| own["did"].as_str()) {
        Some(did) => Ok(did.to_owned()),
        None => Err(Failure::new("no-did", "the agent has no DID that it serves")
            .hint("`claviger status` shows DIDs that are refused; `claviger did create` makes a DID")),
    }
}

/// Returns our DID that a text names: a DID as it is, or the one with this short name.
pub async fn own_did(client: &AgentClient, text: &str) -> Result<String, Failure> {
    if did_of(text).is_some() {
        return Ok(text.to_owned());
    }
    if short_name_beginning(text).is_none() {
        return Err(not_a_did(text));
    }
    let all = client.get_all("/v1/dids", "dids").await?;
    let found = all.iter().filter_map(|own| own["did"].as_str()).find(|did| short(did) == text);
    found.map(str::to_owned).ok_or_else(|| {
        Failure::new("name-unknown", format!("none of the agent's DIDs is {text}"))
            .hint("`claviger did list` shows them")
    })
}

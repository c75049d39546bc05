//! Trust ping 2.0 (DIDComm v2.1 "Trust Ping Protocol 2.0"): tests whether the peer answers.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    handler::Protocol,
    problem::{HandleError, Problem},
    received::Received,
    transaction::Transaction,
};

/// The type of a ping.
pub const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
/// The type of the answer.
pub const PING_RESPONSE: &str = "https://didcomm.org/trust-ping/2.0/ping-response";

/// Answers pings. The answers to our own pings go to the application.
#[derive(Debug, Clone, Copy)]
pub struct TrustPing;

#[async_trait]
impl Protocol for TrustPing {
    fn piuri(&self) -> &str {
        "https://didcomm.org/trust-ping/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["sender", "receiver"]
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if received.is("ping") {
            // "assuming that response_requested is not false": any other value asks for an answer.
            if received.message.body.get("response_requested") != Some(&Value::Bool(false)) {
                tx.answer(PING_RESPONSE, json!({}), |message| message);
            }
            Ok(())
        } else if received.is("ping-response") {
            if received.message.thid.is_none() {
                return Err(Problem::new("e.m.msg.no-thid", "A ping-response names its ping in thid.").into());
            }
            tx.deliver();
            Ok(())
        } else {
            Err(received.unknown_type().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::testing::{ALICE, Harness, OWN_DID, anonymous, from, from_with};

    #[tokio::test]
    async fn a_ping_is_answered_if_it_asks() {
        let harness = Harness::default();
        for body in [json!({}), json!({"response_requested": true}), json!({"response_requested": null})] {
            let ping = from(ALICE, PING, body);
            let outcome = harness.handle(&TrustPing, &ping).await.unwrap();
            let [answer] = &outcome.sent[..] else { panic!("{outcome:?}") };
            assert_eq!(answer.type_, PING_RESPONSE);
            assert_eq!(answer.thid.as_deref(), Some(ping.message.id.as_str()));
            assert_eq!((answer.from.as_deref(), answer.to.as_deref()), (Some(OWN_DID), Some(&[ALICE.to_owned()][..])));
            assert!(!outcome.delivered);
        }
        let silent = from(ALICE, PING, json!({"response_requested": false}));
        assert!(harness.handle(&TrustPing, &silent).await.unwrap().sent.is_empty());
        assert!(harness.handle(&TrustPing, &anonymous(PING, json!({}))).await.unwrap().sent.is_empty());
        assert!(!TrustPing.accepts_anonymous());
    }

    #[tokio::test]
    async fn a_later_minor_version_is_answered_in_our_version() {
        let ping = from(ALICE, "https://didcomm.org/TrustPing/2.7/Ping", json!({}));
        assert_eq!(Harness::default().handle(&TrustPing, &ping).await.unwrap().sent[0].type_, PING_RESPONSE);
    }

    #[tokio::test]
    async fn an_answer_is_delivered() {
        let harness = Harness::default();
        let answer = from_with(ALICE, PING_RESPONSE, json!({}), |message| message.thid("1"));
        let outcome = harness.handle(&TrustPing, &answer).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        assert_eq!(harness.problem(&TrustPing, &from(ALICE, PING_RESPONSE, json!({}))).await, "e.m.msg.no-thid");
        let other = from(ALICE, "https://didcomm.org/trust-ping/2.0/pong", json!({}));
        assert_eq!(harness.problem(&TrustPing, &other).await, "e.m.msg.unknown-type");
    }
}

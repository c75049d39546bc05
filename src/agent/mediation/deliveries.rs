//! Fetches the messages that wait at a mediator, stores and acknowledges them.
//!
//! A mediator chooses what it delivers, and a stranger fills its queue. So a fetch ends when the mediator repeats itself,
//! and a message that cannot be stored now stays with the mediator, without those behind it.

use serde_json::Value;

use super::{
    error::MediationError,
    session::{Session, message_count, name},
};
use crate::{
    agent::{
        inbox::{Acceptance, Refusal},
        store::StoreError,
    },
    didcomm::{Attachment, Message},
    encoding::from_base64,
};

/// The number of new messages after which one call of [`Session::fetch_all`] stops; the next call fetches the rest. Without
/// this limit a malicious mediator could keep the call going for ever.
const MAX_FETCHED: usize = 10_000;
/// How many messages that stay with the mediator are passed over to reach those behind them.
const MAX_PASSED_OVER: usize = 1000;
/// The most copies of delivered messages, under new ids, that one call of [`Session::fetch_all`] accepts. A stranger can send
/// the same message many times, and a mediator can deliver one for ever.
const MAX_COPIES: usize = 200;
/// How often in a row a `status` that promises messages may answer a request for them. It may be the late answer to an
/// acknowledgement.
const MAX_STATUSES: usize = 3;

/// What was done with the messages of a delivery, or of all deliveries of a fetch.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// How many were not delivered before in this session, and do not stay with the mediator.
    pub fresh: usize,
    /// How many were delivered before in this session, under other ids.
    copies: usize,
    /// How many were stored.
    pub stored: usize,
    /// How many stay with the mediator, because there is no room for them now, or their DID is not known to be ours.
    pub held: usize,
    /// Why the first of those stays.
    pub reason: Option<String>,
}

impl Session<'_> {
    /// Fetches the messages that wait at the mediator, up to `max_delivery` in one delivery, and about [`MAX_FETCHED`]
    /// in all.
    ///
    /// # Errors
    /// If the mediator or the store fails. The messages that are stored then were not acknowledged, or are repeated.
    pub async fn fetch_all(&mut self, max_delivery: usize) -> Result<Accepted, MediationError> {
        self.reset_idle_frames();
        let mut total = Accepted::default();
        let (mut limit, mut statuses) = (max_delivery, 0);
        loop {
            self.has_more = false;
            let answer = match self.request_delivery(limit).await {
                // The messages that stay with the mediator fill the delivery.
                Err(MediationError::TooLarge(_)) if limit > max_delivery && !self.is_websocket() => return Ok(total),
                answer => answer?,
            };
            if name(&answer) != "delivery" {
                statuses += 1;
                if message_count(&answer) > 0 && statuses < MAX_STATUSES {
                    continue;
                }
                return Ok(total);
            }
            statuses = 0;
            let was_one_by_one = self.delivered.one_by_one;
            let accepted = self.accept_requested(&answer).await?;
            total.fresh += accepted.fresh;
            total.copies += accepted.copies;
            total.stored += accepted.stored;
            (total.held, total.reason) = (accepted.held, accepted.reason);
            // Twice as many, so that a long queue of held messages takes few requests.
            let next = max_delivery + (2 * total.held).min(MAX_PASSED_OVER);
            let is_new = accepted.fresh > 0 || accepted.copies > 0;
            let goes_on = is_new || self.delivered.one_by_one != was_one_by_one || next > limit;
            if !goes_on || total.fresh > MAX_FETCHED || total.copies > MAX_COPIES {
                return Ok(total);
            }
            limit = next;
        }
    }

    /// Accepts the answer to a delivery request. A mediator that repeats what was acknowledged may take only one id of an
    /// acknowledgement.
    async fn accept_requested(&mut self, delivery: &Message) -> Result<Accepted, MediationError> {
        let mut ids = delivery.attachments.iter().flatten().filter_map(|attachment| attachment.id.as_deref());
        if !self.delivered.one_by_one && ids.any(|id| self.delivered.is_acknowledged(id)) {
            self.delivered.one_by_one = true;
        }
        self.accept_delivery(delivery).await
    }

    /// Stores the delivered messages and acknowledges them, so that the mediator may delete them.
    ///
    /// # Errors
    /// If the store fails or is full; the others are stored then, and acknowledged.
    pub(super) async fn accept_delivery(&mut self, delivery: &Message) -> Result<Accepted, MediationError> {
        let mediator = self.mediator_did().to_owned();
        let (mut accepted, mut acknowledged, mut outcome) = (Accepted::default(), Vec::new(), Ok(()));
        // A stranger can cause many of these. One line of the log tells of all in a delivery.
        let (mut refused, mut first_refusal, mut unnamed) = (0, None, 0);
        for attachment in delivery.attachments.iter().flatten() {
            let packed = content(attachment);
            let mut is_fresh = self.delivered.add(&packed);
            match self.exchange.parts.inbox.accept_delivered(packed).await {
                Ok(Acceptance::Known) => {}
                Ok(Acceptance::Stored) => {
                    accepted.stored += 1;
                    // It may have stayed with the mediator before.
                    is_fresh = true;
                }
                // The mediator delivers the message again.
                Ok(Acceptance::NoRoomYet(reason)) => {
                    accepted.hold(reason);
                    continue;
                }
                // By then it may be known whether the DID is ours.
                Err(refusal @ Refusal::NotForUs { may_be_own: true }) => {
                    accepted.hold(refusal.to_string());
                    continue;
                }
                // There may be room for messages to another DID, or for smaller ones.
                Err(Refusal::Store(error @ StoreError::Full(_))) => {
                    outcome = outcome.and(Err(error.into()));
                    continue;
                }
                Err(Refusal::Store(error)) => {
                    outcome = Err(error.into());
                    break;
                }
                // Without an acknowledgement the message would be delivered again and again, and block later messages.
                Err(refusal) => {
                    refused += 1;
                    first_refusal.get_or_insert(refusal);
                }
            }
            accepted.fresh += usize::from(is_fresh);
            match &attachment.id {
                Some(id) => {
                    accepted.copies += usize::from(!is_fresh && !self.delivered.is_acknowledged(id));
                    acknowledged.push(id.clone());
                }
                None => unnamed += 1,
            }
        }
        if let Some(reason) = first_refusal {
            tracing::warn!(messages = refused, %reason, mediator, "message not accepted");
        }
        if unnamed > 0 {
            tracing::warn!(messages = unnamed, mediator, "delivered message has no id, and cannot be acknowledged");
        }
        self.acknowledge_all(&acknowledged).await?;
        outcome.map(|()| accepted)
    }

    async fn acknowledge_all(&mut self, ids: &[String]) -> Result<(), MediationError> {
        let size = if self.delivered.one_by_one { 1 } else { ids.len().max(1) };
        for part in ids.chunks(size) {
            self.acknowledge(part).await?;
            part.iter().for_each(|id| self.delivered.add_acknowledged(id));
            self.handle_responses().await?;
        }
        Ok(())
    }
}

impl Accepted {
    fn hold(&mut self, reason: String) {
        self.held += 1;
        self.reason.get_or_insert(reason);
    }
}

/// The message in an attachment. Some mediators put the text of a base64 attachment of the forward into `json`.
fn content(attachment: &Attachment) -> Vec<u8> {
    match (attachment.data.bytes(), &attachment.data.json) {
        (Some(Ok(bytes)), _) => bytes,
        (_, Some(Value::String(text))) if text.trim_start().starts_with('{') => text.clone().into_bytes(),
        (_, Some(Value::String(text))) => from_base64(text).unwrap_or_default(),
        (_, Some(json)) => json.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_found_in_each_form_of_an_attachment() {
        let message = json!({ "protected": "e30" });
        let text = message.to_string();
        let attachments = [
            Attachment::base64(&text),
            Attachment::json(message.clone()),
            Attachment::json(text.clone().into()),
            // base64url and base64 of it.
            Attachment::json("eyJwcm90ZWN0ZWQiOiJlMzAifQ".into()),
            Attachment::json("eyJwcm90ZWN0ZWQiOiJlMzAifQ==".into()),
        ];
        for attachment in attachments {
            assert_eq!(content(&attachment.finalize()), text.as_bytes());
        }
        assert!(content(&Attachment::json("?".into()).finalize()).is_empty());
    }
}

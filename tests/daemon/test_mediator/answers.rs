//! What the mediator answers.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use claviger::{
    agent::protocol::{
        discover_features::{DISCLOSE, QUERIES},
        report_message::PROBLEM_REPORT,
    },
    didcomm::Message,
};
use serde_json::{Value, json};

use super::{LiveSender, Quirk, Reply, State, Waiting};

impl State {
    pub(super) fn answer(
        self: &Arc<Self>,
        from: &str,
        message: &Message,
        socket: Option<&LiveSender>,
    ) -> Result<Option<Reply>, (u16, &'static str)> {
        let reply = |type_: String, body: Value| {
            let is_unnamed_status = self.has(Quirk::UnnamedStatus) && type_.ends_with("/status");
            let is_named = !is_unnamed_status && !self.has(Quirk::NoThread);
            let thid = Some(message.id.clone()).filter(|_| is_named);
            Ok(Some(Reply::Message { type_, thid, pthid: None, body, attachments: Vec::new() }))
        };
        let problem = |code: &str| {
            let (pthid, body) = (Some(message.id.clone()), json!({ "code": code, "comment": "no" }));
            let own_type = message.type_.rsplit_once('/').map(|(base, _)| format!("{base}/problem-report"));
            let type_ = own_type.filter(|_| self.has(Quirk::OwnProblemType)).unwrap_or(PROBLEM_REPORT.to_owned());
            Ok(Some(Reply::Message { type_, thid: None, pthid, body, attachments: Vec::new() }))
        };
        let coordination = format!("https://didcomm.org/coordinate-mediation/{}", self.options.coordination);
        let pickup = format!("https://didcomm.org/{}", self.options.pickup);
        let (base, name) = message.type_.rsplit_once('/').unwrap();
        if message.type_ == QUERIES {
            if self.has(Quirk::QueriesFail) {
                return Err((500, ""));
            }
            let asked = message.body["queries"].as_array().unwrap();
            let patterns: Vec<&str> = asked.iter().filter_map(|query| query["match"].as_str()).collect();
            let is_asked = |id: &&String| patterns.iter().any(|pattern| self.matches(pattern, id));
            let disclosed = [&coordination, &pickup].into_iter().filter(is_asked);
            let disclosed: Vec<Value> = disclosed.map(|id| json!({ "feature-type": "protocol", "id": id })).collect();
            let disclosed = json!({ "disclosures": disclosed });
            return if self.options.discloses { reply(DISCLOSE.to_owned(), disclosed) } else { Ok(None) };
        }
        if base != coordination && base != pickup {
            return match self.has(Quirk::StrictTypes) {
                true => Err((400, "Unsupported didcomm message")),
                false => problem("e.m.msg.unsupported-version"),
            };
        }
        let is_client = self.clients.lock().unwrap().contains(from);
        if name != "mediate-request" && self.has(Quirk::ChecksEnrolment) && !is_client {
            return problem("e.p.req.not_enroll");
        }
        match name {
            "mediate-request" if is_client && self.has(Quirk::DeniesAgain) => {
                let body = if self.has(Quirk::NullDenial) { Value::Null } else { json!({}) };
                reply(format!("{base}/mediate-deny"), body)
            }
            "mediate-request" if self.options.grants => {
                self.clients.lock().unwrap().insert(from.to_owned());
                let one = json!(self.did());
                let routing = if self.options.coordination == "2.0" { one } else { json!([one]) };
                reply(format!("{base}/mediate-grant"), json!({ "routing_did": routing }))
            }
            "mediate-request" => reply(format!("{base}/mediate-deny"), json!({})),
            "keylist-update" | "recipient-update" => {
                assert_eq!(name == "keylist-update", self.options.coordination == "2.0");
                reply(format!("{base}/{name}-response"), json!({ "updated": self.update(from, message) }))
            }
            "live-delivery-change" => match socket.filter(|_| self.options.live) {
                Some(socket) => {
                    self.live.lock().unwrap().insert(from.to_owned(), socket.clone());
                    if self.has(Quirk::EndlessLive) {
                        tokio::spawn(self.clone().deliver_for_ever(from.to_owned(), socket.clone()));
                    }
                    reply(format!("{base}/status"), self.status(from))
                }
                None => problem("e.m.live-mode-not-supported"),
            },
            "delivery-request" => {
                let name = if self.options.pickup.ends_with("4.0") { "message_count_limit" } else { "limit" };
                let limit = usize::try_from(message.body[name].as_u64().expect("it is required")).unwrap();
                let limit = if self.has(Quirk::IgnoresLimit) { usize::MAX } else { limit };
                let queues = self.queues.lock().unwrap();
                let waiting: Vec<Waiting> = queues.get(from).into_iter().flatten().take(limit).cloned().collect();
                drop(queues);
                if waiting.is_empty() && self.options.pickup.ends_with("3.0") {
                    return reply(format!("{base}/status"), self.status(from));
                }
                Ok(Some(self.delivery(&waiting, Some(&message.id))))
            }
            "messages-received" => {
                let received = message.body["message_id_list"].as_array().unwrap();
                let taken = if self.has(Quirk::TakesOneId) { 1 } else { received.len() };
                let received: Vec<&str> = received.iter().take(taken).filter_map(Value::as_str).collect();
                self.acknowledged.lock().unwrap().extend(received.iter().map(|&id| id.to_owned()));
                if let Some(queue) =
                    self.queues.lock().unwrap().get_mut(from).filter(|_| !self.has(Quirk::NeverDeletes))
                {
                    queue.retain(|waiting| !received.contains(&waiting.id.as_str()));
                }
                match self.has(Quirk::SilentAcknowledgement) {
                    true => Ok(None),
                    false => reply(format!("{base}/status"), self.status(from)),
                }
            }
            _ => panic!("{}", message.type_),
        }
    }

    /// Whether a pattern of a query matches an identifier. `*` stands for any text, or means what it does in a regular
    /// expression: then only `.*` stands for any text.
    fn matches(&self, pattern: &str, id: &str) -> bool {
        let (prefix, is_open) = match self.has(Quirk::RegexQueries) {
            true => (pattern.strip_suffix(".*"), pattern.ends_with(".*")),
            false => (pattern.strip_suffix('*'), pattern.ends_with('*')),
        };
        if is_open { id.starts_with(prefix.unwrap_or(pattern)) } else { id == pattern }
    }

    async fn deliver_for_ever(self: Arc<Self>, to: String, socket: LiveSender) {
        loop {
            let first = self.queues.lock().unwrap().get(&to).and_then(VecDeque::front).cloned();
            if let Some(first) = first
                && socket.send((to.clone(), self.delivery(&[first], None))).is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn status(&self, from: &str) -> Value {
        let waiting = self.queues.lock().unwrap().get(from).map_or(0, VecDeque::len);
        let count = if self.has(Quirk::CountsNeverFall) { 7 } else { waiting };
        let mut status = json!({ "message_count": count });
        if self.has(Quirk::SaysNotLive) {
            status["live_delivery"] = false.into();
        }
        status
    }

    fn update(&self, from: &str, message: &Message) -> Vec<Value> {
        let updates = message.body["updates"].as_array().unwrap();
        let each = updates.iter().map(|update| {
            let (did, action) = (update["recipient_did"].as_str().unwrap(), update["action"].as_str().unwrap());
            if self.has(Quirk::RefusesDids) {
                return json!({ "recipient_did": did, "action": action, "result": "client_error" });
            }
            let mut owners = self.owners.lock().unwrap();
            let before = match action {
                "add" => owners.insert(did.to_owned(), from.to_owned()),
                "remove" => owners.remove(did),
                _ => panic!("{action}"),
            };
            let result = if before.is_some() == (action == "add") { "no_change" } else { "success" };
            json!({ "recipient_did": did, "action": action, "result": result })
        });
        each.collect()
    }
}

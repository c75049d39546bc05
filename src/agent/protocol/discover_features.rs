//! Discover features 2.0 (DIDComm v2.1 "Discover Features Protocol 2.0"): what the other side can do.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Fault, Problem, Protocol, Received, Turn, connections::connection};
use crate::{agent::store::Millis, didcomm::Message};

/// The type of a query.
pub const QUERIES: &str = "https://didcomm.org/discover-features/2.0/queries";
/// The type of what answers it, or comes unasked.
pub const DISCLOSE: &str = "https://didcomm.org/discover-features/2.0/disclose";
/// The kind of the records of what peers have disclosed, by the peer's DID.
pub const FEATURES: &str = "features";

/// How many queries of a message are answered.
const MAX_QUERIES: usize = 32;
/// How many disclosures of a peer are remembered, for how long, and how long a text in them may be.
const MAX_DISCLOSURES: usize = 64;
const REMEMBERED: Millis = 7 * 24 * 60 * 60 * 1000;
const MAX_TEXT: usize = 256;
const MAX_ROLES: usize = 8;

/// Answers queries, and remembers what peers disclose.
#[derive(Debug, Clone, Default)]
pub struct DiscoverFeatures(Disclose);

/// What is told, and whom ("Follow selective disclosure").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclose {
    /// What nobody is told: patterns of identifiers, such as `https://example.org/*`.
    pub hide: Vec<String>,
    /// Whether those are told anything who did not come by an invitation. The specification encourages it strongly.
    pub to_strangers: bool,
}

impl Default for Disclose {
    fn default() -> Self {
        Self { hide: Vec::new(), to_strangers: true }
    }
}

impl DiscoverFeatures {
    /// One that tells so much.
    pub fn new(disclose: Disclose) -> Self {
        Self(disclose)
    }

    async fn answer(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Some(queries) = received.message.body.get("queries").and_then(Value::as_array) else {
            return Err(Problem::new("e.m.msg.no-queries", "The message has no array body.queries.").into());
        };
        let invited = connection(received, turn).await?.is_some_and(|connection| connection.invitation.is_some());
        let mut disclosures = Vec::new();
        if invited || self.0.to_strangers {
            let queries: Vec<Query<'_>> = queries.iter().take(MAX_QUERIES).filter_map(Query::read).collect();
            disclosures = features(turn.features());
            disclosures.retain(|feature| {
                queries.iter().any(|query| query.asks_for(feature))
                    && !self.0.hide.iter().any(|pattern| matches(pattern, &feature.id))
            });
            // "Vary the order of items in the disclosures array": each gets a random number to be sorted by.
            disclosures.sort_by_cached_key(|_| Message::new_id());
        }
        let disclosures: Vec<Value> = disclosures.iter().map(Feature::disclosure).collect();
        turn.answer(DISCLOSE, json!({ "disclosures": disclosures }), |message| message);
        Ok(())
    }

    async fn remember(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Some(disclosures) = received.message.body.get("disclosures").and_then(Value::as_array) else {
            return Err(Problem::new("e.m.msg.no-disclosures", "The message has no array body.disclosures.").into());
        };
        let Some(theirs) = &received.theirs else { return Ok(()) };
        let known: Vec<Disclosed> = turn.get(FEATURES, theirs).await?.unwrap_or_default();
        // The newest first. What it does not tell again may stand all the same: it may have been asked for less.
        let mut now: Vec<Disclosed> = Vec::new();
        let news = disclosures.iter().take(MAX_DISCLOSURES).filter_map(Feature::read);
        let news = news.map(|feature| Disclosed { feature, time: received.time });
        for disclosed in news.chain(known.into_iter().filter(|old| received.time - old.time < REMEMBERED)) {
            if now.len() < MAX_DISCLOSURES && !now.iter().any(|other| other.feature.is_same(&disclosed.feature)) {
                now.push(disclosed);
            }
        }
        turn.put(FEATURES, theirs, &now, Some(received.time + REMEMBERED));
        turn.deliver();
        Ok(())
    }
}

#[async_trait]
impl Protocol for DiscoverFeatures {
    fn piuri(&self) -> &str {
        "https://didcomm.org/discover-features/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["requester", "responder"]
    }

    async fn handle(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
        if received.is("queries") {
            self.answer(received, turn).await
        } else if received.is("disclose") {
            self.remember(received, turn).await
        } else {
            Err(received.unknown().into())
        }
    }
}

/// A feature, as a disclosure tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// `protocol`, `goal-code`, `header`, `constraint`, or another.
    #[serde(rename = "feature-type")]
    pub feature_type: String,
    /// Which one.
    pub id: String,
    /// Of a protocol: the roles that are played. None says nothing about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Of the constraint of that name: the largest message that is taken, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_receive_bytes: Option<u64>,
}

/// A feature that a peer has disclosed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disclosed {
    /// Which.
    #[serde(flatten)]
    pub feature: Feature,
    /// When.
    pub time: Millis,
}

impl Feature {
    fn new(feature_type: &str, id: &str) -> Self {
        Self { feature_type: feature_type.to_owned(), id: id.to_owned(), ..Default::default() }
    }

    /// Reads a disclosure; nothing of one that is malformed or too long to be remembered.
    fn read(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().filter(|text| text.len() <= MAX_TEXT).map(str::to_owned);
        let bytes = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let roles = value.get("roles").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            feature_type: text(value.get("feature-type")?)?,
            id: text(value.get("id")?)?,
            roles: roles.take(MAX_ROLES).filter_map(text).collect(),
            max_receive_bytes: value.get("max_receive_bytes").and_then(bytes),
        })
    }

    fn disclosure(&self) -> Value {
        let mut disclosure = json!({ "feature-type": self.feature_type, "id": self.id });
        if !self.roles.is_empty() {
            disclosure["roles"] = json!(self.roles);
        }
        if let Some(bytes) = self.max_receive_bytes {
            // A string, as v2.1 "Message Constraints" has it.
            disclosure["max_receive_bytes"] = json!(bytes.to_string());
        }
        disclosure
    }

    fn is_same(&self, other: &Self) -> bool {
        self.feature_type == other.feature_type && self.id == other.id
    }
}

/// All that this agent could tell.
fn features(own: &super::Features) -> Vec<Feature> {
    let protocols =
        own.protocols.iter().map(|(id, roles)| Feature { roles: roles.clone(), ..Feature::new("protocol", id) });
    let goal_codes = own.goal_codes.iter().map(|code| Feature::new("goal-code", code));
    let headers = own.headers.iter().map(|name| Feature::new("header", name));
    let constraint = own
        .max_receive_bytes
        .map(|bytes| Feature { max_receive_bytes: Some(bytes), ..Feature::new("constraint", "max_receive_bytes") });
    protocols.chain(goal_codes).chain(headers).chain(constraint).collect()
}

/// One query. Of a feature type that we do not know nothing is ever found ("unrecognized values MUST be ignored").
struct Query<'a> {
    feature_type: &'a str,
    pattern: &'a str,
}

impl<'a> Query<'a> {
    fn read(value: &'a Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| text.len() <= MAX_TEXT);
        Some(Self { feature_type: text("feature-type")?, pattern: text("match")? })
    }

    fn asks_for(&self, feature: &Feature) -> bool {
        self.feature_type == feature.feature_type && matches(self.pattern, &feature.id)
    }
}

/// Whether a pattern, in which each `*` stands for any text, is all of a text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    // The first place of each part will do, but for the last one, which ends the text.
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(found) = text.find(part) else { return false };
        text = &text[found + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::protocol::{
        Features,
        connections::{CONNECTION, Connection},
        testing::{ALICE, BOB, NOW, OURS, World, from},
    };

    #[test]
    fn patterns() {
        for (pattern, text, is) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
            ("*", "anything", true),
            ("", "a", false),
            ("https://didcomm.org/tictactoe/1.*", "https://didcomm.org/tictactoe/1.0", true),
            ("https://didcomm.org/tictactoe/1.*", "https://didcomm.org/tictactoe/2.0", false),
            ("https://*/tictactoe/*", "https://didcomm.org/tictactoe/1.0", true),
            ("a*b*a", "aba", true),
            ("a*b*a", "ab", false),
            ("aa*aa", "aaa", false),
            ("*b", "ab", true),
            ("**", "ab", true),
            ("a*é*", "aéb", true),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_of(parts in prop::collection::vec("[ab]{0,3}", 1..5), filler in "[abc]{0,3}") {
            prop_assert!(matches(&parts.join("*"), &parts.join(&filler)));
        }

        #[test]
        fn what_matches_holds_every_part(pattern in "[ab*é]{0,8}", text in "[abé]{0,12}") {
            if matches(&pattern, &text) {
                prop_assert!(pattern.split('*').all(|part| text.contains(part)));
                prop_assert!(pattern.replace('*', "").chars().count() <= text.chars().count());
            }
        }
    }

    fn world() -> World {
        let roles = |roles: &[&str]| roles.iter().map(|&role| role.to_owned()).collect();
        let features = Features {
            protocols: vec![
                ("https://didcomm.org/tictactoe/1.0".into(), roles(&["player"])),
                ("https://didcomm.org/empty/1.0".into(), Vec::new()),
                ("https://example.org/secret/1.0".into(), Vec::new()),
            ],
            goal_codes: vec!["org.didcomm.sell.goods.consumer".into()],
            headers: vec!["return_route".into()],
            max_receive_bytes: Some(65536),
        };
        World { features, ..Default::default() }
    }

    async fn asked(world: &World, disclose: Disclose, queries: Value) -> Vec<Value> {
        let received = from(ALICE, QUERIES, json!({ "queries": queries }));
        let outcome = world.handle(&DiscoverFeatures::new(disclose), &received).await.unwrap();
        let [answer] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!((answer.type_.as_str(), answer.thid.as_deref()), (DISCLOSE, Some(received.message.id.as_str())));
        let mut disclosures = answer.body["disclosures"].as_array().unwrap().clone();
        disclosures.sort_by_key(Value::to_string);
        disclosures
    }

    /// The examples of the specification.
    #[tokio::test]
    async fn what_is_asked_for_is_disclosed() {
        let queries = json!([
            { "feature-type": "protocol", "match": "https://didcomm.org/tictactoe/1.*" },
            { "feature-type": "protocol", "match": "https://didcomm.org/tictactoe/*" },
            { "feature-type": "goal-code", "match": "org.didcomm.*" }
        ]);
        assert_eq!(
            asked(&world(), Disclose::default(), queries).await,
            [
                json!({"feature-type": "goal-code", "id": "org.didcomm.sell.goods.consumer"}),
                json!({"feature-type": "protocol", "id": "https://didcomm.org/tictactoe/1.0", "roles": ["player"]}),
            ]
        );
        let queries = json!([{ "feature-type": "constraint", "match": "max_receive_bytes" }]);
        assert_eq!(
            asked(&world(), Disclose::default(), queries).await,
            [json!({"feature-type": "constraint", "id": "max_receive_bytes", "max_receive_bytes": "65536"})]
        );
    }

    #[tokio::test]
    async fn what_is_not_known_is_ignored() {
        let queries = json!([{"feature-type": "*", "match": "*"}, {"feature-type": "governance", "match": "*"}, {}, 1,
            {"feature-type": "protocol"}, {"feature-type": "protocol", "match": 1},
            {"feature-type": "header", "match": "*".repeat(1000)}]);
        assert!(asked(&world(), Disclose::default(), queries).await.is_empty());
        assert!(asked(&world(), Disclose::default(), json!([])).await.is_empty());
        let protocol = DiscoverFeatures::default();
        assert_eq!(world().problem(&protocol, &from(ALICE, QUERIES, json!({}))).await, "e.m.msg.no-queries");
        assert_eq!(world().problem(&protocol, &from(ALICE, DISCLOSE, json!({}))).await, "e.m.msg.no-disclosures");
    }

    #[tokio::test]
    async fn disclosure_is_selective() {
        let all = json!([{"feature-type": "protocol", "match": "*"}]);
        let hide = Disclose { hide: vec!["https://example.org/*".into()], ..Default::default() };
        assert_eq!(asked(&world(), hide, all.clone()).await.len(), 2);

        let reserved = Disclose { hide: Vec::new(), to_strangers: false };
        let world = world();
        assert!(asked(&world, reserved.clone(), all.clone()).await.is_empty());
        let invited = Connection { invitation: Some("1".into()), ..Connection::new(OURS, ALICE, NOW) };
        world.set(CONNECTION, &Connection::key(OURS, ALICE), &invited);
        assert_eq!(asked(&world, reserved, all).await.len(), 3);
    }

    #[tokio::test]
    async fn what_a_peer_discloses_is_remembered() {
        let world = world();
        let protocol = DiscoverFeatures::default();
        let told = |disclosures: Value, time: Millis| {
            let mut received = from(BOB, DISCLOSE, json!({ "disclosures": disclosures }));
            received.time = time;
            received
        };
        let first = json!([
            {"feature-type": "protocol", "id": "a", "roles": ["x", 1]},
            {"feature-type": "constraint", "id": "max_receive_bytes", "max_receive_bytes": "65536"},
            {"feature-type": "protocol"}, "x", {"feature-type": "protocol", "id": "x".repeat(1000)}
        ]);
        let outcome = world.handle(&protocol, &told(first, NOW)).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        let known: Vec<Disclosed> = world.record(FEATURES, BOB).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(
            (known[0].feature.roles.as_slice(), known[1].feature.max_receive_bytes),
            (&["x".to_owned()][..], Some(65536))
        );

        let again = json!([{"feature-type": "protocol", "id": "a"}, {"feature-type": "header", "id": "b"}]);
        world.handle(&protocol, &told(again, NOW + 1)).await.unwrap();
        let known: Vec<Disclosed> = world.record(FEATURES, BOB).unwrap();
        let ids: Vec<&str> = known.iter().map(|disclosed| disclosed.feature.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "max_receive_bytes"]);
        assert!(known[0].feature.roles.is_empty());

        let many: Vec<Value> = (0..1000).map(|id| json!({"feature-type": "x", "id": id.to_string()})).collect();
        world.handle(&protocol, &told(json!(many), NOW + REMEMBERED)).await.unwrap();
        let known: Vec<Disclosed> = world.record(FEATURES, BOB).unwrap();
        assert_eq!(known.len(), MAX_DISCLOSURES);
    }
}

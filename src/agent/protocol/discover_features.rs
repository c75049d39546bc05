//! Discover features 2.0 (DIDComm v2.1 "Discover Features Protocol 2.0"): tells peers which protocols and features this
//! agent supports, and remembers what peers disclose.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    connections::find_connection,
    features::Features,
    handler::Protocol,
    problem::{HandleError, Problem},
    received::Received,
    record::RecordType,
    transaction::Transaction,
};
use crate::{agent::clock::Millis, didcomm::Message};

/// The type of a query.
pub const QUERIES: &str = "https://didcomm.org/discover-features/2.0/queries";
/// The type of a disclosure, which answers a query or is sent without a query.
pub const DISCLOSE: &str = "https://didcomm.org/discover-features/2.0/disclose";

/// How many queries of a message are answered.
const MAX_QUERIES: usize = 32;
/// How many disclosures of a peer are remembered.
const MAX_DISCLOSURES: usize = 64;
/// How long a disclosure is remembered.
const RETENTION: Millis = 7 * 24 * 60 * 60 * 1000;
/// The longest text in a disclosure or a query, in bytes.
const MAX_TEXT: usize = 256;
/// How many roles of a disclosed protocol are remembered.
const MAX_ROLES: usize = 8;

/// Answers queries, and remembers what peers disclose.
#[derive(Debug, Clone, Default)]
pub struct DiscoverFeatures(DisclosurePolicy);

/// The features that are disclosed, and the peers that get them ("Follow selective disclosure").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisclosurePolicy {
    /// Patterns of identifiers that are never disclosed, such as `https://example.org/*`.
    pub hide: Vec<String>,
    /// Whether features are disclosed to peers that did not accept an invitation. The specification strongly encourages
    /// this. Default: yes.
    pub to_strangers: bool,
}

impl Default for DisclosurePolicy {
    fn default() -> Self {
        Self { hide: Vec::new(), to_strangers: true }
    }
}

impl DiscoverFeatures {
    /// Makes the handler of the protocol, with this disclosure policy.
    pub fn new(policy: DisclosurePolicy) -> Self {
        Self(policy)
    }

    async fn answer(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        let Some(queries) = received.message.body.get("queries").and_then(Value::as_array) else {
            return Err(Problem::new("e.m.msg.no-queries", "The message has no array body.queries.").into());
        };
        let connection = find_connection(received, tx).await?;
        let is_invited = connection.is_some_and(|connection| connection.invitation.is_some());
        let mut disclosures = Vec::new();
        if is_invited || self.0.to_strangers {
            let queries: Vec<Query<'_>> = queries.iter().take(MAX_QUERIES).filter_map(Query::read).collect();
            disclosures = own_features(tx.features());
            disclosures.retain(|feature| {
                queries.iter().any(|query| query.matches(feature))
                    && !self.0.hide.iter().any(|pattern| matches(pattern, &feature.id))
            });
            // "Vary the order of items in the disclosures array": they are sorted by random numbers.
            disclosures.sort_by_cached_key(|_| Message::new_id());
        }
        let disclosures: Vec<Value> = disclosures.iter().map(Feature::to_disclosure).collect();
        tx.answer(DISCLOSE, json!({ "disclosures": disclosures }), |message| message);
        Ok(())
    }

    async fn remember(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        let Some(disclosures) = received.message.body.get("disclosures").and_then(Value::as_array) else {
            return Err(Problem::new("e.m.msg.no-disclosures", "The message has no array body.disclosures.").into());
        };
        let Some(sender) = &received.sender else { return Ok(()) };
        let DisclosedFeatures(known) = tx.get(sender).await?.unwrap_or_default();
        // Newest first. An older disclosure that is not repeated stays: this time the query may have asked for less.
        let mut features: Vec<DisclosedFeature> = Vec::new();
        let new = disclosures.iter().take(MAX_DISCLOSURES).filter_map(Feature::read);
        let new = new.map(|feature| DisclosedFeature { feature, time: received.time });
        for disclosed in new.chain(known.into_iter().filter(|old| received.time - old.time < RETENTION)) {
            let is_known = features.iter().any(|other| other.feature.is_same(&disclosed.feature));
            if features.len() < MAX_DISCLOSURES && !is_known {
                features.push(disclosed);
            }
        }
        tx.put(sender, &DisclosedFeatures(features), Some(received.time + RETENTION));
        tx.deliver();
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

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if received.is("queries") {
            self.answer(received, tx).await
        } else if received.is("disclose") {
            self.remember(received, tx).await
        } else {
            Err(received.unknown_type().into())
        }
    }
}

/// A feature, as in a disclosure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// The feature type: `protocol`, `goal-code`, `header`, `constraint`, or another.
    #[serde(rename = "feature-type")]
    pub feature_type: String,
    /// The identifier.
    pub id: String,
    /// The roles that are supported in a protocol. An empty list says nothing about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The largest accepted message, in bytes, if the feature is the constraint `max_receive_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_receive_bytes: Option<u64>,
}

/// A feature that a peer has disclosed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisclosedFeature {
    /// The feature.
    #[serde(flatten)]
    pub feature: Feature,
    /// When the disclosure arrived.
    pub time: Millis,
}

/// The record of the features that a peer has disclosed, newest first. The key is the peer's DID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DisclosedFeatures(pub Vec<DisclosedFeature>);

impl RecordType for DisclosedFeatures {
    const KIND: &'static str = "features";
    const ABOUT_SENDER: bool = true;
}

impl Feature {
    fn new(feature_type: &str, id: &str) -> Self {
        Self { feature_type: feature_type.to_owned(), id: id.to_owned(), ..Default::default() }
    }

    /// Reads a disclosure. `None` if it is malformed, or too long to be remembered.
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

    fn to_disclosure(&self) -> Value {
        let mut disclosure = json!({ "feature-type": self.feature_type, "id": self.id });
        if !self.roles.is_empty() {
            disclosure["roles"] = json!(self.roles);
        }
        if let Some(bytes) = self.max_receive_bytes {
            // A string, as in v2.1 "Message Constraints".
            disclosure["max_receive_bytes"] = json!(bytes.to_string());
        }
        disclosure
    }

    fn is_same(&self, other: &Self) -> bool {
        self.feature_type == other.feature_type && self.id == other.id
    }
}

/// Returns all features that this agent could disclose.
fn own_features(own: &Features) -> Vec<Feature> {
    let protocols =
        own.protocols.iter().map(|(id, roles)| Feature { roles: roles.clone(), ..Feature::new("protocol", id) });
    let goal_codes = own.goal_codes.iter().map(|code| Feature::new("goal-code", code));
    let headers = own.headers.iter().map(|name| Feature::new("header", name));
    let constraint = own
        .max_receive_bytes
        .map(|bytes| Feature { max_receive_bytes: Some(bytes), ..Feature::new("constraint", "max_receive_bytes") });
    protocols.chain(goal_codes).chain(headers).chain(constraint).collect()
}

/// One query. A query for an unknown feature type finds nothing ("unrecognized values MUST be ignored").
struct Query<'a> {
    feature_type: &'a str,
    pattern: &'a str,
}

impl<'a> Query<'a> {
    fn read(value: &'a Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| text.len() <= MAX_TEXT);
        Some(Self { feature_type: text("feature-type")?, pattern: text("match")? })
    }

    fn matches(&self, feature: &Feature) -> bool {
        self.feature_type == feature.feature_type && matches(self.pattern, &feature.id)
    }
}

/// Whether a pattern matches a whole text. Each `*` in the pattern stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    // The first occurrence of each part suffices, except for the last part, which must end the text.
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
        connections::Connection,
        testing::{ALICE, BOB, Harness, NOW, OWN_DID, from},
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
        fn a_pattern_matches_a_text_built_from_it(parts in prop::collection::vec("[ab]{0,3}", 1..5), filler in "[abc]{0,3}") {
            prop_assert!(matches(&parts.join("*"), &parts.join(&filler)));
        }

        #[test]
        fn a_matching_text_contains_every_part(pattern in "[ab*é]{0,8}", text in "[abé]{0,12}") {
            if matches(&pattern, &text) {
                prop_assert!(pattern.split('*').all(|part| text.contains(part)));
                prop_assert!(pattern.replace('*', "").chars().count() <= text.chars().count());
            }
        }
    }

    fn harness() -> Harness {
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
        Harness { features, ..Default::default() }
    }

    async fn disclosed(harness: &Harness, disclose: DisclosurePolicy, queries: Value) -> Vec<Value> {
        let received = from(ALICE, QUERIES, json!({ "queries": queries }));
        let outcome = harness.handle(&DiscoverFeatures::new(disclose), &received).await.unwrap();
        let [answer] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!((answer.type_.as_str(), answer.thid.as_deref()), (DISCLOSE, Some(received.message.id.as_str())));
        let mut disclosures = answer.body["disclosures"].as_array().unwrap().clone();
        disclosures.sort_by_key(Value::to_string);
        disclosures
    }

    /// The examples of the specification.
    #[tokio::test]
    async fn matching_features_are_disclosed() {
        let queries = json!([
            { "feature-type": "protocol", "match": "https://didcomm.org/tictactoe/1.*" },
            { "feature-type": "protocol", "match": "https://didcomm.org/tictactoe/*" },
            { "feature-type": "goal-code", "match": "org.didcomm.*" }
        ]);
        assert_eq!(
            disclosed(&harness(), DisclosurePolicy::default(), queries).await,
            [
                json!({"feature-type": "goal-code", "id": "org.didcomm.sell.goods.consumer"}),
                json!({"feature-type": "protocol", "id": "https://didcomm.org/tictactoe/1.0", "roles": ["player"]}),
            ]
        );
        let queries = json!([{ "feature-type": "constraint", "match": "max_receive_bytes" }]);
        assert_eq!(
            disclosed(&harness(), DisclosurePolicy::default(), queries).await,
            [json!({"feature-type": "constraint", "id": "max_receive_bytes", "max_receive_bytes": "65536"})]
        );
    }

    #[tokio::test]
    async fn unknown_queries_are_ignored() {
        let queries = json!([{"feature-type": "*", "match": "*"}, {"feature-type": "governance", "match": "*"}, {}, 1,
            {"feature-type": "protocol"}, {"feature-type": "protocol", "match": 1},
            {"feature-type": "header", "match": "*".repeat(1000)}]);
        assert!(disclosed(&harness(), DisclosurePolicy::default(), queries).await.is_empty());
        assert!(disclosed(&harness(), DisclosurePolicy::default(), json!([])).await.is_empty());
        let protocol = DiscoverFeatures::default();
        assert_eq!(harness().problem(&protocol, &from(ALICE, QUERIES, json!({}))).await, "e.m.msg.no-queries");
        assert_eq!(harness().problem(&protocol, &from(ALICE, DISCLOSE, json!({}))).await, "e.m.msg.no-disclosures");
    }

    #[tokio::test]
    async fn disclosure_is_selective() {
        let all = json!([{"feature-type": "protocol", "match": "*"}]);
        let hide = DisclosurePolicy { hide: vec!["https://example.org/*".into()], ..Default::default() };
        assert_eq!(disclosed(&harness(), hide, all.clone()).await.len(), 2);

        let reserved = DisclosurePolicy { hide: Vec::new(), to_strangers: false };
        let harness = harness();
        assert!(disclosed(&harness, reserved.clone(), all.clone()).await.is_empty());
        let invited = Connection { invitation: Some("1".into()), ..Connection::new(OWN_DID, ALICE, NOW) };
        harness.set(&Connection::key(OWN_DID, ALICE), &invited);
        assert_eq!(disclosed(&harness, reserved, all).await.len(), 3);
    }

    #[tokio::test]
    async fn disclosures_of_a_peer_are_remembered() {
        let harness = harness();
        let protocol = DiscoverFeatures::default();
        let disclosure = |disclosures: Value, time: Millis| {
            let mut received = from(BOB, DISCLOSE, json!({ "disclosures": disclosures }));
            received.time = time;
            received
        };
        let first = json!([
            {"feature-type": "protocol", "id": "a", "roles": ["x", 1]},
            {"feature-type": "constraint", "id": "max_receive_bytes", "max_receive_bytes": "65536"},
            {"feature-type": "protocol"}, "x", {"feature-type": "protocol", "id": "x".repeat(1000)}
        ]);
        let outcome = harness.handle(&protocol, &disclosure(first, NOW)).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        let DisclosedFeatures(known) = harness.record(BOB).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(
            (known[0].feature.roles.as_slice(), known[1].feature.max_receive_bytes),
            (&["x".to_owned()][..], Some(65536))
        );

        let again = json!([{"feature-type": "protocol", "id": "a"}, {"feature-type": "header", "id": "b"}]);
        harness.handle(&protocol, &disclosure(again, NOW + 1)).await.unwrap();
        let DisclosedFeatures(known) = harness.record(BOB).unwrap();
        let ids: Vec<&str> = known.iter().map(|disclosed| disclosed.feature.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "max_receive_bytes"]);
        assert!(known[0].feature.roles.is_empty());

        let many: Vec<Value> = (0..1000).map(|id| json!({"feature-type": "x", "id": id.to_string()})).collect();
        harness.handle(&protocol, &disclosure(json!(many), NOW + RETENTION)).await.unwrap();
        let DisclosedFeatures(known) = harness.record(BOB).unwrap();
        assert_eq!(known.len(), MAX_DISCLOSURES);
    }
}

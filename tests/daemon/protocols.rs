//! docs/protocols.md must list the protocols and roles that a running daemon discloses, and no other.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use crate::daemon::Daemon;

/// The roles of each protocol, by its identifier.
type Protocols = BTreeMap<String, Vec<String>>;

fn documented() -> Protocols {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocols.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `https://"));
    let row = |row: &str| {
        let mut cells = row.split('|').map(str::trim);
        let id = format!("https://{}", cells.next().unwrap().trim_end_matches('`'));
        let roles = cells.next().unwrap().split(", ").filter(|role| !role.is_empty());
        (id, roles.map(str::to_owned).collect())
    };
    rows.map(row).collect()
}

#[test]
fn the_disclosed_protocols_are_the_documented_ones() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let queries = json!({ "queries": [{ "feature-type": "protocol", "match": "*" }] }).to_string();
    let kind = "https://didcomm.org/discover-features/2.0/queries";
    bob.json(&["send", "--to", &alice.did, "--type", kind, &queries, "--within", "30"]);
    let disclosed = |bob: &Daemon| {
        let page = bob.json(&["inbox"]);
        let messages = page["messages"].as_array().unwrap();
        messages.first().map(|it| it["message"]["body"]["disclosures"].clone())
    };
    bob.wait_until("Alice has disclosed", |bob| disclosed(bob).is_some());
    let disclosures = disclosed(&bob).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let roles = |value: &Value| value.as_array().map(|roles| roles.iter().map(text).collect()).unwrap_or_default();
    let all: Protocols =
        disclosures.as_array().unwrap().iter().map(|it| (text(&it["id"]), roles(&it["roles"]))).collect();
    assert_eq!(all, documented());
}

//! The alarms and the dashboard in packaging/monitoring agree with docs/operations.md, whose table of metrics
//! `tests/daemon/metrics.rs` compares with a running agent. `packaging/monitoring/verify` has promtool evaluate them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The labels of each metric in docs/operations.md.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/operations.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `claviger_")?.split('`').next());
    let metric = |row: &str| {
        let (name, labels) = row.trim_end_matches('}').split_once('{').unwrap_or((row, ""));
        (format!("claviger_{name}"), labels.split(',').map(str::to_owned).collect())
    };
    rows.map(metric).collect()
}

/// The metrics of an expression, each with the labels that its matchers name.
fn used(expression: &str) -> BTreeMap<String, BTreeSet<String>> {
    let of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let mut used = BTreeMap::<String, BTreeSet<String>>::new();
    for (start, _) in expression.match_indices("claviger_") {
        let rest = &expression[start..];
        let name = &rest[..rest.find(|letter| !of_name(letter)).unwrap_or(rest.len())];
        let matchers = rest[name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("");
        // No value of ours has a comma.
        let labels = matchers.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
        let labels = labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        used.entry(name.trim_end_matches("_bucket").to_owned()).or_default().extend(labels);
    }
    used
}

#[track_caller]
fn assert_known(expression: &str, all: &BTreeMap<String, BTreeSet<String>>) {
    for (name, labels) in used(expression) {
        let known = all.get(&name).unwrap_or_else(|| panic!("no metric is {name}: {expression}"));
        let unknown: Vec<_> = labels.iter().filter(|label| !known.contains(*label) && *label != "instance").collect();
        assert!(unknown.is_empty(), "{name} has no label {unknown:?}: {expression}");
    }
}

/// The condition and the expression of each alarm in docs/operations.md that has a metric of ours.
fn documented_alarms() -> BTreeMap<String, String> {
    let page = read("docs/operations.md");
    let section = page.split("\n## Alarms\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).map(|line| line.replace("\\|", "\0"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\0', "|")).collect());
    let alarms = cells.filter_map(|cells: Vec<String>| {
        let expression = cells[1].split('`').nth(1).filter(|expression| expression.contains("claviger_"))?;
        Some((cells[0].clone(), expression.to_owned()))
    });
    alarms.collect()
}

#[test]
fn the_alarms_are_the_documented_ones() {
    let (rules, all) = (read("packaging/monitoring/claviger.rules.yml"), metrics());
    let value = |alarm: &str, member: &str| {
        let found = alarm.lines().find_map(|line| line.trim().strip_prefix(&format!("{member}: ")).map(str::to_owned));
        found.unwrap_or_else(|| panic!("an alarm without {member}: {alarm}"))
    };
    let alarms: BTreeMap<String, String> = rules
        .split("- alert: ")
        .skip(1)
        .map(|alarm| (value(alarm, "summary"), value(alarm, "expr")))
        .filter(|(_, expression)| expression.contains("claviger_"))
        .collect();
    assert_eq!(alarms, documented_alarms());
    assert!(alarms.len() > 10);
    alarms.values().for_each(|expression| assert_known(expression, &all));
}

/// The dashboard shows every metric, and nothing that does not exist.
#[test]
fn the_dashboard_shows_every_metric() {
    let dashboard: Value = serde_json::from_str(&read("packaging/monitoring/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = || panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions: Vec<&str> = targets().map(|target| target["expr"].as_str().unwrap()).collect();
    let all = metrics();
    expressions.iter().for_each(|expression| assert_known(expression, &all));
    let shown: BTreeSet<String> = expressions.iter().flat_map(|expression| used(expression).into_keys()).collect();
    assert_eq!(shown, all.into_keys().collect());

    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let edges = |panel: &Value| ["x", "y", "w", "h"].map(|member| panel["gridPos"][member].as_u64().unwrap());
    for (index, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = edges(panel);
        assert!(x + w <= 24, "{panel}");
        let overlaps =
            panels[..index].iter().map(edges).any(|[a, b, c, d]| x < a + c && a < x + w && y < b + d && b < y + h);
        assert!(!overlaps, "{panel}");
    }
}

#[test]
fn a_wrong_metric_and_a_wrong_label_are_found() {
    let all = metrics();
    assert_eq!(used("rate(claviger_a_total{result=~\"x\",b!=\"y\"}[5m]) > claviger_c"), {
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        BTreeMap::from([
            ("claviger_a_total".to_owned(), labels(&["result", "b"])),
            ("claviger_c".to_owned(), labels(&[])),
        ])
    });
    for wrong in ["claviger_messages_total", "claviger_store_bytes{queue=\"inbox\"}"] {
        assert!(std::panic::catch_unwind(|| assert_known(wrong, &all)).is_err(), "{wrong}");
    }
}

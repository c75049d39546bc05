//! Scopes: what the bearer of a token may do, and that a token loses its rights at once.

use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, ApiResponse, text},
    daemon::{Daemon, free_port, http, status_of, write_with_mode},
    reload::{change_and_reload, wait_for_log_line},
};

const ALL: &str = "the-token-with-all-scopes-0123456789abcdef";
const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";
const SCOPES: [&str; 3] = ["read", "send", "manage"];

/// An agent whose API is on the loopback interface, and has a token for each scope beside the one for the whole API.
fn agent_with_tokens() -> Option<(Daemon, ApiClient)> {
    let port = free_port();
    let mut config = format!("[api]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"all.token\"\n");
    for scope in SCOPES {
        config += &format!("[[api.token]]\nname = \"for {scope}\"\nfile = \"{scope}.token\"\nscopes = [\"{scope}\"]\n");
    }
    let mut agent = Daemon::new(&config)?;
    write_with_mode(&agent.home, "all.token", ALL, 0o600);
    for scope in SCOPES {
        write_with_mode(&agent.home, &format!("{scope}.token"), &token(scope), 0o600);
    }
    agent.start();
    Some((agent, ApiClient::Loopback(port)))
}

fn token(scope: &str) -> String {
    format!("the-{scope}-token-of-this-test-0123456789abcdef")
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Sends a request that no operation accepts, so that an event stream does not begin.
fn try_operation(api: &ApiClient, token: &str, method: &str, path: &str) -> ApiResponse {
    let path = path.split('/').map(|part| if part.starts_with('{') { "no-such" } else { part });
    let headers = format!("{}last-event-id: x\r\ncontent-type: application/json\r\n", bearer(token));
    api.request(&method.to_uppercase(), &path.collect::<Vec<_>>().join("/"), &headers, "{}")
}

#[test]
fn every_operation_needs_exactly_the_scope_of_its_description() {
    let Some((agent, api)) = agent_with_tokens() else { return };
    let ApiClient::Loopback(port) = api else { unreachable!("the API is on the loopback interface") };
    let description = api.request("GET", "/openapi.json", &bearer(&token("send")), "").json(200);
    let mut by_scope = SCOPES.map(|scope| (scope, Vec::new()));
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().unwrap();
            let needed = security[0]["token"][0].as_str().unwrap();
            assert_eq!(
                *security,
                [json!({ "token": [needed] }), json!({ "certificate": [needed] })],
                "{method} {path}"
            );
            for scope in SCOPES {
                let answer = try_operation(&api, &token(scope), method, path);
                let name = format!("{method} {path} with {scope}: {}", answer.body);
                if scope == needed {
                    assert!(![0, 401, 403, 405].contains(&answer.status) && answer.status < 500, "{name}");
                    continue;
                }
                assert_eq!(answer.error(403), "scope-missing", "{name}");
                let message = answer.json(403)["error"]["message"].as_str().unwrap().to_owned();
                assert!(message.contains(&format!("\"for {scope}\" has no scope {needed:?}")), "{name}");
                assert!(!message.contains(&token(scope)), "{name}");
            }
            assert!(![401, 403].contains(&try_operation(&api, ALL, method, path).status), "{method} {path}");
            let (_, operations) = by_scope.iter_mut().find(|(scope, _)| *scope == needed).unwrap();
            operations.push(format!("{method} {path}"));
        }
    }
    let [(_, read), (_, send), (_, manage)] = by_scope;
    assert!(read.iter().all(|it| it.starts_with("get ")) && manage.iter().all(|it| !it.starts_with("get ")));
    // What an application does that exchanges messages. A new operation is listed here only if it belongs to that.
    assert_eq!(
        send,
        [
            "post /v1/batches",
            "post /v1/inbox/acknowledge",
            "post /v1/messages",
            "post /v1/messages/{id}/cancel",
            "post /v1/messages/{id}/retry",
        ]
    );
    // What exists is no secret for a caller with any scope.
    for scope in SCOPES {
        let ask = |method, path| api.request(method, path, &bearer(&token(scope)), "");
        assert_eq!(ask("GET", "/nothing").error(404), "not-found");
        assert_eq!(ask("PUT", "/v1/status").error(405), "bad-request");
        let head = format!("HEAD /v1/status HTTP/1.0\r\nhost: localhost\r\n{}\r\n", bearer(&token(scope)));
        assert_eq!(status_of(&http(port, &head, b"")), if scope == "read" { 200 } else { 403 });
    }
    assert_eq!(api.get("/v1/status").error(401), "unauthorized");
    // The commands present `token_file`.
    assert_eq!(agent.json(&["status"])["status"]["token_ready"], true);
    assert!(!agent.log().contains("-token-of-this-test-"), "{}", agent.log());
}

/// A message of the agent to itself.
fn send(api: &ApiClient, agent: &Daemon, content: &str) {
    let new = json!({ "to": agent.did, "from": agent.did, "type": BASIC, "body": { "content": content } });
    let headers = bearer(ALL) + "content-type: application/json\r\n";
    api.request("POST", "/v1/messages", &headers, &new.to_string()).json(202);
}

#[test]
fn sighup_replaces_and_withdraws_tokens_at_once() {
    let Some((agent, api)) = agent_with_tokens() else { return };
    let status = |token: &str| api.request("GET", "/v1/status", &bearer(token), "");
    let mut of_all = api.events("/v1/events", &bearer(ALL));
    let mut of_reader = api.events("/v1/events", &bearer(&token("read")));
    send(&api, &agent, "1");
    assert_eq!((of_all.texts(1), of_reader.texts(1)), (vec!["1".to_owned()], vec!["1".to_owned()]));

    // A new token in the same file: the open stream of the old one ends.
    let before = agent.log().len();
    write_with_mode(&agent.home, "read.token", "a-new-token-for-the-reader-0123456789abc", 0o600);
    agent.signal(rustix::process::Signal::HUP);
    wait_for_log_line(&agent, before, &["configuration reloaded: a token of [api] has changed"]);
    assert!(of_reader.next().is_none());
    assert_eq!(status(&token("read")).error(401), "unauthorized");
    status("a-new-token-for-the-reader-0123456789abc").json(200);
    // Other streams go on.
    send(&api, &agent, "2");
    assert_eq!(text(&of_all.next().unwrap().data), "2");

    // Another scope.
    let mut of_reader = api.events("/v1/events?after=0", &bearer("a-new-token-for-the-reader-0123456789abc"));
    assert_eq!(of_reader.texts(2), ["1", "2"]);
    let before = agent.log().len();
    change_and_reload(&agent, "scopes = [\"read\"]", "scopes = [\"manage\", \"send\"]");
    wait_for_log_line(&agent, before, &["configuration reloaded", "api.token"]);
    assert!(of_reader.next().is_none());
    assert_eq!(status("a-new-token-for-the-reader-0123456789abc").error(403), "scope-missing");

    // A token that would not be refused at start changes nothing.
    let before = agent.log().len();
    write_with_mode(&agent.home, "read.token", ALL, 0o600);
    agent.signal(rustix::process::Signal::HUP);
    wait_for_log_line(&agent, before, &["configuration not reloaded", "are the same"]);
    assert_eq!(status("a-new-token-for-the-reader-0123456789abc").error(403), "scope-missing");

    // The token for the whole API. Before SIGHUP, the configuration can be checked beside the agent.
    let before = agent.log().len();
    write_with_mode(&agent.home, "read.token", &token("read"), 0o600);
    write_with_mode(&agent.home, "all.token", "a-new-token-for-everything-0123456789abc", 0o600);
    let refused = agent.home.run("--json status");
    assert_eq!(refused.error(1), "agent-refuses");
    assert!(refused.stderr().contains("send SIGHUP"), "{}", refused.stderr());
    assert_eq!(agent.home.run("--json serve --check").json()["running"], "unknown");
    let checked = agent.home.run("serve --check");
    assert!(checked.status() == 0 && checked.stderr().contains("An agent runs now"), "{}", checked.stderr());
    agent.signal(rustix::process::Signal::HUP);
    wait_for_log_line(&agent, before, &["configuration reloaded: a token of [api] has changed"]);
    assert!(of_all.next().is_none());
    assert_eq!(status(ALL).error(401), "unauthorized");
    assert_eq!(agent.json(&["status"])["status"]["token_ready"], Value::Bool(true));
}

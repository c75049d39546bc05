//! A wallet in a page of another origin, in a real browser.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Condvar, Mutex},
};

use claviger::didcomm::Message;
use serde_json::{Value, json};

use crate::{
    chromium::{are_installed, chromium},
    daemon::{Daemon, TIMEOUT},
    endpoint::Endpoint,
    peer::{Peer, seconds},
};

/// The script of the page below: makes each request of `requests` with fetch, then those of `flood` all at once, and posts the
/// answers to its own server.
const FETCH_ALL: &str = r#"
(async () => {
    const ask = async ([url, options]) => {
        try {
            const response = await fetch(url, options);
            const retry = response.headers.get("retry-after");
            return {status: response.status, url: response.url, retry, text: await response.text()};
        } catch (error) {
            return {refused: error.name};
        }
    };
    const answers = [];
    for (const request of requests) answers.push(await ask(request));
    answers.push(...await Promise.all(flood.map(ask)));
    await fetch("/answers", {method: "POST", body: JSON.stringify(answers)});
})();
"#;

/// Has a page of another origin make these requests (the arguments of fetch): the first one after the other, and those of
/// `flood` all at once. Returns what the page learns of each.
fn fetch_from_another_origin(requests: &[(String, Value)], flood: &[(String, Value)], folder: &Path) -> Vec<Value> {
    let [requests, flood] = [requests, flood].map(|list| serde_json::to_string(list).unwrap().replace('<', "\\u003c"));
    // The browser runs until the page and its picture are loaded, and the picture comes after the answers.
    let page = format!(
        "<!DOCTYPE html><img src=\"/wait\"><script>\nconst requests = {requests}, flood = {flood};{FETCH_ALL}</script>"
    );
    let answers: Arc<(Mutex<Option<Vec<Value>>>, Condvar)> = Arc::default();
    let posted = answers.clone();
    let server = Endpoint::new(move |request| match request.path.as_str() {
        "/" => (200, "content-type: text/html; charset=utf-8\r\n".to_owned(), page.clone()),
        "/answers" => {
            *posted.0.lock().unwrap() = Some(serde_json::from_str(&request.body).unwrap());
            posted.1.notify_all();
            (204, String::new(), String::new())
        }
        "/wait" => {
            let waiting = posted.0.lock().unwrap();
            let _ = posted.1.wait_timeout_while(waiting, TIMEOUT, |answers| answers.is_none()).unwrap();
            (404, String::new(), String::new())
        }
        _ => (404, String::new(), String::new()),
    });
    let status = chromium(folder).arg("--dump-dom").arg(format!("{}/", server.uri())).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
    answers.0.lock().unwrap().take().expect("the page has posted its answers")
}

/// A wallet in a page of another origin sends messages, reads every answer, and fetches invitations and DID documents.
#[test]
fn a_wallet_in_a_page_of_another_origin_reads_every_answer() {
    if !are_installed(&["chromium"]) {
        return;
    }
    let Some(mut alice) = Daemon::with_config("rate_per_address = 10", "") else { return };
    let agent = format!("http://127.0.0.1:{}", alice.port);
    for method in ["web", "webvh"] {
        let host = format!("localhost:{}", alice.port);
        alice.json(&["did", "create", "--method", method, "--host", &host, "--service", &agent]);
    }
    alice.start();
    let invitation = alice.json(&["invite", "--goal", "Lunch"]);
    let (wallet, stranger) = (Peer::new("wallet"), Peer::new("stranger"));
    let ping = Message::build(
        Message::new_id(),
        "https://didcomm.org/trust-ping/2.0/ping",
        json!({"response_requested": true}),
    );
    let mut ping = ping.from(wallet.did()).to(&alice.did).created_time(seconds()).finalize();
    ping.return_route = Some("all".to_owned());

    let post = |media_type: &str, body: String| {
        (agent.clone(), json!({"method": "POST", "headers": {"Content-Type": media_type}, "body": body}))
    };
    let encrypted = "application/didcomm-encrypted+json";
    let requests = vec![
        post(encrypted, wallet.pack_text(&alice.did, "from a page")),
        post(encrypted, wallet.pack(&ping)),
        post(encrypted, "no message".to_owned()),
        post(encrypted, wallet.pack_text(stranger.did(), "not for Alice")),
        post("text/plain", "no message".to_owned()),
        post("application/json", "{}".to_owned()),
        (invitation["short_url"].as_str().unwrap().to_owned(), json!({})),
        (format!("{agent}/.well-known/did.json"), json!({"cache": "no-store"})),
        (format!("{agent}/.well-known/did.jsonl"), json!({})),
        (format!("{agent}/nowhere"), json!({})),
        // A header that a wallet's library may add.
        (format!("{agent}/"), json!({"headers": {"X-Wallet": "1"}})),
        // The browser keeps these from the page: a request with cookies, and a method that this server does not have.
        (format!("{agent}/"), json!({"credentials": "include"})),
        (format!("{agent}/"), json!({"method": "PUT", "body": "x"})),
    ];
    let flood = vec![post(encrypted, "no message".to_owned()); 60];

    let folder = tempfile::tempdir().unwrap();
    let answers = fetch_from_another_origin(&requests, &flood, folder.path());
    assert_eq!(answers.len(), requests.len() + flood.len());
    let statuses: Vec<u64> = answers.iter().map(|it| it["status"].as_u64().unwrap_or_default()).collect();
    assert_eq!(
        statuses[..requests.len()],
        [202, 200, 400, 404, 415, 415, 200, 200, 200, 404, 200, 0, 0],
        "{answers:#?}"
    );
    let text = |at: usize| answers[at]["text"].as_str().unwrap();
    // The answer to a ping that asks for a return route is in the response.
    let (pong, _) = wallet.open(text(1));
    assert_eq!(pong.type_, "https://didcomm.org/trust-ping/2.0/ping-response");
    assert!(text(2).contains("JSON"), "{}", text(2));
    // The redirect of a short URL is followed, and the page knows the invitation from the URL that it leads to.
    assert_eq!(answers[6]["url"], invitation["url"]);
    for (at, method) in [(7, "did:web:"), (8, "did:webvh:")] {
        assert!(text(at).contains(method), "{}", text(at));
    }
    assert_eq!((&answers[11]["refused"], &answers[12]["refused"]), (&"TypeError".into(), &"TypeError".into()));
    // Too many messages: the page also reads when to come again.
    let refused = answers[requests.len()..].iter().find(|it| it["status"] == 429).expect("a message is one too many");
    assert_eq!(refused["retry"], "10");
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["from a page"]);
}

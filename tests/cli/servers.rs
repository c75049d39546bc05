//! `did resolve`, `pack` and `unpack` with DIDs whose documents are on servers: did:web and did:webvh.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
};

use crate::{
    endpoint::Endpoint,
    home::{CommandOutput, Home, plaintext, softhsm_module},
};

/// A server for documents, by their paths.
struct Documents {
    served: Arc<Mutex<HashMap<String, (u16, String)>>>,
    server: Endpoint,
}

impl Documents {
    fn new() -> Self {
        let served = Arc::<Mutex<HashMap<String, (u16, String)>>>::default();
        let documents = served.clone();
        let server = Endpoint::new(move |request| {
            let found = documents.lock().unwrap().get(&request.path).cloned();
            let (status, body) = found.unwrap_or((404, String::new()));
            let header = if status == 302 { "location: /elsewhere\r\n" } else { "" };
            (status, header.to_owned(), body)
        });
        Self { served, server }
    }

    /// Makes a DID of this method in a home, and serves its document.
    fn create_did(&self, home: &Home, method: &str, name: &str) -> String {
        let did = home.create_did(&format!("--method {method} --host localhost:{} --path {name}", self.server.port));
        let folder = home.path().join("state/documents");
        let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        let mut texts = files.filter(|text| text.contains(&format!("\"{did}\"")));
        let file = if method == "web" { "did.json" } else { "did.jsonl" };
        self.serve(&format!("/{name}/{file}"), 200, &texts.next().expect("the document of the DID"));
        did
    }

    fn serve(&self, path: &str, status: u16, body: &str) {
        self.served.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    /// Allows a home to fetch the documents.
    fn allow(&self, home: &Home, more: &str) {
        let hosts = format!("did_web_plain_http_for = [\"localhost:{}\"]", self.server.port);
        let net = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{hosts}\n{more}");
        home.configure(&softhsm_module().unwrap(), &net);
    }
}

/// The error of a command, whose message and hint contain these texts.
#[track_caller]
fn assert_refused(output: &CommandOutput, code: &str, texts: &[&str]) {
    assert_eq!(output.error(1), code, "{}", output.stderr());
    for text in texts {
        assert!(output.stderr().contains(text), "{text}: {}", output.stderr());
    }
}

#[test]
fn documents_on_servers_are_resolved() {
    let (Some(alice), Some(bob)) = (Home::with_token(), Home::with_token()) else { return };
    let documents = Documents::new();
    for keeper in ["", "[keeper]\nin_process = true\n"] {
        documents.allow(&alice, keeper);
        documents.allow(&bob, keeper);
        for method in ["web", "webvh"] {
            let name = |who: &str| format!("{who}-{method}-{}", keeper.len());
            let from = documents.create_did(&alice, method, &name("alice"));
            let to = documents.create_did(&bob, method, &name("bob"));
            let document = alice.run(&format!("did resolve {to}")).json();
            assert_eq!(document, bob.run(&format!("did resolve {to} --offline")).json());
            // An own document is at hand.
            alice.run(&format!("did resolve {from} --offline")).success();
            let message = plaintext(Some(&from), Some(&to), "hello");
            let packed = alice.run_with_stdin(&format!("pack --to {to} --from {from} --sign-by {from}"), &message);
            let packed = packed.success();
            let unpacked = bob.run_with_stdin("unpack", packed).json();
            assert_eq!(unpacked["message"].to_string(), message);
            assert_eq!(unpacked["provenance"]["authenticated"], true);
            assert_eq!(unpacked["provenance"]["non_repudiation"], true);
            for refused in [
                alice.run(&format!("--json did resolve {to} --offline")),
                alice.run_with_stdin(&format!("--json pack --to {to} --offline"), &plaintext(None, Some(&to), "no")),
                bob.run_with_stdin("--json unpack --offline", packed),
            ] {
                assert_refused(&refused, "did-unavailable", &["with --offline no server is asked"]);
            }
            let lines = format!("{message}\n{message}\n");
            let packed = alice.run_with_stdin(&format!("pack --lines --to {to} --from {from}"), &lines);
            assert_eq!(packed.success().lines().count(), 2);
        }
    }
}

/// What a server may not do, and what a machine without a network says.
#[test]
fn the_guard_and_the_reason_are_those_of_the_agent() {
    let (Some(alice), Some(bob)) = (Home::with_token(), Home::with_token()) else { return };
    let documents = Documents::new();
    let did = documents.create_did(&bob, "web", "bob");
    let resolve = format!("--json did resolve {did}");
    let pack = format!("--json pack --to {did}");
    let message = plaintext(None, Some(&did), "hello");
    let both = || [alice.run(&resolve), alice.run_with_stdin(&pack, &message)];
    // No private address is connected to, unless the operator allows it.
    let plain = format!("[net]\ndid_web_plain_http_for = [\"localhost:{}\"]\n", documents.server.port);
    alice.configure(&softhsm_module().unwrap(), &plain);
    for refused in both() {
        assert_refused(
            &refused,
            "did-unresolved",
            &["connections to localhost are refused", "127.0.0.1 is not in allow_private"],
        );
    }
    assert_eq!(documents.server.connections(), 0);
    documents.allow(&alice, "");
    documents.serve("/bob/did.json", 302, "");
    for refused in both() {
        assert_refused(&refused, "did-unresolved", &["redirects with status 302, and redirects are not followed"]);
    }
    assert!(documents.server.requests().iter().all(|request| request.path != "/elsewhere"));
    documents.serve("/bob/did.json", 503, "");
    for refused in both() {
        assert_refused(&refused, "did-unavailable", &["answers with status 503"]);
    }
    documents.serve("/bob/did.json", 200, r#"{"id": "did:web:localhost"}"#);
    for refused in both() {
        assert_refused(&refused, "did-unresolved", &["did:web:localhost"]);
    }
    // As without a network: nobody answers at the host.
    drop(documents);
    for refused in both() {
        assert_refused(&refused, "did-unavailable", &["localhost", "`documents` in [did]"]);
    }
    let unknown = alice.run("--json did resolve did:web:no-such-host.invalid");
    assert_refused(&unknown, "did-unavailable", &["no-such-host.invalid", "`documents` in [did]"]);
    // A wrong setting of [net] is the fault of DIDs on servers only.
    alice.configure(&softhsm_module().unwrap(), "[net]\nca = \"none.pem\"\n");
    for refused in both() {
        assert_refused(&refused, "did-unavailable", &["none.pem"]);
    }
    let local = bob.create_did("--method key");
    alice.run_with_stdin(&format!("pack --to {local}"), &plaintext(None, Some(&local), "hello")).success();
}

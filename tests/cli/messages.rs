//! Packing and unpacking between two agents with a token each.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    thread,
};

use serde_json::Value;

use crate::home::{Home, plaintext};

fn two_homes() -> Option<(Home, Home)> {
    Some((Home::with_token()?, Home::with_token()?))
}

#[test]
fn each_content_encryption_packs_and_unpacks() {
    let Some((alice, bob)) = two_homes() else { return };
    for method in ["peer:2", "peer:4", "key"] {
        let from = alice.create_did(&format!("--method {method}"));
        let to = bob.create_did(&format!("--method {method}"));
        for enc in ["A256CBC-HS512", "A256GCM", "XC20P"] {
            let message = plaintext(None, Some(&to), enc);
            let packed = alice.run_with_stdin(&format!("pack --to {to} --enc {enc}"), &message);
            let read = bob.run_with_stdin("unpack", packed.success()).json();
            assert_eq!(read["message"].to_string(), message);
            let provenance = &read["provenance"];
            assert_eq!(provenance["layers"][0]["enc"], enc);
            assert_eq!((&provenance["encrypted"], &provenance["authenticated"]), (&true.into(), &false.into()));

            // With --protect-sender, --enc is the content encryption of the anoncrypt around the authcrypt.
            let message = plaintext(Some(&from), Some(&to), enc);
            let packed =
                alice.run_with_stdin(&format!("pack --to {to} --from {from} --protect-sender --enc {enc}"), &message);
            let read = bob.run_with_stdin("unpack", packed.success()).json();
            assert_eq!(read["message"].to_string(), message);
            assert_eq!(read["provenance"]["layers"][0]["enc"], enc);
            assert_eq!(read["provenance"]["layers"][1]["enc"], "A256CBC-HS512");
            assert_eq!(read["provenance"]["anonymous_sender"], true);
            assert_eq!(read["provenance"]["authenticated"], true);
        }
        let wrong = format!("--json pack --to {to} --from {from} --enc XC20P");
        assert_eq!(alice.run_with_stdin(&wrong, "{}").error(2), "combination-forbidden");

        let message = plaintext(Some(&from), Some(&to), "signed");
        let packed = alice.run_with_stdin(&format!("pack --sign-by {from}"), &message);
        let read = bob.run_with_stdin("unpack", packed.success()).json();
        assert_eq!(read["message"].to_string(), message);
        assert_eq!(
            (&read["provenance"]["non_repudiation"], &read["provenance"]["encrypted"]),
            (&true.into(), &false.into())
        );
    }
}

#[test]
fn a_short_did_resolves_once_its_long_form_was_resolved() {
    let Some((alice, bob)) = two_homes() else { return };
    let long = bob.create_did("--method peer:4");
    let short = long.rsplit_once(':').unwrap().0;
    assert_eq!(alice.run(&format!("--json did resolve {short}")).error(1), "did-long-form-unknown");
    alice.run(&format!("did resolve {long}")).success();
    assert_eq!(alice.run(&format!("--json did resolve {short}")).json()["id"], short);
    let packed = alice.run_with_stdin(&format!("pack --to {short}"), &plaintext(None, Some(short), "hello"));
    assert_eq!(bob.run_with_stdin("unpack", packed.success()).json()["message"]["body"]["text"], "hello");
}

#[test]
fn lines_continue_after_a_bad_message() {
    let Some((alice, bob)) = two_homes() else { return };
    let (from, to) = (alice.create_did("--method peer:2"), bob.create_did("--method peer:2"));
    let lines = format!(
        "{}\nnot json\n\n{}\n",
        plaintext(Some(&from), Some(&to), "one"),
        plaintext(Some("did:example:mallory"), Some(&to), "two")
    );
    let ran = alice.run_with_stdin(&format!("pack --lines --from {from} --to {to}"), &lines);
    assert_eq!(ran.status(), 1);
    let results: Vec<Value> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let packed = results[0]["packed"].as_str().unwrap();
    assert_eq!(
        (&results[1]["error"]["code"], &results[2]["error"]["code"]),
        (&"bad-message".into(), &"header-mismatch".into())
    );

    let huge = "x".repeat(3_000_000);
    let ran = bob.run_with_stdin("unpack --lines", &format!("{huge}\n{packed}\n{packed}"));
    let results: Vec<Value> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["error"]["code"], "message-too-large");
    assert_eq!(results[1], results[2]);
    assert_eq!(results[1]["message"]["body"]["text"], "one");
}

#[test]
fn a_mediator_sees_only_the_next_recipient() {
    let Some((alice, bob)) = two_homes() else { return };
    let Some(mediator) = Home::with_token() else { return };
    let routing = mediator.create_did("--method peer:2");
    let to = bob.create_did(&format!("--method peer:2 --service https://mediator.example/ --routing-key {routing}"));
    let from = alice.create_did("--method peer:2");
    let packed =
        alice.run_with_stdin(&format!("pack --from {from} --to {to}"), &plaintext(Some(&from), Some(&to), "x"));
    assert!(packed.stderr().contains("https://mediator.example/"));
    assert_eq!(bob.run_with_stdin("--json unpack", packed.success()).error(1), "not-for-us");

    let forward = mediator.run_with_stdin("unpack", packed.success()).json();
    assert_eq!(forward["message"]["body"]["next"], *to);
    let inner = mediator.run_with_stdin("unpack --forwarded", packed.success());
    assert_eq!(bob.run_with_stdin("unpack", inner.success()).json()["message"]["body"]["text"], "x");
    assert_eq!(bob.run_with_stdin("--json unpack --forwarded", inner.success()).error(1), "not-a-forward");

    let direct = alice
        .run_with_stdin(&format!("pack --no-forward --from {from} --to {to}"), &plaintext(Some(&from), Some(&to), "x"));
    assert_eq!(bob.run_with_stdin("unpack", direct.success()).json()["provenance"]["authenticated"], true);
}

/// Anonymous packing and resolving open no token: the PIN's file is missing, and neither fails.
#[test]
fn no_token_is_opened_without_need() {
    let Some((alice, bob)) = two_homes() else { return };
    let to = bob.create_did("--method peer:2");
    let own_did = alice.create_did("--method peer:2");
    std::fs::remove_file(alice.path().join("user.pin")).unwrap();
    alice.run_with_stdin(&format!("pack --to {to}"), &plaintext(None, Some(&to), "x")).success();
    alice.run(&format!("did resolve {to}")).success();
    let foreign = bob.run_with_stdin(&format!("pack --to {to}"), &plaintext(None, Some(&to), "x"));
    assert_eq!(alice.run_with_stdin("--json unpack", foreign.success()).error(1), "not-for-us");
    assert_eq!(alice.run_with_stdin("--json unpack", "{\"ciphertext\": 1}").error(1), "envelope-malformed");
    assert_eq!(
        alice.run_with_stdin(&format!("--json pack --from {own_did} --to did:nonsense"), "{}").error(2),
        "bad-did"
    );
    assert_eq!(alice.run_with_stdin(&format!("--json pack --from {own_did} --to {to}"), "{").error(1), "bad-message");
    assert_eq!(
        alice
            .run_with_stdin(&format!("--json pack --from {own_did} --to did:key:zzz"), &plaintext(None, None, "x"))
            .error(1),
        "did-unresolved"
    );
    // Packing as one of our DIDs needs the token.
    assert_eq!(
        alice.run_with_stdin(&format!("--json pack --from {own_did} --to {to}"), &plaintext(None, None, "x")).error(3),
        "pin-refused"
    );
}

/// Each line has its error, and the exit status is that of a token that is not ready.
#[test]
fn each_line_fails_without_the_token() {
    let Some((alice, bob)) = two_homes() else { return };
    let to = bob.create_did("--method peer:2");
    let packed = alice.run_with_stdin(&format!("pack --to {to}"), &plaintext(None, Some(&to), "x"));
    let line = packed.success().trim_end();
    std::fs::remove_file(bob.path().join("user.pin")).unwrap();
    let ran = bob.run_with_stdin("--json unpack --lines", &format!("{line}\nnonsense\n{line}\n"));
    assert_eq!(ran.status(), 3);
    let codes: Vec<Value> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let codes: Vec<&Value> = codes.iter().map(|result| &result["error"]["code"]).collect();
    assert_eq!(codes, ["pin-refused", "envelope-malformed", "pin-refused"]);
}

/// An agent that knows no ids of its callers.
#[test]
fn an_older_agent_gets_the_message_without_an_id() {
    let Some(home) = Home::with_token() else { return };
    std::fs::create_dir_all(home.path().join("state")).unwrap();
    let listener = UnixListener::bind(home.path().join("state/api.sock")).unwrap();
    let agent = thread::spawn(move || {
        let mut refused = 0;
        loop {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                let header = line.to_ascii_lowercase();
                length = header.strip_prefix("content-length:").map_or(length, |value| value.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let Ok(message) = serde_json::from_slice::<Value>(&body) else { continue };
            let (status, answer) = match message.get("id") {
                Some(_) => {
                    refused += 1;
                    let unknown = "Failed to deserialize the JSON body: unknown field `id`, expected one of `to`";
                    (422, serde_json::json!({ "error": { "code": "bad-request", "message": unknown } }))
                }
                None => (202, serde_json::json!({ "id": "1", "message_id": "2", "thread": "2" })),
            };
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
            (&stream).write_all((head + &answer).as_bytes()).unwrap();
            if status == 202 || refused == 2 {
                return (refused, message);
            }
        }
    });
    let to = "did:example:bob";
    let sent = home.run_with_stdin(&format!("--json send --to {to} --anonymous"), "hello");
    assert_eq!(sent.json()["id"], "1");
    let (refused, message) = agent.join().unwrap();
    assert_eq!((refused, &message["to"], &message["body"]["content"]), (1, &to.into(), &"hello".into()));
}

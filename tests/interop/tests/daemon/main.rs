//! The daemon and a program with `didcomm` 0.4.1 exchange messages over plain HTTP. Each has its own endpoint.

mod peer;

use claviger_interop::didcomm::Attachment;
use peer::{BASIC_MESSAGE, CURVES, PING, PONG, PROBLEM_REPORT, Pair};
use serde_json::{Value, json};

/// Latin, Japanese, a letter of two code points, a character outside the Basic Multilingual Plane, and characters that
/// JSON escapes.
const TEXT: &str = "Grüße an 日本 — e\u{301} 🦀 \"\\\n\u{1}";

#[tokio::test]
async fn both_ping_and_both_write() {
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        let from = Some(pair.did.as_str());

        let ping = pair.message(PING, json!({ "response_requested": true })).from(pair.did.clone()).finalize();
        let ping = pair.send(from, false, ping).await;
        let (pong, how) = pair.receive().await;
        assert_eq!((pong.type_.as_str(), pong.thid), (PONG, Some(ping.id)));
        assert_eq!((pong.from, pong.to), (Some(pair.ours.clone()), Some(vec![pair.did.clone()])));
        assert!(how.authenticated && !how.anonymous_sender && !how.non_repudiation);

        // A ping that asks for no response gets none. The next message answers the next ping.
        let quiet = pair.message(PING, json!({ "response_requested": false })).from(pair.did.clone()).finalize();
        pair.send(from, false, quiet).await;
        pair.assert_nothing_comes(&pair.did).await;

        let ping_command = pair.daemon.begin(&["ping", &pair.did]);
        let (ping, how) = pair.receive().await;
        assert_eq!((ping.type_.as_str(), &ping.body["response_requested"]), (PING, &Value::Bool(true)));
        assert!(how.authenticated);
        let pong = pair.message(PONG, json!({})).from(pair.did.clone()).thid(ping.id).finalize();
        pair.send(from, false, pong).await;
        assert_eq!(ping_command.end()["did"], pair.did);

        let text = pair.message(BASIC_MESSAGE, json!({ "content": TEXT })).from(pair.did.clone()).finalize();
        let text = pair.send(from, false, text).await;
        let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
        assert_eq!((&came["sender"], &came["recipient"]), (&pair.did.clone().into(), &pair.ours.clone().into()));
        assert_eq!((&came["message_id"], &came["message"]["body"]["content"]), (&text.id.into(), &TEXT.into()));
        let layer = &came["provenance"]["layers"][0];
        assert_eq!(layer["alg"], "ECDH-1PU+A256KW");
        assert!(layer["skid"].as_str().unwrap().starts_with(&pair.did), "{layer}");

        let sent = pair.daemon.json(&["send", "--to", &pair.did, TEXT]);
        let (text, how) = pair.receive().await;
        assert_eq!((text.type_.as_str(), &text.body["content"]), (BASIC_MESSAGE, &TEXT.into()));
        assert_eq!((text.from, Value::from(text.id)), (Some(pair.ours.clone()), sent["message_id"].clone()));
        assert!(how.authenticated && !how.non_repudiation);
    }
}

/// DID rotation: the daemon follows, and ignores messages from the old DID.
#[tokio::test]
async fn the_peer_rotates_its_did() {
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        let text =
            |from: &str, text: &str| pair.message(BASIC_MESSAGE, json!({ "content": text })).from(from.to_owned());
        pair.send(Some(&pair.did), false, text(&pair.did, "it is me").finalize()).await;
        assert_eq!(pair.inbox().len(), 1);

        // The peer repeats `from_prior` until the daemon has answered to the new DID.
        let from_prior = pair.sign_from_prior().await;
        for number in 0..2 {
            let moved = text(&pair.next, &format!("still me {number}")).from_prior(from_prior.clone()).finalize();
            pair.send(Some(&pair.next), false, moved).await;
            let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
            assert_eq!(
                (&came["sender"], &came["provenance"]["from_prior"]["iss"]),
                (&pair.next.clone().into(), &pair.did.clone().into())
            );
        }

        // A message to the old DID is sent to the new one.
        let _ = pair.daemon.json(&["send", "--to", &pair.did, "to the old one"]);
        let (message, how) = pair.receive().await;
        assert_eq!((&message.body["content"], message.to), (&"to the old one".into(), Some(vec![pair.next.clone()])));
        let kids = how.encrypted_to_kids.unwrap();
        assert!(kids.iter().all(|kid| kid.starts_with(&pair.next)), "{kids:?}");
        let connections = pair.daemon.json(&["connections"]);
        let [connection] = connections["connections"].as_array().unwrap().as_slice() else { panic!("{connections}") };
        assert_eq!((&connection["theirs"], &connection["previous"]), (&pair.next.clone().into(), &json!([pair.did])));

        pair.send(Some(&pair.did), false, text(&pair.did, "from the grave").finalize()).await;
        let ping = pair.message(PING, json!({})).from(pair.did.clone()).finalize();
        pair.send(Some(&pair.did), false, ping).await;
        pair.assert_nothing_comes(&pair.next).await;
        assert_eq!(pair.inbox(), [] as [Value; 0]);
    }
}

#[tokio::test]
async fn the_peer_reports_a_problem() {
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        let sent = pair.daemon.json(&["send", "--to", &pair.did, "lunch?"]);
        let (lunch, _) = pair.receive().await;
        let body = json!({ "code": "e.p.me.not-hungry", "comment": "No {1} for me.", "args": ["lunch"] });
        let report = pair.message(PROBLEM_REPORT, body.clone()).from(pair.did.clone()).pthid(lunch.id.clone());
        pair.send(Some(&pair.did), false, report.finalize()).await;
        let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
        assert_eq!((&came["type"], &came["message"]["body"]), (&PROBLEM_REPORT.into(), &body));
        assert_eq!(came["message"]["pthid"], sent["thread"]);

        // The problem report has ended that thread. Others continue.
        let text = |content: &str| pair.message(BASIC_MESSAGE, json!({ "content": content })).from(pair.did.clone());
        pair.send(Some(&pair.did), false, text("and another thing").thid(lunch.id).finalize()).await;
        pair.send(Some(&pair.did), false, text("something else").finalize()).await;
        let came: Vec<Value> = pair.inbox().iter().map(|it| it["message"]["body"]["content"].clone()).collect();
        assert_eq!(came, ["something else"]);
        // A problem report is never answered with a problem report, even if it is malformed.
        let broken = pair.message(PROBLEM_REPORT, json!({})).from(pair.did.clone()).finalize();
        pair.send(Some(&pair.did), false, broken).await;
        pair.assert_nothing_comes(&pair.did).await;
        assert_eq!(pair.inbox().len(), 1);
    }
}

#[tokio::test]
async fn the_daemon_reports_problems() {
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        let wrong = [
            (BASIC_MESSAGE, json!({}), "e.m.msg.no-content", Value::Null),
            (BASIC_MESSAGE, json!({ "content": 7 }), "e.m.msg.no-content", Value::Null),
            (
                "https://didcomm.org/basicmessage/9.0/message",
                json!({ "content": "?" }),
                "e.m.msg.unsupported-version",
                json!(["9.0"]),
            ),
            (
                "https://didcomm.org/basicmessage/2.0/massage",
                json!({ "content": "?" }),
                "e.m.msg.unknown-type",
                json!(["massage"]),
            ),
        ];
        for (kind, body, code, args) in wrong {
            let message = pair.message(kind, body).from(pair.did.clone()).thid("thread-1".to_owned()).finalize();
            let message = pair.send(Some(&pair.did), false, message).await;
            let (report, how) = pair.receive().await;
            assert_eq!((report.type_.as_str(), &report.body["code"]), (PROBLEM_REPORT, &code.into()));
            assert_eq!((report.pthid.as_deref(), report.thid), (Some("thread-1"), None));
            assert_eq!(report.extra_headers["ack"], json!([message.id]));
            assert_eq!((report.body.get("args").unwrap_or(&Value::Null), how.authenticated), (&args, true));
            assert!(report.body["comment"].is_string());
        }
        assert_eq!(pair.inbox(), [] as [Value; 0]);
    }
}

#[tokio::test]
async fn anonymous_signed_and_large_messages() {
    const LETTER: &str = "https://example.org/letters/1.0/letter";
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        // The application gets anonymous messages. The basicmessage protocol requires a sender.
        pair.send(None, false, pair.message(LETTER, json!({ "text": TEXT })).finalize()).await;
        pair.send(None, false, pair.message(BASIC_MESSAGE, json!({ "content": TEXT })).finalize()).await;
        pair.send(None, false, pair.message(PING, json!({})).finalize()).await;
        let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
        assert_eq!((&came["sender"], &came["message"]["body"]["text"]), (&Value::Null, &TEXT.into()));
        pair.assert_nothing_comes(&pair.did).await;
        let _ = pair.daemon.json(&["send", "--to", &pair.did, "--anonymous", "--type", LETTER, "{}"]);
        let (letter, how) = pair.receive().await;
        assert_eq!((letter.type_.as_str(), letter.from, how.anonymous_sender), (LETTER, None, true));

        let signed = pair.message(BASIC_MESSAGE, json!({ "content": "I owe you" })).from(pair.did.clone()).finalize();
        pair.send(Some(&pair.did), true, signed).await;
        let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
        assert_eq!((&came["sender"], &came["provenance"]["non_repudiation"]), (&pair.did.clone().into(), &true.into()));
        let _ = pair.daemon.json(&["send", "--to", &pair.did, "--sign", "you owe me"]);
        let (text, how) = pair.receive().await;
        assert_eq!((&text.body["content"], how.non_repudiation), (&"you owe me".into(), true));

        let data = "SGFs".repeat(100 * 1024 / 4);
        let picture = Attachment::base64(data.clone()).id("picture".to_owned()).finalize();
        let large = pair.message(BASIC_MESSAGE, json!({ "content": "look" })).from(pair.did.clone());
        pair.send(Some(&pair.did), false, large.attachment(picture).finalize()).await;
        let [came] = <[Value; 1]>::try_from(pair.inbox()).unwrap();
        let attachments = &came["message"]["attachments"];
        assert_eq!(attachments[0]["data"]["base64"], data);
        let back = json!({
            "to": pair.did, "from": pair.ours, "type": BASIC_MESSAGE, "body": { "content": "look" },
            "headers": { "attachments": attachments },
        });
        let taken = pair.daemon.application().post("/v1/messages", "application/json", &back.to_string()).unwrap();
        assert_eq!(taken.status, 202, "{taken:?}");
        let (text, _) = pair.receive().await;
        assert_eq!(json!(text.attachments.unwrap()[0])["data"]["base64"], data);
    }
}

#[tokio::test]
async fn acknowledgements_and_answers_on_the_same_connection() {
    for curve in CURVES {
        let Some(pair) = Pair::new(curve).await else { return };
        let from = Some(pair.did.as_str());
        let asking = |kind: &str, body: Value| {
            pair.message(kind, body).from(pair.did.clone()).header("please_ack".to_owned(), json!([""]))
        };
        // Acknowledgements are in a message that is sent anyway, or in their own message.
        let ping = pair.send(from, false, asking(PING, json!({})).finalize()).await;
        let (pong, _) = pair.receive().await;
        assert_eq!((pong.type_.as_str(), &pong.extra_headers["ack"]), (PONG, &json!([ping.id])));
        let text = pair.send(from, false, asking(BASIC_MESSAGE, json!({ "content": "hi" })).finalize()).await;
        let (ack, _) = pair.receive().await;
        assert_eq!(
            (ack.type_.as_str(), ack.thid.as_deref()),
            ("https://didcomm.org/empty/1.0/empty", Some(text.id.as_str()))
        );
        assert_eq!(ack.extra_headers["ack"], json!([text.id]));

        let ping = pair.message(PING, json!({})).from(pair.did.clone());
        let ping = ping.header("return_route".to_owned(), json!("all")).finalize();
        let answer = pair.post(from, false, &ping).await;
        assert_eq!(answer.status, 200);
        let (pong, _) = pair.unpack(&answer.body).await.unwrap();
        assert_eq!((pong.type_.as_str(), pong.thid), (PONG, Some(ping.id)));
        pair.assert_nothing_comes(&pair.did).await;
    }
}

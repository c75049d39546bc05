//! Attachments and invitations of peers that write base64 in their own way: the application gets them, and is told what is
//! wrong.

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use claviger::didcomm::AttachmentData;
use serde_json::{Value, json};

use crate::{daemon::Daemon, peer::Peer};

#[test]
fn a_bad_attachment_does_not_cost_the_message() {
    let Some(daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let to = daemon.agreement_keys();
    let send = |content: &str, attachments: Value| {
        let mut text = alice.plaintext(&daemon.did, content);
        text["attachments"] = attachments;
        assert_eq!(daemon.post_status(alice.authcrypt(&to).seal(text.to_string())), 202);
    };
    let changed = json!({"base64": "AAAA", "hash": AttachmentData::multihash(b"other")});
    send("changed on the way", json!([{"id": "1", "data": changed}]));
    // As Identus writes it: standard base64 without padding.
    send("in standard base64", json!([{"id": "1", "data": {"base64": "eyJxIjoid2h5Pz5+In0"}}]));
    send("one is bad", json!([{"id": "1", "data": {"base64": "aGVsbG8="}}, {"id": "2", "data": {"base64": "?"}}]));
    daemon.wait_until_all_opened();
    let mut texts = daemon.unread_texts();
    texts.sort();
    assert_eq!(texts, ["in standard base64", "one is bad"]);
    assert!(daemon.log().contains("the content does not have the hash"), "{}", daemon.log());

    assert_eq!(daemon.delivery("in standard base64")["provenance"]["attachment_notes"], Value::Null);
    let delivery = daemon.delivery("one is bad");
    assert_eq!(delivery["message"]["attachments"][1], json!({"id": "2", "data": {"base64": "?"}}));
    assert_eq!(
        delivery["provenance"]["attachment_notes"],
        json!([{"attachment": 1, "code": "not-base64", "problem": "the content is not base64"}])
    );
    let shown = daemon.home.run("inbox");
    assert!(
        shown.success().contains("one is bad\n    attachment 2: the content is not base64\n"),
        "{}",
        shown.stdout()
    );
}

/// As Identus writes it: standard base64, whose `+` and `/` some programs percent-encode.
#[test]
fn an_invitation_in_standard_base64_is_accepted() {
    let Some(daemon) = Daemon::running("") else { return };
    let percent = |text: &str| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    for number in 0..2 {
        let inviter = Peer::new(&format!("inviter-{number}"));
        let invitation = json!({
            "id": number.to_string(), "type": "https://didcomm.org/out-of-band/2.0/invitation", "from": inviter.did(),
            "body": {"goal": "why?>?>?>", "accept": ["didcomm/v2"]},
        });
        let encoded = STANDARD.encode(invitation.to_string());
        assert!(encoded.contains(['+', '/']), "{encoded}");
        let encoded = if number == 0 { encoded } else { percent(&encoded) };
        let url = format!("https://example.com/path?_oob={encoded}");
        let accepted = daemon.json(&["accept", &url]);
        assert_eq!((&accepted["theirs"], &accepted["goal"]), (&inviter.did().into(), &"why?>?>?>".into()));
    }
}

//! The headers of a plaintext in the forms that peers write (DIDComm v2.1 "Message Headers"), and the words of the errors.

use claviger::didcomm::{Message, MessageError};
use serde_json::{Value, json};

/// All headers that have a field.
const HEADERS: [&str; 18] = [
    "id",
    "typ",
    "type",
    "body",
    "from",
    "to",
    "thid",
    "pthid",
    "created_time",
    "expires_time",
    "from_prior",
    "please_ack",
    "ack",
    "lang",
    "accept-lang",
    "return_route",
    "return_route_thread",
    "attachments",
];

/// Reads a message with one header more.
fn read(name: &str, value: Value) -> Result<Message, MessageError> {
    let mut message = json!({"id": "1", "type": "https://example.org/a/1.0/b"});
    message[name] = value;
    let Value::Object(map) = message else { unreachable!() };
    Message::from_object(map)
}

#[test]
fn times_have_one_meaning_in_each_form() {
    let texts = [
        ("1700000000", 1_700_000_000),
        ("1700000000.0", 1_700_000_000),
        ("1.7e9", 1_700_000_000),
        ("17E+8", 1_700_000_000),
        ("0", 0),
        ("-0.0", 0),
        ("18446744073709551615", u64::MAX),
        (r#""2023-11-14T22:13:20Z""#, 1_700_000_000),
        (r#""2023-11-14T22:13:20.999Z""#, 1_700_000_000),
        (r#""2023-11-14T22:13:20.123456+00:00""#, 1_700_000_000),
    ];
    for (text, seconds) in texts {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read("created_time", value.clone()).unwrap().created_time, Some(seconds), "{text}");
        assert_eq!(read("expires_time", value.clone()).unwrap().expires_time, Some(seconds), "{text}");
        let attachments = json!([{"lastmod_time": value, "data": {"base64": ""}}]);
        let attachments = read("attachments", attachments).unwrap().attachments.unwrap();
        assert_eq!(attachments[0].lastmod_time, Some(seconds), "{text}");
    }
    for text in [
        "1700000000.5",
        "-1",
        "18446744073709551616",
        "9007199254740994.0",
        "true",
        "[]",
        "{}",
        r#""1700000000""#,
        r#""2023-11-14""#,
        r#""2023-11-14T22:13:20""#,
        r#""2023-11-14T22:13:20+01:00""#,
        r#""""#,
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        let error = read("expires_time", value).unwrap_err();
        assert_eq!(error.header(), Some("expires_time"), "{text}");
    }
    assert_eq!(
        read("attachments", json!([{"byte_count": 7.0, "data": {"json": 1}}])).unwrap().attachments.unwrap()[0]
            .byte_count,
        Some(7)
    );
}

#[test]
fn null_means_that_there_is_no_header() {
    for name in HEADERS {
        let read = read(name, Value::Null);
        match name {
            "id" => assert!(matches!(read, Err(MessageError::NoId))),
            "type" => assert!(matches!(read, Err(MessageError::NoType))),
            _ => {
                assert_eq!(read.unwrap().to_json(), r#"{"id":"1","type":"https://example.org/a/1.0/b","body":{}}"#)
            }
        }
    }
    assert_eq!(read("x", Value::Null).unwrap().extra_headers["x"], Value::Null);
}

#[test]
fn errors_name_the_header_in_the_words_of_json() {
    for (name, value, words) in [
        (
            "created_time",
            json!("today"),
            "the header created_time must be a whole number of seconds since 1970, and is a string that is no RFC 3339 time in UTC",
        ),
        (
            "expires_time",
            json!(1.5),
            "the header expires_time must be a whole number of seconds since 1970, and is a number that is not whole",
        ),
        ("to", json!("did:example:bob"), "the header to must be an array of strings, and is a string"),
        ("ack", json!(["1", 2]), "the header ack must be an array of strings, and is an array with a number"),
        ("thid", json!(1), "the header thid must be a string, and is a number"),
        (
            "attachments",
            json!([1]),
            "the header attachments must be an array of objects, and is an array with a number",
        ),
        ("body", json!([]), "the body of the message is not a JSON object"),
    ] {
        assert_eq!(read(name, value).unwrap_err().to_string(), words);
    }
}

/// Time texts of @veramo/did-comm 7.0.1, and a body of null, as adorsys' mediator and the Identus SDKs write it.
#[test]
fn messages_of_known_peers_are_read() {
    let veramo = r#"{"id":"1","type":"https://didcomm.org/coordinate-mediation/3.0/mediate-grant","from":"did:web:m.example",
        "to":["did:example:bob"],"created_time":"2026-03-01T12:30:15.123Z","thid":"0","body":{"routing_did":["did:web:m.example"]}}"#;
    let message = Message::from_json(veramo).unwrap();
    assert_eq!(message.created_time, Some(1_772_368_215));
    assert!(message.to_json().contains(r#""created_time":1772368215"#));
    let adorsys = r#"{"id":"1","type":"https://didcomm.org/messagepickup/3.0/status","body":null,"created_time":null}"#;
    assert_eq!(Message::from_json(adorsys).unwrap().body, json!({}));
}

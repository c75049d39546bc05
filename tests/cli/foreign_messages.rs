//! `pack` and `unpack` with messages in forms that other libraries write (`tests/vectors/foreign`).

use crate::home::Home;

/// Unpacks a file of `tests/vectors/foreign`. Returns stdout without white space, or the error message.
fn unpack(home: &Home, name: &str) -> Result<String, String> {
    let file = format!("{}/tests/vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let output = home.run_with_stdin("unpack", &std::fs::read_to_string(file).unwrap());
    match output.status() {
        0 => Ok(output.stdout().replace([' ', '\n'], "")),
        _ => Err(output.stderr().to_owned()),
    }
}

#[test]
fn foreign_plaintexts_are_read_or_refused_with_the_reason() {
    let home = Home::new();
    let numbers = unpack(&home, "numbers").unwrap();
    assert!(numbers.contains(r#"{"wei":123456789012345678901,"pi":3.14159265358979323846}"#), "{numbers}");
    let time = unpack(&home, "created-time-float").unwrap();
    assert!(time.contains(r#""created_time":1700000000"#), "{time}");
    let rotation = unpack(&home, "from-prior-iat-fraction").unwrap();
    assert!(rotation.contains(r#""iat":1516239022"#), "{rotation}");
    for (name, words) in [
        ("from-prior-exp", "the from_prior is refused: its exp has passed"),
        ("from-prior-nbf", "the from_prior is refused: its nbf has not come"),
        ("from-prior-aud", "the from_prior is refused: its aud names somebody else"),
    ] {
        let error = unpack(&home, name).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn errors_name_the_header_in_the_words_of_json() {
    let home = Home::new();
    for (header, words) in [
        (
            r#""created_time":"today""#,
            "the header created_time must be a whole number of seconds since 1970, and is a string",
        ),
        (r#""to":"did:example:bob""#, "the header to must be an array of strings, and is a string"),
        (r#""thid":7"#, "the header thid must be a string, and is a number"),
        (r#""ack":["1",null]"#, "the header ack must be an array of strings, and is an array with null"),
    ] {
        let text = format!(r#"{{"id":"1","type":"https://example.org/a/1.0/b","body":{{}},{header}}}"#);
        let error = home.run_with_stdin("unpack", &text).stderr().to_owned();
        assert!(error.contains(words), "{error}");
        assert_eq!(home.run_with_stdin("--json unpack", &text).error(1), "bad-message");
    }
    let text = r#"{"id":"1","type":"https://example.org/a/1.0/b","body":null,"created_time":"2026-01-01T00:00:00.000Z","thid":null}"#;
    let read = home.run_with_stdin("unpack", text).json();
    assert_eq!(read["message"]["created_time"], 1_767_225_600);
    assert_eq!(read["message"]["body"].to_string(), "{}");
}

/// A JWE and a JWS in forms that joserfc 1.8.0, jwcrypto 1.6.1 and others write.
#[test]
fn other_forms_of_jose_are_named() {
    let home = Home::new();
    let protected = "eyJlbmMiOiJBMjU2Q0JDLUhTNTEyIiwiYWxnIjoiRUNESC1FUytBMjU2S1cifQ";
    let recipient =
        r#"{"header":{"kid":"did:example:bob#1","epk":{"kty":"OKP","crv":"X25519","x":"AA"}},"encrypted_key":"AA"}"#;
    let rest = r#""iv":"AA","ciphertext":"AA","tag":"AA""#;
    for (packed, words) in [
        (
            format!(r#"{{"protected":"{protected}","recipients":[{recipient}],{rest}}}"#),
            "the header parameter `epk` is in a recipient's `header`; DIDComm wants it in `protected`",
        ),
        (
            format!(r#"{{"protected":"{protected}","unprotected":{{"apv":"AA","skid":"x"}},"recipients":[],{rest}}}"#),
            "the header parameters `apv`, `skid` are in `unprotected`; DIDComm wants them in `protected`",
        ),
        (
            format!(r#"{{"protected":"{protected}",{},{rest}}}"#, &recipient[1..recipient.len() - 1]),
            "the message is in the Flattened JWE JSON Serialization; DIDComm wants the General JSON Serialization",
        ),
        (format!("{protected}.AA.AA.AA.AA\n"), "the message is in the JWE Compact Serialization"),
        (format!("{protected}.AA.AA"), "the message is in the JWS Compact Serialization"),
    ] {
        let output = home.run_with_stdin("unpack", &packed);
        assert!(output.stderr().contains(words), "{}", output.stderr());
        assert_eq!(home.run_with_stdin("--json unpack", &packed).error(1), "envelope-malformed");
    }
}

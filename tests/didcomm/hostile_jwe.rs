//! Encrypted messages with valid tags that break a rule. Each is refused with its own error. If the violation is
//! visible from outside, the message is refused before a token is used or a DID is resolved.

use crate::support::{
    People, Person, RecordingResolver,
    forge::{Jwe, b64},
};
use claviger::{
    crypto::ContentEncryption,
    did::{Document, Relationship},
    didcomm::{Error, Message, MessageError, UnpackOptions},
    jose::{Envelope, JoseError, Limits},
    keys::{Curve, KeyError},
};
use claviger_testkit::{Counts, PrivateKey};
use serde_json::{Value, json};

/// The control: an unchanged message of the forge opens.
#[tokio::test]
async fn an_honest_forgery_opens() {
    let people = People::new().await;
    let text = people.plaintext().to_string();
    for key in 1..=5 {
        for enc in ContentEncryption::ALL {
            let (_, provenance) = people.opened(Jwe::anoncrypt(&people.keys_of_bob(&[key])).enc(enc).seal(&text)).await;
            assert!(provenance.encrypted && !provenance.authenticated);
        }
        let fragment = format!("agree-{key}");
        let (skid, sender) = (people.alice.kid(&fragment), &people.alice.agree[key - 1]);
        let jwe = Jwe::authcrypt_as(&people.alice, &skid, sender, &people.keys_of_bob(&[key]));
        assert!(people.opened(jwe.seal(&text)).await.1.authenticated);
    }
    assert!(people.opened(authcrypt(&people).seal(&text)).await.1.authenticated);
}

#[tokio::test]
async fn extensions_are_refused_in_every_header() {
    let people = People::new().await;
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("zip", json!("DEF")),
        ("p2c", json!(2_000_000_000)),
        ("p2s", json!("AAAA")),
        ("b64", json!(false)),
    ] {
        let mut protected = authcrypt(&people);
        protected.header[name] = value.clone();
        let mut unprotected = authcrypt(&people);
        unprotected.unprotected = Some(json!({name: value.clone()}));
        let mut recipient = authcrypt(&people);
        recipient.recipients[0].header[name] = value;
        for jwe in [protected, unprotected, recipient] {
            let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
            assert_error!(error, Error::Envelope(JoseError::RefusedParameter(refused)) if refused == name);
        }
    }
    let mut jwe = seal(&people, &authcrypt(&people));
    jwe["aad"] = "AAAA".into();
    assert_error!(people.refused_without_token_and_resolver(jwe).await, Error::Envelope(JoseError::RefusedParameter(name)) if name == "aad");
}

// Conformance 11, 34, 35, 36.
#[tokio::test]
async fn unsupported_algorithms_are_refused() {
    let people = People::new().await;
    for alg in [
        "none",
        "dir",
        "A256KW",
        "ECDH-ES",
        "ECDH-1PU",
        "ECDH-ES+A128KW",
        "ECDH-1PU+A128KW",
        "PBES2-HS512+A256KW",
        "RSA-OAEP",
        "ecdh-es+a256kw",
        "",
    ] {
        let mut jwe = anoncrypt(&people);
        jwe.header["alg"] = alg.into();
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::UnsupportedAlgorithm(name)) if name == alg);
    }
    for enc in ["none", "A128GCM", "A128CBC-HS256", "A192CBC-HS384", "C20P", "a256gcm", ""] {
        let mut jwe = anoncrypt(&people);
        jwe.header["enc"] = enc.into();
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::UnsupportedEncryption(name)) if name == enc);
    }
    for enc in [ContentEncryption::A256Gcm, ContentEncryption::Xc20P] {
        let error = people.refused_without_token_and_resolver(seal(&people, &authcrypt(&people).enc(enc))).await;
        assert_error!(error, Error::Envelope(JoseError::AuthcryptEncryption(found)) if *found == enc);
    }
}

/// A message that says ECDH-ES does not open with the KEK of ECDH-1PU, nor the other way round.
#[tokio::test]
async fn the_kek_depends_on_the_algorithm() {
    let people = People::new().await;
    let mut es = authcrypt(&people).without("skid").without("apu");
    es.header["alg"] = "ECDH-ES+A256KW".into();
    let mut pu = authcrypt(&people);
    pu.sender = None;
    for jwe in [es, pu] {
        assert_error!(people.refused(seal(&people, &jwe)).await, Error::Envelope(JoseError::Decrypt(_)));
    }
}

// Conformance 37, 39.
#[tokio::test]
async fn a_wrong_apv_is_refused() {
    let people = People::new().await;
    let mut other = anoncrypt(&people);
    other.header["apv"] = b64([0; 32]).into();
    let mut unsorted = anoncrypt(&people);
    unsorted.header["apv"] = {
        use sha2::Digest;
        let kids = [2, 1].map(|number| people.bob.kid(&format!("agree-{number}")));
        b64(sha2::Sha256::digest(kids.join("."))).into()
    };
    // A recipient was added afterwards, with the `apv` of the others.
    let mut added = anoncrypt(&people);
    let more = Jwe::anoncrypt(&[(people.mallory.kid("agree-1"), people.mallory.agree[0].clone())]);
    added.recipients.extend(more.recipients);
    for jwe in [other, unsorted, added] {
        assert_error!(
            people.refused_without_token_and_resolver(seal(&people, &jwe)).await,
            Error::Envelope(JoseError::ApvMismatch)
        );
    }
    let without = anoncrypt(&people).without("apv");
    assert_error!(
        people.refused_without_token_and_resolver(seal(&people, &without)).await,
        Error::Envelope(JoseError::Missing("apv"))
    );
}

// Conformance 38.
#[tokio::test]
async fn apu_and_skid_must_name_the_same_key() {
    let people = People::new().await;
    let mut apu = authcrypt(&people);
    apu.header["apu"] = b64(people.mallory.kid("agree-1")).into();
    let mut skid = authcrypt(&people);
    skid.header["skid"] = people.mallory.kid("agree-1").into();
    let mut not_text = authcrypt(&people).without("skid");
    not_text.header["apu"] = b64([0xff, 0xfe]).into();
    for jwe in [apu, skid, not_text] {
        assert_error!(
            people.refused_without_token_and_resolver(seal(&people, &jwe)).await,
            Error::Envelope(JoseError::ApuMismatch)
        );
    }
    for jwe in [authcrypt(&people).without("apu"), authcrypt(&people).without("apu").without("skid")] {
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::Missing("apu")));
    }
    // The specification requires that `apu` replaces a missing `skid`.
    assert!(people.opened(seal(&people, &authcrypt(&people).without("skid"))).await.1.authenticated);

    let mut es = anoncrypt(&people);
    es.header["skid"] = people.alice.kid("agree-1").into();
    let error = people.refused_without_token_and_resolver(seal(&people, &es)).await;
    assert_error!(error, Error::Envelope(JoseError::RefusedParameter(name)) if name == "skid");
}

// Conformance 44.
#[tokio::test]
async fn an_epk_of_low_order_is_refused() {
    let people = People::new().await;
    // 0, 1, a point of order 8, p - 1, p. The highest bit is ignored.
    let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let edge = |first: u8| format!("{first:02x}{}7f", "ff".repeat(30));
    for point in ["00".repeat(32), format!("01{}", "00".repeat(31)), order_8.to_owned(), edge(0xec), edge(0xed)] {
        let mut bytes: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&point[2 * at..2 * at + 2], 16).unwrap()).collect();
        for _ in 0..2 {
            let mut jwe = anoncrypt(&people);
            jwe.header["epk"]["x"] = b64(&bytes).into();
            jwe.ze = Some(vec![0; 32]);
            let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
            assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::LowOrder(Curve::X25519))));
            bytes[31] |= 0x80;
        }
    }
}

// Conformance 37, 44.
#[tokio::test]
async fn an_epk_off_its_curve_is_refused() {
    let people = People::new().await;
    for (number, curve) in [(3, Curve::P256), (4, Curve::P384), (5, Curve::P521)] {
        let n = curve.coordinate_length();
        for (x, y) in [(vec![0; n], vec![0; n]), (vec![1; n], vec![1; n])] {
            let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[number]));
            jwe.header["epk"]["x"] = b64(x).into();
            jwe.header["epk"]["y"] = b64(y).into();
            let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
            assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::NotOnCurve(on))) if *on == curve);
        }
    }
    let epk = |member: &str, value: Value| {
        let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[3]));
        jwe.header["epk"][member] = value;
        jwe
    };
    for (member, value) in [("kty", "OKP"), ("kty", "RSA"), ("crv", "X25519"), ("crv", "P-224"), ("crv", "P-256 ")] {
        let error = people.refused_without_token_and_resolver(seal(&people, &epk(member, value.into()))).await;
        assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::Unsupported(_))));
    }
    let error = people.refused_without_token_and_resolver(seal(&people, &epk("crv", "P-384".into()))).await;
    assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::NotOnCurve(Curve::P384))));
    let error = people.refused_without_token_and_resolver(seal(&people, &epk("x", b64([1; 33]).into()))).await;
    assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::Length { .. })));
    let error = people.refused_without_token_and_resolver(seal(&people, &epk("y", "AAA=".into()))).await;
    assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::Malformed("y"))));
    let error = people.refused_without_token_and_resolver(seal(&people, &epk("y", 1.into()))).await;
    assert_error!(error, Error::Envelope(JoseError::InvalidMember("epk")));

    let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[3]));
    jwe.header["epk"].as_object_mut().unwrap().shift_remove("y");
    let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
    assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::MissingMember("y"))));
    let error = people.refused_without_token_and_resolver(seal(&people, &anoncrypt(&people).without("epk"))).await;
    assert_error!(error, Error::Envelope(JoseError::Missing("epk")));
}

/// Our key is used on its own curve only. The error comes before the sender is resolved.
#[tokio::test]
async fn an_epk_on_another_curve_than_the_recipients_is_refused() {
    let people = People::new().await;
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        let mut jwe = authcrypt(&people);
        jwe.header["epk"] = json!(PrivateKey::generate(curve).public().to_jwk());
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::CurveMismatch { expected, .. }) if *expected == curve);
    }
    for curve in [Curve::Ed25519, Curve::Secp256k1] {
        let mut jwe = authcrypt(&people);
        jwe.header["epk"] = json!(PrivateKey::generate(curve).public().to_jwk());
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::UnsupportedAlgorithm(_)));
    }
}

// RFC 7516 section 7.2.1.
#[tokio::test]
async fn duplicate_header_parameters_are_refused() {
    let people = People::new().await;
    let twice = |name: &'static str| move |error: &Error| matches!(error, Error::Envelope(JoseError::DuplicateParameter(found)) if found == name);
    let mut kid = authcrypt(&people);
    kid.header["kid"] = people.bob.kid("agree-1").into();
    assert!(twice("kid")(&people.refused_without_token_and_resolver(seal(&people, &kid)).await));
    for name in ["alg", "enc", "apu", "apv", "skid", "epk", "typ"] {
        let mut recipient = authcrypt(&people);
        recipient.recipients[1].header[name] = recipient.header[name].clone();
        assert!(twice(name)(&people.refused_without_token_and_resolver(seal(&people, &recipient)).await), "{name}");
        let mut unprotected = authcrypt(&people);
        unprotected.unprotected = Some(json!({name: unprotected.header[name]}));
        assert!(twice(name)(&people.refused_without_token_and_resolver(seal(&people, &unprotected)).await), "{name}");
        // A parameter that occurs once is refused, too, if no tag protects its header. The error says where it belongs.
        let mut alone = authcrypt(&people);
        alone.unprotected = Some(json!({name: alone.header[name]}));
        let error = people.refused_without_token_and_resolver(seal(&people, &alone.without(name))).await;
        assert_eq!(
            error.to_string(),
            format!("the header parameter `{name}` is in `unprotected`; DIDComm wants it in `protected`")
        );
        let mut alone = authcrypt(&people);
        alone.recipients[0].header[name] = alone.header[name].clone();
        let error = people.refused_without_token_and_resolver(seal(&people, &alone.without(name))).await;
        let words =
            format!("the header parameter `{name}` is in a recipient's `header`; DIDComm wants it in `protected`");
        assert_eq!(error.to_string(), words);
    }
    let mut both = authcrypt(&people);
    both.unprotected = Some(json!({"x": 1}));
    both.recipients[0].header["x"] = 1.into();
    assert!(twice("x")(&people.refused_without_token_and_resolver(seal(&people, &both)).await));
}

/// Libraries for JOSE write a JWE for one recipient in these forms (joserfc, jwcrypto, jose CLI, jose, josekit). None is
/// DIDComm's. The error says what to change.
#[tokio::test]
async fn other_forms_of_jose_are_named() {
    let people = People::new().await;
    let refused = async |packed: Value| people.refused_without_token_and_resolver(packed).await.to_string();
    // `alg` and `epk` for each recipient.
    let mut jwe = anoncrypt(&people);
    for name in ["alg", "epk"] {
        let value = jwe.header.as_object_mut().unwrap().shift_remove(name).unwrap();
        jwe.recipients.iter_mut().for_each(|recipient| recipient.header[name] = value.clone());
    }
    assert_eq!(
        refused(seal(&people, &jwe)).await,
        "the header parameters `alg`, `epk` are in a recipient's `header`; DIDComm wants them in `protected`"
    );
    // `kid` for all recipients.
    for (protected, place) in [(true, "`protected`"), (false, "`unprotected`")] {
        let mut jwe = anoncrypt(&people);
        let kid = jwe.recipients[0].header.as_object_mut().unwrap().shift_remove("kid").unwrap();
        match protected {
            true => jwe.header["kid"] = kid,
            false => jwe.unprotected = Some(json!({"kid": kid})),
        }
        let words = format!("the header parameter `kid` is in {place}; DIDComm wants it in a recipient's `header`");
        assert_eq!(refused(seal(&people, &jwe)).await, words);
    }
    // Other serializations.
    let general = seal(&people, &anoncrypt(&people));
    let mut flattened = general.clone();
    let recipient = flattened.as_object_mut().unwrap().shift_remove("recipients").unwrap()[0].clone();
    flattened["header"] = recipient["header"].clone();
    flattened["encrypted_key"] = recipient["encrypted_key"].clone();
    assert_eq!(
        refused(flattened).await,
        "the message is in the Flattened JWE JSON Serialization; DIDComm wants the General JSON Serialization, with \
         `recipients` or `signatures`"
    );
    let part = |value: &Value| value.as_str().unwrap().to_owned();
    let [protected, iv, ciphertext, tag] = ["protected", "iv", "ciphertext", "tag"].map(|name| part(&general[name]));
    let jwe = format!("{protected}.{}.{iv}.{ciphertext}.{tag}", part(&recipient["encrypted_key"]));
    let jws = format!("{protected}.{ciphertext}.{tag}\n");
    for (compact, name) in [(jwe, "JWE Compact Serialization"), (jws, "JWS Compact Serialization")] {
        let error = Envelope::parse(compact.as_bytes(), &Limits::default()).unwrap_err();
        assert!(matches!(error, JoseError::Serialization(found) if found == name), "{error}");
    }
    for text in ["a.b", "a.b.c d", "{}.a.b.c.d"] {
        let error = Envelope::parse(text.as_bytes(), &Limits::default()).unwrap_err();
        assert!(matches!(error, JoseError::Json { .. }), "{error}");
    }
}

#[tokio::test]
async fn recipients_need_distinct_kids() {
    let people = People::new().await;
    let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1, 2]));
    jwe.recipients[1].header = jwe.recipients[0].header.clone();
    jwe.fit_apv();
    let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
    assert_error!(error, Error::Envelope(JoseError::DuplicateRecipient(kid)) if *kid == people.bob.kid("agree-1"));

    let mut jwe = anoncrypt(&people);
    jwe.recipients[1].header = json!({});
    jwe.fit_apv();
    let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
    assert_error!(error, Error::Envelope(JoseError::Missing("kid")));
    let mut none = seal(&people, &anoncrypt(&people));
    none["recipients"] = json!([]);
    assert_error!(
        people.refused_without_token_and_resolver(none).await,
        Error::Envelope(JoseError::Missing("recipients"))
    );
}

#[tokio::test]
async fn duplicate_json_members_are_refused_at_every_depth() {
    let people = People::new().await;
    let jwe = anoncrypt(&people);
    let header = jwe.header.to_string();
    let doubled = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    let protected = doubled(&header, r#""alg":"none""#);
    let escaped = doubled(&header, r#""al\u0067":"ECDH-ES+A256KW""#);
    let epk = header.replace(r#""kty":"#, r#""kty":"EC","kty":"#);
    let text = people.plaintext().to_string();
    for header in [protected, escaped, epk] {
        let error = people.refused_without_token_and_resolver(jwe.seal_under(&header, &text)).await;
        assert_error!(error, Error::Envelope(JoseError::Json { name: "protected header", .. }));
    }
    let packed = jwe.seal(&text).to_string();
    let kid = format!(r#"{{"kid":"{}","kid":"#, people.bob.kid("agree-2"));
    for packed in [doubled(&packed, r#""tag":"AA""#), packed.replacen(r#"{"kid":"#, &kid, 1)] {
        let error = people.refused_without_token_and_resolver(packed).await;
        assert_error!(error, Error::Envelope(JoseError::Json { name: "message", .. }));
    }
    // In the plaintext: the tag is valid, but parsers that keep the first or the last member would see
    // different messages.
    let twice = doubled(&text, r#""from":"did:example:mallory""#);
    let error = people.refused(jwe.seal(twice)).await;
    assert_error!(error, Error::Envelope(JoseError::Json { name: "message", .. }));
}

/// Padding, the standard alphabet, white space, and unused bits: each would be a second encoding of the same bytes.
#[tokio::test]
async fn lax_base64_is_refused_everywhere() {
    let people = People::new().await;
    let jwe = anoncrypt(&people).enc(ContentEncryption::Xc20P);
    let packed = seal(&people, &jwe);
    for (name, pointer) in [
        ("protected", "/protected"),
        ("iv", "/iv"),
        ("ciphertext", "/ciphertext"),
        ("tag", "/tag"),
        ("encrypted_key", "/recipients/0/encrypted_key"),
    ] {
        for spelling in lax(packed.pointer(pointer).unwrap().as_str().unwrap()) {
            let mut packed = packed.clone();
            *packed.pointer_mut(pointer).unwrap() = spelling.clone().into();
            let error = people.refused_without_token_and_resolver(packed).await;
            assert_error!(error, Error::Envelope(JoseError::InvalidBase64(found)) if *found == name);
        }
    }
    for name in ["apv", "apu"] {
        let honest = authcrypt(&people);
        for spelling in lax(honest.header[name].as_str().unwrap()) {
            let mut jwe = authcrypt(&people);
            jwe.header[name] = spelling.into();
            let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
            assert_error!(error, Error::Envelope(JoseError::InvalidBase64(found)) if *found == name);
        }
    }
    for spelling in lax(jwe.header["epk"]["x"].as_str().unwrap()) {
        let mut jwe = anoncrypt(&people);
        jwe.header["epk"]["x"] = spelling.into();
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::Envelope(JoseError::InvalidEphemeralKey(KeyError::Malformed("x"))));
    }
}

fn lax(text: &str) -> Vec<String> {
    let mut spellings = vec![format!("{text}="), format!("{text}\n"), format!(" {text}"), format!("{text}+")];
    if !text.len().is_multiple_of(4) {
        const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (rest, last) = text.split_at(text.len() - 1);
        let value = ALPHABET.find(last).unwrap();
        spellings.push(format!("{rest}{}", &ALPHABET[value | 1..][..1]));
        assert_eq!(value & 1, 0, "the last bit is not of the bytes");
    }
    spellings
}

#[tokio::test]
async fn wrong_lengths_are_refused() {
    let people = People::new().await;
    for enc in ContentEncryption::ALL {
        let honest = seal(&people, &anoncrypt(&people).enc(enc));
        for (name, pointer) in [("iv", "/iv"), ("tag", "/tag"), ("encrypted_key", "/recipients/1/encrypted_key")] {
            for length in [0, 8, 15, 33, 56, 80] {
                let mut packed = honest.clone();
                *packed.pointer_mut(pointer).unwrap() = b64(vec![0; length]).into();
                let error = people.refused_without_token_and_resolver(packed).await;
                assert_error!(error, Error::Envelope(JoseError::InvalidLength(found)) if *found == name);
            }
        }
    }
    let honest = seal(&people, &anoncrypt(&people));
    for length in [0, 15, 17] {
        let mut packed = honest.clone();
        packed["ciphertext"] = b64(vec![0; length]).into();
        assert_error!(
            people.refused_without_token_and_resolver(packed).await,
            Error::Envelope(JoseError::InvalidLength("ciphertext"))
        );
    }
}

#[tokio::test]
async fn too_many_recipients_are_refused_early() {
    let people = People::new().await;
    let stranger = PrivateKey::generate(Curve::X25519);
    let recipients = |size: usize| -> Vec<_> {
        let strangers = (1..size).map(|number| (format!("did:example:x#{number}"), stranger.public().clone()));
        strangers.chain(people.keys_of_bob(&[1])).collect()
    };
    let error = people.refused_without_token_and_resolver(seal(&people, &Jwe::anoncrypt(&recipients(101)))).await;
    assert_error!(error, Error::Envelope(JoseError::TooManyRecipients { count: 101, limit: 100 }));

    let before = people.bob.token.counts();
    people.opened(seal(&people, &Jwe::anoncrypt(&recipients(100)))).await;
    let cost = people.bob.token.counts() - before;
    assert_eq!(cost, Counts { derivations: 1, unwraps: 1, ..Counts::default() });
    assert_eq!(people.resolver.take_requests(), [""; 0], "a recipient's id is never resolved");
}

/// Token time is scarce. A message that names many of our keys gets two derivations, not one for each key. The keyring
/// may repeat them once, and asks the token a question with a known answer before it blames the message.
#[tokio::test]
async fn a_layer_costs_at_most_two_derivations() {
    let people = People::new().await;
    let curves = [Curve::X25519; 20];
    let bob = Person::new("bob", &curves, &[]).await;
    let directory = RecordingResolver::of(&[&people.alice]);
    let all: Vec<_> = (1..=20).map(|n| (bob.kid(&format!("agree-{n}")), bob.agree[n - 1].clone())).collect();
    let text = people.plaintext();
    for jwe in [Jwe::anoncrypt(&all), Jwe::authcrypt(&people.alice, &all)] {
        let mut packed = jwe.seal(text.to_string());
        // Every encrypted key has the right length, but only the last one is correct.
        for slot in 0..19 {
            packed["recipients"][slot]["encrypted_key"] = b64([slot as u8; 72]).into();
        }
        let before = bob.token.counts();
        let error = bob.unpack(&packed.to_string(), &directory).await.unwrap_err();
        assert_error!(error, Error::Envelope(JoseError::Decrypt(_)));
        let cost = bob.token.counts() - before;
        assert!((2..=8).contains(&cost.derivations), "{cost:?}");
    }
    // Within the limit, the second recipient is tried if the first fails.
    let mut packed = Jwe::anoncrypt(&all).seal(text.to_string());
    packed["recipients"][0]["encrypted_key"] = b64([0; 72]).into();
    assert!(bob.unpack(&packed.to_string(), &directory).await.is_ok());
}

// Conformance 46: the same error, whatever failed.
#[tokio::test]
async fn a_wrong_key_and_a_wrong_tag_give_the_same_error() {
    let people = People::new().await;
    let honest = seal(&people, &Jwe::anoncrypt(&people.keys_of_bob(&[1])));
    let mut texts = std::collections::HashSet::new();
    for pointer in ["/recipients/0/encrypted_key", "/tag", "/ciphertext", "/iv"] {
        let mut packed = honest.clone();
        let value = packed.pointer_mut(pointer).unwrap();
        let first = if value.as_str().unwrap().starts_with('A') { "B" } else { "A" };
        *value = format!("{first}{}", &value.as_str().unwrap()[1..]).into();
        texts.insert(people.refused(packed).await.to_string());
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
}

// Conformance 57.
#[tokio::test]
async fn a_message_for_other_keys_is_refused() {
    let people = People::new().await;
    let mallory = [(people.mallory.kid("agree-1"), people.mallory.agree[0].clone())];
    let signing = [(people.bob.kid("sign-2"), people.bob.sign[1].clone())];
    for recipients in [mallory, signing] {
        let jwe = Jwe::authcrypt_as(&people.alice, &people.alice.kid("agree-1"), &people.alice.agree[0], &recipients);
        let jwe = if recipients[0].1.curve() == Curve::X25519 { jwe } else { Jwe::anoncrypt(&recipients) };
        let error = people.refused_without_token_and_resolver(seal(&people, &jwe)).await;
        assert_error!(error, Error::NotForUs(kids) if *kids == [recipients[0].0.clone()]);
    }
}

// Conformance 17, 57.
#[tokio::test]
async fn a_skid_must_be_in_key_agreement() {
    let people = People::new().await;
    // A key of Alice that could agree, but is in her document for signing only.
    let (skid, key) = (people.alice.kid("sign-2"), &people.alice.sign[1]);
    let jwe = Jwe::authcrypt_as(&people.alice, &skid, key, &people.keys_of_bob(&[3]));
    let error = people.refused_without_token(seal(&people, &jwe)).await;
    assert_error!(
        error,
        Error::NotAuthorised { kid, relationship: Relationship::KeyAgreement } if *kid == skid
    );
    // A key that Alice does not have.
    let absent = people.alice.kid("agree-9");
    let jwe = Jwe::authcrypt_as(&people.alice, &absent, &people.alice.agree[0], &people.keys_of_bob(&[1]));
    let error = people.refused_without_token(seal(&people, &jwe)).await;
    assert_error!(error, Error::NotAuthorised { kid, .. } if *kid == absent);
    // A DID that does not exist, and a text that is not a DID URL.
    let send = |skid: &str| {
        let jwe = Jwe::authcrypt_as(&people.alice, skid, &people.alice.agree[0], &people.keys_of_bob(&[1]));
        seal(&people, &jwe)
    };
    assert_error!(people.refused_without_token(send("did:example:nobody#1")).await, Error::Resolve(_));
    assert_error!(
        people.refused_without_token_and_resolver(send("https://example.org/#1")).await,
        Error::InvalidKeyId(_)
    );
    assert_error!(people.refused_without_token_and_resolver(send("")).await, Error::InvalidKeyId(_));
}

/// Mallory authenticates with her own key under Alice's `skid`.
#[tokio::test]
async fn a_false_skid_does_not_authenticate() {
    let people = People::new().await;
    let skid = people.alice.kid("agree-1");
    let jwe = Jwe::authcrypt_as(&people.mallory, &skid, &people.mallory.agree[0], &people.keys_of_bob(&[1, 2]));
    assert_error!(people.refused(seal(&people, &jwe)).await, Error::Envelope(JoseError::Decrypt(_)));
}

// Conformance 37, 44.
#[tokio::test]
async fn the_key_of_the_skid_must_be_valid() {
    let people = People::new().await;
    let jwe = Jwe::authcrypt_as(
        &people.alice,
        &people.alice.kid("agree-3"),
        &people.alice.agree[0],
        &people.keys_of_bob(&[1]),
    );
    let error = people.refused_without_token(seal(&people, &jwe)).await;
    assert_error!(error, Error::Envelope(JoseError::CurveMismatch { curve: Curve::P256, expected: Curve::X25519, .. }));
    let low = json!({
        "id": "did:example:low",
        "keyAgreement": [{
            "id": "#1", "type": "JsonWebKey2020",
            "publicKeyJwk": {"kty": "OKP", "crv": "X25519", "x": b64([0; 32])},
        }],
    });
    let directory = RecordingResolver::with([Document::from_value(low).unwrap()]);
    let jwe = Jwe::authcrypt_as(&people.alice, "did:example:low#1", &people.alice.agree[0], &people.keys_of_bob(&[1]));
    let before = people.bob.token.counts();
    let error = people.bob.unpack(&seal(&people, &jwe).to_string(), &directory).await.unwrap_err();
    assert_error!(error, Error::UnusableKey { error: KeyError::LowOrder(Curve::X25519), .. });
    assert_eq!(people.bob.token.counts(), before);
}

// Conformance 17, 54.
#[tokio::test]
async fn from_must_be_the_did_of_the_skid() {
    let people = People::new().await;
    let mut text = people.plaintext();
    let jwe = Jwe::authcrypt(&people.mallory, &people.keys_of_bob(&[1]));
    let error = people.refused(jwe.seal(text.to_string())).await;
    assert_error!(error, Error::FromMismatch { from, kid } if from == "did:example:alice" && kid == "did:example:mallory#agree-1");
    // Neither a DID that begins with hers nor the id of her key is accepted.
    for from in ["did:example:alic", "did:example:alice2", "did:example:alice#agree-1", "did:example:ALICE", ""] {
        text["from"] = from.into();
        let jwe = authcrypt(&people).seal(text.to_string());
        assert_error!(people.refused(jwe).await, Error::FromMismatch { .. });
    }
    text.as_object_mut().unwrap().shift_remove("from");
    let jwe = authcrypt(&people).seal(text.to_string());
    assert_error!(people.refused(jwe).await, Error::FromAbsent(kid) if *kid == people.alice.kid("agree-1"));
    // An anoncrypted message may have any `from`. It proves nothing, and the provenance says so.
    text["from"] = "did:example:mallory".into();
    let (message, provenance) = people.opened(anoncrypt(&people).seal(text.to_string())).await;
    assert!(message.from.is_some() && !provenance.authenticated);
}

/// Where the caller wants it, an absent `from` is that of the key. A `from` that is there is compared all the same.
#[tokio::test]
async fn an_absent_from_can_be_taken_from_the_skid() {
    let people = People::new().await;
    let options = UnpackOptions { from_by_key: true, ..UnpackOptions::default() };
    let unpack =
        async |jwe: Value| Message::unpack(&jwe.to_string(), &people.resolver, &people.bob.identities, &options).await;
    let mut text = people.plaintext();
    text["from"] = "did:example:mallory".into();
    assert_error!(unpack(authcrypt(&people).seal(text.to_string())).await.unwrap_err(), Error::FromMismatch { .. });
    text.as_object_mut().unwrap().shift_remove("from");
    let (message, provenance) = unpack(authcrypt(&people).seal(text.to_string())).await.unwrap();
    assert_eq!((message.from.as_deref(), provenance.sender()), (Some("did:example:alice"), Some("did:example:alice")));
    let (message, provenance) = unpack(anoncrypt(&people).seal(text.to_string())).await.unwrap();
    assert!(message.from.is_none() && !provenance.authenticated);
}

// Conformance 16, 55.
#[tokio::test]
async fn to_must_name_the_did_of_the_key_that_opened() {
    let people = People::new().await;
    let mut text = people.plaintext();
    for to in [json!(["did:example:mallory"]), json!([]), json!(["did:example:bob#agree-1"]), json!(["did:example:bo"])]
    {
        text["to"] = to;
        for jwe in [authcrypt(&people), anoncrypt(&people)] {
            let error = people.refused(jwe.seal(text.to_string())).await;
            assert_error!(error, Error::ToMismatch { kid } if *kid == people.bob.kid("agree-1"));
        }
    }
    text["to"] = json!(["did:example:mallory", "did:example:bob"]);
    people.opened(authcrypt(&people).seal(text.to_string())).await;
}

// Conformance 12.
#[tokio::test]
async fn the_decrypted_content_must_be_a_message() {
    let people = People::new().await;
    let without = |member: &str| {
        let mut text = people.plaintext();
        text.as_object_mut().unwrap().shift_remove(member);
        text.to_string()
    };
    let error = people.refused(authcrypt(&people).seal(without("id"))).await;
    assert_error!(error, Error::Message(MessageError::NoId));
    let error = people.refused(authcrypt(&people).seal(without("type"))).await;
    assert_error!(error, Error::Envelope(JoseError::Unrecognised));
    for not_json in ["", "[]", "plain text", "\u{0}"] {
        let error = people.refused(authcrypt(&people).seal(not_json)).await;
        assert_error!(error, Error::Envelope(JoseError::Json { name: "message", .. }));
    }
}

/// A message that Alice authcrypts with her first key to two of Bob's keys.
fn authcrypt(people: &People) -> Jwe {
    Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1, 2]))
}

fn anoncrypt(people: &People) -> Jwe {
    Jwe::anoncrypt(&people.keys_of_bob(&[1, 2]))
}

fn seal(people: &People, jwe: &Jwe) -> Value {
    jwe.seal(people.plaintext().to_string())
}

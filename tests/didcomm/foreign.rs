//! Plaintexts in forms that other libraries write (`tests/vectors/foreign`): what is read, and what is refused and why.

use claviger::{
    did,
    didcomm::{Error, FromPriorError, Message, Provenance, UnpackOptions},
};
use claviger_testkit::SoftToken;

use crate::support::identities;

/// Unpacks a file of `tests/vectors/foreign`.
async fn unpack(name: &str) -> Result<(Message, Provenance), Error> {
    let file = format!("{}/tests/vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    let me = identities(&SoftToken::new("nobody"), []).await;
    Message::unpack(&text, &did::local(), &me, &UnpackOptions::default()).await
}

#[tokio::test]
async fn a_time_that_is_written_as_a_fraction_is_read() {
    let (message, _) = unpack("created-time-float").await.unwrap();
    assert_eq!(message.created_time, Some(1_700_000_000));
    assert!(message.to_json().contains(r#""created_time":1700000000"#), "{}", message.to_json());
}

/// RFC 7519 sections 4.1.3 to 4.1.5.
#[tokio::test]
async fn a_from_prior_is_valid_at_its_time_and_for_its_audience() {
    for (name, expected, words) in [
        ("from-prior-exp", FromPriorError::Expired, "its exp has passed"),
        ("from-prior-nbf", FromPriorError::NotYetValid, "its nbf has not come"),
        ("from-prior-aud", FromPriorError::Audience, "its aud names somebody else"),
    ] {
        let error = unpack(name).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_error!(error, Error::FromPrior(found) if *found == expected);
    }
}

/// RFC 7519 section 2, NumericDate.
#[tokio::test]
async fn a_numeric_date_may_have_a_fraction() {
    let (_, provenance) = unpack("from-prior-iat-fraction").await.unwrap();
    assert_eq!(provenance.from_prior.unwrap().iat, Some(1_516_239_022));
}

#[cfg(feature = "exact-numbers")]
#[tokio::test]
async fn numbers_keep_their_digits() {
    let (message, _) = unpack("numbers").await.unwrap();
    let body = r#""body":{"wei":123456789012345678901,"pi":3.14159265358979323846}"#;
    assert!(message.to_json().contains(body), "{}", message.to_json());
}

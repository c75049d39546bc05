//! Keys of a DID that tokens of other machines hold. Several machines may serve a DID, each with a token of its own.

use claviger::{did::Relationship, keys::PublicKey};

use crate::cli::failure::Failure;

/// The arguments that name such keys.
#[derive(clap::Args, Default)]
pub struct OtherKeys {
    /// A key agreement key in a token of another machine, as a multikey; may be given several times. It is added to the
    /// other keys
    #[arg(long, value_name = "MULTIKEY")]
    other_agreement: Vec<String>,
    /// An authentication key in a token of another machine, as a multikey; may be given several times. It is added to the
    /// other keys
    #[arg(long, value_name = "MULTIKEY")]
    other_authentication: Vec<String>,
}

impl OtherKeys {
    /// All of them, those for key agreement first.
    pub fn all(&self) -> Result<Vec<(Relationship, PublicKey)>, Failure> {
        let agreement = self.of(Relationship::KeyAgreement)?.into_iter().map(|key| (Relationship::KeyAgreement, key));
        let authentication = self.of(Relationship::Authentication)?.into_iter();
        Ok(agreement.chain(authentication.map(|key| (Relationship::Authentication, key))).collect())
    }

    /// Those of one relationship. Whoever runs the other machines answers for them: no token here can prove them.
    pub fn of(&self, relationship: Relationship) -> Result<Vec<PublicKey>, Failure> {
        let names = match relationship {
            Relationship::KeyAgreement => &self.other_agreement,
            _ => &self.other_authentication,
        };
        names.iter().map(|name| other_key(name, relationship)).collect()
    }
}

fn other_key(name: &str, relationship: Relationship) -> Result<PublicKey, Failure> {
    let wrong = |why: &str| {
        Failure::usage("bad-key-name", format!("{name:?} {why}"))
            .hint("`claviger key list` on the other machine prints the multikeys of its keys")
    };
    let key = PublicKey::from_multikey(name).map_err(|error| wrong(&format!("is not a multikey: {error}")))?;
    let fits = match relationship {
        Relationship::KeyAgreement => key.curve().supports_key_agreement(),
        _ => key.curve().signature_algorithm().is_some(),
    };
    match fits {
        true => Ok(key),
        false => Err(wrong(&format!("is on {}, which is not for {}", key.curve().name(), relationship.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_be_a_multikey_that_fits() {
        let (x25519, ed25519) =
            ("z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK");
        let other = |agreement: &str, authentication: &str| OtherKeys {
            other_agreement: vec![agreement.to_owned()],
            other_authentication: vec![authentication.to_owned()],
        };
        let all = other(x25519, ed25519).all().unwrap();
        let all: Vec<_> = all.iter().map(|(relationship, key)| (*relationship, key.to_multikey())).collect();
        assert_eq!(
            all,
            [(Relationship::KeyAgreement, x25519.to_owned()), (Relationship::Authentication, ed25519.to_owned())]
        );
        for wrong in [other(ed25519, ed25519), other(x25519, x25519), other("a label", ed25519)] {
            assert!(wrong.all().is_err_and(|failure| failure.code == "bad-key-name"));
        }
        assert!(OtherKeys::default().all().unwrap().is_empty());
    }
}

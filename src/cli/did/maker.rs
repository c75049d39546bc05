//! The keys of a DID that is made.

use claviger::{
    did::Relationship,
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, NewKey, Place, Signature, ToSign, TokenError},
};

use crate::cli::{config::Config, failure::Failure, tokens::Opened};

/// A key that goes into the DID.
pub struct Chosen {
    pub held: HeldKey,
    /// None of the key that changes a did:webvh.
    pub relationships: Vec<Relationship>,
}

/// Makes keys, and takes them back if nothing comes of it.
pub struct Maker {
    tokens: Vec<Opened>,
    label: Option<String>,
    /// What was made, and in which token.
    made: Vec<(usize, PublicKey)>,
}

impl Maker {
    pub fn new(tokens: Vec<Opened>, label: Option<String>) -> Self {
        Self { tokens, label, made: Vec::new() }
    }

    pub fn make(&mut self, at: usize, curve: Curve, usage: KeyUse) -> Result<HeldKey, Failure> {
        self.try_make(at, curve, usage).map_err(|error| Failure::of_token(self.tokens[at].name(), &error))
    }

    /// The key that may change a did:webvh, in the first token. It stands in no document, so its name says what it is for.
    pub fn make_update_key(&mut self, place: &str) -> Result<HeldKey, Failure> {
        let label = self.label.replace(format!("updates {place}"));
        let made = self.make(0, Curve::Ed25519, KeyUse::Signing);
        self.label = label;
        made.map_err(|failure| {
            failure.hint("a did:webvh is changed by an Ed25519 key; --token names a token that makes one")
        })
    }

    /// A signature by a key of the first token.
    pub fn sign(&self, config: &Config, key: &PublicKey, what: &ToSign<'_>) -> Result<Signature, Failure> {
        self.tokens[0].sign(config, key, what)
    }

    fn try_make(&mut self, at: usize, curve: Curve, usage: KeyUse) -> Result<HeldKey, TokenError> {
        let label = self.label.as_deref().map(Into::into);
        let held = self.tokens[at].generate(&NewKey { curve, usage, label }, Place::default())?;
        self.made.push((at, held.public.clone()));
        Ok(held)
    }

    /// The keys of all its tokens.
    pub fn inventory(&self) -> Result<Vec<HeldKey>, Failure> {
        let keys = self.tokens.iter().map(Opened::inventory).collect::<Result<Vec<_>, _>>()?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// In each token a key for each purpose that has none: on the 25519 curves if all of them can do all that is needed,
    /// else on P-256. A token that signs only short inputs with Ed25519 signs with P-256.
    pub fn missing(&mut self, agreement: bool, authentication: bool) -> Result<Vec<Chosen>, Failure> {
        let short = self.tokens.iter().any(|token| token.info().longest_eddsa.is_some());
        let signs = if short { Curve::P256 } else { Curve::Ed25519 };
        let wanted = [
            (agreement, Relationship::KeyAgreement, KeyUse::Agreement, Curve::X25519),
            (authentication, Relationship::Authentication, KeyUse::Signing, signs),
        ];
        let wanted: Vec<_> = wanted.into_iter().filter(|(wanted, ..)| *wanted).collect();
        let all: Vec<_> = (0..self.tokens.len()).flat_map(|at| wanted.iter().map(move |wanted| (at, wanted))).collect();
        let mut made = Vec::new();
        for (at, (_, relationship, usage, curve)) in &all {
            match self.try_make(*at, *curve, *usage) {
                Ok(held) => made.push(Chosen { held, relationships: vec![*relationship] }),
                Err(error @ (TokenError::Pin(_) | TokenError::Away(_))) => {
                    return Err(Failure::of_token(self.tokens[*at].name(), &error));
                }
                Err(error) => {
                    tracing::info!(token = self.tokens[*at].name(), %curve, %error, "P-256 is taken instead");
                    break;
                }
            }
        }
        if made.len() == all.len() {
            return Ok(made);
        }
        self.undo();
        let keys = all.iter().map(|(at, (_, relationship, usage, _))| {
            Ok(Chosen { held: self.make(*at, Curve::P256, *usage)?, relationships: vec![*relationship] })
        });
        keys.collect()
    }

    /// Deletes what was made.
    pub fn undo(&mut self) {
        for (at, key) in std::mem::take(&mut self.made) {
            if let Err(error) = self.tokens[at].delete(&key) {
                tracing::warn!(token = self.tokens[at].name(), %key, %error, "an unused key stays in the token");
            }
        }
    }
}

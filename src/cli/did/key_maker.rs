//! Makes the keys of a new DID.

use claviger::{
    did::{Document, DocumentBuilder, Relationship, Service},
    keys::{Curve, PublicKey},
    secrets::{HeldKey, KeyUse, NewKey, SignRequest, Signature, SlotOptions, TokenError},
};

use crate::cli::{config::Config, failure::Failure, key_name::KeyName, tokens::custodian::CustodianToken};

/// A key of a DID.
pub struct DidKey {
    pub held: HeldKey,
    /// The relationships of the document that list the key. Empty for the update key of a did:webvh.
    pub relationships: Vec<Relationship>,
}

impl DidKey {
    /// What the document, or the log of a did:webvh, uses the key for.
    fn usage(&self) -> KeyUse {
        let has = |relationship| self.relationships.contains(&relationship);
        match (has(Relationship::KeyAgreement), has(Relationship::Authentication)) {
            (true, true) => KeyUse::Both,
            (true, false) => KeyUse::Agreement,
            (false, _) => KeyUse::Signing,
        }
    }
}

/// A key in a token of another machine, and its relationship.
pub type OtherKey = (Relationship, PublicKey);

/// A document builder with these keys, which get the fragments `key-1`, `key-2` and so on.
pub fn document_builder(keys: &[DidKey], others: &[OtherKey], services: &[Service]) -> DocumentBuilder {
    let own = keys.iter().map(|key| (&key.held.public, &key.relationships[..]));
    let others = others.iter().map(|(relationship, key)| (key, std::slice::from_ref(relationship)));
    let mut builder = Document::builder();
    for (index, (key, relationships)) in own.chain(others).enumerate() {
        builder = builder.method(&format!("key-{}", index + 1), key, relationships);
    }
    services.iter().cloned().fold(builder, DocumentBuilder::service)
}

/// Makes keys in tokens, and can delete them again if the DID is not made.
pub struct KeyMaker {
    tokens: Vec<CustodianToken>,
    label: Option<String>,
    /// The keys that were made, each with the index of its token.
    made: Vec<(usize, HeldKey)>,
}

impl KeyMaker {
    pub fn new(tokens: Vec<CustodianToken>, label: Option<String>) -> Self {
        Self { tokens, label, made: Vec::new() }
    }

    /// Makes a key in the token with this index.
    pub fn make(&mut self, at: usize, curve: Curve, usage: KeyUse) -> Result<HeldKey, Failure> {
        self.try_make(at, curve, usage).map_err(|error| Failure::from_token(self.tokens[at].name(), &error))
    }

    /// Makes the update key of a did:webvh in the first token. No document has the key, so its label names its purpose.
    pub fn make_update_key(&mut self, host_and_path: &str) -> Result<HeldKey, Failure> {
        let label = self.label.replace(format!("updates {host_and_path}"));
        let made = self.make(0, Curve::Ed25519, KeyUse::Signing);
        self.label = label;
        made.map_err(|failure| {
            failure.hint("a did:webvh needs an Ed25519 key for its updates; --token names a token that makes one")
        })
    }

    /// Signs with a key of the first token.
    pub fn sign(&self, config: &Config, key: &PublicKey, what: &SignRequest<'_>) -> Result<Signature, Failure> {
        self.tokens[0].sign(config, key, what)
    }

    fn try_make(&mut self, at: usize, curve: Curve, usage: KeyUse) -> Result<HeldKey, TokenError> {
        let label = self.label.as_deref().map(Into::into);
        let held = self.tokens[at].generate(&NewKey { curve, usage, label }, SlotOptions::default())?;
        self.made.push((at, held.clone()));
        Ok(held)
    }

    /// The keys in all tokens.
    pub fn inventory(&self) -> Result<Vec<HeldKey>, Failure> {
        let keys = self.tokens.iter().map(CustodianToken::inventory).collect::<Result<Vec<_>, _>>()?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// Proves each key of a DID: its token serves it, both halves belong together, and its uses work now. Must be called
    /// just before the document is stored.
    pub fn prove(&self, config: &Config, keys: &[DidKey]) -> Result<(), Failure> {
        let token_of = |key: &DidKey| self.tokens.iter().position(|token| *token.name() == *key.held.token);
        if let Some(key) = keys.iter().find(|key| token_of(key).is_none()) {
            return Err(KeyName::unknown(&key.held.public.to_multikey()));
        }
        for (at, token) in self.tokens.iter().enumerate() {
            let own: Vec<_> = keys.iter().filter(|key| token_of(key) == Some(at)).collect();
            if !own.is_empty() {
                token.prove(config, &own.iter().map(|key| (&key.held, key.usage())).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Makes a key in each token for each requested use: on X25519 and Ed25519 if all tokens have these curves, else on
    /// P-256. A token that signs only short inputs with Ed25519 signs with P-256.
    pub fn make_missing(&mut self, agreement: bool, authentication: bool) -> Result<Vec<DidKey>, Failure> {
        let signs_short_only = self.tokens.iter().any(|token| token.info().longest_eddsa.is_some());
        let signing_curve = if signs_short_only { Curve::P256 } else { Curve::Ed25519 };
        let wanted = [
            (agreement, Relationship::KeyAgreement, KeyUse::Agreement, Curve::X25519),
            (authentication, Relationship::Authentication, KeyUse::Signing, signing_curve),
        ];
        let wanted: Vec<_> = wanted.into_iter().filter(|(wanted, ..)| *wanted).collect();
        let all: Vec<_> = (0..self.tokens.len()).flat_map(|at| wanted.iter().map(move |wanted| (at, wanted))).collect();
        let mut made = Vec::new();
        for (at, (_, relationship, usage, curve)) in &all {
            match self.try_make(*at, *curve, *usage) {
                Ok(held) => made.push(DidKey { held, relationships: vec![*relationship] }),
                Err(error @ (TokenError::Pin(_) | TokenError::Away(_))) => {
                    return Err(Failure::from_token(self.tokens[*at].name(), &error));
                }
                Err(error) => {
                    tracing::info!(token = self.tokens[*at].name(), %curve, %error, "using P-256 instead");
                    break;
                }
            }
        }
        if made.len() == all.len() {
            return Ok(made);
        }
        self.delete_made_keys();
        let keys = all.iter().map(|(at, (_, relationship, usage, _))| {
            Ok(DidKey { held: self.make(*at, Curve::P256, *usage)?, relationships: vec![*relationship] })
        });
        keys.collect()
    }

    /// Deletes the keys that were made.
    pub fn delete_made_keys(&mut self) {
        for (at, held) in std::mem::take(&mut self.made) {
            if let Err(error) = self.tokens[at].delete(&held) {
                let (token, key) = (self.tokens[at].name(), &held.public);
                tracing::warn!(token, %key, %error, "an unused key stays in the token");
            }
        }
    }
}

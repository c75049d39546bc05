//! The names of keys on the command line: label, multikey, JWK thumbprint or DID URL.

use serde_json::{Value, json};

use claviger::{
    did::{DidUrl, Document, Relationship, Resolver},
    keys::PublicKey,
    secrets::HeldKey,
};

use super::failure::Failure;

/// A KEY of the command line, parsed.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyName {
    Public(PublicKey),
    DidUrl(DidUrl),
    /// A label or a thumbprint.
    Text(String),
}

impl KeyName {
    /// Parses a key name. Fails for a DID URL that is malformed or has no fragment.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.starts_with("did:") {
            let url = DidUrl::parse(text).ok().filter(|url| url.fragment().is_some());
            let invalid =
                || Failure::usage("bad-key-name", format!("{text:?} is not the DID URL of a key (DID#FRAGMENT)"));
            return url.map(Self::DidUrl).ok_or_else(invalid);
        }
        Ok(PublicKey::from_multikey(text).map_or_else(|_| Self::Text(text.to_owned()), Self::Public))
    }

    /// Resolves a DID URL to the public key in its document. Other names stay as they are. Opens no token.
    pub async fn resolve(self, resolver: &dyn Resolver) -> Result<Self, Failure> {
        let Self::DidUrl(url) = &self else { return Ok(self) };
        let document = resolver.resolve(url.did()).await?;
        let method = Relationship::ALL.into_iter().find_map(|relationship| document.method(url.as_str(), relationship));
        match method.map(|method| method.key.clone()) {
            Some(Ok(key)) => Ok(Self::Public(key)),
            Some(Err(error)) => Err(Failure::new("key-refused", format!("the key {url}: {error}"))),
            None => Err(Failure::new("key-unknown", format!("the document of {} has no key {url}", url.did()))),
        }
    }

    /// Whether this is a name of the key. A DID URL may be the label of an imported key.
    pub fn matches(&self, held: &HeldKey) -> bool {
        match self {
            Self::Public(key) => held.public == *key,
            Self::DidUrl(url) => held.label.as_deref() == Some(url.as_str()),
            Self::Text(text) => held.label.as_deref() == Some(text) || held.public.thumbprint() == *text,
        }
    }

    /// Finds the key with this name. Fails if several keys have it. `text` is the name as typed, for the error.
    pub fn find<'k>(&self, text: &str, keys: &'k [HeldKey]) -> Result<Option<&'k HeldKey>, Failure> {
        let mut named = keys.iter().filter(|held| self.matches(held));
        match (named.next(), named.next()) {
            (Some(first), Some(second)) if first.public != second.public => {
                let message = format!("{text:?} names several keys: {} and {}", first.public, second.public);
                Err(Failure::usage("key-ambiguous", message).hint("name the key by its multikey"))
            }
            (first, _) => Ok(first),
        }
    }

    /// The failure if no token holds a key with this name.
    pub fn unknown(text: &str) -> Failure {
        Failure::new("key-unknown", format!("no token holds a key {text:?}"))
            .hint("`claviger key list` shows the keys; name a key by its label, multikey, JWK thumbprint or DID URL")
    }
}

/// A held key as JSON.
pub fn held_key_json(held: &HeldKey) -> Value {
    json!({
        "name": held.label,
        "key": held.public.to_multikey(),
        "jwk": held.public.to_jwk(),
        "thumbprint": held.public.thumbprint(),
        "algorithm": held.public.curve().name(),
        "use": held.usage,
        "token": &*held.token,
        "origin": held.origin,
        "always_sensitive": held.always_sensitive,
        "never_extractable": held.never_extractable,
        "custody": held.custody,
        "protected": held.protected,
        "served": held.refused.is_none(),
        "why": held.refused.as_deref(),
        "slot": held.slot.map(|slot| slot.to_string()),
    })
}

/// The DID URLs that these documents give a key.
pub fn key_ids(documents: &[Document], key: &PublicKey) -> Vec<String> {
    let methods = documents.iter().flat_map(|document| document.all_methods());
    methods.filter(|method| method.key.as_ref() == Ok(key)).map(|method| method.id.clone()).collect()
}

//! The keyring: the contract of [`Secrets`], and tokens that are absent at start.

use std::sync::Arc;

use claviger::secrets::{Keyring, KeyringBuilder, Policy, Secrets, SecretsError, Token, TokenError};
use claviger_testkit::SoftToken;

/// [`Keyring`], for the suite.
struct Implementation(KeyringBuilder);

impl Implementation {
    const SIGNS_ROTATIONS: bool = true;

    async fn start<T: Token + 'static>(tokens: impl IntoIterator<Item = T>) -> Result<Arc<dyn Secrets>, SecretsError> {
        tokens.into_iter().fold(Self::builder(), Self::token).ready().await
    }

    fn builder() -> Self {
        Self(Keyring::builder())
    }

    fn token(self, token: impl Token + 'static) -> Self {
        Self(self.0.token(token))
    }

    fn token_policy(self, token: &str, policy: Policy) -> Self {
        Self(self.0.token_policy(token, policy))
    }

    fn key_policy(self, key: claviger::keys::PublicKey, policy: Policy) -> Self {
        Self(self.0.key_policy(key, policy))
    }

    fn queue(self, requests: usize) -> Self {
        Self(self.0.queue_length(requests))
    }

    async fn ready(self) -> Result<Arc<dyn Secrets>, SecretsError> {
        Ok(Arc::new(self.0.start().await?))
    }
}

#[path = "suite.rs"]
mod suite;

#[tokio::test]
async fn a_token_that_is_absent_at_start_is_an_error_unless_allowed() {
    let token = SoftToken::new("gone");
    token.make(claviger::keys::Curve::P256);
    token.set_away(true);
    let error = Keyring::start([token.clone()]).await.err();
    assert!(matches!(error, Some(SecretsError::Token { error: TokenError::Away(_), .. })), "{error:?}");
    let keyring = Keyring::builder().token(token.clone()).allow_absent_tokens().start().await.unwrap();
    assert!(matches!(&keyring.status()[0].outage, Some(outage) if matches!(outage.error, TokenError::Away(_))));
    assert!(keyring.keys().borrow().is_empty());
    token.set_away(false);
    keyring.keys().wait_for(|keys| keys.len() == 1).await.unwrap();
    assert!(keyring.status()[0].outage.is_none());
}

//! The contract of [`Secrets`], tested over software tokens. Included once for each implementation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use claviger::{
    crypto,
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custody, KeyOperation, KeyState, KeyUse, Policy, Purpose, Secrets, SecretsError, SignRequest, Token,
        TokenError,
    },
};
use claviger_testkit::{
    Counts, PrivateKey, SoftToken,
    reference::{Parties, fresh_cek, message_to, read, wrap_for},
};

use super::Implementation;

const MESSAGE: SignRequest<'_> =
    SignRequest::Message(br#"{"id":"1","type":"https://example.org/test/1.0/note","body":{}}"#);
/// A time that nothing exceeds unless it hangs.
const HANG_TIMEOUT: Duration = Duration::from_secs(20);

/// A token with one P-256 key, and the implementation over it.
async fn one_key() -> (SoftToken, PublicKey, Arc<dyn Secrets>) {
    let token = SoftToken::new("one");
    let key = token.make(Curve::P256);
    let keyring = Implementation::start([token.clone()]).await.unwrap();
    (token, key, keyring)
}

fn within(time: Duration) -> Context {
    Context { deadline: Some(Instant::now() + time), ..Context::default() }
}

fn import(token: &SoftToken, private: &PrivateKey) {
    use claviger::secrets::Custodian;
    token.import(private.to_import(KeyUse::of(private.public().curve()), None)).unwrap();
}

mod outcomes {
    use super::*;

    #[tokio::test]
    async fn operations_succeed() {
        let (token, key, keyring) = one_key().await;
        let cx = Context::default();
        let signature = keyring.sign(&key, &MESSAGE, &cx).await.unwrap();
        let input = format!("{}.{}", signature.protected, signature.payload);
        assert!(crypto::verify(&key, input.as_bytes(), &signature.signature).is_ok());

        let (cek, parties, peer) = (fresh_cek(), Parties::example(), PrivateKey::generate(Curve::P256));
        let message = message_to(&key, Some(&peer), &cek, &parties);
        assert_eq!(keyring.unwrap_cek(&key, &message, &cx).await.unwrap(), cek);

        let ephemeral = PrivateKey::generate(Curve::P256);
        let wrapped =
            keyring.wrap_cek(&key, &wrap_for([peer.public()], &ephemeral, &cek, &parties), &cx).await.unwrap();
        assert_eq!(read(&peer, ephemeral.public(), Some(&key), &parties, &wrapped[0]), Some(cek));
        assert_eq!(token.counts(), Counts { derivations: 3, signatures: 1, unwraps: 1, wraps: 1 });
    }

    #[tokio::test]
    async fn an_unknown_key_is_not_held() {
        let (token, _, keyring) = one_key().await;
        let foreign = PrivateKey::generate(Curve::P256).public().clone();
        let error = keyring.sign(&foreign, &MESSAGE, &Context::default()).await.unwrap_err();
        assert!(matches!(error, SecretsError::NotHeld(key) if key == foreign));
        assert_eq!(token.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_device_failure_is_passed_on() {
        let (token, key, keyring) = one_key().await;
        let broken = TokenError::Device { operation: "C_Sign".into(), reason: "CKR_DEVICE_ERROR".into() };
        token.fail_next(1, broken.clone());
        let error = keyring.sign(&key, &MESSAGE, &Context::default()).await.unwrap_err();
        assert!(matches!(error, SecretsError::Token { token, error } if *token == *"one" && error == broken));
        assert!(
            keyring.sign(&key, &MESSAGE, &Context::default()).await.is_ok(),
            "one failure takes no token out of service"
        );
    }

    /// A panic in a token's code fails one request; the next one succeeds.
    #[tokio::test]
    async fn a_panic_fails_one_request() {
        struct Panics(SoftToken, std::sync::atomic::AtomicBool);
        impl Token for Panics {
            fn name(&self) -> &str {
                self.0.name()
            }
            fn info(&self) -> claviger::secrets::TokenInfo {
                self.0.info()
            }
            fn keys(&self) -> Result<Vec<claviger::secrets::HeldKey>, TokenError> {
                self.0.keys()
            }
            fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
                assert!(self.1.swap(true, std::sync::atomic::Ordering::SeqCst), "the first time");
                self.0.sign(key, input, purpose)
            }
            fn unwrap_cek(
                &self,
                key: &PublicKey,
                request: &claviger::secrets::UnwrapRequest,
                purpose: &Purpose,
            ) -> Result<crypto::Cek, TokenError> {
                self.0.unwrap_cek(key, request, purpose)
            }
            fn wrap_cek(
                &self,
                key: &PublicKey,
                request: &claviger::secrets::WrapRequest,
                purpose: &Purpose,
            ) -> Result<Vec<crypto::EncryptedKey>, TokenError> {
                self.0.wrap_cek(key, request, purpose)
            }
        }
        let token = SoftToken::new("panics");
        let key = token.make(Curve::Ed25519);
        let keyring = Implementation::start([Panics(token, false.into())]).await.unwrap();
        let error = keyring.sign(&key, &MESSAGE, &Context::default()).await.unwrap_err();
        assert!(matches!(error, SecretsError::Token { error: TokenError::Device { .. }, .. }), "{error:?}");
        assert!(keyring.sign(&key, &MESSAGE, &Context::default()).await.is_ok());
    }

    #[tokio::test]
    async fn an_invalid_request_does_not_reach_the_token() {
        let token = SoftToken::new("one");
        let (p256, ed25519) = (token.make(Curve::P256), token.make(Curve::Ed25519));
        let keyring = Implementation::start([token.clone()]).await.unwrap();
        let cx = Context::default();
        let p384 = PrivateKey::generate(Curve::P384);
        let (cek, parties) = (fresh_cek(), Parties::example());

        let other_curve = message_to(p384.public(), None, &cek, &parties);
        let mut other_sender = message_to(&p256, Some(&PrivateKey::generate(Curve::P256)), &cek, &parties);
        other_sender.sender.as_mut().unwrap().key = p384.public().clone();
        let mut short = message_to(&p256, None, &cek, &parties);
        short.encrypted_key.pop();
        for (key, request) in [(&p256, &other_curve), (&p256, &other_sender), (&p256, &short), (&ed25519, &other_curve)]
        {
            let error = keyring.unwrap_cek(key, request, &cx).await.unwrap_err();
            assert!(matches!(error, SecretsError::InvalidRequest(_)), "{error:?}");
        }
        let ephemeral = PrivateKey::generate(Curve::P384);
        let wrap = wrap_for([p384.public()], &ephemeral, &cek, &parties);
        assert!(matches!(keyring.wrap_cek(&p256, &wrap, &cx).await, Err(SecretsError::InvalidRequest(_))));
        // Each recipient costs the token a derivation, while an empty Ze costs the caller nothing.
        let (ephemeral, recipient) = (PrivateKey::generate(Curve::P256), PrivateKey::generate(Curve::P256));
        let too_many = wrap_for([recipient.public(); 101], &ephemeral, &cek, &parties);
        let mut no_ze = wrap_for([recipient.public()], &ephemeral, &cek, &parties);
        no_ze.recipients[0].1 = crypto::SharedSecret::new(Vec::new());
        for wrap in [too_many, no_ze] {
            assert!(matches!(keyring.wrap_cek(&p256, &wrap, &cx).await, Err(SecretsError::InvalidRequest(_))));
        }
        assert!(matches!(
            keyring.sign(&p256, &SignRequest::Message(b"{}"), &cx).await,
            Err(SecretsError::InvalidRequest(_))
        ));
        assert_eq!(token.counts(), Counts::default());
    }
}

mod waiting {
    use std::{
        future::{Future, poll_fn},
        pin::Pin,
        task::Poll,
    };

    use super::*;

    /// Begins a request, so that it is in the token's queue, and does not wait for it.
    async fn begin<T>(request: &mut Pin<Box<impl Future<Output = T>>>) {
        poll_fn(|cx| {
            assert!(request.as_mut().poll(cx).is_pending(), "nothing answers while the token is held");
            Poll::Ready(())
        })
        .await;
    }

    /// One request is at the token and one in the queue, so there is no room for a third.
    #[tokio::test]
    async fn a_full_queue_is_busy_and_recovers() {
        let token = SoftToken::new("slow");
        let key = token.make(Curve::Ed25519);
        let keyring = Implementation::builder().token(token.clone()).queue(1).ready().await.unwrap();
        let cx = Context::default();
        let hold = token.hold();
        let mut first = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        begin(&mut first).await;
        assert!(hold.wait_for(1, HANG_TIMEOUT), "the first has reached the token");
        let mut second = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        begin(&mut second).await;
        let third = keyring.sign(&key, &MESSAGE, &cx).await;
        assert!(matches!(third, Err(SecretsError::Busy { token }) if *token == *"slow"));
        drop(hold);
        assert!(first.await.is_ok());
        assert!(second.await.is_ok());
        assert!(keyring.sign(&key, &MESSAGE, &cx).await.is_ok(), "there is room again");
        assert_eq!(token.counts().signatures, 3, "the refused request did not reach the token");
    }

    #[tokio::test]
    async fn a_request_whose_deadline_passes_in_the_queue_is_not_begun() {
        let (token, key, keyring) = one_key().await;
        let cx = Context::default();
        let hold = token.hold();
        let mut first = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        begin(&mut first).await;
        assert!(hold.wait_for(1, HANG_TIMEOUT));
        let start = Instant::now();
        let expired = keyring.sign(&key, &MESSAGE, &within(Duration::from_millis(30))).await;
        assert!(matches!(expired, Err(SecretsError::DeadlineExceeded { token }) if *token == *"one"));
        assert!(start.elapsed() < HANG_TIMEOUT, "it fails at its deadline, not when the token answers");
        drop(hold);
        assert!(first.await.is_ok());
        // The queue is in order: when this request is done, the expired request has left the queue.
        assert!(keyring.sign(&key, &MESSAGE, &cx).await.is_ok());
        assert_eq!(token.counts().signatures, 2);
    }

    #[tokio::test]
    async fn a_request_after_its_deadline_is_not_begun() {
        let (token, key, keyring) = one_key().await;
        let past = Context { deadline: Some(Instant::now()), ..Context::default() };
        assert!(matches!(keyring.sign(&key, &MESSAGE, &past).await, Err(SecretsError::DeadlineExceeded { .. })));
        assert!(keyring.sign(&key, &MESSAGE, &Context::default()).await.is_ok());
        assert_eq!(token.counts().signatures, 1);
    }

    #[tokio::test]
    async fn a_dropped_request_is_not_performed() {
        let (token, key, keyring) = one_key().await;
        let cx = Context::default();
        let hold = token.hold();
        let mut first = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        begin(&mut first).await;
        assert!(hold.wait_for(1, HANG_TIMEOUT));
        let mut abandoned = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        begin(&mut abandoned).await;
        drop(abandoned);
        drop(hold);
        assert!(first.await.is_ok());
        assert!(keyring.sign(&key, &MESSAGE, &cx).await.is_ok());
        assert_eq!(token.counts().signatures, 2);
    }

    #[tokio::test]
    async fn a_token_performs_as_many_operations_at_once_as_it_says() {
        let token = SoftToken::new("wide").with_concurrency(3);
        let key = token.make(Curve::Ed25519);
        let keyring = Implementation::start([token.clone()]).await.unwrap();
        let cx = Context::default();
        let hold = token.hold();
        let mut requests: Vec<_> = (0..4).map(|_| Box::pin(keyring.sign(&key, &MESSAGE, &cx))).collect();
        for request in &mut requests {
            begin(request).await;
        }
        assert!(hold.wait_for(3, HANG_TIMEOUT), "three at once");
        assert!(!hold.wait_for(4, Duration::from_millis(50)), "and no more");
        drop(hold);
        for request in requests {
            assert!(request.await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_slow_token_does_not_delay_another() {
        let (slow, fast) = (SoftToken::new("slow"), SoftToken::new("fast"));
        let (slow_key, fast_key) = (slow.make(Curve::Ed25519), fast.make(Curve::Ed25519));
        let keyring = Implementation::start([slow.clone(), fast]).await.unwrap();
        let cx = Context::default();
        let hold = slow.hold();
        let mut waits = Box::pin(keyring.sign(&slow_key, &MESSAGE, &cx));
        begin(&mut waits).await;
        assert!(keyring.sign(&fast_key, &MESSAGE, &cx).await.is_ok());
        drop(hold);
        assert!(waits.await.is_ok());
    }

    /// A slow token leaves the caller's only thread free.
    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_token_does_not_block_the_runtime() {
        let (token, key, keyring) = one_key().await;
        token.delay(Duration::from_secs(1));
        let mut ticks = 0;
        let mut timer = tokio::time::interval(Duration::from_millis(10));
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cx = Context::default();
        let mut request = Box::pin(keyring.sign(&key, &MESSAGE, &cx));
        loop {
            tokio::select! {
                _ = timer.tick() => ticks += 1,
                result = &mut request => break assert!(result.is_ok()),
            }
        }
        // About 100 on an idle machine; a blocked thread has one.
        assert!(ticks >= 10, "{ticks} ticks of 10 ms in a second");
    }
}

mod policy {
    use super::*;

    fn allow(operations: &[KeyOperation]) -> Policy {
        Policy { allow: Some(operations.to_vec()), ..Policy::default() }
    }

    fn at_least(custody: Custody) -> Policy {
        Policy { minimum_custody: Some(custody), ..Policy::default() }
    }

    /// The allowed operations, found by trying all.
    async fn allowed(keyring: &dyn Secrets, key: &PublicKey) -> Vec<KeyOperation> {
        let cx = Context::default();
        let (cek, parties) = (fresh_cek(), Parties::example());
        let ephemeral = PrivateKey::generate(Curve::P256);
        let claims = claviger::secrets::FromPriorClaims {
            iss: "did:example:old".into(),
            sub: Some("did:example:new".into()),
            iat: None,
        };
        let from_prior = SignRequest::FromPrior { kid: "did:example:old#1", claims: &claims };
        let results = [
            (KeyOperation::Unwrap, keyring.unwrap_cek(key, &message_to(key, None, &cek, &parties), &cx).await.err()),
            (KeyOperation::Wrap, keyring.wrap_cek(key, &wrap_for([key], &ephemeral, &cek, &parties), &cx).await.err()),
            (KeyOperation::SignMessage, keyring.sign(key, &MESSAGE, &cx).await.err()),
            (KeyOperation::SignFromPrior, keyring.sign(key, &from_prior, &cx).await.err()),
        ];
        let mut allowed = Vec::new();
        for (operation, error) in results {
            match error {
                None => allowed.push(operation),
                Some(SecretsError::NotAllowed { key: refused, operation: refused_operation }) => {
                    assert_eq!((&refused, refused_operation), (key, operation.name()));
                }
                Some(error) => panic!("{error}"),
            }
        }
        allowed
    }

    #[tokio::test]
    async fn a_key_does_only_what_is_allowed() {
        let token = SoftToken::new("ruled");
        let (by_token, by_key) = (token.make(Curve::P256), token.make(Curve::P256));
        let keyring = Implementation::builder()
            .token(token.clone())
            .token_policy("ruled", allow(&[KeyOperation::Unwrap, KeyOperation::SignMessage]))
            .key_policy(by_key.clone(), allow(&[KeyOperation::Wrap, KeyOperation::SignFromPrior]))
            .ready()
            .await
            .unwrap();
        // A keeper does not let the agent sign a rotation until a person arms the key, whatever `allow` says.
        let rotations = if Implementation::SIGNS_ROTATIONS { &[KeyOperation::SignFromPrior][..] } else { &[] };
        assert_eq!(allowed(&*keyring, &by_token).await, [KeyOperation::Unwrap, KeyOperation::SignMessage]);
        assert_eq!(allowed(&*keyring, &by_key).await, [&[KeyOperation::Wrap][..], rotations].concat());
        let counts = token.counts();
        let signatures = 1 + rotations.len() as u64;
        assert_eq!((counts.unwraps, counts.wraps, counts.signatures), (1, 1, signatures), "no more reached the token");

        let (_, key, without_rules) = one_key().await;
        let most = [&[KeyOperation::Unwrap, KeyOperation::Wrap, KeyOperation::SignMessage][..], rotations].concat();
        assert_eq!(allowed(&*without_rules, &key).await, most);
        let nothing = Implementation::builder().token(token).token_policy("ruled", allow(&[])).ready().await.unwrap();
        assert_eq!(allowed(&*nothing, &by_token).await, []);
    }

    #[tokio::test]
    async fn custody_below_the_minimum_is_refused_at_start() {
        let start = |policy_of_token: Option<Custody>, policy_of_key: Option<Custody>| async move {
            let token = SoftToken::new("tier").reporting_custody(Custody::KekInProcess);
            let key = token.make(Curve::X25519);
            let mut builder = Implementation::builder().token(token);
            if let Some(minimum) = policy_of_token {
                builder = builder.token_policy("tier", at_least(minimum));
            }
            if let Some(minimum) = policy_of_key {
                builder = builder.key_policy(key, at_least(minimum));
            }
            builder.ready().await.map(|_| ())
        };
        let refused = |result: Result<(), SecretsError>| match result {
            Err(SecretsError::Token { token, error: TokenError::Custody(reason) }) => {
                assert_eq!(*token, *"tier");
                assert!(reason.contains("kek-in-process") && reason.contains("kek-in-token"), "{reason}");
            }
            other => panic!("{other:?}"),
        };
        assert!(start(None, None).await.is_ok());
        assert!(start(Some(Custody::SharedSecretInProcess), None).await.is_ok());
        assert!(start(Some(Custody::KekInProcess), None).await.is_ok());
        refused(start(Some(Custody::KekInToken), None).await);
        refused(start(None, Some(Custody::KekInToken)).await);
        assert!(
            start(Some(Custody::KekInToken), Some(Custody::KekInProcess)).await.is_ok(),
            "the key's policy overrides the token's"
        );
    }

    /// A key that only signs has no shared secret, so no custody tier.
    #[tokio::test]
    async fn minimum_custody_does_not_apply_to_a_signing_key() {
        let token = SoftToken::new("signs");
        token.make(Curve::Ed25519);
        let builder = Implementation::builder().token(token).token_policy("signs", at_least(Custody::KekInToken));
        assert!(builder.ready().await.is_ok());
    }
}

mod fail_over {
    use claviger::secrets::Custodian;

    use super::*;

    /// One key in three tokens, and the implementation over them in this order.
    async fn one_key_in_three_tokens() -> ([SoftToken; 3], PublicKey, Arc<dyn Secrets>) {
        let private = PrivateKey::generate(Curve::P256);
        let tokens = ["first", "second", "third"].map(SoftToken::new);
        for token in &tokens {
            import(token, &private);
        }
        let keyring = Implementation::start(tokens.clone()).await.unwrap();
        (tokens, private.public().clone(), keyring)
    }

    fn signatures(tokens: &[SoftToken; 3]) -> [u64; 3] {
        [0, 1, 2].map(|index| tokens[index].counts().signatures)
    }

    #[tokio::test]
    async fn follows_the_configured_order_and_returns() {
        let (tokens, key, keyring) = one_key_in_three_tokens().await;
        let cx = Context::default();
        let state = |keyring: &dyn Secrets, token: &str| {
            let keys = keyring.keys().borrow().clone();
            keys.iter().find(|held| *held.token == *token).unwrap().state
        };
        keyring.sign(&key, &MESSAGE, &cx).await.unwrap();
        assert_eq!(signatures(&tokens), [1, 0, 0]);

        let mut watch = keyring.keys();
        watch.mark_unchanged();
        tokens[0].set_away(true);
        keyring.sign(&key, &MESSAGE, &cx).await.unwrap();
        assert_eq!(signatures(&tokens), [2, 1, 0]);
        let told = watch.wait_for(|keys| keys.get(&key).is_some_and(|held| *held.token == *"second"));
        tokio::time::timeout(HANG_TIMEOUT, told).await.expect("subscribers are notified").unwrap();
        assert_eq!((state(&*keyring, "first"), state(&*keyring, "second")), (KeyState::Away, KeyState::Ready));
        assert_eq!(*keyring.keys().borrow().get(&key).unwrap().token, *"second", "the first that is ready");

        tokens[1].set_away(true);
        keyring.sign(&key, &MESSAGE, &cx).await.unwrap();
        assert_eq!(signatures(&tokens), [2, 2, 1], "a token that is away is not asked for each message");

        tokens[2].set_away(true);
        let error = keyring.sign(&key, &MESSAGE, &cx).await.unwrap_err();
        assert!(matches!(error, SecretsError::Token { error: TokenError::Away(_), .. }), "{error:?}");
        assert!(error.is_retryable());

        // The token is probed until it is back.
        tokens[0].set_away(false);
        let ready = watch.wait_for(|keys| {
            let first = keys.iter().find(|held| *held.token == *"first");
            first.is_some_and(|held| held.state == KeyState::Ready)
        });
        tokio::time::timeout(HANG_TIMEOUT, ready).await.expect("the token is back in service").unwrap();
        let before = signatures(&tokens);
        keyring.sign(&key, &MESSAGE, &cx).await.unwrap();
        assert_eq!(signatures(&tokens)[0], before[0] + 1);
    }

    #[tokio::test]
    async fn goes_on_when_a_key_was_deleted() {
        let (tokens, key, keyring) = one_key_in_three_tokens().await;
        tokens[0].delete(&key).unwrap();
        assert!(keyring.sign(&key, &MESSAGE, &Context::default()).await.is_ok());
        assert_eq!(signatures(&tokens), [1, 1, 0]);
    }

    /// A hostile message would fail with the next token too.
    #[tokio::test]
    async fn does_not_go_on_with_a_hostile_message() {
        let (tokens, key, keyring) = one_key_in_three_tokens().await;
        let foreign = PrivateKey::generate(Curve::P256);
        let hostile = message_to(foreign.public(), None, &fresh_cek(), &Parties::example());
        for _ in 0..10 {
            let error = keyring.unwrap_cek(&key, &hostile, &Context::default()).await.unwrap_err();
            assert!(matches!(error, SecretsError::Token { error: TokenError::Unwrap, .. }), "{error:?}");
        }
        assert_eq!(tokens[1].counts(), Counts::default());
        assert!(keyring.keys().borrow().iter().all(|held| held.state == KeyState::Ready), "the token stays in service");
    }

    /// A refused PIN is not tried again for the next message: the token is skipped until a person acts.
    #[tokio::test]
    async fn goes_on_when_a_pin_is_refused() {
        let (tokens, key, keyring) = one_key_in_three_tokens().await;
        tokens[0].fail_next(1, TokenError::Pin("the PIN is locked".into()));
        assert!(keyring.sign(&key, &MESSAGE, &Context::default()).await.is_ok());
        assert_eq!(signatures(&tokens), [1, 1, 0]);
    }

    /// Three failures in a row take a token out of service. It is probed and comes back.
    #[tokio::test]
    async fn three_device_failures_take_a_token_out_of_service() {
        let (token, key, keyring) = one_key().await;
        let cx = Context::default();
        let broken = TokenError::Device { operation: "C_Sign".into(), reason: "CKR_DEVICE_ERROR".into() };
        token.fail_next(3, broken);
        for _ in 0..4 {
            let error = keyring.sign(&key, &MESSAGE, &cx).await.unwrap_err();
            assert!(error.is_retryable(), "{error:?}");
        }
        assert_eq!(token.counts().signatures, 3, "the fourth did not reach the token");
        let mut keys = keyring.keys();
        let ready = keys.wait_for(|keys| keys.iter().all(|held| held.state == KeyState::Ready));
        tokio::time::timeout(HANG_TIMEOUT, ready).await.expect("the token is back in service").unwrap();
        let signed = async {
            while keyring.sign(&key, &MESSAGE, &cx).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(HANG_TIMEOUT, signed).await.expect("the token is back in service");
    }
}

/// How many derivations a message costs, with a token that keeps Zs and with one that does not.
mod derivations {
    use super::*;

    struct Costs {
        anoncrypt_in: u64,
        authcrypt_in: [u64; 2],
        authcrypt_out: [u64; 2],
    }

    /// The costs of the first and the second message with the same peer. Outgoing messages have three recipients.
    async fn costs(token: SoftToken) -> Costs {
        let key = token.make(Curve::P256);
        let keyring = Implementation::start([token.clone()]).await.unwrap();
        let (cx, parties, cek) = (Context::default(), Parties::example(), fresh_cek());
        let peers: Vec<_> = (0..3).map(|_| PrivateKey::generate(Curve::P256)).collect();
        let sender = PrivateKey::generate(Curve::P256);
        let before = token.counts();
        let since = |counts: Counts| (token.counts() - counts).derivations;

        keyring.unwrap_cek(&key, &message_to(&key, None, &cek, &parties), &cx).await.unwrap();
        let anoncrypt_in = since(before);
        let (mut authcrypt_in, mut authcrypt_out) = ([0; 2], [0; 2]);
        for time in 0..2 {
            let before = token.counts();
            keyring.unwrap_cek(&key, &message_to(&key, Some(&sender), &cek, &parties), &cx).await.unwrap();
            authcrypt_in[time] = since(before);
            let before = token.counts();
            let ephemeral = PrivateKey::generate(Curve::P256);
            let wrap = wrap_for(peers.iter().map(PrivateKey::public), &ephemeral, &cek, &parties);
            keyring.wrap_cek(&key, &wrap, &cx).await.unwrap();
            authcrypt_out[time] = since(before);
        }
        Costs { anoncrypt_in, authcrypt_in, authcrypt_out }
    }

    #[tokio::test]
    async fn of_a_token_that_keeps_zs() {
        let costs = costs(SoftToken::new("keeps").keeping_zs(16)).await;
        assert_eq!((costs.anoncrypt_in, costs.authcrypt_in, costs.authcrypt_out), (1, [2, 1], [3, 0]));
    }

    #[tokio::test]
    async fn of_a_token_that_keeps_nothing() {
        let costs = costs(SoftToken::new("forgets")).await;
        assert_eq!((costs.anoncrypt_in, costs.authcrypt_in, costs.authcrypt_out), (1, [2, 2], [3, 3]));
    }
}

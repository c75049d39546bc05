//! Who is blamed for a failed operation: known-answer checks show whether a token is at fault.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use claviger::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Context, FailoverSecrets, HeldKey, KeyState, KeyUse, Keyring, Purpose, Secrets, SecretsError, Token,
        TokenError, TokenInfo, UnwrapRequest, WrapRequest,
    },
};
use claviger_testkit::{
    PrivateKey, SoftToken,
    reference::{Parties, fresh_cek, message_to, wrap_for},
};

/// What a [`SickToken`] does with an operation.
type Fault = fn(&UnwrapRequest, usize) -> Option<TokenError>;

/// A token in software that fails to unwrap as `fault` says, by the request and the number of the operation from 1.
#[derive(Clone)]
struct SickToken {
    token: SoftToken,
    fault: Arc<Mutex<Fault>>,
    /// Whether it also fails to show its keys, so that it stays out of service.
    hides_keys: Arc<AtomicBool>,
    operations: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
}

impl SickToken {
    fn new(name: &str, key: &PrivateKey, fault: Fault) -> Self {
        use claviger::secrets::Custodian;
        let token = SoftToken::new(name);
        token.import(key.to_import(KeyUse::of(key.public().curve()), None)).unwrap();
        let fault = Arc::new(Mutex::new(fault));
        Self { token, fault, hides_keys: Arc::default(), operations: Arc::default(), checks: Arc::default() }
    }

    fn operations(&self) -> usize {
        self.operations.load(Ordering::SeqCst)
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }
}

impl Token for SickToken {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        if self.hides_keys.load(Ordering::SeqCst) { Err(device_error()) } else { self.token.keys() }
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.token.sign(key, input, purpose)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        if *purpose == Purpose::KeyTest {
            self.checks.fetch_add(1, Ordering::SeqCst);
        }
        let fault = *self.fault.lock().unwrap();
        match fault(request, number) {
            Some(error) => Err(error),
            None => self.token.unwrap_cek(key, request, purpose),
        }
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.token.wrap_cek(key, request, purpose)
    }
}

fn healthy(_: &UnwrapRequest, _: usize) -> Option<TokenError> {
    None
}

/// What a wrong Z leads to.
fn always_wrong(_: &UnwrapRequest, _: usize) -> Option<TokenError> {
    Some(TokenError::Unwrap)
}

fn wrong_once(_: &UnwrapRequest, number: usize) -> Option<TokenError> {
    (number == 1).then_some(TokenError::Unwrap)
}

fn device_error() -> TokenError {
    TokenError::Device { operation: "C_DeriveKey".into(), reason: "CKR_DEVICE_ERROR".into() }
}

fn fails_once(_: &UnwrapRequest, number: usize) -> Option<TokenError> {
    (number == 1).then(device_error)
}

/// Fails for the messages that have a long apu.
fn refuses_long_apu(request: &UnwrapRequest, _: usize) -> Option<TokenError> {
    (request.apu.len() > 100).then(device_error)
}

fn message(key: &PrivateKey, sender: Option<&PrivateKey>) -> (UnwrapRequest, Cek) {
    let cek = fresh_cek();
    (message_to(key.public(), sender, &cek, &Parties::example()), cek)
}

fn message_with_long_apu(key: &PrivateKey) -> (UnwrapRequest, Cek) {
    let (cek, parties) = (fresh_cek(), Parties { apu: vec![7; 200], ..Parties::example() });
    (message_to(key.public(), None, &cek, &parties), cek)
}

fn token_error(result: Result<Cek, SecretsError>) -> TokenError {
    match result {
        Err(SecretsError::Token { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

fn is_ready(secrets: &dyn Secrets) -> bool {
    secrets.keys().borrow().iter().all(|held| held.state == KeyState::Ready)
}

#[tokio::test]
async fn a_token_with_wrong_answers_is_at_fault() {
    for authcrypt in [false, true] {
        let (key, sender) = (PrivateKey::generate(Curve::P256), PrivateKey::generate(Curve::P256));
        let token = SickToken::new("sick", &key, always_wrong);
        let keyring = Keyring::start([token.clone()]).await.unwrap();
        token.hides_keys.store(true, Ordering::SeqCst);
        let (request, cek) = message(&key, authcrypt.then_some(&sender));
        for _ in 0..3 {
            let error = keyring.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap_err();
            assert!(error.is_retryable(), "{error:?}");
        }
        assert!(!is_ready(&keyring), "three failures take the token out of service");
        *token.fault.lock().unwrap() = healthy;
        token.hides_keys.store(false, Ordering::SeqCst);
        let mut keys = keyring.keys();
        let ready = keys.wait_for(|keys| keys.iter().all(|held| held.state == KeyState::Ready));
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the token is back").unwrap();
        assert_eq!(keyring.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap(), cek);
    }
}

#[tokio::test]
async fn a_token_that_failed_once_opens_the_message() {
    for fault in [wrong_once as Fault, fails_once] {
        let key = PrivateKey::generate(Curve::X25519);
        let keyring = Keyring::start([SickToken::new("sick", &key, fault)]).await.unwrap();
        let (request, cek) = message(&key, None);
        assert_eq!(keyring.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap(), cek);
    }
}

/// The next token that holds the key is asked, if the first one does not give right answers, or refuses the message.
#[tokio::test]
async fn the_second_token_is_asked() {
    for fault in [always_wrong as Fault, refuses_long_apu] {
        let key = PrivateKey::generate(Curve::P256);
        let (sick, sound) = (SickToken::new("sick", &key, fault), SickToken::new("sound", &key, healthy));
        let keyring = Keyring::start([sick.clone(), sound.clone()]).await.unwrap();
        let (request, cek) = message_with_long_apu(&key);
        assert_eq!(keyring.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap(), cek);
        assert!(sick.operations() > 0 && sound.operations() == 1);

        let single = async |token: SickToken| Arc::new(Keyring::start([token]).await.unwrap()) as Arc<dyn Secrets>;
        let both = FailoverSecrets::new([single(sick).await, single(sound).await]);
        assert_eq!(both.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap(), cek);
    }
}

/// A token that fails for certain messages and serves all others stays in service, and the messages are not given up.
#[tokio::test]
async fn a_refused_message_is_nobodys_fault() {
    let key = PrivateKey::generate(Curve::P256);
    let keyring = Keyring::start([SickToken::new("sick", &key, refuses_long_apu)]).await.unwrap();
    let (request, _) = message_with_long_apu(&key);
    for _ in 0..10 {
        let error = token_error(keyring.unwrap_cek(key.public(), &request, &Context::default()).await);
        assert!(matches!(&error, TokenError::Refused(reason) if reason.contains("CKR_DEVICE_ERROR")), "{error:?}");
        let (other, cek) = message(&key, None);
        assert_eq!(keyring.unwrap_cek(key.public(), &other, &Context::default()).await.unwrap(), cek);
    }
    assert!(is_ready(&keyring));
    assert!(SecretsError::Token { token: "sick".into(), error: TokenError::Refused(String::new()) }.is_retryable());
}

/// A flood of messages for another key costs one operation each, and few checks.
#[tokio::test]
async fn hostile_messages_share_their_checks() {
    let key = PrivateKey::generate(Curve::P256);
    let token = SickToken::new("sound", &key, healthy);
    let keyring = Keyring::start([token.clone()]).await.unwrap();
    let (foreign, sender) = (PrivateKey::generate(Curve::P256), PrivateKey::generate(Curve::P256));
    let begin = std::time::Instant::now();
    for _ in 0..200 {
        let (request, _) = message(&foreign, Some(&sender));
        let error = token_error(keyring.unwrap_cek(key.public(), &request, &Context::default()).await);
        assert_eq!(error, TokenError::Unwrap);
    }
    let halves = begin.elapsed().as_millis() as usize / 500;
    assert!(token.checks() <= 2 + halves, "{} checks", token.checks());
    // One operation is repeated at the beginning, and one after each pause of a second, if there are any.
    assert!(token.operations() - token.checks() <= 202 + halves, "{} operations", token.operations());
    assert!(is_ready(&keyring));
}

/// Failures at one time wait for one check, also if the token is slower than the time for which a check counts.
#[tokio::test]
async fn failures_at_one_time_share_a_slow_check() {
    fn slow_checks(request: &UnwrapRequest, _: usize) -> Option<TokenError> {
        if request.apv == b"answer" {
            std::thread::sleep(Duration::from_millis(600));
        }
        None
    }
    const MESSAGES: usize = 12;
    let key = PrivateKey::generate(Curve::P256);
    let token = SickToken::new("slow", &key, slow_checks);
    let keyring = Arc::new(Keyring::start([token.clone()]).await.unwrap());
    let (request, _) = message(&PrivateKey::generate(Curve::P256), None);
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..MESSAGES {
        let (keyring, key, request) = (keyring.clone(), key.public().clone(), request.clone());
        attempts.spawn(async move { keyring.unwrap_cek(&key, &request, &Context::default()).await });
    }
    while let Some(attempt) = attempts.join_next().await {
        assert_eq!(token_error(attempt.unwrap()), TokenError::Unwrap);
    }
    assert!((1..=MESSAGES / 2).contains(&token.checks()), "{} checks", token.checks());
}

/// To wrap is checked in the same way: a device error of a token that wraps rightly does not count.
#[tokio::test]
async fn wrapping_is_checked_too() {
    let key = PrivateKey::generate(Curve::P256);
    let token = SickToken::new("sound", &key, healthy);
    let keyring = Keyring::start([token.clone()]).await.unwrap();
    let (ephemeral, recipient) = (PrivateKey::generate(Curve::P256), PrivateKey::generate(Curve::P256));
    let request = wrap_for([recipient.public()], &ephemeral, &fresh_cek(), &Parties::example());
    token.token.fail_next(1, device_error());
    assert!(keyring.wrap_cek(key.public(), &request, &Context::default()).await.is_ok(), "it is repeated");
    token.hides_keys.store(true, Ordering::SeqCst);
    token.token.fail_next(1000, device_error());
    let end = std::time::Instant::now() + Duration::from_secs(20);
    // The right answer of a moment ago is shared by the failures of half a second.
    while is_ready(&keyring) {
        let error = keyring.wrap_cek(key.public(), &request, &Context::default()).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(std::time::Instant::now() < end, "the token stays in service");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A token that has been absent since the start may hold any key: a request for a key that no token has shown waits.
#[tokio::test]
async fn a_key_of_a_token_that_was_absent_from_the_start_may_come() {
    let key = PrivateKey::generate(Curve::P256);
    let (absent, present) = (SickToken::new("absent", &key, healthy), SoftToken::new("present"));
    present.make(Curve::P256);
    absent.token.set_away(true);
    let start = async |tokens: Vec<Arc<dyn Token>>| {
        let builder = Keyring::builder().allow_absent_tokens();
        let builder = tokens.into_iter().fold(builder, |builder, token| builder.shared_token(token));
        Arc::new(builder.start().await.unwrap()) as Arc<dyn Secrets>
    };
    let (request, cek) = message(&key, None);
    let tokens = [Arc::new(absent.clone()) as Arc<dyn Token>, Arc::new(present.clone())];
    let one = start(tokens.to_vec()).await;
    let [first, second] = tokens.map(|token| vec![token]);
    let apart: Arc<dyn Secrets> = Arc::new(FailoverSecrets::new([start(first).await, start(second).await]));
    for secrets in [&one, &apart] {
        let error = secrets.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap_err();
        assert!(matches!(error, SecretsError::Token { error: TokenError::Away(_), .. }) && error.is_retryable());
    }
    absent.token.set_away(false);
    for secrets in [&one, &apart] {
        let mut keys = secrets.keys();
        let shown = keys.wait_for(|keys| keys.get(key.public()).is_some());
        tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the token is back").unwrap();
        assert_eq!(secrets.unwrap_cek(key.public(), &request, &Context::default()).await.unwrap(), cek);
        let foreign = PrivateKey::generate(Curve::P256);
        let (request, _) = message(&foreign, None);
        let error = secrets.unwrap_cek(foreign.public(), &request, &Context::default()).await.unwrap_err();
        assert!(matches!(error, SecretsError::NotHeld(_)), "{error:?}");
    }
}

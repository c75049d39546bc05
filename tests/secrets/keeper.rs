//! The keeper: what every [`Secrets`] promises, through a socket; and what is its own.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use claviger::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, HeldKey, ImportKey, NewKey, Policy, Secrets, SecretsError, Several, ToSign, Token,
        TokenError, TokenInfo, Unwrap, Wrap,
        keeper::{Connect, Keeper, KeeperClient, KeeperOptions, Role, refuse},
    },
};

use claviger_testkit::SoftToken;

/// Keepers of tokens, one each, as the suite starts them. They are threads here; the processes have tests of their own.
struct Ring {
    tokens: Vec<Arc<dyn Custodian>>,
    policies: Vec<(String, Policy)>,
    key_policies: Vec<(PublicKey, Policy)>,
    queue: usize,
}

impl Ring {
    const SIGNS_ROTATIONS: bool = false;

    async fn start<T: Token + 'static>(tokens: impl IntoIterator<Item = T>) -> Result<Arc<dyn Secrets>, SecretsError> {
        tokens.into_iter().fold(Self::builder(), Self::token).ready().await
    }

    fn builder() -> Self {
        Self { tokens: Vec::new(), policies: Vec::new(), key_policies: Vec::new(), queue: 1024 }
    }

    fn token(mut self, token: impl Token + 'static) -> Self {
        self.tokens.push(Arc::new(TokenAlone(token)));
        self
    }

    fn token_policy(mut self, token: &str, policy: Policy) -> Self {
        self.policies.push((token.to_owned(), policy));
        self
    }

    fn key_policy(mut self, key: PublicKey, policy: Policy) -> Self {
        self.key_policies.push((key, policy));
        self
    }

    /// The client bounds what is under way: at the token and waiting for it.
    fn queue(mut self, requests: usize) -> Self {
        self.queue = requests + 1;
        self
    }

    async fn ready(self) -> Result<Arc<dyn Secrets>, SecretsError> {
        let mut clients: Vec<Arc<dyn Secrets>> = Vec::new();
        for token in self.tokens {
            let policy = self.policies.iter().find(|(name, _)| name == token.name()).map(|(_, policy)| policy.clone());
            let options = KeeperOptions {
                policy: policy.unwrap_or_default(),
                key_policies: self.key_policies.clone(),
                ..KeeperOptions::default()
            };
            let name = token.name().to_owned();
            clients.push(Arc::new(
                KeeperClient::start_with(&name, Connect::new(keeper_of(token, options)), self.queue).await?,
            ));
        }
        Ok(Arc::new(Several::new(clients)))
    }
}

/// A keeper for each connection, as a supervisor starts one.
fn keeper_of(token: Arc<dyn Custodian>, options: KeeperOptions) -> impl Fn() -> io::Result<UnixStream> {
    move || {
        let (ours, theirs) = UnixStream::pair()?;
        let (token, options) = (token.clone(), options.clone());
        thread::spawn(move || match Keeper::start(token, options) {
            Ok(keeper) => drop(keeper.serve(theirs, Role::Agent)),
            Err(error) => refuse(theirs, &error),
        });
        Ok(ours)
    }
}

/// A token without a custodian.
struct TokenAlone<T>(T);

impl<T: Token> Token for TokenAlone<T> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn info(&self) -> TokenInfo {
        self.0.info()
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency()
    }

    fn is_used_up(&self) -> bool {
        self.0.is_used_up()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.0.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.0.sign(key, input)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.0.unwrap_cek(key, request)
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.0.wrap_cek(key, request)
    }
}

impl<T: Token> Custodian for TokenAlone<T> {
    fn generate(&self, _: &NewKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("it has no custodian".into()))
    }

    fn import(&self, _: ImportKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("it has no custodian".into()))
    }

    fn delete(&self, _: &PublicKey) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no custodian".into()))
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.keys()
    }
}

#[path = "suite.rs"]
#[allow(clippy::duplicate_mod, reason = "the suite is run on each kind of `Secrets`")]
mod suite;

/// A token whose module has used up what only a new process gives back, after so many operations in one keeper.
struct Worn {
    token: SoftToken,
    done: AtomicUsize,
}

const MOST: usize = 50;

impl Worn {
    fn count(&self) -> &SoftToken {
        self.done.fetch_add(1, Ordering::Relaxed);
        &self.token
    }
}

impl Token for Worn {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn is_used_up(&self) -> bool {
        self.done.load(Ordering::Relaxed) > MOST
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.token.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.count().sign(key, input)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.count().unwrap_cek(key, request)
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.count().wrap_cek(key, request)
    }
}

/// Another keeper takes over before the first is gone: under load nothing is refused, nothing fails, nothing is done
/// twice.
#[tokio::test]
async fn one_that_is_used_up_is_succeeded_without_a_break() {
    const TASKS: usize = 16;
    const EACH: usize = 100;
    let token = SoftToken::new("worn");
    let key = token.make(Curve::Ed25519);
    token.delay(Duration::from_millis(1));
    let keepers = Arc::new(AtomicUsize::new(0));
    let connect: Connect = {
        let (token, keepers) = (token.clone(), keepers.clone());
        Connect::new(move || {
            keepers.fetch_add(1, Ordering::Relaxed);
            let worn = Worn { token: token.clone(), done: AtomicUsize::new(0) };
            keeper_of(Arc::new(TokenAlone(worn)), KeeperOptions::default())()
        })
    };
    let client = Arc::new(KeeperClient::start("worn", connect).await.unwrap());
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                for number in 0..EACH {
                    let message = format!(r#"{{"id":"{task}-{number}","type":"https://example.org/test/1.0/note"}}"#);
                    let what = ToSign::Message(message.as_bytes());
                    let signed = client.sign(&key, &what, &Context::default()).await.expect("nothing fails");
                    let input = format!("{}.{}", signed.protected, signed.payload);
                    assert!(claviger::crypto::verify(&key, input.as_bytes(), &signed.signature).is_ok());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(token.counts().signatures, (TASKS * EACH) as u64, "each was done once");
    let keepers = keepers.load(Ordering::Relaxed);
    assert!(keepers > 3, "{keepers} keepers");
}

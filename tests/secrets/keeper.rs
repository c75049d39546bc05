//! The keeper: the contract of [`Secrets`] through a socket, and the change to a successor.

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
        Context, Custodian, FailoverSecrets, HeldKey, ImportKey, NewKey, Policy, Purpose, Secrets, SecretsError,
        SignRequest, Token, TokenError, TokenInfo, UnwrapRequest, WrapRequest,
        keeper::{Keeper, KeeperClient, KeeperConnector, KeeperOptions, Role, refuse_connection},
    },
};

use claviger_testkit::SoftToken;

/// A keeper for each token, for the suite. The keepers are threads here; `tests/keeper` tests them as processes.
struct Implementation {
    tokens: Vec<Arc<dyn Custodian>>,
    policies: Vec<(String, Policy)>,
    key_policies: Vec<(PublicKey, Policy)>,
    queue: usize,
}

impl Implementation {
    const SIGNS_ROTATIONS: bool = false;

    async fn start<T: Token + 'static>(tokens: impl IntoIterator<Item = T>) -> Result<Arc<dyn Secrets>, SecretsError> {
        tokens.into_iter().fold(Self::builder(), Self::token).ready().await
    }

    fn builder() -> Self {
        Self { tokens: Vec::new(), policies: Vec::new(), key_policies: Vec::new(), queue: 1024 }
    }

    fn token(mut self, token: impl Token + 'static) -> Self {
        self.tokens.push(Arc::new(ReadOnlyToken(token)));
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

    /// Sets the length of the queue. The client's limit also counts the request at the token.
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
                KeeperClient::start_with_limit(&name, KeeperConnector::new(start_keeper(token, options)), self.queue)
                    .await?,
            ));
        }
        Ok(Arc::new(FailoverSecrets::new(clients)))
    }
}

/// Starts a keeper for each connection, as a supervisor does.
fn start_keeper(token: Arc<dyn Custodian>, options: KeeperOptions) -> impl Fn() -> io::Result<UnixStream> {
    move || {
        let (client_end, keeper_end) = UnixStream::pair()?;
        let (token, options) = (token.clone(), options.clone());
        thread::spawn(move || match Keeper::start(token, options) {
            Ok(keeper) => drop(keeper.serve(keeper_end, Role::Agent)),
            Err(error) => refuse_connection(keeper_end, &error),
        });
        Ok(client_end)
    }
}

/// A token whose keys cannot be changed.
struct ReadOnlyToken<T>(T);

impl<T: Token> Token for ReadOnlyToken<T> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn info(&self) -> TokenInfo {
        self.0.info()
    }

    fn concurrency(&self) -> usize {
        self.0.concurrency()
    }

    fn is_exhausted(&self) -> bool {
        self.0.is_exhausted()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.0.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.0.sign(key, input, purpose)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        self.0.unwrap_cek(key, request, purpose)
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.0.wrap_cek(key, request, purpose)
    }
}

impl<T: Token> Custodian for ReadOnlyToken<T> {
    fn generate(&self, _: &NewKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn import(&self, _: ImportKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn delete(&self, _: &PublicKey) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.keys()
    }
}

#[path = "suite.rs"]
#[allow(clippy::duplicate_mod, reason = "the suite is run on each implementation of `Secrets`")]
mod suite;

/// A token whose module is exhausted after [`MAX_OPERATIONS`] operations in one keeper.
struct ExhaustibleToken {
    token: SoftToken,
    operations: AtomicUsize,
}

const MAX_OPERATIONS: usize = 50;

impl ExhaustibleToken {
    fn count(&self) -> &SoftToken {
        self.operations.fetch_add(1, Ordering::Relaxed);
        &self.token
    }
}

impl Token for ExhaustibleToken {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn is_exhausted(&self) -> bool {
        self.operations.load(Ordering::Relaxed) > MAX_OPERATIONS
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.token.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.count().sign(key, input, purpose)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        self.count().unwrap_cek(key, request, purpose)
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.count().wrap_cek(key, request, purpose)
    }
}

/// A successor takes over before an exhausted keeper ends. Under load no request is refused, fails, or is
/// performed twice.
#[tokio::test]
async fn an_exhausted_keeper_is_replaced_without_a_failure() {
    const TASKS: usize = 16;
    const REQUESTS_PER_TASK: usize = 100;
    let token = SoftToken::new("exhaustible");
    let key = token.make(Curve::Ed25519);
    token.delay(Duration::from_millis(1));
    let keepers = Arc::new(AtomicUsize::new(0));
    let connector: KeeperConnector = {
        let (token, keepers) = (token.clone(), keepers.clone());
        KeeperConnector::new(move || {
            keepers.fetch_add(1, Ordering::Relaxed);
            let exhaustible = ExhaustibleToken { token: token.clone(), operations: AtomicUsize::new(0) };
            start_keeper(Arc::new(ReadOnlyToken(exhaustible)), KeeperOptions::default())()
        })
    };
    let client = Arc::new(KeeperClient::start("exhaustible", connector).await.unwrap());
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                for number in 0..REQUESTS_PER_TASK {
                    let message = format!(r#"{{"id":"{task}-{number}","type":"https://example.org/test/1.0/note"}}"#);
                    let request = SignRequest::Message(message.as_bytes());
                    let signed = client.sign(&key, &request, &Context::default()).await.expect("no request fails");
                    let input = format!("{}.{}", signed.protected, signed.payload);
                    assert!(claviger::crypto::verify(&key, input.as_bytes(), &signed.signature).is_ok());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(token.counts().signatures, (TASKS * REQUESTS_PER_TASK) as u64, "each request was performed once");
    let keepers = keepers.load(Ordering::Relaxed);
    assert!(keepers > 3, "{keepers} keepers");
}

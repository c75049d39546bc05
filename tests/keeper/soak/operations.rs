//! Operations, each with its only correct result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use claviger::{
    crypto::{self, Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{Context, Secrets, SecretsError, SignRequest, UnwrapRequest, WrapRequest},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to, message_with, wrap_for},
};

/// An operation with a key, and its correct result.
pub struct Operation {
    key: PublicKey,
    kind: Kind,
}

enum Kind {
    Unwrap(UnwrapRequest, Cek),
    Wrap(WrapRequest, Vec<EncryptedKey>),
    Sign(Vec<u8>),
}

impl Operation {
    /// Performs the operation. Panics if the result is wrong.
    pub async fn perform(&self, secrets: &dyn Secrets) -> Result<(), SecretsError> {
        let (key, cx) = (&self.key, Context::default());
        match &self.kind {
            Kind::Unwrap(request, cek) => assert_eq!(secrets.unwrap_cek(key, request, &cx).await?, *cek, "{key}"),
            // The KDF and the key wrap are deterministic, so the result is compared byte by byte.
            Kind::Wrap(request, right) => assert_eq!(secrets.wrap_cek(key, request, &cx).await?, *right, "{key}"),
            Kind::Sign(message) => {
                let signature = secrets.sign(key, &SignRequest::Message(message), &cx).await?;
                assert_eq!(signature.payload, BASE64_URL_SAFE_NO_PAD.encode(message));
                let input = format!("{}.{}", signature.protected, signature.payload);
                assert!(crypto::verify(key, input.as_bytes(), &signature.signature).is_ok(), "{key}");
            }
        }
        Ok(())
    }
}

pub fn unwrap(key: &PublicKey, sender: Option<&PrivateKey>) -> Operation {
    let cek = fresh_cek();
    Operation { key: key.clone(), kind: Kind::Unwrap(message_to(key, sender, &cek, &Parties::example()), cek) }
}

fn wrap(key: &PublicKey, recipients: &[PrivateKey]) -> Operation {
    let (ephemeral, cek, parties) = (PrivateKey::generate(key.curve()), fresh_cek(), Parties::example());
    let right = |recipient: &PrivateKey| {
        let (ze, zs) = (ephemeral.agree(recipient.public()).unwrap(), recipient.agree(key).unwrap());
        message_with(&ze, Some(&zs), ephemeral.public(), Some(key), &cek, &parties).encrypted_key
    };
    let request = wrap_for(recipients.iter().map(PrivateKey::public), &ephemeral, &cek, &parties);
    Operation { key: key.clone(), kind: Kind::Wrap(request, recipients.iter().map(right).collect()) }
}

fn sign(key: &PublicKey, number: usize) -> Operation {
    let message = format!(r#"{{"id":"{number}","type":"https://example.org/soak/1.0/note","body":{{}}}}"#);
    Operation { key: key.clone(), kind: Kind::Sign(message.into_bytes()) }
}

/// Operations of each kind, all kinds equally likely. They are prepared in advance, since software takes longer
/// than tokens.
pub struct Operations(Vec<Vec<Operation>>);

/// How many shared secrets a session keeps: fewer than there are peers.
pub const KEPT: usize = 16;

impl Operations {
    pub fn new(agreeing: &[PublicKey], signing: &[PublicKey]) -> Self {
        let mut kinds = Vec::new();
        for key in agreeing {
            let peers = |number| (0..number).map(|_| PrivateKey::generate(key.curve())).collect::<Vec<_>>();
            let (known, strangers) = (peers(4), peers(4 * KEPT));
            kinds.push((0..32).map(|_| unwrap(key, None)).collect());
            kinds.push((0..32).map(|number| unwrap(key, Some(&known[number % known.len()]))).collect());
            kinds.push(strangers.iter().map(|stranger| unwrap(key, Some(stranger))).collect());
            kinds.push((0..32).map(|number| wrap(key, &known[..1 + number % 3])).collect());
        }
        kinds.extend(signing.iter().map(|key| (0..32).map(|number| sign(key, number)).collect()));
        Self(kinds)
    }

    /// A random operation.
    fn pick(&self, seed: &mut u64) -> &Operation {
        let mut random_below = |limit: usize| {
            // Knuth's MMIX generator. Its high bits are random, its low bits are not.
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) as usize % limit
        };
        let kind = &self.0[random_below(self.0.len())];
        &kind[random_below(kind.len())]
    }
}

/// How long an operation is repeated before it counts as lost. A token that has failed three times in a row is probed
/// after 100 ms, and the probe may fail too.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Repeats an operation until it succeeds. Returns the number of retries.
async fn perform_until_done(operation: &Operation, secrets: &dyn Secrets) -> usize {
    let (start, mut retries) = (Instant::now(), 0);
    loop {
        match operation.perform(secrets).await {
            Ok(()) => return retries,
            Err(error) => {
                retries += 1;
                assert!(error.is_retryable(), "lost after {retries} tries: {error}");
                // These failures do not end a process.
                assert!(!matches!(error, SecretsError::Interrupted { .. }), "at try {retries}: {error}");
                assert!(start.elapsed() < RETRY_TIMEOUT, "lost after {retries} tries: {error}");
                tokio::time::sleep(Duration::from_millis(1 << retries.min(6))).await;
            }
        }
    }
}

/// Runs `tasks` tasks at once. Each performs `operations_per_task` operations. Returns the number of retries.
pub async fn load(
    secrets: &Arc<dyn Secrets>,
    operations: &Arc<Operations>,
    tasks: u64,
    operations_per_task: usize,
) -> usize {
    let running: Vec<_> = (0..tasks)
        .map(|mut seed| {
            let (secrets, operations) = (secrets.clone(), operations.clone());
            tokio::spawn(async move {
                let mut retries = 0;
                for _ in 0..operations_per_task {
                    retries += perform_until_done(operations.pick(&mut seed), &*secrets).await;
                }
                retries
            })
        })
        .collect();
    let mut retries = 0;
    for task in running {
        retries += task.await.expect("no result is wrong and no request is lost");
    }
    retries
}

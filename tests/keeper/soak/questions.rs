//! What keys are asked, with the one right answer to each question.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use claviger::{
    crypto::{self, Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{Context, Secrets, SecretsError, ToSign, Unwrap, Wrap},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to, message_with, wrap_for},
};

/// Something to ask a key for, with the one right answer to it.
pub struct Question {
    key: PublicKey,
    ask: Ask,
}

enum Ask {
    Unwrap(Unwrap, Cek),
    Wrap(Wrap, Vec<EncryptedKey>),
    Sign(Vec<u8>),
}

impl Question {
    /// Panics at a wrong answer.
    pub async fn ask(&self, secrets: &dyn Secrets) -> Result<(), SecretsError> {
        let (key, cx) = (&self.key, Context::default());
        match &self.ask {
            Ask::Unwrap(request, cek) => assert_eq!(secrets.unwrap_cek(key, request, &cx).await?, *cek, "{key}"),
            // The KDF and the key wrap are no dice: one answer is right, to the byte.
            Ask::Wrap(request, right) => assert_eq!(secrets.wrap_cek(key, request, &cx).await?, *right, "{key}"),
            Ask::Sign(message) => {
                let signature = secrets.sign(key, &ToSign::Message(message), &cx).await?;
                assert_eq!(signature.payload, BASE64_URL_SAFE_NO_PAD.encode(message));
                let input = format!("{}.{}", signature.protected, signature.payload);
                assert!(crypto::verify(key, input.as_bytes(), &signature.signature).is_ok(), "{key}");
            }
        }
        Ok(())
    }
}

pub fn unwrap(key: &PublicKey, sender: Option<&PrivateKey>) -> Question {
    let cek = fresh_cek();
    Question { key: key.clone(), ask: Ask::Unwrap(message_to(key, sender, &cek, &Parties::example()), cek) }
}

fn wrap(key: &PublicKey, recipients: &[PrivateKey]) -> Question {
    let (ephemeral, cek, parties) = (PrivateKey::generate(key.curve()), fresh_cek(), Parties::example());
    let right = |recipient: &PrivateKey| {
        let (ze, zs) = (ephemeral.agree(recipient.public()).unwrap(), recipient.agree(key).unwrap());
        message_with(&ze, Some(&zs), ephemeral.public(), Some(key), &cek, &parties).encrypted_key
    };
    let request = wrap_for(recipients.iter().map(PrivateKey::public), &ephemeral, &cek, &parties);
    Question { key: key.clone(), ask: Ask::Wrap(request, recipients.iter().map(right).collect()) }
}

fn sign(key: &PublicKey, number: usize) -> Question {
    let message = format!(r#"{{"id":"{number}","type":"https://example.org/soak/1.0/note","body":{{}}}}"#);
    Question { key: key.clone(), ask: Ask::Sign(message.into_bytes()) }
}

/// Questions of each kind, each kind as likely as another. They are made before, as software takes longer than tokens.
pub struct Questions(Vec<Vec<Question>>);

/// How many secrets with peers a session keeps here: fewer than there are peers.
pub const KEPT: usize = 16;

impl Questions {
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

    /// One at random.
    fn pick(&self, dice: &mut u64) -> &Question {
        let mut throw = |sides: usize| {
            // Knuth's MMIX; its high bits are the random ones.
            *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*dice >> 33) as usize % sides
        };
        let kind = &self.0[throw(self.0.len())];
        &kind[throw(kind.len())]
    }
}

/// How long a question is asked before it counts as lost: a token that has failed thrice in a row is looked at after
/// 100 ms, and that look may fail too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; how often it had to be asked again.
async fn answered(question: &Question, secrets: &dyn Secrets) -> usize {
    let (begun, mut tried) = (Instant::now(), 0);
    loop {
        match question.ask(secrets).await {
            Ok(()) => return tried,
            Err(error) => {
                tried += 1;
                assert!(error.is_retryable(), "lost at try {tried}: {error}");
                // Such calls end no process.
                assert!(!matches!(error, SecretsError::Interrupted { .. }), "at try {tried}: {error}");
                assert!(begun.elapsed() < PATIENCE, "lost after {tried} tries: {error}");
                tokio::time::sleep(Duration::from_millis(1 << tried.min(6))).await;
            }
        }
    }
}

/// Many tasks at once, each of which asks one question after the other; how often they had to ask again.
pub async fn load(secrets: &Arc<dyn Secrets>, questions: &Arc<Questions>, tasks: u64, operations: usize) -> usize {
    let running: Vec<_> = (0..tasks)
        .map(|mut dice| {
            let (secrets, questions) = (secrets.clone(), questions.clone());
            tokio::spawn(async move {
                let mut again = 0;
                for _ in 0..operations {
                    again += answered(questions.pick(&mut dice), &*secrets).await;
                }
                again
            })
        })
        .collect();
    let mut again = 0;
    for task in running {
        again += task.await.expect("a task with nothing wrong and nothing lost");
    }
    again
}

//! The command line's end of a keeper: who makes, imports and deletes the keys of its token.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
};

use rustix::net::{RecvFlags, recv};
use zeroize::Zeroizing;

use super::{
    frame::{Inbox, frame, value},
    wire::{Answer, Ask, Asked, Failure, Held, Hello, Request, Role, Said, Status, VERSION, What},
};
use crate::{
    keys::PublicKey,
    secrets::{
        HeldKey, ImportKey, NewKey, Place, SecretsError, Signature, ToSign, TokenError, TokenInfo,
        signing::SigningInput,
    },
};

/// A token's custodian by way of its keeper. One thing is asked at a time, and blocks.
pub struct KeeperCustodian {
    name: Arc<str>,
    talk: Mutex<Talk>,
    status: Status,
}

struct Talk {
    stream: UnixStream,
    inbox: Inbox,
    next: u64,
}

impl KeeperCustodian {
    /// Says hello to the keeper of the token that the configuration calls `name`.
    ///
    /// # Errors
    /// [`TokenError::Config`] if the keeper refuses, [`TokenError::Away`] if it does not answer.
    pub fn new(name: &str, stream: UnixStream) -> Result<Self, TokenError> {
        let mut talk = Talk { stream, inbox: Inbox::new(), next: 1 };
        let away = |error: io::Error| TokenError::Away(format!("the keeper of the token {name:?}: {error}"));
        // A keeper that turns this user away may have closed the connection by now: what it said is there to be read.
        let said = talk.send(&Hello { version: VERSION, role: Role::Custodian });
        let content = talk.receive().map_err(|error| away(said.err().unwrap_or(error)))?;
        match value(&content).map_err(away)? {
            Said::Welcome(status) => Ok(Self { name: name.into(), talk: Mutex::new(talk), status }),
            Said::Refused(error) => Err(error),
            _ => Err(away(io::Error::other("it does not say welcome"))),
        }
    }

    /// The token's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the token is, as it was when the connection began.
    pub fn info(&self) -> TokenInfo {
        self.status.info.clone()
    }

    /// Why the token did not serve when the connection began; none if it did.
    pub fn trouble(&self) -> Option<&TokenError> {
        self.status.trouble.as_ref()
    }

    /// A key pair made in the token.
    pub fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.generate_in(key, Place::default())
    }

    /// A key pair made in a slot of one's choice, with policies of PIN and touch.
    pub fn generate_in(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        self.key(Ask::Generate { curve: key.curve, usage: key.usage, label: key.label.as_deref(), place })
    }

    /// A key pair from outside. It passes to the keeper in the clear, over the socket.
    pub fn import(&self, key: &ImportKey) -> Result<HeldKey, TokenError> {
        let ImportKey { public, private, usage, label } = key;
        self.key(Ask::Import { key: public.into(), private, usage: *usage, label: label.as_deref() })
    }

    /// Deletes both halves of a key pair.
    pub fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.done(Ask::Delete { key: key.into() })
    }

    /// Every key pair in the token, those too that the program would refuse to use.
    pub fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.ask(Ask::Inventory, |answer| match answer {
            Answer::Keys(keys) => Some(keys.into_iter().map(Held::read).collect()),
            _ => None,
        })
    }

    /// What proves that a key was made in the token: X.509 certificates in DER, the key's own first.
    pub fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        self.ask(Ask::Attest { key: key.into() }, |answer| match answer {
            Answer::Certificates(chain) => Some(Ok(chain.into_iter().map(<[u8]>::to_vec).collect())),
            _ => None,
        })
    }

    /// The management key for the next change. It passes to the keeper in the clear, over the socket.
    pub fn manage_with(&self, key: &[u8]) -> Result<(), TokenError> {
        self.done(Ask::Manage(key))
    }

    /// A signature of what an agent may not have signed by itself.
    pub fn sign(&self, key: &PublicKey, what: &ToSign<'_>) -> Result<Signature, TokenError> {
        let input = SigningInput::new(key, what).map_err(|error| TokenError::Config(error.to_string()))?;
        let signature = self.ask(Ask::Sign { key: key.into(), what: What::from(what) }, |answer| match answer {
            Answer::Signature(signature) => Some(Ok(signature.to_vec())),
            _ => None,
        })?;
        Ok(input.signed(signature))
    }

    /// Forgets the PIN now; it is not used again until [`KeeperCustodian::unlock`].
    pub fn lock(&self) -> Result<(), TokenError> {
        self.done(Ask::Lock)
    }

    /// A person vouches for the PIN: it is tried once.
    pub fn unlock(&self) -> Result<(), TokenError> {
        self.done(Ask::Unlock)
    }

    /// Lets the agent sign one DID rotation with this key.
    pub fn arm(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.done(Ask::Arm { key: key.into() })
    }

    fn key(&self, ask: Ask<'_>) -> Result<HeldKey, TokenError> {
        self.ask(ask, |answer| if let Answer::Key(held) = answer { Some(held.read()) } else { None })
    }

    fn done(&self, ask: Ask<'_>) -> Result<(), TokenError> {
        self.ask(ask, |answer| matches!(answer, Answer::Done).then_some(Ok(())))
    }

    fn ask<T>(&self, ask: Ask<'_>, read: impl FnOnce(Answer<'_>) -> Option<io::Result<T>>) -> Result<T, TokenError> {
        let lost = |error: io::Error| TokenError::Device {
            operation: "the keeper".into(),
            reason: format!("{error}; whether it was done is not known"),
        };
        let mut talk = self.talk.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let id = talk.next;
        talk.next += 1;
        let request = Request { id, deadline: None, kid: None, message_id: None, peer: None, ask };
        talk.send(&Asked::Request(request)).map_err(lost)?;
        loop {
            let content = talk.receive().map_err(lost)?;
            match value(&content).map_err(lost)? {
                Said::Answer { id: of, answer: Ok(answer) } if of == id => {
                    let read = read(answer).unwrap_or_else(|| Err(io::Error::other("an answer to something else")));
                    return read.map_err(lost);
                }
                Said::Answer { id: of, answer: Err(failure) } if of == id => return Err(refused(failure)),
                // What changed meanwhile is not asked for here.
                _ => {}
            }
        }
    }
}

/// What the keeper did not do; of a custodian's asking it is the token that says why, but for these.
fn refused(failure: Failure) -> TokenError {
    match failure {
        Failure::Token(error) => error,
        Failure::Audit(reason) => TokenError::Device {
            operation: "the keeper".into(),
            reason: format!("{}; the operation itself was done", SecretsError::Audit(reason)),
        },
        Failure::Request(reason) => TokenError::Config(reason),
        Failure::NotAllowed(operation) => {
            TokenError::Config(format!("`allow` of the key or its token has no {operation}"))
        }
        _ => TokenError::Device { operation: "the keeper".into(), reason: "it refuses".into() },
    }
}

impl Talk {
    fn send(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        self.stream.write_all(&frame(value)?)
    }

    fn receive(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        loop {
            if let Some(content) = self.inbox.next()? {
                return Ok(content);
            }
            match recv(&self.stream, self.inbox.room()?, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the keeper ended")),
                Ok((_, bytes)) => self.inbox.filled(bytes),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

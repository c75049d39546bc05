//! One request: its meaning, the rules for it, and its line in the audit.

use std::cell::RefCell;

use zeroize::Zeroizing;

use super::{
    audit::{Line, outcome},
    connection::Connection,
    server::Keeper,
    wire::{Ask, Key, Request, Role, What, read_unwrap, read_wrap},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{Allow, Context, Custody, HeldKey, ImportKey, NewKey, Secrets, SecretsError, ToSign},
};

/// What came of a request.
pub(super) enum Done {
    Signature(Vec<u8>),
    Cek(Cek),
    EncryptedKeys(Vec<EncryptedKey>),
    Key(Box<HeldKey>),
    Keys(Vec<HeldKey>),
    Certificates(Vec<Vec<u8>>),
    Nothing,
}

/// One request of one who is connected.
pub(super) struct Errand<'a> {
    pub(super) keeper: &'a Keeper,
    pub(super) connection: &'a Connection,
    pub(super) cx: Context,
    /// Its lines for the audit.
    pub(super) lines: RefCell<Vec<u8>>,
}

impl Errand<'_> {
    pub(super) fn run(&self, request: Request<'_>) -> Result<Done, SecretsError> {
        let keyring = &self.keeper.keyring;
        match request.ask {
            Ask::Sign { key, what } => self.sign(&key.read()?, &what),
            Ask::Unwrap { key, epk, sender, apu, apv, encrypted_key } => {
                let key = key.read()?;
                let request = read_unwrap(epk, sender, apu, apv, encrypted_key)?;
                self.operate(&key, Allow::Unwrap, 1, async {
                    keyring.unwrap_cek(&key, &request, &self.cx).await.map(Done::Cek)
                })
            }
            Ask::Wrap { key, cek, apu, apv, tag, recipients } => {
                let key = key.read()?;
                let request = read_wrap(cek, apu, apv, tag, recipients)?;
                let derivations = request.recipients.len();
                self.operate(&key, Allow::Wrap, derivations, async {
                    keyring.wrap_cek(&key, &request, &self.cx).await.map(Done::EncryptedKeys)
                })
            }
            custodial if self.connection.role == Role::Custodian => self.keep(custodial),
            _ => Err(SecretsError::Request("only a custodian may ask for that")),
        }
    }

    /// A signature over an input that is built here, from what is to be signed.
    fn sign(&self, key: &PublicKey, what: &What<'_>) -> Result<Done, SecretsError> {
        let claims = what.claims();
        let what = match (what, &claims) {
            (What::FromPrior { kid, .. }, Some(claims)) => ToSign::FromPrior { kid, claims },
            (What::Message(payload), _) => ToSign::Message(payload),
            (What::WebvhEntry(entry), _) => ToSign::WebvhEntry(entry),
            (What::FromPrior { .. }, None) => return Err(SecretsError::Request("a rotation without claims")),
        };
        let allow = Allow::from(&what);
        // Who takes over the agent must not take its DID away: each rotation wants a person, and each change of a did:webvh
        // a custodian.
        let may = match allow {
            Allow::SignFromPrior => self.connection.role == Role::Custodian || self.keeper.armed().remove(key),
            Allow::SignWebvhEntry => self.connection.role == Role::Custodian,
            _ => true,
        };
        if !may {
            let refused = Err(SecretsError::NotAllowed { key: key.clone(), operation: allow.name() });
            return self.written(key, allow.name(), refused);
        }
        let signed = self.operate(key, allow, 1, async {
            let signed = self.keeper.keyring.sign(key, &what, &self.cx).await;
            signed.map(|signature| Done::Signature(signature.signature))
        });
        if allow == Allow::SignFromPrior && self.connection.role == Role::Agent && signed.is_err() {
            // It was armed for one signature, and there was none.
            self.keeper.armed().insert(key.clone());
        }
        signed
    }

    /// An operation with a private key, within its rate, and its line.
    fn operate(
        &self,
        key: &PublicKey,
        allow: Allow,
        derivations: usize,
        operation: impl Future<Output = Result<Done, SecretsError>>,
    ) -> Result<Done, SecretsError> {
        let keyring = &self.keeper.keyring;
        let result = if keyring.keys().borrow().get(key).is_none() {
            // A token that has not been there since this process began may hold it, for all that is known: who knows the
            // key from before is to ask again.
            let trouble = keyring.status().into_iter().find_map(|status| status.trouble);
            Err(trouble.map_or_else(
                || SecretsError::NotHeld(key.clone()),
                |(error, _)| SecretsError::Token { token: self.keeper.name.clone(), error },
            ))
        } else if self.keeper.within_rate(key, derivations) {
            self.keeper.runtime.handle().block_on(operation)
        } else {
            Err(SecretsError::RateLimited(key.clone()))
        };
        self.written(key, allow.name(), result)
    }

    /// The result, with a line for the audit.
    fn written<T>(&self, key: &PublicKey, operation: &str, result: Result<T, SecretsError>) -> Result<T, SecretsError> {
        let custody = self.keeper.keyring.keys().borrow().get(key).and_then(|held| held.custody);
        self.line(operation, Some((key, custody)), result)
    }

    fn line<T>(
        &self,
        operation: &str,
        key: Option<(&PublicKey, Option<Custody>)>,
        result: Result<T, SecretsError>,
    ) -> Result<T, SecretsError> {
        if self.keeper.audit.is_some() {
            let line =
                Line::new(&self.keeper.name, operation, &self.connection.peer, outcome(&result)).context(&self.cx);
            let line = match key {
                Some((key, custody)) => line.key(key, custody),
                None => line,
            };
            line.add_to(&mut self.lines.borrow_mut());
        }
        result
    }

    /// What a custodian asks.
    fn keep(&self, ask: Ask<'_>) -> Result<Done, SecretsError> {
        let token = &*self.keeper.token;
        let failed = |error| SecretsError::Token { token: self.keeper.name.clone(), error };
        let label = |label: Option<&str>| label.map(Into::into);
        let public = |key: Key<'_>| key.read();
        let given = || self.connection.management_key.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Of this connection, for this change and the undoing of it.
        let changes = matches!(ask, Ask::Generate { .. } | Ask::Import { .. } | Ask::Delete { .. });
        let management_key = if changes { given().take() } else { None };
        let manage = || management_key.as_ref().map_or(Ok(()), |key| token.manage_with(key.clone()));
        manage().map_err(failed)?;
        let (operation, key, result) = match ask {
            Ask::Generate { curve, usage, label: name, place } => {
                let made = token.generate_in(&NewKey { curve, usage, label: label(name) }, place);
                let key = made.as_ref().ok().map(|held| held.public.clone());
                ("generate", key, made.map(|held| Done::Key(Box::new(held))))
            }
            Ask::Import { key, private, usage, label: name } => {
                let key = public(key)?;
                let private = Zeroizing::new(private.to_vec());
                let import = ImportKey { public: key.clone(), private, usage, label: label(name) };
                ("import", Some(key), token.import(import).map(|held| Done::Key(Box::new(held))))
            }
            Ask::Delete { key } => {
                let key = public(key)?;
                let deleted = token.delete(&key);
                ("delete", Some(key), deleted.map(|()| Done::Nothing))
            }
            Ask::Attest { key } => {
                let key = public(key)?;
                let attested = token.attest(&key);
                ("attest", Some(key), attested.map(Done::Certificates))
            }
            Ask::Manage(key) => {
                *given() = Some(Zeroizing::new(key.to_vec()));
                return Ok(Done::Nothing);
            }
            Ask::Inventory => return token.inventory().map(Done::Keys).map_err(failed),
            Ask::Lock => ("lock", None, token.lock().map(|()| Done::Nothing)),
            Ask::Unlock => ("unlock", None, token.unlock().map(|()| Done::Nothing)),
            Ask::Arm { key } => {
                let key = public(key)?;
                self.keeper.armed().insert(key.clone());
                ("arm", Some(key), Ok(Done::Nothing))
            }
            Ask::Sign { .. } | Ask::Unwrap { .. } | Ask::Wrap { .. } => {
                return Err(SecretsError::Request("that is for the agent's part"));
            }
        };
        let result = match result {
            // It would be refused at the next start, and the whole token with it.
            Ok(Done::Key(held)) => match self.keeper.keyring.is_below_minimum(&held) {
                Some(error) => {
                    if let Err(left) = manage().and_then(|()| token.delete(&held.public)) {
                        tracing::error!(token = &*self.keeper.name, error = %left, "a key below minimum_custody stays in the token");
                    }
                    Err(error)
                }
                None => Ok(Done::Key(held)),
            },
            result => result,
        };
        match (&result, &key) {
            (Ok(Done::Key(held)), _) => self.keeper.keyring.change(&self.keeper.name, |keys| {
                // What was in its slot was overwritten.
                keys.retain(|key| key.slot.is_none() || key.slot != held.slot);
                keys.push((**held).clone());
            }),
            (Ok(Done::Nothing), Some(key)) if operation == "delete" => {
                self.keeper.keyring.change(&self.keeper.name, |keys| keys.retain(|held| held.public != *key));
            }
            // It was locked or unlocked.
            (_, None) => self.keeper.keyring.look_again(),
            _ => {}
        }
        self.line(operation, key.as_ref().map(|key| (key, None)), result.map_err(failed))
    }
}

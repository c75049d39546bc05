//! Performs one request of a client: checks whether the client may make it, and writes its lines for the audit log.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use zeroize::Zeroizing;

use super::{
    audit::{AuditLog, AuditRecord, result_name},
    served_token::ServedToken,
    server_connection::ServerConnection,
    wire::{Request, RequestBody, Response, Role, SignContent},
    wire_types::{WireKey, unwrap_request, wrap_request},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        context::Context,
        custody::Custody,
        error::{SecretsError, TokenError},
        held_key::{HeldKey, UnpairedKey},
        import::ImportKey,
        interface::Secrets,
        key_use::KeyUse,
        mutex::lock,
        policy::KeyOperation,
        prove::prove_keys,
        signing::SignRequest,
        token::NewKey,
    },
};

/// The result of a request.
pub(super) enum OperationResult {
    Signature(Vec<u8>),
    Cek(Cek),
    EncryptedKeys(Vec<EncryptedKey>),
    Key(Box<HeldKey>),
    Keys(Vec<HeldKey>),
    Certificates(Vec<Vec<u8>>),
    Unpaired(Vec<UnpairedKey>),
    Done,
}

impl OperationResult {
    /// The response, which borrows the result.
    pub(super) fn response(&self) -> Response<'_> {
        match self {
            Self::Signature(signature) => Response::Signature(signature),
            Self::Cek(cek) => Response::Cek(cek.as_bytes()),
            Self::EncryptedKeys(keys) => Response::EncryptedKeys(keys.iter().map(|key| &key[..]).collect()),
            Self::Key(held) => Response::Key((&**held).into()),
            Self::Keys(keys) => Response::Keys(keys.iter().map(Into::into).collect()),
            Self::Certificates(chain) => Response::Certificates(chain.iter().map(Vec::as_slice).collect()),
            Self::Unpaired(keys) => Response::Unpaired(keys.clone()),
            Self::Done => Response::Done,
        }
    }
}

/// One request of a client.
pub(super) struct Operation<'a> {
    token: &'a ServedToken,
    connection: &'a ServerConnection,
    audit: Option<&'a AuditLog>,
    cx: Context,
    begin: Instant,
    audit_lines: RefCell<Vec<u8>>,
    /// Whether the request has a line, or was counted.
    is_audited: Cell<bool>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(
        token: &'a ServedToken,
        connection: &'a ServerConnection,
        audit: Option<&'a AuditLog>,
        cx: Context,
    ) -> Self {
        let (audit_lines, is_audited) = (RefCell::default(), Cell::new(false));
        Self { token, connection, audit, cx, begin: Instant::now(), audit_lines, is_audited }
    }

    /// The lines for the audit log.
    pub(super) fn into_audit_lines(self) -> Vec<u8> {
        self.audit_lines.into_inner()
    }

    /// Performs the request. Adds a line for the audit log for each operation that is audited, whatever its result, and
    /// for each request that fails.
    pub(super) fn run(&self, request: Request<'_>) -> Result<OperationResult, SecretsError> {
        let (operation, role) = (request.body.operation(), request.body.role());
        let result = self.perform(request);
        match &result {
            Err(_) if self.is_audited.get() => {}
            Err(_) if self.connection.role < role => self.add_line(operation, "custodian-only", true, None),
            Err(_) => return self.audit(operation, None, result),
            Ok(_) => {}
        }
        result
    }

    fn perform(&self, request: Request<'_>) -> Result<OperationResult, SecretsError> {
        let keyring = &self.token.keyring;
        match request.body {
            RequestBody::Sign { key, content } => self.sign(&key.check()?, &content),
            RequestBody::Unwrap { key, epk, sender, apu, apv, encrypted_key } => {
                let key = key.check()?;
                let request = unwrap_request(epk, sender, apu, apv, encrypted_key)?;
                self.use_key(&key, KeyOperation::Unwrap, 1, async {
                    keyring.unwrap_cek(&key, &request, &self.cx).await.map(OperationResult::Cek)
                })
            }
            RequestBody::Wrap { key, cek, apu, apv, tag, recipients } => {
                let key = key.check()?;
                let request = wrap_request(cek, apu, apv, tag, recipients)?;
                let derivations = request.recipients.len();
                self.use_key(&key, KeyOperation::Wrap, derivations, async {
                    keyring.wrap_cek(&key, &request, &self.cx).await.map(OperationResult::EncryptedKeys)
                })
            }
            RequestBody::LookFor { key } => {
                keyring.look_for(&key.check()?);
                Ok(OperationResult::Done)
            }
            body if self.connection.role >= body.role() => self.run_for_custodian(body),
            _ => Err(SecretsError::InvalidRequest("only a custodian may make this request")),
        }
    }

    /// Signs content. The signing input is built in this process from the content that the client sent.
    fn sign(&self, key: &PublicKey, content: &SignContent<'_>) -> Result<OperationResult, SecretsError> {
        let claims = content.claims();
        let request = match (content, &claims) {
            (SignContent::FromPrior { kid, .. }, Some(claims)) => SignRequest::FromPrior { kid, claims },
            (SignContent::Message(payload), _) => SignRequest::Message(payload),
            (SignContent::WebvhEntry(entry), _) => SignRequest::WebvhEntry(entry),
            (SignContent::FromPrior { .. }, None) => {
                return Err(SecretsError::InvalidRequest("the DID rotation has no claims"));
            }
        };
        let kind = KeyOperation::from(&request);
        // An attacker who controls the agent must not take over its DIDs: each rotation, and each change of a did:webvh,
        // needs a custodian.
        let is_allowed = match kind {
            KeyOperation::SignFromPrior | KeyOperation::SignWebvhEntry => self.connection.role == Role::Custodian,
            _ => true,
        };
        if !is_allowed {
            let error = SecretsError::NotAllowed { key: key.clone(), operation: kind.name() };
            return self.audit_key(key, kind.name(), Err(error));
        }
        self.use_key(key, kind, 1, async {
            let signed = self.token.keyring.sign(key, &request, &self.cx).await;
            signed.map(|signature| OperationResult::Signature(signature.signature))
        })
    }

    /// Performs an operation with a private key, if the key's rate allows it, and audits the operation. `derivations`
    /// is how many operations it counts as.
    fn use_key(
        &self,
        key: &PublicKey,
        kind: KeyOperation,
        derivations: usize,
        operation: impl Future<Output = Result<OperationResult, SecretsError>>,
    ) -> Result<OperationResult, SecretsError> {
        let keyring = &self.token.keyring;
        let result = if keyring.keys().borrow().get(key).is_none() {
            // A token that was absent since this process started may hold the key. A client that knows the key from
            // before must get a retryable error then.
            Err(match self.token.outage() {
                Some(outage) => self.token.error(outage.error),
                None => SecretsError::NotHeld(key.clone()),
            })
        } else if self.token.is_within_rate(key, derivations) {
            self.token.block_on(operation)
        } else {
            Err(SecretsError::RateLimited(key.clone()))
        };
        self.audit_key(key, kind.name(), result)
    }

    /// Adds a line with the key and its custody to the audit lines. Returns the result.
    fn audit_key<T>(
        &self,
        key: &PublicKey,
        operation: &'static str,
        result: Result<T, SecretsError>,
    ) -> Result<T, SecretsError> {
        let custody = self.token.keyring.keys().borrow().get(key).and_then(|held| held.custody);
        self.audit(operation, Some((key, custody)), result)
    }

    /// Adds a line to the audit lines. Returns the result.
    fn audit<T>(
        &self,
        operation: &'static str,
        key: Option<(&PublicKey, Option<Custody>)>,
        result: Result<T, SecretsError>,
    ) -> Result<T, SecretsError> {
        self.add_line(operation, result_name(&result), self.is_refusal(&result), key);
        result
    }

    /// Adds a line to the audit lines. A refusal that is one of many is only counted.
    fn add_line(
        &self,
        operation: &'static str,
        result: &'static str,
        is_refusal: bool,
        key: Option<(&PublicKey, Option<Custody>)>,
    ) {
        self.is_audited.set(true);
        let Some(audit) = self.audit else { return };
        let peer = &self.connection.peer;
        if is_refusal && !audit.has_line(operation, result, peer) {
            return;
        }
        let record = AuditRecord::new(&self.token.name, operation, peer, result).with_context(&self.cx);
        let key = key.map(|(key, custody)| (audit.multikey(key), custody));
        let record = match &key {
            Some((multikey, custody)) => record.with_key(multikey, *custody),
            None => record,
        };
        record.append_to(&mut self.audit_lines.borrow_mut());
    }

    /// Whether no key was used: the request was refused, or the token was out of service already.
    fn is_refusal<T>(&self, result: &Result<T, SecretsError>) -> bool {
        match result {
            Ok(_) => false,
            Err(SecretsError::Token { .. }) => self.token.outage().is_some_and(|outage| outage.since < self.begin),
            Err(_) => true,
        }
    }

    /// Performs a request that only a custodian may make.
    fn run_for_custodian(&self, body: RequestBody<'_>) -> Result<OperationResult, SecretsError> {
        let custodian = &*self.token.custodian;
        let failed = |error| self.token.error(error);
        match body {
            RequestBody::SetManagementKey(key) => {
                let management_key = &self.connection.management_key;
                *lock(management_key) = Some(Zeroizing::new(key.to_vec()));
                Ok(OperationResult::Done)
            }
            RequestBody::Inventory => custodian.inventory().map(OperationResult::Keys).map_err(failed),
            RequestBody::Unpaired => Ok(OperationResult::Unpaired(custodian.unpaired_keys())),
            RequestBody::Prove { keys } => self.prove(keys),
            RequestBody::Attest { key } => {
                let key = key.check()?;
                let chain = custodian.attest(&key).map(OperationResult::Certificates);
                self.audit("attest", Some((&key, None)), chain.map_err(failed))
            }
            RequestBody::Lock => self.lock_or_unlock("lock", custodian.lock()),
            RequestBody::Unlock => self.lock_or_unlock("unlock", custodian.unlock()),
            RequestBody::Generate { curve, usage, label, options } => {
                let key = NewKey { curve, usage, label: label.map(Into::into) };
                self.add_key("generate", None, || custodian.generate_in_slot(&key, options))
            }
            RequestBody::Import { key, private, usage, label } => {
                let public = key.check()?;
                let private = Zeroizing::new(private.to_vec());
                let import = ImportKey { public: public.clone(), private, usage, label: label.map(Into::into) };
                self.add_key("import", Some(&public), || custodian.import(import))
            }
            RequestBody::Delete { key, slot } => {
                let key = key.check()?;
                self.take_management_key().set().map_err(failed)?;
                let deleted = custodian.delete_in_slot(&key, slot).map(|()| OperationResult::Done);
                if deleted.is_ok() {
                    // The same key may be in another slot.
                    let is_deleted = |held: &HeldKey| held.public == key && (slot.is_none() || held.slot == slot);
                    let (keyring, mut had_slots) = (&self.token.keyring, false);
                    keyring.change_keys(&self.token.name, |keys| {
                        had_slots = keys.iter().any(|held| is_deleted(held) && held.slot.is_some());
                        keys.retain(|held| !is_deleted(held));
                    });
                    // One slot was emptied, and which one is not known here. A token without slots has no other copy, and may
                    // have a thousand keys to test.
                    if slot.is_none() && had_slots {
                        keyring.refresh_keys();
                    }
                }
                self.audit("delete", Some((&key, None)), deleted.map_err(failed))
            }
            RequestBody::Sign { .. }
            | RequestBody::Unwrap { .. }
            | RequestBody::Wrap { .. }
            | RequestBody::LookFor { .. } => Err(SecretsError::InvalidRequest("this is not a custodian's request")),
        }
    }

    /// Proves keys of a DID document. Adds an audit line for each key.
    fn prove(&self, keys: Vec<(WireKey<'_>, KeyUse)>) -> Result<OperationResult, SecretsError> {
        let checked = keys.into_iter().map(|(key, usage)| Ok((key.check()?, usage)));
        let keys = checked.collect::<Result<Vec<_>, SecretsError>>()?;
        let is_too_weak = |held: &HeldKey| self.token.keyring.custody_error(held);
        let proved = prove_keys(&*self.token.custodian, &keys)
            .and_then(|proved| proved.iter().find_map(is_too_weak).map_or(Ok(proved), Err))
            .map_err(|error| self.token.error(error));
        for (key, _) in &keys {
            // The line says whether the keys were proved; the caller gets the keys.
            let _ = self.audit("prove", Some((key, None)), proved.as_ref().map_err(Clone::clone));
        }
        proved.map(OperationResult::Keys)
    }

    fn lock_or_unlock(
        &self,
        operation: &'static str,
        result: Result<(), TokenError>,
    ) -> Result<OperationResult, SecretsError> {
        self.token.keyring.refresh_keys();
        let result = result.map(|()| OperationResult::Done);
        self.audit(operation, None, result.map_err(|error| self.token.error(error)))
    }

    /// Adds a key pair to the token. `imported` is the public half of an imported key.
    ///
    /// A key below its minimum custody is deleted again. At the next start, the keyring would refuse the whole token
    /// because of that key.
    fn add_key(
        &self,
        operation: &'static str,
        imported: Option<&PublicKey>,
        add: impl FnOnce() -> Result<HeldKey, TokenError>,
    ) -> Result<OperationResult, SecretsError> {
        let management_key = self.take_management_key();
        management_key.set().map_err(|error| self.token.error(error))?;
        let added = add();
        let public = imported.or(added.as_ref().ok().map(|held| &held.public)).cloned();
        let added = added.and_then(|held| match self.token.keyring.custody_error(&held) {
            Some(error) => {
                let deleted =
                    management_key.set().and_then(|()| self.token.custodian.delete_in_slot(&held.public, held.slot));
                if let Err(error) = deleted {
                    let token = &*self.token.name;
                    tracing::error!(token, %error, "cannot delete a key below minimum_custody; it stays in the token");
                }
                Err(error)
            }
            None => Ok(held),
        });
        match (&added, &public) {
            (Ok(held), _) => self.token.keyring.change_keys(&self.token.name, |keys| {
                // A key that was in the same slot has been overwritten.
                keys.retain(|key| key.slot.is_none() || key.slot != held.slot);
                keys.push(held.clone());
            }),
            // The token may have changed although the operation failed, so its keys are found again.
            (Err(_), None) => self.token.keyring.refresh_keys(),
            (Err(_), Some(_)) => {}
        }
        let added = added.map(|held| OperationResult::Key(Box::new(held)));
        self.audit(operation, public.as_ref().map(|key| (key, None)), added.map_err(|error| self.token.error(error)))
    }

    /// Takes the connection's management key for one change, and for undoing that change.
    fn take_management_key(&self) -> ManagementKey<'_> {
        let management_key = &self.connection.management_key;
        let key = lock(management_key).take();
        ManagementKey { token: self.token, key }
    }
}

/// The management key of one change, if the custodian gave one.
struct ManagementKey<'a> {
    token: &'a ServedToken,
    key: Option<Zeroizing<Vec<u8>>>,
}

impl ManagementKey<'_> {
    /// Gives the key to the token.
    fn set(&self) -> Result<(), TokenError> {
        self.key.as_ref().map_or(Ok(()), |key| self.token.custodian.set_management_key(key.clone()))
    }
}

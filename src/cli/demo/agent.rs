//! A participant of the demo: a token, its keys, a DID, and a record of the token's operations.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use uuid::Uuid;

use claviger::{
    crypto::{Cek, EncryptedKey},
    did::{Document, Relationship, Service, peer},
    didcomm::Identities,
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, KeyUse, Keyring, NewKey, Purpose, Token, TokenError, TokenInfo, UnwrapRequest, WrapRequest,
        pkcs11::{InitToken, OpenOptions, Pin, PinSource, Uri, init_token},
    },
};

use crate::cli::failure::Failure;

/// A participant: Alice, Bob or the mediator.
pub struct Agent {
    pub name: &'static str,
    pub did: String,
    pub info: TokenInfo,
    pub keys: Vec<HeldKey>,
    pub identities: Identities,
    recorder: Arc<RecordingToken>,
    _demo_keys: DemoKeys,
}

/// An open token, for which the demo has not made keys and a DID yet.
pub struct DemoToken {
    name: &'static str,
    token: Arc<dyn Custodian>,
    /// Whether the token outlives the demo, so that the demo's keys must be deleted.
    outlives_demo: bool,
}

impl DemoToken {
    /// Initialises a SoftHSM token. Its PIN is random, and in no file.
    pub fn new_softhsm(name: &'static str, module: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::from_token(name, &error);
        let pin = Pin::new(Uuid::new_v4().simple().to_string());
        let request = InitToken {
            module: module.to_owned(),
            slot_id: None,
            label: name.to_owned(),
            so_pin: Pin::new(Uuid::new_v4().simple().to_string()),
            user_pin: pin.clone(),
            erase: None,
        };
        let seen = init_token(&request).map_err(failed)?;
        let mut uri = Uri::default();
        uri.token = Some(name.to_owned());
        uri.serial = Some(seen.info.serial);
        uri.module_path = module.to_str().map(str::to_owned);
        let options = OpenOptions::new().name(name).pin(PinSource::value(pin));
        let token = Arc::new(options.open(&uri.to_string()).map_err(failed)?);
        Ok(Self { name, token, outlives_demo: false })
    }

    /// Opens a YubiKey. A new YubiKey has the factory PIN. For any other YubiKey, a person types the PIN.
    #[cfg(feature = "yubikey")]
    pub fn open_yubikey(name: &'static str, serial: u32) -> Result<Self, Failure> {
        use claviger::secrets::piv::{self, PcscReaders};

        use crate::cli::pin;

        let failed = |error| Failure::from_token(name, &error);
        let uri = format!("yubikey:serial={serial}");
        let open = |options: piv::OpenOptions| {
            options
                .name(name)
                .touch(move |touch| pin::ask_for_touch(name, touch))
                .open(&uri, PcscReaders)
                .map_err(failed)
        };
        let prompting =
            open(piv::OpenOptions::new().prompt(move |prompt| pin::prompt(name, pin::AskAt::Terminal, prompt)))?;
        let token = match prompting.check_fresh() {
            Ok(()) => open(piv::OpenOptions::new().pin(PinSource::value(Pin::new("123456"))))?,
            Err(_) => prompting,
        };
        Ok(Self { name, token: Arc::new(token), outlives_demo: true })
    }

    /// Makes an agreement key and a signing key in the token, and a did:peer:2 of them. All participants have the same
    /// curves.
    pub async fn create_agent(self, curves: [Curve; 2], services: &[Service]) -> Result<Agent, Failure> {
        let mut made = DemoKeys { token: self.token.clone(), keys: Vec::new(), delete: self.outlives_demo };
        let mut make = |curve, usage| {
            let new = NewKey { curve, usage, label: Some(self.name.into()) };
            let held = self.token.generate(&new).map_err(|error| Failure::from_token(self.name, &error))?;
            made.keys.push(held.public.clone());
            Ok::<_, Failure>(held)
        };
        let agreement = make(curves[0], KeyUse::Agreement)?;
        let signing = make(curves[1], KeyUse::Signing)?;
        let document: Document = peer::create_2(
            &[
                (Relationship::KeyAgreement, agreement.public.clone()),
                (Relationship::Authentication, signing.public.clone()),
            ],
            services,
        )?;
        let recorder = Arc::new(RecordingToken { token: self.token, operations: Mutex::default() });
        let keyring = Keyring::builder().shared_token(recorder.clone()).start().await?;
        Ok(Agent {
            name: self.name,
            did: document.id().to_owned(),
            info: recorder.info(),
            keys: vec![agreement, signing],
            identities: Identities::new(keyring, [document]).await?,
            recorder,
            _demo_keys: made,
        })
    }
}

impl Agent {
    /// Returns the token's operations since the last call, and forgets them.
    pub fn take_operations(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.recorder.operations())
    }
}

/// A private-key operation of a token, with its duration.
pub struct Operation {
    pub kind: OperationKind,
    pub key: PublicKey,
    pub took: Duration,
}

/// The kind of a private-key operation.
#[derive(Clone, Copy, PartialEq)]
pub enum OperationKind {
    Sign,
    /// Key agreement to send, with an authenticated sender.
    Wrap,
    /// Key agreement to receive. `authenticated` says whether the sender's key takes part.
    Unwrap {
        authenticated: bool,
    },
}

/// The keys of the demo. Dropping this deletes them from a token that outlives the demo.
struct DemoKeys {
    token: Arc<dyn Custodian>,
    keys: Vec<PublicKey>,
    delete: bool,
}

impl Drop for DemoKeys {
    fn drop(&mut self) {
        for key in self.keys.iter().filter(|_| self.delete) {
            if let Err(error) = self.token.delete(key) {
                tracing::warn!(token = self.token.name(), %key, %error, "a key of the demo stays in the token");
            }
        }
    }
}

/// A token that records its operations.
struct RecordingToken {
    token: Arc<dyn Custodian>,
    operations: Mutex<Vec<Operation>>,
}

impl RecordingToken {
    fn operations(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record<T>(
        &self,
        kind: OperationKind,
        key: &PublicKey,
        operation: impl FnOnce() -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let start = Instant::now();
        let result = operation()?;
        self.operations().push(Operation { kind, key: key.clone(), took: start.elapsed() });
        Ok(result)
    }
}

impl Token for RecordingToken {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.token.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.record(OperationKind::Sign, key, || self.token.sign(key, input, purpose))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        let kind = OperationKind::Unwrap { authenticated: request.sender.is_some() };
        self.record(kind, key, || self.token.unwrap_cek(key, request, purpose))
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.record(OperationKind::Wrap, key, || self.token.wrap_cek(key, request, purpose))
    }
}

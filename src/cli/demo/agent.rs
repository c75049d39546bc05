//! One who takes part in the demo: a token, its keys, a DID; and a witness of each operation of the token.

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
        Custodian, HeldKey, KeyUse, Keyring, NewKey, Purpose, Token, TokenError, TokenInfo, Unwrap, Wrap,
        pkcs11::{InitToken, OpenOptions, Pin, PinSource, Uri, init_token},
    },
};

use crate::cli::failure::Failure;
#[cfg(feature = "yubikey")]
use crate::cli::pin;

/// One who takes part.
pub struct Agent {
    pub name: &'static str,
    pub did: String,
    pub info: TokenInfo,
    pub keys: Vec<HeldKey>,
    pub me: Identities,
    witness: Arc<Witness>,
    _made: Made,
}

/// A new token, not yet with a DID.
pub struct Seat {
    name: &'static str,
    token: Arc<dyn Custodian>,
    /// Whether the token is here longer than the demo.
    lasts: bool,
}

impl Seat {
    /// Initialises a token; its PIN is made at random, and is in no file.
    pub fn take(name: &'static str, module: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::of_token(name, &error);
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
        Ok(Self { name, token, lasts: false })
    }

    /// A YubiKey. The PIN of one that comes from the factory is known; that of another a person types.
    #[cfg(feature = "yubikey")]
    pub fn take_yubikey(name: &'static str, serial: u32) -> Result<Self, Failure> {
        use claviger::secrets::piv::{self, PcscReaders};
        let failed = |error| Failure::of_token(name, &error);
        let uri = format!("yubikey:serial={serial}");
        let open = |options: piv::OpenOptions| {
            options.name(name).touch(move |touch| pin::touch(name, touch)).open(&uri, PcscReaders).map_err(failed)
        };
        let typed = open(piv::OpenOptions::new().prompt(move |prompt| pin::prompt(name, pin::At::Terminal, prompt)))?;
        let token = match typed.check_fresh() {
            Ok(()) => open(piv::OpenOptions::new().pin(PinSource::value(Pin::new("123456"))))?,
            Err(_) => typed,
        };
        Ok(Self { name, token: Arc::new(token), lasts: true })
    }

    /// Makes keys in the token, on one curve for all who take part, and a did:peer:2 of them.
    pub async fn settle(self, curves: [Curve; 2], services: &[Service]) -> Result<Agent, Failure> {
        let mut made = Made { token: self.token.clone(), keys: Vec::new(), remove: self.lasts };
        let mut make = |curve, usage| {
            let new = NewKey { curve, usage, label: Some(self.name.into()) };
            let held = self.token.generate(&new).map_err(|error| Failure::of_token(self.name, &error))?;
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
        let witness = Arc::new(Witness { token: self.token, seen: Mutex::default() });
        let keyring = Keyring::builder().shared_token(witness.clone()).start().await?;
        Ok(Agent {
            name: self.name,
            did: document.id().to_owned(),
            info: witness.info(),
            keys: vec![agreement, signing],
            me: Identities::new(keyring, [document]).await?,
            witness,
            _made: made,
        })
    }
}

impl Agent {
    /// What its token has done since it was asked last.
    pub fn operations(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.witness.seen())
    }
}

/// An operation that a token has done.
pub struct Operation {
    pub kind: Kind,
    pub key: PublicKey,
    pub took: Duration,
}

/// Which operation of the seam it was.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Sign,
    /// Key agreement to send, with an authenticated sender.
    Wrap,
    /// Key agreement to receive; `authenticated` with the sender's key too.
    Unwrap {
        authenticated: bool,
    },
}

/// The keys that were made, which do not stay in a token that does.
struct Made {
    token: Arc<dyn Custodian>,
    keys: Vec<PublicKey>,
    remove: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        for key in self.keys.iter().filter(|_| self.remove) {
            if let Err(error) = self.token.delete(key) {
                tracing::warn!(token = self.token.name(), %key, %error, "a key of the demo stays in the token");
            }
        }
    }
}

/// A token, and what it was asked to do.
struct Witness {
    token: Arc<dyn Custodian>,
    seen: Mutex<Vec<Operation>>,
}

impl Witness {
    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn watch<T>(
        &self,
        kind: Kind,
        key: &PublicKey,
        operation: impl FnOnce() -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let start = Instant::now();
        let result = operation()?;
        self.seen().push(Operation { kind, key: key.clone(), took: start.elapsed() });
        Ok(result)
    }
}

impl Token for Witness {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn is_for(&self, purpose: &Purpose) {
        self.token.is_for(purpose);
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.token.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.watch(Kind::Sign, key, || self.token.sign(key, input))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        let kind = Kind::Unwrap { authenticated: request.sender.is_some() };
        self.watch(kind, key, || self.token.unwrap_cek(key, request))
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.watch(Kind::Wrap, key, || self.token.wrap_cek(key, request))
    }
}

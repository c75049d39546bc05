//! The custodian's client of a keeper: see [`KeeperCustodian`].

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
};

use rustix::net::{RecvFlags, recv};
use zeroize::Zeroizing;

use super::{
    frame::{FrameBuffer, decode, encode_frame},
    wire::{ClientFrame, Hello, Request, RequestBody, Response, Role, ServerFrame, TokenState, VERSION},
    wire_types::WireError,
};
use crate::{
    keys::PublicKey,
    secrets::{
        error::{SecretsError, TokenError},
        held_key::{HeldKey, UnpairedKey},
        import::ImportKey,
        key_use::KeyUse,
        mutex::lock,
        signing::{SignRequest, Signature, SigningInput},
        slot::{Slot, SlotOptions},
        token::{NewKey, TokenInfo},
    },
};

/// A custodian's connection to a keeper, through which the command line makes, imports and deletes keys.
///
/// Calls block, and are performed one at a time.
///
/// # Errors
/// Methods return the token's error, [`TokenError::Config`] for a request that the keeper does not allow, and
/// [`TokenError::Device`] if the keeper fails or the connection is lost. The error's text then says whether the
/// operation was performed, or that this is unknown.
pub struct KeeperCustodian {
    token: Arc<str>,
    connection: Mutex<BlockingConnection>,
    state: TokenState,
}

struct BlockingConnection {
    stream: UnixStream,
    received: FrameBuffer,
    next_id: u64,
}

impl KeeperCustodian {
    /// Sends the hello over `stream` to the keeper of the token that the configuration calls `name`, and waits for the
    /// keeper's answer.
    ///
    /// # Errors
    /// [`TokenError::Config`] if the keeper refuses, [`TokenError::Away`] if it does not answer.
    pub fn new(name: &str, stream: UnixStream) -> Result<Self, TokenError> {
        let mut connection = BlockingConnection { stream, received: FrameBuffer::new(), next_id: 1 };
        let away = |error: io::Error| TokenError::Away(format!("the keeper of the token {name:?}: {error}"));
        // A keeper that refuses this user may have closed the connection already; its reason can still be read.
        let sent = connection.send(&Hello { version: VERSION, role: Role::Custodian });
        let content = connection.receive().map_err(|error| away(sent.err().unwrap_or(error)))?;
        match decode(&content).map_err(away)? {
            ServerFrame::Welcome(state) => Ok(Self { token: name.into(), connection: Mutex::new(connection), state }),
            ServerFrame::Refused(error) => Err(error),
            _ => Err(away(io::Error::other("the first frame is not a welcome"))),
        }
    }

    /// The token's name in the configuration.
    pub fn name(&self) -> &str {
        &self.token
    }

    /// The device's description of itself when the connection was made.
    pub fn info(&self) -> TokenInfo {
        self.state.info.clone()
    }

    /// Why the token was out of service when the connection was made; `None` if it was in service.
    pub fn token_error(&self) -> Option<&TokenError> {
        self.state.error.as_ref()
    }

    /// Makes a key pair in the token.
    pub fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.generate_in_slot(key, SlotOptions::default())
    }

    /// Makes a key pair in a chosen slot, with PIN and touch policies.
    pub fn generate_in_slot(&self, key: &NewKey, options: SlotOptions) -> Result<HeldKey, TokenError> {
        let label = key.label.as_deref();
        self.request_key(RequestBody::Generate { curve: key.curve, usage: key.usage, label, options })
    }

    /// Imports a key pair. The private key passes over the socket in the clear.
    pub fn import(&self, key: &ImportKey) -> Result<HeldKey, TokenError> {
        let ImportKey { public, private, usage, label } = key;
        self.request_key(RequestBody::Import { key: public.into(), private, usage: *usage, label: label.as_deref() })
    }

    /// Deletes both halves of a key pair.
    pub fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.delete_in_slot(key, None)
    }

    /// Deletes the key pair in one slot. The same key in another slot stays. `None` is for tokens without slots.
    pub fn delete_in_slot(&self, key: &PublicKey, slot: Option<Slot>) -> Result<(), TokenError> {
        self.request_done(RequestBody::Delete { key: key.into(), slot })
    }

    /// Every key pair in the token. One that the keeper does not serve says why ([`HeldKey::refused`]).
    pub fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.request_keys(RequestBody::Inventory)
    }

    /// The private keys that the last call of [`KeeperCustodian::inventory`] left out, because their public halves are not
    /// known.
    pub fn unpaired_keys(&self) -> Result<Vec<UnpairedKey>, TokenError> {
        self.request(RequestBody::Unpaired, |response| match response {
            Response::Unpaired(keys) => Some(Ok(keys)),
            _ => None,
        })
    }

    /// Proves as [`prove_keys`](crate::secrets::prove_keys) that each of these keys may enter a DID document with this use,
    /// and that its custody is not below the keeper's minimum. Returns the keys.
    pub fn prove(&self, keys: &[(PublicKey, KeyUse)]) -> Result<Vec<HeldKey>, TokenError> {
        let keys = keys.iter().map(|(key, usage)| (key.into(), *usage)).collect();
        self.request_keys(RequestBody::Prove { keys })
    }

    /// The proof that a key was made in the token: X.509 certificates in DER, the key's own first.
    pub fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        self.request(RequestBody::Attest { key: key.into() }, |response| match response {
            Response::Certificates(chain) => Some(Ok(chain.into_iter().map(<[u8]>::to_vec).collect())),
            _ => None,
        })
    }

    /// Sets the management key for the next change only. The management key passes over the socket in the clear.
    pub fn set_management_key(&self, key: &[u8]) -> Result<(), TokenError> {
        self.request_done(RequestBody::SetManagementKey(key))
    }

    /// Signs content. Unlike an agent, a custodian may also sign a DID rotation, and an entry of a did:webvh log.
    pub fn sign(&self, key: &PublicKey, request: &SignRequest<'_>) -> Result<Signature, TokenError> {
        let input = SigningInput::new(key, request).map_err(|error| TokenError::Config(error.to_string()))?;
        let signature = self.request(RequestBody::sign(key, request), |response| match response {
            Response::Signature(signature) => Some(Ok(signature.to_vec())),
            _ => None,
        })?;
        Ok(input.with_signature(signature))
    }

    /// Logs the token out now. The PIN is not used again until [`KeeperCustodian::unlock`].
    pub fn lock(&self) -> Result<(), TokenError> {
        self.request_done(RequestBody::Lock)
    }

    /// Makes the token try the PIN once, even if it was refused before. Call this when a person has confirmed the PIN.
    pub fn unlock(&self) -> Result<(), TokenError> {
        self.request_done(RequestBody::Unlock)
    }

    fn request_key(&self, body: RequestBody<'_>) -> Result<HeldKey, TokenError> {
        self.request(body, |response| if let Response::Key(held) = response { Some(held.try_into()) } else { None })
    }

    fn request_keys(&self, body: RequestBody<'_>) -> Result<Vec<HeldKey>, TokenError> {
        self.request(body, |response| match response {
            Response::Keys(keys) => Some(keys.into_iter().map(HeldKey::try_from).collect()),
            _ => None,
        })
    }

    fn request_done(&self, body: RequestBody<'_>) -> Result<(), TokenError> {
        self.request(body, |response| matches!(response, Response::Done).then_some(Ok(())))
    }

    /// Sends a request and waits for its response. `read` returns `None` for a response of the wrong kind.
    fn request<T>(
        &self,
        body: RequestBody<'_>,
        read: impl FnOnce(Response<'_>) -> Option<io::Result<T>>,
    ) -> Result<T, TokenError> {
        let lost = |error: io::Error| keeper_failed(format!("{error}; whether the operation was performed is unknown"));
        let mut connection = lock(&self.connection);
        let id = connection.next_id;
        connection.next_id += 1;
        let request = Request { id, deadline: None, kid: None, message_id: None, peer: None, body };
        connection.send(&ClientFrame::Request(request)).map_err(lost)?;
        loop {
            let content = connection.receive().map_err(lost)?;
            match decode(&content).map_err(lost)? {
                ServerFrame::Response { id: answered, result: Ok(response) } if answered == id => {
                    let value = read(response)
                        .unwrap_or_else(|| Err(io::Error::other("the response belongs to another kind of request")));
                    return value.map_err(lost);
                }
                ServerFrame::Response { id: answered, result: Err(error) } if answered == id => {
                    return Err(token_error(error));
                }
                // Changes of the token's state do not matter here.
                _ => {}
            }
        }
    }
}

/// The keeper's error as a token's error.
fn token_error(error: WireError) -> TokenError {
    match error {
        WireError::Token(error) => error,
        WireError::AuditFailed(reason) => {
            keeper_failed(format!("{}; the operation itself was performed", SecretsError::AuditFailed(reason)))
        }
        WireError::InvalidRequest(reason) => TokenError::Config(reason),
        WireError::NotAllowed(operation) => {
            TokenError::Config(format!("{operation} is not in `allow` of the key or its token"))
        }
        _ => keeper_failed("the request was refused".to_owned()),
    }
}

fn keeper_failed(reason: String) -> TokenError {
    TokenError::Device { operation: "the keeper".into(), reason }
}

impl BlockingConnection {
    fn send(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        self.stream.write_all(&encode_frame(value)?)
    }

    fn receive(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        loop {
            if let Some(content) = self.received.next_frame()? {
                return Ok(content);
            }
            match recv(&self.stream, self.received.free_space()?, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the keeper ended")),
                Ok((_, bytes)) => self.received.add(bytes),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

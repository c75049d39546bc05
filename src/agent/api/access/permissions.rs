//! Who may use the API, and which scopes each caller has.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    certificate::{ClientCertificate, ClientName, InvalidClientName},
    scope::Scope,
    token::BearerToken,
};

/// The callers that may use the API.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Permissions(Vec<Arc<Holder>>);

/// A caller with its scopes.
#[derive(Debug, PartialEq)]
pub struct Holder {
    identity: Identity,
    pub name: String,
    scopes: Vec<Scope>,
}

/// How a caller is known.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Identity {
    /// A user of this machine, by its id, on the Unix socket.
    User(u32),
    /// The bearer of a token, on the loopback interface.
    Token(BearerToken),
    /// An application on another machine, by a name in its certificate.
    Client(ClientName),
}

/// What a caller shows.
#[derive(Debug, Clone)]
pub enum Credential {
    User(u32),
    Token(BearerToken),
    Certificate(Arc<ClientCertificate>),
}

/// Why a caller cannot be permitted to use the API. The configuration is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPermission {
    /// The caller has no name.
    #[error("a {0} has an empty name")]
    NoName(&'static str),
    /// Two callers of one kind have this name.
    #[error("two {0}s have the name {1:?}")]
    SameName(&'static str, String),
    /// Two names stand for one caller: the same user, or equal tokens.
    #[error("the {0}s {1:?} and {2:?} are the same")]
    SameCaller(&'static str, String, String),
    /// The caller may do nothing.
    #[error("the {0} {1:?} has no scope: `scopes` lists some of \"read\", \"send\" and \"manage\"")]
    NoScope(&'static str, String),
    /// A certificate cannot have the name.
    #[error(transparent)]
    ClientName(#[from] InvalidClientName),
}

impl Permissions {
    /// Permits a caller to use these scopes. `name` is the caller's name in the configuration.
    ///
    /// # Errors
    /// If the name is empty or that of another caller of the same kind, the caller is known under another name, or there
    /// is no scope.
    pub fn allow(&mut self, identity: Identity, name: &str, scopes: &[Scope]) -> Result<(), InvalidPermission> {
        let kind = identity.kind();
        if name.is_empty() {
            return Err(InvalidPermission::NoName(kind));
        }
        if scopes.is_empty() {
            return Err(InvalidPermission::NoScope(kind, name.to_owned()));
        }
        for other in self.0.iter().filter(|other| other.kind() == kind) {
            if other.name == name {
                return Err(InvalidPermission::SameName(kind, name.to_owned()));
            }
            if other.identity == identity {
                return Err(InvalidPermission::SameCaller(kind, other.name.clone(), name.to_owned()));
            }
        }
        self.0.push(Arc::new(Holder { identity, name: name.to_owned(), scopes: scopes.to_vec() }));
        Ok(())
    }

    /// Finds the caller with this credential. Every entry is compared, so that the time does not tell which one it is.
    fn find(&self, credential: &Credential) -> Option<&Arc<Holder>> {
        self.0.iter().fold(None, |found, holder| if holder.has(credential) { found.or(Some(holder)) } else { found })
    }
}

impl Identity {
    fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Token(_) => "token",
            Self::Client(_) => "client",
        }
    }
}

impl Holder {
    fn has(&self, credential: &Credential) -> bool {
        match (&self.identity, credential) {
            (Identity::User(own), Credential::User(user)) => own == user,
            (Identity::Token(own), Credential::Token(token)) => own == token,
            (Identity::Client(name), Credential::Certificate(certificate)) => certificate.has(name),
            _ => false,
        }
    }

    pub fn kind(&self) -> &'static str {
        self.identity.kind()
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// The permissions in force, which all listening sockets of the API share. They can be replaced at any time.
#[derive(Clone)]
pub struct Access(Arc<watch::Sender<Permissions>>);

impl Access {
    /// Access for the callers in `permissions`.
    pub fn new(permissions: Permissions) -> Self {
        Self(Arc::new(watch::Sender::new(permissions)))
    }

    /// Replaces the permissions. Open requests of callers that may no longer make them are ended. Returns whether anything
    /// has changed.
    pub fn replace(&self, permissions: Permissions) -> bool {
        let is_changed = *self.0.borrow() != permissions;
        self.0.send_replace(permissions);
        is_changed
    }

    /// Checks all open connections at once, since the certificates of the authorities may have changed.
    pub fn check_connections(&self) {
        self.0.send_modify(|_| ());
    }

    /// Finds the caller with this credential.
    pub(in crate::agent::api) fn find(&self, credential: &Credential) -> Option<Arc<Holder>> {
        self.0.borrow().find(credential).cloned()
    }

    /// A receiver that is told of each replacement.
    pub(super) fn subscribe(&self) -> watch::Receiver<Permissions> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn token(text: &str) -> BearerToken {
        BearerToken::from_secret(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn callers_are_told_apart() {
        let mut permissions = Permissions::default();
        let mut allow = |identity, name, scopes: &[Scope]| permissions.allow(identity, name, scopes);
        assert_eq!(allow(Identity::User(1), "", &[Scope::Read]), Err(InvalidPermission::NoName("user")));
        assert_eq!(allow(Identity::User(1), "a", &[]), Err(InvalidPermission::NoScope("user", "a".to_owned())));
        allow(Identity::User(1), "a", &[Scope::Read]).unwrap();
        let same = allow(Identity::User(1), "1", &[Scope::Send]);
        assert_eq!(same, Err(InvalidPermission::SameCaller("user", "a".to_owned(), "1".to_owned())));
        allow(Identity::Token(token("one")), "a", &[Scope::Send]).unwrap();
        let same = allow(Identity::Token(token("two")), "a", &[Scope::Send]);
        assert_eq!(same, Err(InvalidPermission::SameName("token", "a".to_owned())));
        let equal = allow(Identity::Token(token("one")), "b", &[Scope::Send]);
        assert_eq!(equal, Err(InvalidPermission::SameCaller("token", "a".to_owned(), "b".to_owned())));
        allow(Identity::Token(token("two")), "b", &Scope::ALL).unwrap();

        let found = permissions.find(&Credential::Token(token("one"))).unwrap();
        assert!(found.name == "a" && found.may(Scope::Send) && !found.may(Scope::Read) && !found.may(Scope::Manage));
        assert!(permissions.find(&Credential::Token(token("on"))).is_none());
        assert!(permissions.find(&Credential::User(2)).is_none());
        assert!(!format!("{permissions:?}").contains("one"));
    }
}

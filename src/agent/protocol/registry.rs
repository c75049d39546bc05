//! Finds the protocol of a message.

use std::sync::Arc;

use super::{handler::Protocol, problem::Problem};
use crate::didcomm::{MessageType, same_name};

/// The error for a protocol whose identifier is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol identifier URI, such as https://example.org/offer/1.0")]
pub struct InvalidPiuri(pub String);

/// The protocols that an agent speaks.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<dyn Protocol>>);

impl Registry {
    /// Makes a registry of these protocols.
    ///
    /// # Errors
    /// If the identifier of a protocol is malformed.
    pub fn new(protocols: impl IntoIterator<Item = Arc<dyn Protocol>>) -> Result<Self, InvalidPiuri> {
        let mut registry = Self::default();
        for protocol in protocols {
            registry.add(protocol)?;
        }
        Ok(registry)
    }

    /// Adds a protocol. It replaces a protocol of the same name and major version, even a built-in protocol.
    ///
    /// # Errors
    /// If the identifier of the protocol is malformed.
    pub fn add(&mut self, protocol: Arc<dyn Protocol>) -> Result<(), InvalidPiuri> {
        let kind = format!("{}/message", protocol.piuri());
        let Some(kind) = MessageType::parse(&kind).filter(|kind| kind.major().is_some()) else {
            return Err(InvalidPiuri(protocol.piuri().to_owned()));
        };
        self.0.retain(|other| !(is_same_protocol(&**other, &kind) && major_version(&**other) == kind.major()));
        self.0.push(protocol);
        Ok(())
    }

    /// Returns the protocol of a message type. `None` if the protocol is unknown; the message then goes to the
    /// application. A message of another minor version is handled like our own version (v2.1 "Semver Rules").
    ///
    /// # Errors
    /// If the protocol is known, but not this major version (v2.1 "Descriptors": `msg` is for "an unsupported
    /// version").
    pub fn find(&self, kind: &str) -> Result<Option<&Arc<dyn Protocol>>, Problem> {
        let Some(kind) = MessageType::parse(kind) else { return Ok(None) };
        let known: Vec<_> = self.0.iter().filter(|protocol| is_same_protocol(&***protocol, &kind)).collect();
        if known.is_empty() {
            return Ok(None);
        }
        let same_major =
            |protocol: &&Arc<dyn Protocol>| kind.major().is_some() && major_version(&***protocol) == kind.major();
        known.into_iter().find(same_major).map(Some).ok_or_else(|| {
            Problem::new("e.m.msg.unsupported-version", "Version {1} of this protocol is not supported.")
                .arg(kind.version)
        })
    }

    /// Returns the protocols and the agent's roles in each, as in
    /// [`Features::protocols`](super::features::Features::protocols).
    pub fn protocols(&self) -> Vec<(String, Vec<String>)> {
        let roles = |protocol: &dyn Protocol| protocol.roles().iter().map(|&role| role.to_owned()).collect();
        self.0.iter().map(|protocol| (protocol.piuri().to_owned(), roles(&**protocol))).collect()
    }
}

/// Whether a message belongs to a protocol, in any version.
fn is_same_protocol(protocol: &dyn Protocol, kind: &MessageType<'_>) -> bool {
    if !protocol.piuri().starts_with(kind.doc_uri) {
        return false;
    }
    let own = format!("{}/message", protocol.piuri());
    MessageType::parse(&own).is_some_and(|own| own.doc_uri == kind.doc_uri && same_name(own.protocol, kind.protocol))
}

fn major_version(protocol: &dyn Protocol) -> Option<u32> {
    MessageType::parse(&format!("{}/message", protocol.piuri())).and_then(|own| own.major())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::agent::protocol::{HandleError, Received, Transaction, built_in};

    struct Named(&'static str);

    #[async_trait]
    impl Protocol for Named {
        fn piuri(&self) -> &str {
            self.0
        }

        async fn handle(&self, _: &Received, _: &mut Transaction<'_>) -> Result<(), HandleError> {
            Ok(())
        }
    }

    #[test]
    fn a_message_finds_its_protocol() {
        let mut registry = Registry::new(built_in(&Default::default(), &Default::default(), false)).unwrap();
        let count = registry.0.len();
        let found = |registry: &Registry, kind: &str| {
            registry.find(kind).map(|found| found.map(|protocol| protocol.piuri().to_owned()))
        };
        let ping = Ok(Some("https://didcomm.org/trust-ping/2.0".to_owned()));
        assert_eq!(found(&registry, "https://didcomm.org/trust-ping/2.0/ping"), ping);
        assert_eq!(found(&registry, "https://didcomm.org/TrustPing/2.7/ping"), ping);
        assert_eq!(found(&registry, "https://example.org/trust-ping/2.0/ping"), Ok(None));
        assert_eq!(found(&registry, "https://didcomm.org/tictactoe/1.0/move"), Ok(None));
        assert_eq!(found(&registry, "nothing"), Ok(None));
        for kind in ["https://didcomm.org/trust-ping/1.0/ping", "https://didcomm.org/trust-ping/99999999999.0/ping"] {
            assert_eq!(found(&registry, kind).unwrap_err().code, "e.m.msg.unsupported-version");
        }

        // Another major version is added, and another minor version replaces the built-in protocol.
        registry.add(Arc::new(Named("https://didcomm.org/trust-ping/1.0"))).unwrap();
        registry.add(Arc::new(Named("https://didcomm.org/trust-ping/2.1"))).unwrap();
        assert_eq!(
            found(&registry, "https://didcomm.org/trust-ping/1.5/ping").unwrap().unwrap(),
            registry.0[count - 1].piuri()
        );
        assert_eq!(
            found(&registry, "https://didcomm.org/trust-ping/2.0/ping").unwrap().unwrap(),
            registry.0[count].piuri()
        );
        assert_eq!(registry.protocols().len(), count + 1);
        assert!(registry.add(Arc::new(Named("https://example.org/offer"))).is_err());
    }
}

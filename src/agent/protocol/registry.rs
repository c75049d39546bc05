//! Which protocol a message belongs to.

use std::sync::Arc;

use super::{Problem, Protocol};
use crate::didcomm::{MessageType, same_name};

/// A protocol's identifier that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol identifier URI, such as https://example.org/offer/1.0")]
pub struct NotAPiuri(pub String);

/// The protocols that an agent speaks.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<dyn Protocol>>);

impl Registry {
    /// One that holds these.
    ///
    /// # Errors
    /// If an identifier is none.
    pub fn new(protocols: impl IntoIterator<Item = Arc<dyn Protocol>>) -> Result<Self, NotAPiuri> {
        let mut registry = Self::default();
        for protocol in protocols {
            registry.add(protocol)?;
        }
        Ok(registry)
    }

    /// Adds a protocol. It takes the place of one of the same name and major version: a built-in one can be replaced.
    ///
    /// # Errors
    /// If its identifier is none.
    pub fn add(&mut self, protocol: Arc<dyn Protocol>) -> Result<(), NotAPiuri> {
        let kind = format!("{}/message", protocol.piuri());
        let Some(kind) = MessageType::parse(&kind).filter(|kind| kind.major().is_some()) else {
            return Err(NotAPiuri(protocol.piuri().to_owned()));
        };
        self.0.retain(|other| !(of_protocol(&**other, &kind) && major(&**other) == kind.major()));
        self.0.push(protocol);
        Ok(())
    }

    /// The protocol of a message type; none if it is unknown, and then the message is the application's. A minor version
    /// that we do not have is handled as ours (v2.1 "Semver Rules").
    ///
    /// # Errors
    /// If the protocol is known, but not in that major version (v2.1 "Descriptors": `msg` is for "an unsupported version").
    pub fn find(&self, kind: &str) -> Result<Option<&Arc<dyn Protocol>>, Problem> {
        let Some(kind) = MessageType::parse(kind) else { return Ok(None) };
        let known: Vec<_> = self.0.iter().filter(|protocol| of_protocol(&***protocol, &kind)).collect();
        if known.is_empty() {
            return Ok(None);
        }
        let same_major = |protocol: &&Arc<dyn Protocol>| kind.major().is_some() && major(&***protocol) == kind.major();
        known.into_iter().find(same_major).map(Some).ok_or_else(|| {
            Problem::new("e.m.msg.unsupported-version", "Version {1} of this protocol is not supported.")
                .arg(kind.version)
        })
    }

    /// The protocols and the roles in each, as [`Features`](super::Features) has them.
    pub fn protocols(&self) -> Vec<(String, Vec<String>)> {
        let roles = |protocol: &dyn Protocol| protocol.roles().iter().map(|&role| role.to_owned()).collect();
        self.0.iter().map(|protocol| (protocol.piuri().to_owned(), roles(&**protocol))).collect()
    }
}

/// Whether a message is of a protocol, in whatever version.
fn of_protocol(protocol: &dyn Protocol, kind: &MessageType<'_>) -> bool {
    let own = format!("{}/message", protocol.piuri());
    MessageType::parse(&own).is_some_and(|own| own.doc_uri == kind.doc_uri && same_name(own.protocol, kind.protocol))
}

fn major(protocol: &dyn Protocol) -> Option<u32> {
    MessageType::parse(&format!("{}/message", protocol.piuri())).and_then(|own| own.major())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::agent::protocol::{Fault, Received, Turn, built_in};

    struct Named(&'static str);

    #[async_trait]
    impl Protocol for Named {
        fn piuri(&self) -> &str {
            self.0
        }

        async fn handle(&self, _: &Received, _: &mut Turn<'_>) -> Result<(), Fault> {
            Ok(())
        }
    }

    #[test]
    fn a_message_finds_its_protocol() {
        let mut registry = Registry::new(built_in(&Default::default())).unwrap();
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

        // One more major version, and one that takes a built-in's place.
        registry.add(Arc::new(Named("https://didcomm.org/trust-ping/1.0"))).unwrap();
        registry.add(Arc::new(Named("https://didcomm.org/trust-ping/2.1"))).unwrap();
        assert_eq!(
            found(&registry, "https://didcomm.org/trust-ping/1.5/ping").unwrap().unwrap(),
            registry.0[7].piuri()
        );
        assert_eq!(
            found(&registry, "https://didcomm.org/trust-ping/2.0/ping").unwrap().unwrap(),
            registry.0[8].piuri()
        );
        assert_eq!(registry.protocols().len(), 9);
        assert!(registry.add(Arc::new(Named("https://example.org/offer"))).is_err());
    }
}

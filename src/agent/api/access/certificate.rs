//! The certificate of an application on another machine.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, DnsName};
use webpki::EndEntityCert;

/// The certificate chain that a client has presented, with the names in it.
#[derive(Debug)]
pub struct ClientCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    /// The DNS names, in lower case, and the URIs among the certificate's subject alternative names. The common name of
    /// its subject is not among them (RFC 9525 section 2).
    names: Vec<String>,
}

impl ClientCertificate {
    /// The certificate chain of a finished handshake, the client's own certificate first.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        let chain: Vec<CertificateDer<'static>> = chain.iter().map(|it| it.clone().into_owned()).collect();
        let own = chain.first().and_then(|own| EndEntityCert::try_from(own).ok());
        let names = own.iter().flat_map(|own| {
            own.valid_dns_names().map(str::to_ascii_lowercase).chain(own.valid_uri_names().map(str::to_owned))
        });
        let names = names.collect();
        Self { chain, names }
    }

    /// Why the certificate is refused if no entry has one of its names. A stranger does not choose these names: an
    /// authority of the operator has signed them.
    pub fn why_unlisted(&self) -> String {
        match self.names.as_slice() {
            [] => "the certificate has neither a DNS name nor a URI as subject alternative name".to_owned(),
            names => format!("no [[api.client]] has a name of the certificate: {}", names.join(", ")),
        }
    }

    /// Whether the certificate has exactly this name. A wildcard in a certificate is a name that no client has.
    pub fn has(&self, name: &ClientName) -> bool {
        self.names.contains(&name.0)
    }
}

/// The name by which a client's certificate is known: a DNS name or a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(String);

/// The error for a text that is not the name of a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client {0:?}: a name is a DNS name without a wildcard, or a URI, as a certificate has it")]
pub struct InvalidClientName(String);

impl ClientName {
    /// Parses a name.
    ///
    /// # Errors
    /// If it is neither a DNS name without a wildcard nor a URI with a scheme.
    pub fn parse(name: &str) -> Result<Self, InvalidClientName> {
        Self::parsed(name).ok_or_else(|| InvalidClientName(name.to_owned()))
    }

    fn parsed(name: &str) -> Option<Self> {
        if let Some((scheme, rest)) = name.split_once(':') {
            let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            let is_uri = is_scheme && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
            return is_uri.then(|| Self(name.to_owned()));
        }
        let is_dns = DnsName::try_from(name).is_ok() && name.parse::<IpAddr>().is_err();
        is_dns.then(|| Self(name.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients() {
        for good in ["app.example.org", "APP.example.org", "app", "spiffe://example.org/app", "urn:uuid:1-2"] {
            assert!(ClientName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "*.example.org", "a b", "192.0.2.1", "::1", "https:", ":x", "urn: x", "CN=app"] {
            assert_eq!(ClientName::parse(bad), Err(InvalidClientName(bad.to_owned())), "{bad}");
        }
        assert_eq!(ClientName::parse("App.Example"), ClientName::parse("app.example"));
        assert_ne!(ClientName::parse("urn:App"), ClientName::parse("urn:app"));
    }
}

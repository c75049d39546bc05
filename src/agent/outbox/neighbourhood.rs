//! The names of origins and of their neighbourhoods, by which the outbox limits them.

use std::net::IpAddr;

use crate::net::Target;

/// Returns the names of the origin and of the neighbourhood of a URI.
pub(super) fn names(uri: &str) -> (String, String) {
    match Target::parse(uri) {
        Ok(target) => {
            let origin = target.origin();
            (origin.to_string(), neighbourhood(origin.host()))
        }
        // Another scheme, of a transport that the application brought.
        Err(_) => {
            let end = uri.match_indices('/').nth(2).map_or(uri.len(), |(at, _)| at);
            let origin: String = uri[..end].chars().take(255).collect();
            (origin.clone(), format!("near {origin}"))
        }
    }
}

/// Returns the name of the network of an address (/24 or /48), or of the domain of a name: its last two labels.
fn neighbourhood(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("near {a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, ..] = address.segments();
            format!("near {a:x}:{b:x}:{c:x}::/48")
        }
        Err(_) => {
            let labels: Vec<&str> = host.rsplit('.').take(2).collect();
            format!("near {}", labels.into_iter().rev().collect::<Vec<_>>().join("."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_neighbourhoods() {
        for (uri, origin, near) in [
            ("https://A.b.Example.org/x?y", "https://a.b.example.org:443", "near example.org"),
            ("http://10.1.2.3:8080", "http://10.1.2.3:8080", "near 10.1.2.0/24"),
            ("ws://[2001:db8:1:2::3]/", "http://[2001:db8:1:2::3]:80", "near 2001:db8:1::/48"),
            ("https://localhost/", "https://localhost:443", "near localhost"),
            ("carrier://pigeon/7", "carrier://pigeon", "near carrier://pigeon"),
        ] {
            assert_eq!(names(uri), (origin.to_owned(), near.to_owned()));
        }
    }
}

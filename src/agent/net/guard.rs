//! Which addresses the agent connects to: the guard against server-side request forgery (SSRF).
//!
//! A stranger who writes an address can make the agent ask servers that only it can reach: on its own machine, in its
//! network, the cloud's metadata. A name proves nothing (`127.0.0.1.nip.io` is one), so the guard looks at addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Decides which addresses are connected: those that are globally reachable, and those that the operator opened.
///
/// What is refused are the ranges of IANA's special-purpose registries (RFC 6890) that are not globally reachable,
/// multicast, and of IPv6 all but global unicast. An IPv6 address that carries an IPv4 address is judged by that as well.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    opened: Vec<IpNet>,
    opened_only: bool,
}

/// An address that the [`Guard`] refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} is refused: {why}")]
pub struct RefusedAddress {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub why: &'static str,
}

impl Guard {
    /// A guard that opens these ranges (`allow_private`), and refuses the rest of what is not public.
    pub fn new(allow_private: Vec<IpNet>) -> Self {
        Self { opened: allow_private, opened_only: false }
    }

    /// The same, but it refuses what is public as well.
    pub fn opened_only(&self) -> Self {
        Self { opened: self.opened.clone(), opened_only: true }
    }

    /// Whether an address may be connected.
    ///
    /// # Errors
    /// With what the address is, if it may not.
    pub fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        // ::ffff:a.b.c.d is connected by IPv4.
        let address = address.to_canonical();
        if self.opened.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let why = match address {
            _ if self.opened_only => Some("it is not in allow_private"),
            IpAddr::V4(address) => kind_of_v4(address),
            IpAddr::V6(address) => self.kind_of_v6(address),
        };
        why.map_or(Ok(()), |why| Err(RefusedAddress { address, why }))
    }

    fn kind_of_v6(&self, address: Ipv6Addr) -> Option<&'static str> {
        let embedded = embedded(address);
        if embedded[0].is_some() {
            return embedded.into_iter().flatten().find_map(|v4| self.check(IpAddr::V4(v4)).err()).map(|r| r.why);
        }
        let named = V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why);
        named.or((!GLOBAL_UNICAST.contains(&address)).then_some("not global unicast (RFC 4291)"))
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)
}

/// The IPv4 addresses that an IPv6 address carries, and to which a packet to it may go in the end.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let octets = address.octets();
    let at = |start: usize| Ipv4Addr::new(octets[start], octets[start + 1], octets[start + 2], octets[start + 3]);
    if address.is_unspecified() || address.is_loopback() {
        [None, None]
    } else if [COMPATIBLE, TRANSLATED, NAT64].iter().any(|net| net.contains(&address)) {
        [Some(at(12)), None]
    } else if SIX_TO_FOUR.contains(&address) {
        [Some(at(2)), None]
    } else if TEREDO.contains(&address) {
        // The client's, with its bits inverted, and its server's (RFC 4380 section 4).
        [Some(Ipv4Addr::from_bits(!at(12).to_bits())), Some(at(4))]
    } else {
        [None, None]
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(start: [u16; 6], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), length)
}

/// The first that holds an address says what it is.
const V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 32), "unspecified"),
    (v4(0, 0, 0, 0, 8), "this network (RFC 791)"),
    (v4(10, 0, 0, 0, 8), "private (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "shared, behind a carrier's NAT (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 169, 254, 32), "link-local, a cloud's metadata"),
    (v4(169, 254, 0, 0, 16), "link-local (RFC 3927)"),
    (v4(172, 16, 0, 0, 12), "private (RFC 1918)"),
    (v4(192, 0, 0, 0, 24), "for protocols (RFC 6890)"),
    (v4(192, 0, 2, 0, 24), "documentation (RFC 5737)"),
    (v4(192, 88, 99, 0, 24), "6to4 relays (RFC 7526)"),
    (v4(192, 168, 0, 0, 16), "private (RFC 1918)"),
    (v4(198, 18, 0, 0, 15), "benchmarks (RFC 2544)"),
    (v4(198, 51, 100, 0, 24), "documentation (RFC 5737)"),
    (v4(203, 0, 113, 0, 24), "documentation (RFC 5737)"),
    // A public address that Azure answers to its own machines only, with their configuration.
    (v4(168, 63, 129, 16, 32), "a cloud's metadata"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112)"),
];

/// What is refused of global unicast, and what has a better name than that it is not.
const V6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    // Where in it the IPv4 address stands is the network's choice, so none can be read from it.
    (v6([0x64, 0xff9b, 1, 0, 0, 0], 48), "a network's own NAT64 (RFC 8215)"),
    (v6([0x100, 0, 0, 0, 0, 0], 64), "discarded (RFC 6666)"),
    (v6([0x2001, 0, 0, 0, 0, 0], 23), "for protocols (RFC 2928)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0], 32), "documentation (RFC 3849)"),
    (v6([0x3fff, 0, 0, 0, 0, 0], 20), "documentation (RFC 9637)"),
    (v6([0x5f00, 0, 0, 0, 0, 0], 16), "segment routing (RFC 9602)"),
    (v6([0xfc00, 0, 0, 0, 0, 0], 7), "private (RFC 4193)"),
    (v6([0xfe80, 0, 0, 0, 0, 0], 10), "link-local (RFC 4291)"),
    (v6([0xfec0, 0, 0, 0, 0, 0], 10), "site-local (RFC 3879)"),
    (v6([0xff00, 0, 0, 0, 0, 0], 8), "multicast"),
];

const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0], 3);
/// IPv4-compatible (RFC 4291 section 2.5.5.1), deprecated.
const COMPATIBLE: Ipv6Net = v6([0, 0, 0, 0, 0, 0], 96);
/// IPv4-translated (RFC 2765).
const TRANSLATED: Ipv6Net = v6([0, 0, 0, 0, 0xffff, 0], 96);
/// RFC 6052: to which every IPv4 address has one of IPv6.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0], 96);
/// RFC 3056.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0], 16);
/// RFC 4380; it stands in the range for protocols.
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0, 0, 0], 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn why(guard: &Guard, address: &str) -> Option<&'static str> {
        guard.check(address.parse().unwrap()).err().map(|refused| refused.why)
    }

    #[test]
    fn what_is_refused_and_why() {
        for (reason, addresses) in [
            ("loopback", "127.0.0.1 127.0.0.2 127.255.255.255 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1"),
            ("loopback", "2002:7f00:1:: 2002:7f00:1:2:3:4:5:6 ::ffff:0:127.0.0.1 64:ff9b::127.9.9.9"),
            // Teredo: the client's address is inverted; then a server's.
            ("loopback", "2001:0:102:304:0:0:80ff:fffe 2001:0:7f00:1:0:0:fefd:fcfb"),
            ("private", "10.0.0.0 10.1.2.3 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"),
            ("private", "fc00:: fd00::1 fd00:ec2::254 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::ffff:10.0.0.1"),
            ("private", "2002:a00:1:: 64:ff9b::10.0.0.1 ::192.168.1.1 2002:c0a8:101::1 2001:0:102:304:0:0:f5ff:fffe"),
            ("shared", "100.64.0.0 100.100.100.200 100.127.255.255 ::ffff:100.64.0.1 64:ff9b::100.64.0.1"),
            ("link-local, a cloud", "169.254.169.254 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe 64:ff9b::a9fe:a9fe"),
            ("link-local, a cloud", "2002:a9fe:a9fe:: 2001:0:102:304:0:0:5601:5601 ::169.254.169.254"),
            ("link-local (RFC 3927)", "169.254.0.0 169.254.170.2 169.254.255.255"),
            ("link-local (RFC 4291)", "fe80:: fe80::1 febf:ffff::1"),
            ("a cloud's metadata", "168.63.129.16"),
            ("unspecified", "0.0.0.0 :: ::ffff:0.0.0.0 64:ff9b::"),
            ("this network", "0.0.0.1 0.255.255.255 ::2 ::ffff:0.1.2.3"),
            ("for protocols", "192.0.0.0 192.0.0.8 192.0.0.192 192.0.0.255 2001:1::1 2001:2::1 2001:10::1 2001:1ff::1"),
            ("documentation", "192.0.2.1 198.51.100.255 203.0.113.0 2001:db8::1 3fff::1 3fff:fff:ffff::1"),
            ("benchmarks", "198.18.0.0 198.19.255.255 ::ffff:198.18.0.1"),
            ("6to4 relays", "192.88.99.1"),
            ("multicast", "224.0.0.1 239.255.255.250 ff02::1 ff0e::1 ::ffff:224.0.0.251"),
            ("broadcast", "255.255.255.255 ::ffff:255.255.255.255 2002:ffff:ffff::"),
            ("reserved", "240.0.0.0 255.255.255.254"),
            ("a network's own NAT64", "64:ff9b:1::1 64:ff9b:1:ffff:ffff:ffff:7f00:1 64:ff9b:1::8.8.8.8"),
            ("discarded", "100::1"),
            ("segment routing", "5f00::1"),
            ("site-local", "fec0::1 feff::1"),
            (
                "not global unicast",
                "1::1 64:ff9b:2::1 100:0:0:1::1 200::1 1fff:ffff::1 4000::1 8000::1 f000::1 fe00::1",
            ),
        ] {
            for address in addresses.split(' ') {
                let found = why(&Guard::default(), address);
                assert!(found.is_some_and(|why| why.starts_with(reason)), "{address}: {found:?}, not {reason}");
            }
        }
    }

    #[test]
    fn what_is_public_is_let_through() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:80b::200e",
            "3ffe:ffff::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:102:304:0:0:f7f7:f7f7",
        ] {
            assert_eq!(why(&Guard::default(), address), None, "{address}");
        }
    }

    /// An address is refused or not alike, in whatever IPv6 address it is carried.
    #[test]
    fn each_embedding_is_judged_as_what_it_carries() {
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap()]);
        let server = u128::from(Ipv4Addr::new(1, 1, 1, 1).to_bits());
        for bits in (0..=u32::MAX).step_by(65_521) {
            let v4 = Ipv4Addr::from_bits(bits);
            let refused = guard.check(IpAddr::V4(v4)).is_err();
            let carried = u128::from(bits);
            for v6 in [
                0xffff << 32 | carried,
                carried,
                0xffff << 48 | carried,
                0x64_ff9b << 96 | carried,
                0x2002 << 112 | carried << 80 | 1,
                0x2001_0000 << 96 | server << 64 | u128::from(!bits),
                0x2001_0000 << 96 | carried << 64 | u128::from(!0x0101_0101_u32),
            ] {
                let v6 = Ipv6Addr::from_bits(v6);
                assert_eq!(guard.check(IpAddr::V6(v6)).is_err(), refused, "{v6} carries {v4}");
            }
        }
    }

    #[test]
    fn an_operator_opens_ranges_and_no_more() {
        let guard = Guard::new(["127.0.0.0/8", "10.1.0.0/16", "fd00::/64"].map(|net| net.parse().unwrap()).to_vec());
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "fd00::1", "64:ff9b::10.1.2.3", "8.8.8.8"] {
            assert_eq!(why(&guard, address), None, "{address}");
        }
        for address in ["::1", "10.2.0.1", "fd00:0:0:1::1", "169.254.169.254", "2002:a02:1::", "0.0.0.0"] {
            assert!(why(&guard, address).is_some(), "{address}");
        }
        // Teredo through an opened server to a client that is not.
        assert!(why(&guard, "2001:0:7f00:1:0:0:f5fd:fffe").is_some());
        let only = guard.opened_only();
        assert_eq!(why(&only, "127.0.0.1"), None);
        assert_eq!(why(&only, "8.8.8.8"), Some("it is not in allow_private"));
    }
}

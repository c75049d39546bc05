//! The guard against server-side request forgery (SSRF): which addresses the agent connects to.
//!
//! A stranger who writes a URL can make the agent send requests to servers that only the agent reaches: on its own
//! machine, in its network, or the metadata service of its cloud. A host name proves nothing (`127.0.0.1.nip.io` is
//! public and resolves to the loopback address), so the guard checks addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Decides which addresses the agent connects to: globally reachable addresses, and those that the operator allows.
///
/// The guard refuses the ranges of IANA's special-purpose registries (RFC 6890) that are not globally reachable,
/// multicast, and all of IPv6 that is not global unicast. An IPv6 address with an embedded IPv4 address is refused if
/// the IPv4 address is refused.
#[derive(Debug, Clone, Default)]
pub struct AddressGuard {
    allow_private: Vec<IpNet>,
    base: Base,
    /// Services of the operator, which are refused also where `allow_private` allows their addresses.
    own_services: Vec<SocketAddr>,
}

/// What a guard allows besides `allow_private`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Base {
    /// Public addresses.
    #[default]
    Public,
    /// Nothing.
    Nothing,
    /// Every address, for servers that the operator names.
    Everything,
}

/// An address that the [`AddressGuard`] refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}, and refused")]
pub struct RefusedAddress {
    /// The address.
    pub address: IpAddr,
    /// What kind of address it is, such as `loopback`.
    pub kind: &'static str,
}

impl AddressGuard {
    /// A guard that allows public addresses and these ranges.
    pub fn new(allow_private: Vec<IpNet>) -> Self {
        Self { allow_private, ..Self::default() }
    }

    /// Refuses these services of the operator, such as the application's API. They are not for peers, although
    /// `allow_private` may allow their addresses.
    #[must_use]
    pub fn refuse_services(self, own_services: Vec<SocketAddr>) -> Self {
        Self { own_services, ..self }
    }

    /// A guard that allows every address, for servers that the operator names.
    pub(super) fn for_named_servers() -> Self {
        Self { base: Base::Everything, ..Self::default() }
    }

    /// A guard that allows the ranges of `allow_private` only, and refuses public addresses.
    #[must_use]
    pub fn allow_private_only(&self) -> Self {
        Self { base: Base::Nothing, ..self.clone() }
    }

    /// Checks whether the agent may connect to an address and port.
    ///
    /// # Errors
    /// The errors of [`check`](Self::check); also if a service of the operator is there.
    pub fn check_socket(&self, socket: SocketAddr) -> Result<(), RefusedAddress> {
        let address = socket.ip().to_canonical();
        let is_service = |service: &SocketAddr| {
            service.port() == socket.port()
                && (service.ip().to_canonical() == address || service.ip().is_unspecified() && is_this_machine(address))
        };
        if self.own_services.iter().any(is_service) {
            return Err(RefusedAddress { address, kind: "a service of this agent's operator" });
        }
        self.check(socket.ip())
    }

    /// Checks whether the agent may connect to an address.
    ///
    /// # Errors
    /// [`RefusedAddress`] if the agent may not connect to the address. The error says what kind of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        // The system connects to ::ffff:a.b.c.d over IPv4.
        let address = address.to_canonical();
        if self.base == Base::Everything || self.allow_private.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let kind = match address {
            _ if self.base == Base::Nothing => Some("not in allow_private"),
            IpAddr::V4(address) => kind_of_v4(address),
            IpAddr::V6(address) => self.kind_of_v6(address),
        };
        kind.map_or(Ok(()), |kind| Err(RefusedAddress { address, kind }))
    }

    fn kind_of_v6(&self, address: Ipv6Addr) -> Option<&'static str> {
        let embedded = embedded(address);
        if embedded[0].is_some() {
            return embedded
                .into_iter()
                .flatten()
                .find_map(|v4| self.check(IpAddr::V4(v4)).err())
                .map(|refused| refused.kind);
        }
        let special = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why);
        special.or((!GLOBAL_UNICAST.contains(&address)).then_some("not global unicast (RFC 4291)"))
    }
}

/// Whether the system connects to this machine for the address.
fn is_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

fn kind_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    SPECIAL_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)
}

/// The IPv4 addresses that are embedded in an IPv6 address. A packet to the IPv6 address may end up at any of them.
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
        // The client's address with its bits inverted, and the server's (RFC 4380 section 4).
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

/// The special ranges of IPv4. The first that contains an address names its kind.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
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
    // A public address on which Azure serves the configuration of its own machines.
    (v4(168, 63, 129, 16, 32), "a cloud's metadata"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112)"),
];

/// The special ranges of IPv6: refused parts of global unicast, and other ranges with a name.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    // The network chooses where the IPv4 address is embedded, so the IPv4 address cannot be read.
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
/// NAT64, with the IPv4 address in the last 32 bits (RFC 6052).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0], 96);
/// 6to4 (RFC 3056).
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0], 16);
/// Teredo (RFC 4380), which is part of the range for protocols.
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0, 0, 0], 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_kind(guard: &AddressGuard, address: &str) -> Option<&'static str> {
        guard.check(address.parse().unwrap()).err().map(|refused| refused.kind)
    }

    #[test]
    fn special_addresses_are_refused_by_kind() {
        for (kind, addresses) in [
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
                let found = refused_kind(&AddressGuard::default(), address);
                assert!(found.is_some_and(|found| found.starts_with(kind)), "{address}: {found:?}, not {kind}");
            }
        }
    }

    #[test]
    fn public_addresses_are_allowed() {
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
            assert_eq!(refused_kind(&AddressGuard::default(), address), None, "{address}");
        }
    }

    /// An IPv4 address gets the same answer in every IPv6 address that embeds it.
    #[test]
    fn an_embedded_address_is_treated_as_the_plain_one() {
        let guard = AddressGuard::new(vec!["10.1.0.0/16".parse().unwrap()]);
        let server = u128::from(Ipv4Addr::new(1, 1, 1, 1).to_bits());
        for bits in (0..=u32::MAX).step_by(65_521) {
            let v4 = Ipv4Addr::from_bits(bits);
            let refused = guard.check(IpAddr::V4(v4)).is_err();
            let embedded = u128::from(bits);
            for v6 in [
                0xffff << 32 | embedded,
                embedded,
                0xffff << 48 | embedded,
                0x64_ff9b << 96 | embedded,
                0x2002 << 112 | embedded << 80 | 1,
                0x2001_0000 << 96 | server << 64 | u128::from(!bits),
                0x2001_0000 << 96 | embedded << 64 | u128::from(!0x0101_0101_u32),
            ] {
                let v6 = Ipv6Addr::from_bits(v6);
                assert_eq!(guard.check(IpAddr::V6(v6)).is_err(), refused, "{v6} embeds {v4}");
            }
        }
    }

    #[test]
    fn an_operator_allows_ranges_and_no_more() {
        let guard =
            AddressGuard::new(["127.0.0.0/8", "10.1.0.0/16", "fd00::/64"].map(|net| net.parse().unwrap()).to_vec());
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "fd00::1", "64:ff9b::10.1.2.3", "8.8.8.8"] {
            assert_eq!(refused_kind(&guard, address), None, "{address}");
        }
        for address in ["::1", "10.2.0.1", "fd00:0:0:1::1", "169.254.169.254", "2002:a02:1::", "0.0.0.0"] {
            assert!(refused_kind(&guard, address).is_some(), "{address}");
        }
        // Teredo through an allowed server to a client that is not allowed.
        assert!(refused_kind(&guard, "2001:0:7f00:1:0:0:f5fd:fffe").is_some());
        let service: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let without = guard.clone().refuse_services(vec![service, "0.0.0.0:9".parse().unwrap()]);
        for (socket, is_allowed) in [
            ("127.0.0.1:8080", false),
            ("[::ffff:127.0.0.1]:8080", false),
            ("127.0.0.1:8081", true),
            ("127.0.0.2:8080", true),
            ("127.0.0.2:9", false),
            ("10.1.2.3:9", true),
        ] {
            assert_eq!(without.check_socket(socket.parse().unwrap()).is_ok(), is_allowed, "{socket}");
        }
        let only = guard.allow_private_only();
        assert_eq!(refused_kind(&only, "127.0.0.1"), None);
        assert_eq!(refused_kind(&only, "8.8.8.8"), Some("not in allow_private"));
    }
}

//! Which addresses may be connected to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;

/// Decides by the address, since a name may lead anywhere: only what is globally reachable (the IANA special-purpose address
/// registries, RFC 6890) is connected to, and what the operator allows.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of addresses, such as 10.0.0.0/8 or fd00::/8")]
pub struct NotARange(pub String);

/// Not globally reachable. What is in an address of IPv6 that stands for one of IPv4 is looked at itself.
const SPECIAL: [&str; 24] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/9",
];

impl Guard {
    /// One that lets through what is globally reachable, and these ranges.
    ///
    /// # Errors
    /// If one is no range.
    pub fn allowing<S: AsRef<str>>(ranges: &[S]) -> Result<Self, NotARange> {
        let parse = |range: &S| {
            let range = range.as_ref();
            IpNet::from_str(range)
                .or_else(|_| IpAddr::from_str(range).map(IpNet::from))
                .map_err(|_| NotARange(range.to_owned()))
        };
        Ok(Self { allowed: ranges.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Whether an address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.allowed.iter().any(|range| range.contains(&address)) {
            return true;
        }
        match address {
            IpAddr::V4(v4) => !is_special(v4.into()),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => self.allows(v4.into()),
                // ff00::/8 is multicast.
                None => v6.segments()[0] < 0xff00 && !is_special(v6.into()),
            },
        }
    }
}

fn is_special(address: IpAddr) -> bool {
    SPECIAL.iter().filter_map(|range| range.parse::<IpNet>().ok()).any(|range| range.contains(&address))
}

/// The address of IPv4 to which one of IPv6 leads: IPv4-compatible, NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) if high != 0 || low > 1 => of(high, low),
        (0x64, 0xff9b, 0, 0, 0, 0) => of(high, low),
        (0x2002, ..) => of(b, c),
        (0x2001, 0, ..) => of(!high, !low),
        (.., 0x0 | 0x200, 0x5efe) => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_globally_reachable() {
        let guard = Guard::default();
        let allows = |address: &str| guard.allows(address.parse().unwrap());
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(allows(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.255.254",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.192",
            "192.0.2.7",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:0:0:0:0:0:80ff:fffe",
            "2001:db8::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fe80::5efe:7f00:1",
            "2606:4700::5efe:a00:1",
            "100::1",
        ] {
            assert!(!allows(address), "{address}");
        }
    }

    #[test]
    fn what_the_operator_allows() {
        let guard = Guard::allowing(&["10.0.0.0/8", "fd00::/8", "127.0.0.1"]).unwrap();
        let allows = |address: &str| guard.allows(address.parse().unwrap());
        assert!(allows("10.200.0.1") && allows("fd00::7") && allows("127.0.0.1") && allows("::ffff:10.0.0.1"));
        assert!(!allows("127.0.0.2") && !allows("192.168.0.1") && !allows("169.254.169.254"));
        assert_eq!(Guard::allowing(&["10.0.0.0/40"]).unwrap_err(), NotARange("10.0.0.0/40".to_owned()));
    }
}

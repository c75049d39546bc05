//! The part of a peer's address by which the limits tell peers apart.

use std::net::IpAddr;

/// Returns the part of an address that identifies a peer: an IPv4 address, or the first 64 bits of an IPv6 address,
/// followed by zeros.
///
/// A peer with one IPv6 address usually controls all addresses with the same 64 bits.
pub fn peer_address_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

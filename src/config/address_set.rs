//! Sets of peer addresses: `--forwarded-allow-ips` and `--uwsgi-allow-from`.
//!
//! Read by the event loop once a connection, when its first head arrives. Plain data without a
//! lookup structure: lists are short, a linear walk over at most [`ADDRESS_NETWORKS_MAX`] networks
//! is cheap.
//!
//! Invariants: an IPv4 peer seen through an IPv6 socket (`::ffff:a.b.c.d`) is the same peer as its
//! IPv4 form, on both sides of the comparison. Unix peers are not in here: the caller decides about
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::limits::ADDRESS_NETWORKS_MAX;

/// Which peers an option allows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AddressSet {
    /// `*` was said: every peer.
    everyone: bool,
    networks: Vec<Network>,
}

/// One address or CIDR network, held as IPv6 (IPv4 in its mapped form, prefix + 96).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    bits: u128,
    mask: u128,
}

impl AddressSet {
    /// Reads `127.0.0.1,::1,10.0.0.0/8`, `*`, or an empty text (nobody).
    ///
    /// # Errors
    /// A sentence that names the piece that is neither an address nor a network.
    pub fn parse(text: &str) -> Result<AddressSet, String> {
        let mut set = AddressSet::default();
        for piece in text.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
            if piece == "*" {
                set.everyone = true;
            } else if set.networks.len() == ADDRESS_NETWORKS_MAX {
                return Err(format!("more than {ADDRESS_NETWORKS_MAX} networks"));
            } else {
                set.networks.push(Network::parse(piece)?);
            }
        }
        Ok(set)
    }

    /// Whether the peer at this address is allowed.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = mapped(address);
        self.everyone || self.networks.iter().any(|network| bits & network.mask == network.bits)
    }
}

impl Network {
    fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let parsed: IpAddr = bare
            .unwrap_or(address)
            .parse()
            .map_err(|_| format!("`{text}` is neither an IP address nor a network"))?;
        let (offset, width) = if parsed.is_ipv4() { (96, 32) } else { (0, 128) };
        let prefix: u32 = match prefix {
            None => width,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= width)
                .ok_or_else(|| format!("`{text}`: the prefix is a number from 0 to {width}"))?,
        };
        // A shift by 128 would overflow: a prefix of no bits is the empty mask.
        let mask = u128::MAX.checked_shl(128 - (offset + prefix)).unwrap_or(0);
        let bits = mapped(parsed);
        if bits & !mask != 0 {
            return Err(format!("`{text}` has bits set beyond its prefix"));
        }
        Ok(Network { bits, mask })
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => mapped_v4(address),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mapped_v4(address: Ipv4Addr) -> u128 {
    Ipv6Addr::to_bits(address.to_ipv6_mapped())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(set: &str, address: &str, expected: bool) {
        let set_read = AddressSet::parse(set).unwrap();
        let allowed = set_read.contains(address.parse().unwrap());
        assert_eq!(allowed, expected, "{address} in {set}");
    }

    #[test]
    fn contains() {
        check("127.0.0.1,::1", "127.0.0.1", true);
        check("127.0.0.1,::1", "::1", true);
        check("127.0.0.1,::1", "::ffff:127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("2001:db8::/32", "2001:db8:1::", true);
        check("[2001:db8::1]", "2001:db8::1", true);
        check("*", "2001:db8::1", true);
        check("", "127.0.0.1", false);
        check(" 10.1.2.3 , ", "10.1.2.3", true);
    }

    #[test]
    fn refuses() {
        for text in ["localhost", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "1.2.3"] {
            assert!(AddressSet::parse(text).is_err(), "{text}");
        }
    }
}

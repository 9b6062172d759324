//! Internet addresses as patterns know them.
//!
//! A text is an address if it is four decimal numbers with dots between them, or a
//! valid IPv6 address of hexadecimal digits and colons alone. A MAC address, a version
//! and a time of day are not; an EUI-64 with colons is.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The address that a text is. Zeros before a decimal number do not count, and an
/// IPv4 address that is mapped into IPv6 (RFC 4291, section 2.5.5.2) is that IPv4 address.
pub(super) fn literal(text: &str) -> Option<IpAddr> {
    parse(text).map(|address| address.to_canonical())
}

/// As it is written, without looking for mapped ones.
fn parse(text: &str) -> Option<IpAddr> {
    let first = text.as_bytes().first()?;
    if !first.is_ascii_hexdigit() && *first != b':' {
        return None;
    }
    if text.contains(':') {
        let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
        let v6 = text.bytes().all(plain).then(|| text.parse::<Ipv6Addr>());
        return v6?.ok().map(IpAddr::V6);
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn decimal(text: &str) -> Option<u8> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    match digits {
        "" => Some(0),
        digits => digits.parse().ok(),
    }
}

/// A range of addresses in CIDR notation (RFC 4632, RFC 4291).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `address/bits`. Bits behind the mask do not count.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, bits) = text
            .split_once('/')
            .filter(|(_, bits)| !bits.contains('/'))
            .ok_or("a range is an address, one \"/\" and a number of bits, such as 10.0.0.0/8")?;
        let network = parse(address).ok_or("what stands before \"/\" is not an IP address")?;
        let bits: i64 = bits
            .parse()
            .map_err(|_| "what stands behind \"/\" is not a number of bits")?;
        let (most, what) = match network {
            IpAddr::V4(_) => (31, "an IPv4 range has 0 to 31 bits"),
            IpAddr::V6(_) => (127, "an IPv6 range has 0 to 127 bits"),
        };
        let bits = u8::try_from(bits).ok().filter(|bits| *bits <= most);
        Ok(Self {
            network,
            bits: bits.ok_or(what)?,
        })
    }

    /// Whether a text is an address of the same family within the range. Zeros before a
    /// decimal number are refused here: other programs read them as octal, and a range
    /// often stands for trust.
    pub(super) fn takes(&self, text: &str) -> bool {
        let octal = |part: &str| part.len() > 1 && part.starts_with('0');
        match parse(text) {
            Some(IpAddr::V4(_)) if text.split('.').any(octal) => false,
            Some(address) => self.contains(address) || self.contains(address.to_canonical()),
            None => false,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address() {
        for (text, same) in [
            ("10.0.0.1", "010.0.0.001"),
            ("fe80::1", "FE80:0:0:0:0:0:0:1"),
            ("00:11:22:33:44:55:66:77", "0:11:22:33:44:55:66:77"),
            ("::ffff:0a00:0001", "10.0.0.1"),
        ] {
            assert!(literal(text).is_some(), "{text}");
            assert_eq!(literal(text), literal(same), "{text}");
        }
        for text in [
            "",
            "12:34",
            "1.10.3",
            "1.2.3.300",
            "1.2.3.4.5",
            "1.2.3.",
            "1..2.3",
            "00:11:22:33:44:55",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
            "gateway",
            "+1.2.3.4",
        ] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_in_a_range() {
        for (range, text, within) in [
            ("10.20.30.77/24", "10.20.30.1", true),
            ("10.20.30.0/24", "10.20.31.1", false),
            ("10.0.0.0/8", "010.0.0.1", false),
            ("10.0.0.0/8", "0a00::", false),
            ("a00::/8", "10.0.0.1", false),
            ("10.0.0.0/8", "::ffff:0a00:1", true),
            ("::ffff:0:0/96", "::ffff:0a00:1", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00:1:2:3:8000::/65", "fd00:1:2:3:ffff::", true),
            ("fd00:1:2:3:8000::/65", "fd00:1:2:3:7fff::", false),
            ("::/0", "::1", true),
            ("10.0.0.0/8", "10", false),
        ] {
            assert_eq!(
                Cidr::parse(range).unwrap().takes(text),
                within,
                "{text} in {range}"
            );
        }
    }

    #[test]
    fn what_is_no_range() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/x",
            "10.0.0.0/-1",
            "10.0.0.0/32",
            "10.0.0/8",
            "2001:db8::/128",
            "2001:zz::/32",
            "gateway/8",
            "10.0.0.0/8/9",
            "::ffff:10.0.0.1/96",
        ] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }
}

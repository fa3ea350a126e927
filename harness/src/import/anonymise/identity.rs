//! Replacements for addresses: of one key, the same wherever an address stands.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cryptopan::CryptoPan;
use super::key::Key;
use super::policy::{Macs, Policy, Replace};

/// Most replacements of a kind that are remembered. More are computed anew.
const REMEMBERED: usize = 1 << 20;

/// Addresses and what stands for them.
pub(super) struct Identities {
    pan: CryptoPan,
    mac_key: Key,
    addresses: Replace,
    macs: Macs,
    v4: HashMap<u32, u32>,
    v6: HashMap<u128, u128>,
    mac: HashMap<[u8; 6], [u8; 6]>,
    /// The low 24 bits of IPv6 addresses seen, and of what stands for them: solicited-node groups are made of those
    /// (RFC 4291 section 2.7.1).
    solicited: HashMap<u32, u32>,
}

/// Whether no unicast packet of another class may have such an address.
fn is_special_v4(address: u32) -> bool {
    kept_bits_v4(address).is_some()
}

/// Bits that stay of an IPv4 address of a class that means something by itself, and must mean it afterwards.
fn kept_bits_v4(address: u32) -> Option<u32> {
    let [a, b, c, _] = address.to_be_bytes();
    Some(match (a, b, c) {
        // This network, loopback; multicast of the local network and of the internetwork control block (RFC 5771);
        // reserved, and the broadcast address among it.
        (0 | 127 | 240..=255, _, _) | (224, 0, 0 | 1) => 32,
        // SSDP's group is the same everywhere.
        _ if address == 0xefff_fffa => 32,
        // Scopes of multicast (RFC 2365), private networks (RFC 1918), link-local (RFC 3927).
        (224..=239, _, _) | (10, _, _) => 8,
        (172, 16..=31, _) => 12,
        (192, 168, _) | (169, 254, _) => 16,
        _ => return None,
    })
}

/// As [`kept_bits_v4`], of RFC 4291, RFC 4193 and RFC 6052.
fn kept_bits_v6(address: u128) -> Option<u32> {
    let first = (address >> 112) as u16;
    Some(match first {
        // Unspecified, loopback.
        _ if address <= 1 => 128,
        0xff00.. => 128,
        0xfe80..=0xfebf => 64,
        0xfc00..=0xfdff => 8,
        // Global unicast: all of it begins with 001.
        0x2000..=0x3fff => 3,
        _ => return None,
    })
}

impl Identities {
    pub(super) fn new(key: &Key, policy: &Policy) -> Self {
        Self {
            pan: CryptoPan::new(key),
            mac_key: key.derive("mac"),
            addresses: policy.addresses,
            macs: policy.macs,
            v4: HashMap::new(),
            v6: HashMap::new(),
            mac: HashMap::new(),
            solicited: HashMap::new(),
        }
    }

    /// What stands for an IPv4 address.
    ///
    /// Classes stay: private, link-local and multicast addresses keep the bits that make them so, loopback, broadcast
    /// and well-known groups stay whole. An address of no class never becomes one: where Crypto-PAn leads into a class
    /// it is applied again, which is one-to-one still, and keeps every common prefix that is as long as the class'.
    pub(super) fn v4(&mut self, address: u32) -> u32 {
        if self.addresses == Replace::Keep {
            return address;
        }
        if let Some(known) = self.v4.get(&address) {
            return *known;
        }
        let map = |address: u32, keep| self.pan.map(u128::from(address), 32, keep) as u32;
        let mapped = match kept_bits_v4(address) {
            Some(keep) => {
                let mut mapped = map(address, keep);
                // A private group must not become a well-known one.
                while keep == 8 && kept_bits_v4(mapped) == Some(32) {
                    mapped = map(mapped, keep);
                }
                mapped
            }
            None => {
                let mut mapped = map(address, 0);
                // Ends: the map is a permutation and the cycle leads back to `address`, which is of no class.
                while is_special_v4(mapped) {
                    mapped = map(mapped, 0);
                }
                mapped
            }
        };
        remember(&mut self.v4, address, mapped);
        mapped
    }

    /// What stands for an IPv6 address; classes stay as for IPv4. Of link-local addresses the interface identifier is
    /// replaced, of IPv4 addresses in IPv6 (RFC 4291 section 2.5.5.2, RFC 6052 section 2.1) the IPv4 address.
    pub(super) fn v6(&mut self, address: u128) -> u128 {
        if self.addresses == Replace::Keep {
            return address;
        }
        if let Some(known) = self.v6.get(&address) {
            return *known;
        }
        let high = address >> 32;
        let mapped = if high == 0xffff || high == 0x0064_ff9b_0000_0000_0000_0000 {
            (high << 32) | u128::from(self.v4(address as u32))
        } else if let Some(low) = solicited_node(address) {
            (address & !0xff_ffff) | u128::from(self.solicited(low))
        } else if let Some(keep) = kept_bits_v6(address) {
            self.pan.map(address, 128, keep)
        } else {
            let mut mapped = self.pan.map(address, 128, 0);
            while kept_bits_v6(mapped).is_some() {
                mapped = self.pan.map(mapped, 128, 0);
            }
            mapped
        };
        // Solicited-node groups change when their address becomes known.
        if solicited_node(address).is_none() {
            remember(&mut self.v6, address, mapped);
        }
        mapped
    }

    /// Notes that a unicast address exists, so that its solicited-node group follows it.
    pub(super) fn learn_v6(&mut self, address: u128) {
        if address >> 120 != 0xff && self.solicited.len() < REMEMBERED {
            let mapped = self.v6(address);
            self.solicited.entry(address as u32 & 0xff_ffff).or_insert(mapped as u32 & 0xff_ffff);
        }
    }

    fn solicited(&mut self, low: u32) -> u32 {
        match self.solicited.get(&low) {
            Some(mapped) => *mapped,
            None => permute(&self.mac_key, u64::from(low), 12, b"solicited") as u32,
        }
    }

    /// What stands for an address of either family.
    pub(super) fn ip(&mut self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(self.v4(address.to_bits()))),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(self.v6(address.to_bits()))),
        }
    }

    /// What stands for a MAC address. Nobody's and everybody's stay, and the groups of IEEE 802.1 bridges; those of IP
    /// groups are the caller's to derive where it knows the group.
    pub(super) fn mac(&mut self, mac: [u8; 6]) -> [u8; 6] {
        if self.macs == Macs::Keep || mac == [0; 6] || mac == [0xff; 6] || mac[..3] == [0x01, 0x80, 0xc2] {
            return mac;
        }
        if mac[..2] == [0x33, 0x33] {
            let group = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
            // ff02::1:ffXX:XXXX (RFC 2464 section 7, RFC 4291 section 2.7.1); other groups stay as the addresses do.
            let low = if mac[2] == 0xff { self.solicited(group & 0xff_ffff) } else { group & 0xff_ffff };
            let [_, a, b, c] = low.to_be_bytes();
            return [0x33, 0x33, mac[2], a, b, c];
        }
        if mac[..5] == [0x01, 0, 0x5e, 0, 0] || mac == [0x01, 0, 0x5e, 0x7f, 0xff, 0xfa] {
            return mac;
        }
        if let Some(known) = self.mac.get(&mac) {
            return *known;
        }
        let number = mac.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        let global = mac[0] & 2 == 0;
        let mapped = if mac[..3] == [0x01, 0, 0x5e] {
            (number & !0x7f_ffff) | (permute(&self.mac_key, number & 0x7f_ffff, 12, b"group") & 0x7f_ffff)
        } else if self.macs == Macs::KeepVendor && global {
            (number & !0xff_ffff) | permute(&self.mac_key, number & 0xff_ffff, 12, &mac[..3])
        } else {
            // All bits but the group and the local one, which stand lowest in the first byte (IEEE 802 section 8.2).
            let free = ((number >> 2) & (0x3f << 40)) | (number & 0xff_ffff_ffff);
            let changed = permute(&self.mac_key, free, 23, b"mac");
            ((changed & (0x3f << 40)) << 2) | (number & (3 << 40)) | (changed & 0xff_ffff_ffff)
        };
        let bytes = mapped.to_be_bytes();
        let mapped = [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]];
        remember(&mut self.mac, mac, mapped);
        mapped
    }

    /// Different IPv4, IPv6 and MAC addresses that were replaced.
    pub(super) fn distinct(&self) -> (usize, usize, usize) {
        let v4 = self.v4.iter().filter(|(from, to)| from != to).count();
        let v6 = self.v6.iter().filter(|(from, to)| from != to).count();
        (v4, v6, self.mac.len())
    }
}

/// The low 24 bits of a solicited-node group's address.
fn solicited_node(address: u128) -> Option<u32> {
    (address >> 24 == 0x00ff_0200_0000_0000_0000_0000_01ff).then_some(address as u32 & 0xff_ffff)
}

fn remember<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, from: K, to: V) {
    if map.len() < REMEMBERED {
        map.insert(from, to);
    }
}

/// A permutation of numbers of `2 * half` bits: four rounds of a Feistel network (Luby and Rackoff 1988), so that no two
/// addresses become one.
fn permute(key: &Key, number: u64, half: u32, tweak: &[u8]) -> u64 {
    let mask = (1_u64 << half) - 1;
    let (mut left, mut right) = (number >> half, number & mask);
    for round in 0..4_u8 {
        let block = key.prf(&[tweak, &[round], &right.to_be_bytes()]);
        let mixed =
            u64::from_be_bytes([block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7]]);
        (left, right) = (right, left ^ (mixed & mask));
    }
    (left << half) | right
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn identities(policy: &Policy) -> Identities {
        Identities::new(&Key::new([9; 32]), policy)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn classes_stay_and_nothing_joins_them() {
        let mut identities = identities(&Policy::default());
        for kept in
            ["127.0.0.1", "255.255.255.255", "0.0.0.0", "224.0.0.251", "239.255.255.250", "::", "::1", "ff02::fb"]
        {
            assert_eq!(identities.ip(ip(kept)), ip(kept));
        }
        let first_v4 = |identities: &mut Identities, text: &str| match identities.ip(ip(text)) {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => panic!("another family"),
        };
        assert_eq!(first_v4(&mut identities, "10.66.0.1")[0], 10);
        assert_eq!(first_v4(&mut identities, "192.168.7.9")[..2], [192, 168]);
        assert_eq!(first_v4(&mut identities, "172.20.0.1")[0], 172);
        assert_eq!(first_v4(&mut identities, "169.254.3.4")[..2], [169, 254]);
        assert_eq!(first_v4(&mut identities, "233.1.2.3")[0], 233);
        assert!(identities.ip(ip("fe80::2:1")).to_string().starts_with("fe80::"));
        assert!(identities.ip(ip("fd66::1")).to_string().starts_with("fd"));
        // Every /12, so that many fall into a class at first.
        let mapped: HashSet<u32> = (0..4096_u32)
            .map(|high| (high << 20) | 0x1234)
            .filter(|address| !is_special_v4(*address))
            .map(|address| {
                let mapped = identities.v4(address);
                assert!(!is_special_v4(mapped), "{} becomes {}", Ipv4Addr::from(address), Ipv4Addr::from(mapped));
                mapped
            })
            .collect();
        assert_eq!(mapped.len(), (0..4096_u32).filter(|high| !is_special_v4((high << 20) | 0x1234)).count());
    }

    #[test]
    fn embedded_ipv4_addresses_follow_ipv4() {
        let mut identities = identities(&Policy::default());
        let IpAddr::V4(plain) = identities.ip(ip("198.51.100.7")) else { panic!("another family") };
        assert_eq!(identities.ip(ip("::ffff:198.51.100.7")), IpAddr::V6(plain.to_ipv6_mapped()));
        let IpAddr::V6(translated) = identities.ip(ip("64:ff9b::198.51.100.7")) else { panic!("another family") };
        assert_eq!(translated.to_bits() as u32, plain.to_bits());
    }

    #[test]
    fn a_solicited_node_group_follows_its_address() {
        let mut identities = identities(&Policy::default());
        identities.learn_v6(0x2001_0db8_0000_0000_0000_0000_00ab_cdef);
        let mapped = identities.v6(0x2001_0db8_0000_0000_0000_0000_00ab_cdef) & 0xff_ffff;
        let group = identities.v6(0xff02_0000_0000_0000_0000_0001_ffab_cdef);
        assert_eq!(group, (0xff02_0000_0000_0000_0000_0001_ff00_0000 | mapped));
        let mac = identities.mac([0x33, 0x33, 0xff, 0xab, 0xcd, 0xef]);
        assert_eq!(u128::from(u32::from_be_bytes([0, mac[3], mac[4], mac[5]])), mapped);
    }

    #[test]
    fn mac_addresses_keep_their_two_bits_and_stay_apart() {
        let mut replaced = identities(&Policy::default());
        let mut vendor = identities(&Policy { macs: Macs::KeepVendor, ..Policy::default() });
        let mut seen = HashSet::new();
        for number in 0..2000_u16 {
            let [a, b] = number.to_be_bytes();
            for first in [0x00, 0x02, 0x01, 0x03] {
                let mac = [first, 0x1b, 0x21, 7, a, b];
                let mapped = replaced.mac(mac);
                assert_eq!(mapped[0] & 3, first & 3);
                assert!(seen.insert(mapped), "two addresses become {mapped:x?}");
                if first & 2 == 0 {
                    assert_eq!(vendor.mac(mac)[..3], mac[..3]);
                } else {
                    assert_ne!(vendor.mac(mac)[..3], mac[..3], "no vendor gave out a local address");
                }
            }
        }
        assert_eq!(replaced.mac([0xff; 6]), [0xff; 6]);
        assert_eq!(replaced.mac([0x01, 0x80, 0xc2, 0, 0, 0]), [0x01, 0x80, 0xc2, 0, 0, 0]);
    }
}

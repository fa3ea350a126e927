//! Link types, and how their packets become Ethernet frames.
//!
//! Captures of raw IP, of Linux' "any" device and of BSD loopbacks have no Ethernet header. They get one whose addresses
//! are derived from the packet, so that a host has the same address whenever it is seen, as source or as destination:
//!
//! | packet | MAC address |
//! |---|---|
//! | IPv4 a.b.c.d | `02:00:aa:bb:cc:dd` |
//! | IPv6 | `06:` and 40 bits of the address' FNV-1a hash |
//! | ARP | of the protocol addresses, as IPv4; requests go to the broadcast address |
//! | IP multicast, broadcast | the group's (RFC 1112 section 6.4, RFC 2464 section 7), or `ff:ff:ff:ff:ff:ff` |
//! | other | the sender's as recorded, or `02:00:00:00:00:00`; to `02:00:00:00:00:00`, broadcast if sent so |
//!
//! `02` and `06` are unicast and locally administered (IEEE 802 section 8.4.1).

use std::fmt;

use pcap_file::DataLink;
use serde::{Serialize, Serializer};

/// In words, for messages.
pub(super) const SUPPORTED: &str =
    "Ethernet (1), raw IP (12, 14, 101, 228, 229), Linux cooked (113, 276) and BSD loopback (0, 108)";

/// Length of an Ethernet header.
pub(super) const ETHERNET_HEADER: usize = 14;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

const BROADCAST: [u8; 6] = [0xff; 6];
const UNKNOWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0];

/// A `LINKTYPE_` value of <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u32);

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: Self = Self(1);

    /// Whether packets of this link type can be turned into Ethernet frames.
    #[must_use]
    pub fn is_supported(self) -> bool {
        Encapsulation::of(self).is_some()
    }

    /// The name in the registry, or `UNKNOWN`.
    #[must_use]
    pub fn name(self) -> String {
        match self.0 {
            276 => "LINUX_SLL2".to_owned(),
            number => match DataLink::from(number) {
                DataLink::Unknown(_) => "UNKNOWN".to_owned(),
                known => format!("{known:?}"),
            },
        }
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl Serialize for LinkType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What stands before the network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encapsulation {
    Ethernet,
    /// Nothing; the version is in the packet.
    Raw,
    /// Linux cooked, version 1: <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>.
    Sll,
    /// Version 2: <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html>.
    Sll2,
    /// An address family: in the byte order of the capturing machine (`NULL`) or of the network (`LOOP`).
    Family,
}

impl Encapsulation {
    fn of(link: LinkType) -> Option<Self> {
        Some(match link.0 {
            1 => Self::Ethernet,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            113 => Self::Sll,
            276 => Self::Sll2,
            0 | 108 => Self::Family,
            _ => return None,
        })
    }

    /// Bytes of the header.
    fn header(self) -> usize {
        match self {
            Self::Ethernet | Self::Raw => 0,
            Self::Sll => 16,
            Self::Sll2 => 20,
            Self::Family => 4,
        }
    }
}

/// What a cooked header says beside the protocol.
#[derive(Clone, Copy, Debug, Default)]
struct Cooked {
    /// `PACKET_BROADCAST` of `linux/if_packet.h`: sent to all.
    broadcast: bool,
    /// The sender's link-layer address, if it has the length of a MAC address.
    source: Option<[u8; 6]>,
}

/// Replaces `out` by the Ethernet frame for `packet`. Returns the bytes by which the frame is longer than the packet
/// (negative if shorter), or nothing if Ethernet cannot carry it.
pub(super) fn to_ethernet(link: LinkType, packet: &[u8], out: &mut Vec<u8>) -> Option<isize> {
    let encapsulation = Encapsulation::of(link)?;
    out.clear();
    if encapsulation == Encapsulation::Ethernet {
        out.extend_from_slice(packet);
        return Some(0);
    }
    let payload = packet.get(encapsulation.header()..)?;
    let (ethertype, cooked) = match encapsulation {
        Encapsulation::Sll => sll(packet, payload)?,
        Encapsulation::Sll2 => sll2(packet, payload)?,
        Encapsulation::Family => (family(packet)?, Cooked::default()),
        Encapsulation::Ethernet | Encapsulation::Raw => (raw_ip(payload)?, Cooked::default()),
    };
    let (destination, source) = addresses(ethertype, payload, cooked);
    out.extend_from_slice(&destination);
    out.extend_from_slice(&source);
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(payload);
    Some(ETHERNET_HEADER as isize - encapsulation.header() as isize)
}

fn raw_ip(payload: &[u8]) -> Option<u16> {
    match payload.first()? >> 4 {
        4 => Some(ETHERTYPE_IPV4),
        6 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

/// Gives addresses to an Ethernet frame of a loopback interface, which has none (both are zero, and no bridge takes
/// such a source): those that stand for its IP addresses. False for any other frame, which stays as it is.
pub(super) fn name_loopback(frame: &mut [u8]) -> bool {
    if frame.len() < ETHERNET_HEADER || frame[..12] != [0; 12] {
        return false;
    }
    let Some(ethertype) = be16(frame, 12) else { return false };
    let (destination, source) = addresses(ethertype, &frame[ETHERNET_HEADER..], Cooked::default());
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    true
}

/// `AF_INET` is 2 everywhere; `AF_INET6` is 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on Darwin, 10 on Linux. All are
/// below 256, so the byte order shows by itself.
fn family(packet: &[u8]) -> Option<u16> {
    let family = match *packet.first_chunk::<4>()? {
        [0, 0, 0, family] | [family, 0, 0, 0] => family,
        _ => return None,
    };
    match family {
        2 => Some(ETHERTYPE_IPV4),
        10 | 24 | 28 | 30 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn sll(packet: &[u8], payload: &[u8]) -> Option<(u16, Cooked)> {
    let ethertype = ethertype(be16(packet, 2)?, be16(packet, 14)?, payload)?;
    let source = if be16(packet, 4)? == 6 { packet[6..].first_chunk().copied() } else { None };
    Some((ethertype, Cooked { broadcast: be16(packet, 0)? == 1, source }))
}

fn sll2(packet: &[u8], payload: &[u8]) -> Option<(u16, Cooked)> {
    let ethertype = ethertype(be16(packet, 8)?, be16(packet, 0)?, payload)?;
    let source = if *packet.get(11)? == 6 { packet[12..].first_chunk().copied() } else { None };
    Some((ethertype, Cooked { broadcast: *packet.get(10)? == 1, source }))
}

/// The type field of the frame, from the device's `ARPHRD_` type and the protocol of a cooked header.
fn ethertype(device: u16, protocol: u16, payload: &[u8]) -> Option<u16> {
    // Devices whose protocol field is not an Ethernet type: FRAD, 802.11 (three kinds), GRE, netlink.
    if matches!(device, 770 | 801..=803 | 778 | 824) && !matches!(protocol, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        return None;
    }
    match protocol {
        0x0600.. => Some(protocol),
        // LINUX_SLL_P_802_2: an LLC header follows, so the field is a length (IEEE 802.3 section 3.2.6).
        4 => u16::try_from(payload.len()).ok().filter(|length| *length <= 1500),
        _ => None,
    }
}

/// Destination and source for a payload of type `ethertype`; VLAN tags in it are passed over.
fn addresses(mut ethertype: u16, mut payload: &[u8], cooked: Cooked) -> ([u8; 6], [u8; 6]) {
    while matches!(ethertype, 0x8100 | 0x88a8) {
        let (Some(inner), Some(rest)) = (be16(payload, 2), payload.get(4..)) else { break };
        (ethertype, payload) = (inner, rest);
    }
    let found = match ethertype {
        ETHERTYPE_IPV4 => ipv4_at(payload, 16).zip(ipv4_at(payload, 12)),
        ETHERTYPE_IPV6 => ipv6_at(payload, 24).zip(ipv6_at(payload, 8)),
        // Operation 1 is a request (RFC 826).
        ETHERTYPE_ARP if be16(payload, 6) == Some(1) => ipv4_at(payload, 14).map(|source| (BROADCAST, source)),
        ETHERTYPE_ARP => ipv4_at(payload, 24).zip(ipv4_at(payload, 14)),
        _ => None,
    };
    let (destination, source) = found.unwrap_or((UNKNOWN, cooked.source.unwrap_or(UNKNOWN)));
    (if cooked.broadcast { BROADCAST } else { destination }, source)
}

fn ipv4_at(payload: &[u8], at: usize) -> Option<[u8; 6]> {
    payload.get(at..)?.first_chunk().map(|address| mac_of_ipv4(*address))
}

fn ipv6_at(payload: &[u8], at: usize) -> Option<[u8; 6]> {
    payload.get(at..)?.first_chunk().map(|address| mac_of_ipv6(*address))
}

/// The MAC address that stands for an IPv4 address.
#[must_use]
pub fn mac_of_ipv4(address: [u8; 4]) -> [u8; 6] {
    match address {
        [255, 255, 255, 255] => BROADCAST,
        [224..=239, b, c, d] => [0x01, 0x00, 0x5e, b & 0x7f, c, d],
        [a, b, c, d] => [0x02, 0x00, a, b, c, d],
    }
}

/// The MAC address that stands for an IPv6 address.
#[must_use]
pub fn mac_of_ipv6(address: [u8; 16]) -> [u8; 6] {
    if address[0] == 0xff {
        let [.., a, b, c, d] = address;
        return [0x33, 0x33, a, b, c, d];
    }
    let hash = address
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let [.., a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
    [0x06, a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 20 bytes of an IPv4 header from 10.0.0.1 to 10.0.0.2.
    const IPV4: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    fn convert(link: u32, packet: &[u8]) -> Option<(Vec<u8>, isize)> {
        let mut out = vec![9; 3];
        to_ethernet(LinkType(link), packet, &mut out).map(|grown| (out, grown))
    }

    fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
    }

    const ONE: [u8; 6] = [2, 0, 10, 0, 0, 1];
    const TWO: [u8; 6] = [2, 0, 10, 0, 0, 2];

    #[test]
    fn a_loopback_frame_gets_addresses_and_no_other_does() {
        let mut frame = ethernet([0; 6], [0; 6], 0x0800, &IPV4);
        assert!(name_loopback(&mut frame));
        assert_eq!(frame, ethernet(TWO, ONE, 0x0800, &IPV4));
        assert!(!name_loopback(&mut frame));
        assert!(!name_loopback(&mut [0; 13]), "shorter than its header");
    }

    #[test]
    fn raw_ip_gets_a_header_of_14_bytes() {
        for link in [12, 14, 101, 228] {
            assert_eq!(convert(link, &IPV4).unwrap(), (ethernet(TWO, ONE, 0x0800, &IPV4), 14));
        }
        let mut ipv6 = [0; 40];
        ipv6[0] = 0x60;
        ipv6[8..24].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ipv6[24..40].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 1, 2, 3]);
        let (frame, _) = convert(229, &ipv6).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 2, 3], "RFC 2464 section 7");
        assert_eq!(frame[6], 0x06);
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!(convert(101, &[0x15, 0, 0]), None, "version 1");
        assert_eq!(convert(101, &[]), None);
    }

    #[test]
    fn loopback_families_are_read_in_either_byte_order() {
        for header in [[2, 0, 0, 0], [0, 0, 0, 2]] {
            assert_eq!(convert(0, &[&header[..], &IPV4].concat()).unwrap(), (ethernet(TWO, ONE, 0x0800, &IPV4), 10));
        }
        assert_eq!(convert(108, &[0, 0, 0, 30, 0x60]).unwrap().0[12..14], [0x86, 0xdd]);
        assert_eq!(convert(0, &[7, 0, 0, 0, 1]), None, "AF_OSI");
        assert_eq!(convert(0, &[2, 0]), None);
    }

    #[test]
    fn cooked_headers_give_the_protocol_and_the_kind_of_destination() {
        // Type 4 (outgoing), device type 1, address length 6, an address padded to 8, protocol.
        let sll = [0, 4, 0, 1, 0, 6, 0xaa, 1, 2, 3, 4, 5, 0, 0, 0x08, 0x00];
        assert_eq!(convert(113, &[&sll[..], &IPV4].concat()).unwrap(), (ethernet(TWO, ONE, 0x0800, &IPV4), -2));
        let sll2 = [0x08, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 6, 0xaa, 1, 2, 3, 4, 5, 0, 0];
        assert_eq!(
            convert(276, &[&sll2[..], &IPV4].concat()).unwrap(),
            (ethernet(BROADCAST, ONE, 0x0800, &IPV4), -6),
            "packet type 1 is broadcast, whatever the address"
        );
        let lldp = [0, 2, 0, 1, 0, 6, 0xaa, 1, 2, 3, 4, 5, 0, 0, 0x88, 0xcc, 2, 7];
        assert_eq!(
            convert(113, &lldp).unwrap().0,
            ethernet(UNKNOWN, [0xaa, 1, 2, 3, 4, 5], 0x88cc, &[2, 7]),
            "no address inside: the recorded sender"
        );
        let netlink = [0, 4, 0x03, 0x38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 1, 2, 3];
        assert_eq!(convert(113, &netlink), None);
        assert_eq!(convert(113, &sll[..10]), None);
    }

    #[test]
    fn arp_and_vlan_in_cooked_captures_keep_their_meaning() {
        let mut arp = [0; 28];
        arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        arp[14..18].copy_from_slice(&[10, 0, 0, 1]);
        arp[24..28].copy_from_slice(&[10, 0, 0, 2]);
        let sll = |protocol: [u8; 2]| [&[0, 0, 0, 1, 0, 6, 0xaa, 1, 2, 3, 4, 5, 0, 0][..], &protocol].concat();
        let (frame, _) = convert(113, &[&sll([0x08, 0x06])[..], &arp].concat()).unwrap();
        assert_eq!(frame[..12], [BROADCAST, ONE].concat());
        arp[7] = 2;
        let (frame, _) = convert(113, &[&sll([0x08, 0x06])[..], &arp].concat()).unwrap();
        assert_eq!(frame[..12], [TWO, ONE].concat(), "a reply goes to the asker");

        let tagged = [&[0, 5, 0x08, 0x00][..], &IPV4].concat();
        let (frame, _) = convert(113, &[&sll([0x81, 0x00])[..], &tagged].concat()).unwrap();
        assert_eq!(frame, ethernet(TWO, ONE, 0x8100, &tagged), "the tag stays, addresses come from behind it");
    }

    #[test]
    fn link_types_are_named() {
        assert_eq!(LinkType(127).to_string(), "IEEE802_11_RADIOTAP (127)");
        assert_eq!(LinkType(276).to_string(), "LINUX_SLL2 (276)");
        assert!(LinkType(113).is_supported() && !LinkType(127).is_supported());
    }
}

//! What the shared parser finds in a packet, and how a flow is identified.

use crate::pod;

/// Address family of a packet that is neither IPv4, IPv6 nor ARP; its addresses are MAC addresses.
pub const FAMILY_OTHER: u8 = 0;
/// IPv4; an address is the first 4 bytes of the 16.
pub const FAMILY_IPV4: u8 = 4;
/// IPv6.
pub const FAMILY_IPV6: u8 = 6;
/// ARP for IPv4; the addresses are the sender's and the target's protocol addresses.
pub const FAMILY_ARP: u8 = 1;

/// Not a fragment.
pub const FRAGMENT_NONE: u8 = 0;
/// First fragment: carries the transport header.
pub const FRAGMENT_FIRST: u8 = 1;
/// A later fragment: no transport header, ports unknown.
pub const FRAGMENT_LATER: u8 = 2;

/// No tunnel header recognised.
pub const ENCAP_NONE: u8 = 0;
/// GRE (RFC 2784), IP protocol 47.
pub const ENCAP_GRE: u8 = 1;
/// VXLAN (RFC 7348), UDP port 4789.
pub const ENCAP_VXLAN: u8 = 2;
/// MPLS (RFC 3032), ethertypes 0x8847 and 0x8848.
pub const ENCAP_MPLS: u8 = 3;

/// The frame ends before a header that it announces (Ethernet, VLAN, MPLS, ARP, IP, transport).
pub const BAD_TRUNCATED: u32 = 1 << 0;
/// IPv4 header length under 5 words (RFC 791 section 3.1).
pub const BAD_IHL: u32 = 1 << 1;
/// IP total (or payload) length smaller than the headers or larger than the frame. IPv6 jumbograms (RFC 2675), whose
/// payload length is 0, count here too.
pub const BAD_TOTAL_LENGTH: u32 = 1 << 2;
/// IPv4 header checksum wrong (RFC 791 section 3.1).
pub const BAD_IPV4_CHECKSUM: u32 = 1 << 3;
/// TCP data offset under 5 words or beyond the segment (RFC 9293 section 3.1).
pub const BAD_DATA_OFFSET: u32 = 1 << 4;
/// TCP flags that no conforming stack sends: none of the six of RFC 793, SYN with FIN or RST, FIN with RST, FIN without
/// ACK.
pub const BAD_TCP_FLAGS: u32 = 1 << 5;
/// UDP length under 8 or beyond the IP payload (RFC 768); a first fragment may well announce more than it holds.
pub const BAD_UDP_LENGTH: u32 = 1 << 6;
/// IP version field disagrees with the ethertype.
pub const BAD_VERSION: u32 = 1 << 7;
/// More IPv6 extension headers, VLAN tags or MPLS labels than the parser follows (8, 2 and 4), or headers beyond the
/// first 256 bytes of a frame whose rest is not linear (tc only).
pub const TOO_DEEP: u32 = 1 << 8;

/// Number of malformation bits, and so of the counters that `flows` keeps.
pub const BAD_KINDS: usize = 9;

/// The stable name of each malformation, by bit number.
pub const BAD_NAMES: [&str; BAD_KINDS] = [
    "truncated",
    "bad_ihl",
    "bad_total_length",
    "bad_ipv4_checksum",
    "bad_data_offset",
    "bad_tcp_flags",
    "bad_udp_length",
    "bad_ip_version",
    "too_deep",
];

/// TCP flag FIN (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag PSH.
pub const PSH: u8 = 0x08;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;
/// TCP flag URG.
pub const URG: u8 = 0x20;

/// VLAN identifier of an untagged frame; a tagged one holds its 12-bit VID.
pub const NO_VLAN: u16 = 0xffff;

/// The headers of one packet, as far as they could be read.
///
/// A field that the packet does not have is 0 (`NO_VLAN` for VLANs). `malformed` says what is wrong; what was read
/// before that point is still filled in. A first fragment is held to contain its whole transport header (demanded by
/// RFC 8200 section 4.5, advised by RFC 1858).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address: IPv4 in the first 4 bytes, IPv6, or a MAC address in the first 6.
    pub src: [u8; 16],
    /// Destination address, as `src`.
    pub dst: [u8; 16],
    /// Bytes on the wire, Ethernet header and VLAN tags included, frame check sequence not.
    pub frame_len: u32,
    /// Bitmask of `BAD_*`.
    pub malformed: u32,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// Bytes after the transport header by the UDP length if there is a whole datagram, else by the IP length field
    /// (not by the frame, which may be padded, or cut: then `malformed` says so).
    pub payload_len: u32,
    /// Identification of the datagram that this is a fragment of (IPv4: 16 bits), 0 if it is none.
    pub fragment_id: u32,
    /// Offset of the transport header from the start of the frame, 0 if there is none.
    pub l4_offset: u16,
    /// Offset of the payload from the start of the frame, 0 if there is none; for an IP protocol without ports other
    /// than ICMP, of what follows the IP headers.
    pub payload_offset: u16,
    /// Ethertype after VLAN tags; 0 if the field is the length of an IEEE 802.3 frame.
    pub ethertype: u16,
    /// Outer VLAN identifier or `NO_VLAN`.
    pub vlan: u16,
    /// Inner VLAN identifier (802.1ad) or `NO_VLAN`.
    pub inner_vlan: u16,
    /// Source port; ICMP: the type; ARP: the operation.
    pub src_port: u16,
    /// Destination port; ICMP: the code.
    pub dst_port: u16,
    /// TCP window, not scaled.
    pub window: u16,
    /// `FAMILY_*`.
    pub family: u8,
    /// IP protocol of the transport header (after IPv6 extension headers, or the one that could not be passed).
    pub proto: u8,
    /// `FRAGMENT_*`.
    pub fragment: u8,
    /// `ENCAP_*`.
    pub encap: u8,
    /// TCP flags (RFC 9293 section 3.1), the low 8 bits.
    pub tcp_flags: u8,
    /// TCP header length in bytes (20 to 60).
    pub tcp_header_len: u8,
    /// Hop limit or TTL.
    pub ttl: u8,
    /// Always 0.
    pub reserved: u8,
}

/// A conversation between two endpoints, the same for both directions.
///
/// `a` is the endpoint that compares lower, by address and then port (bytes, then number).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Address of the lower endpoint, stored as in [`Packet::src`].
    pub a: [u8; 16],
    /// Address of the higher endpoint.
    pub b: [u8; 16],
    /// Port of the lower endpoint; 0 where the protocol has none.
    pub a_port: u16,
    /// Port of the higher endpoint.
    pub b_port: u16,
    /// Outer VLAN identifier or `NO_VLAN`.
    pub vlan: u16,
    /// Inner VLAN identifier or `NO_VLAN`.
    pub inner_vlan: u16,
    /// Ethertype after VLAN tags.
    pub ethertype: u16,
    /// `FAMILY_*`.
    pub family: u8,
    /// IP protocol.
    pub proto: u8,
    /// Always 0.
    pub reserved: u32,
}

/// Direction from the lower endpoint to the higher.
pub const A_TO_B: usize = 0;
/// Direction from the higher endpoint to the lower.
pub const B_TO_A: usize = 1;

impl Packet {
    /// The key of this packet's flow and the packet's direction in it (`A_TO_B` or `B_TO_A`).
    ///
    /// ICMP's type and code are not ports: both are 0 in the key.
    #[inline(always)]
    #[must_use]
    pub fn flow(&self) -> (FlowKey, usize) {
        let ports = matches!(self.proto, 6 | 17 | 132) && (self.family == FAMILY_IPV4 || self.family == FAMILY_IPV6);
        let (src_port, dst_port) = if ports { (self.src_port, self.dst_port) } else { (0, 0) };
        let swap = greater(&self.src, &self.dst) || (self.src == self.dst && src_port > dst_port);
        let common = FlowKey {
            vlan: self.vlan,
            inner_vlan: self.inner_vlan,
            ethertype: self.ethertype,
            family: self.family,
            proto: self.proto,
            ..FlowKey::default()
        };
        if swap {
            (FlowKey { a: self.dst, b: self.src, a_port: dst_port, b_port: src_port, ..common }, B_TO_A)
        } else {
            (FlowKey { a: self.src, b: self.dst, a_port: src_port, b_port: dst_port, ..common }, A_TO_B)
        }
    }
}

/// Whether `x` sorts after `y`, byte by byte, without a loop that the verifier would have to walk.
#[inline(always)]
fn greater(x: &[u8; 16], y: &[u8; 16]) -> bool {
    let (x, y) = (u128::from_be_bytes(*x), u128::from_be_bytes(*y));
    let (xh, yh) = ((x >> 64) as u64, (y >> 64) as u64);
    xh > yh || (xh == yh && x as u64 > y as u64)
}

const _: () = assert!(size_of::<Packet>() == 80);
const _: () = assert!(size_of::<FlowKey>() == 48);
pod!(Packet, FlowKey);

//! A second opinion: etherparse's own walk over the whole frame (`SlicedPacket`), with nothing of ours in between.
//!
//! It is stricter and laxer than our parser by the rules listed in `model`; frames that one of them covers are left out
//! here, the others must be accepted or refused by both, with the same endpoints.

use bpflab_programs::packet::{
    BAD_DATA_OFFSET, BAD_IHL, BAD_TOTAL_LENGTH, BAD_TRUNCATED, BAD_UDP_LENGTH, BAD_VERSION, ENCAP_MPLS, FAMILY_IPV4,
    FAMILY_IPV6, FAMILY_OTHER, FRAGMENT_NONE, Packet, TOO_DEEP,
};
use etherparse::err::ipv6_exts::HeaderError;
use etherparse::err::packet::SliceError;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Bits that etherparse would refuse a frame for. It knows no impossible flags and no checksums.
const STRUCTURE: u32 = BAD_TRUNCATED | BAD_IHL | BAD_TOTAL_LENGTH | BAD_DATA_OFFSET | BAD_UDP_LENGTH | BAD_VERSION;

/// What the comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Both read the frame the same way.
    Same,
    /// A rule of `model` keeps this frame out.
    Excused,
    /// They differ.
    Differs(&'static str),
}

/// Compares `packet`, which our parser made of `frame`, with etherparse's reading.
pub fn compare(frame: &[u8], packet: &Packet) -> Opinion {
    if excused(packet) {
        return Opinion::Excused;
    }
    match SlicedPacket::from_ethernet(frame) {
        // Rule 10.
        Ok(SlicedPacket { transport: Some(TransportSlice::Udp(udp)), .. }) if udp.length() == 0 => Opinion::Excused,
        Ok(_) if packet.malformed & STRUCTURE != 0 => Opinion::Differs("etherparse accepts what we call malformed"),
        Ok(sliced) => agree(&sliced, packet),
        Err(SliceError::Ipv6Exts(HeaderError::HopByHopNotAtStart)) => Opinion::Excused,
        // Rule 4.
        Err(SliceError::Ipv6Exts(HeaderError::IpAuth(_))) => Opinion::Excused,
        Err(SliceError::Len(error)) if packet.malformed & STRUCTURE == 0 => match error.layer {
            // Rules 4, 7 and 8, in this order; MACsec and IGMP, which we do not read.
            etherparse::err::Layer::IpAuthHeader
            | etherparse::err::Layer::Icmpv4Timestamp
            | etherparse::err::Layer::Icmpv4TimestampReply
            | etherparse::err::Layer::Arp
            | etherparse::err::Layer::Igmp => Opinion::Excused,
            _ => Opinion::Differs("etherparse finds a length wrong"),
        },
        Err(_) if packet.malformed & STRUCTURE == 0 => Opinion::Differs("etherparse refuses what we call well-formed"),
        Err(_) => Opinion::Same,
    }
}

/// Frames that a rule covers whole.
fn excused(packet: &Packet) -> bool {
    const MACSEC: u16 = 0x88e5;
    let ip = packet.family == FAMILY_IPV4 || packet.family == FAMILY_IPV6;
    // Rules 3, 6 and 11; MACsec is another protocol to us.
    packet.malformed & TOO_DEEP != 0
        || packet.fragment != FRAGMENT_NONE
        || packet.encap == ENCAP_MPLS
        || (ip && matches!(packet.proto, 47 | 132))
        || (packet.family == FAMILY_OTHER && packet.ethertype == MACSEC)
        // Rules 4 and 7.
        || (packet.family == FAMILY_IPV4 && matches!(packet.proto, 51 | 58))
        || (packet.family == FAMILY_IPV6 && matches!(packet.proto, 1 | 2))
        // A payload length of 0 means the rest of the frame to etherparse, as in a jumbogram, and nothing to us.
        || (packet.family == FAMILY_IPV6 && packet.malformed & BAD_TOTAL_LENGTH != 0)
}

fn agree(sliced: &SlicedPacket<'_>, packet: &Packet) -> Opinion {
    let same_net = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            packet.family == FAMILY_IPV4
                && packet.src[..4] == ip.header().source()
                && packet.dst[..4] == ip.header().destination()
                && packet.proto == ip.payload_ip_number().0
        }
        Some(NetSlice::Ipv6(ip)) => {
            packet.family == FAMILY_IPV6
                && packet.src == ip.header().source()
                && packet.dst == ip.header().destination()
                && packet.proto == ip.payload().ip_number.0
        }
        // Rule 8 lets an ARP packet be of either family.
        Some(NetSlice::Arp(_)) => packet.ethertype == 0x0806,
        None => packet.family == FAMILY_OTHER,
    };
    let ports = (packet.src_port, packet.dst_port);
    let len = usize::try_from(packet.payload_len).expect("16 bits in the packet");
    let same_transport = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            (tcp.source_port(), tcp.destination_port()) == ports
                && tcp.sequence_number() == packet.seq
                && tcp.payload().len() == len
        }
        Some(TransportSlice::Udp(udp)) => {
            (udp.source_port(), udp.destination_port()) == ports && udp.payload().len() == len
        }
        Some(TransportSlice::Icmpv4(icmp)) => (icmp.type_u8().into(), icmp.code_u8().into()) == ports,
        Some(TransportSlice::Icmpv6(icmp)) => (icmp.type_u8().into(), icmp.code_u8().into()) == ports,
        Some(TransportSlice::Igmp(_)) | None => packet.family < FAMILY_IPV4 || ports == (0, 0),
    };
    match (same_net, same_transport) {
        (false, _) => Opinion::Differs("network layer"),
        (_, false) => Opinion::Differs("transport layer"),
        _ => Opinion::Same,
    }
}

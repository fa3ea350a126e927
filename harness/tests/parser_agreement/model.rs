//! The same packets read by another implementation: every header is sliced by `etherparse`, which also says whether it
//! is there and well-formed; this file only strings the slices together.
//!
//! Rules where our parser and etherparse differ, each on purpose:
//!
//! 1. A header that is wrong in one respect still gives the fields before it: the addresses of an IPv4 header with a bad
//!    or cut IHL, the ports of a TCP header with a bad data offset. etherparse gives nothing; the model slices the fixed
//!    part again with that one field corrected.
//! 2. IP lengths: etherparse refuses a packet whose IP length exceeds the frame; we note `BAD_TOTAL_LENGTH` and go on, as
//!    captures with a snap length need.
//! 3. At most two VLAN tags and eight IPv6 extension headers; etherparse takes three tags and any number of headers.
//! 4. An authentication header of length 0 is 8 bytes, as in the kernel's `ipv6_authlen`; etherparse refuses it. Only
//!    IPv6 packets are searched for one.
//! 5. Extension headers may come in any order, and the parser stops behind the header of a later fragment, whose
//!    successor belongs to the first one; etherparse refuses a late hop-by-hop header and reads on.
//! 6. The first fragment's transport header is read; etherparse stops at any fragment.
//! 7. ICMP counts over IPv4 only and ICMPv6 over IPv6 only, and both have 8 bytes whatever their type; etherparse wants
//!    exactly 20 of a timestamp message.
//! 8. ARP for anything but IPv4 over Ethernet is left to the link layer, and needs only its 8 fixed bytes.
//! 9. The IPv4 checksum is verified; etherparse leaves that to its caller. Its sum is used, under which both zeros of
//!    one's complement pass.
//! 10. A UDP length of 0 is malformed; etherparse takes it for a jumbogram's (RFC 2675 section 4), which we do not read.
//! 11. SCTP, GRE, MPLS and VXLAN are unknown to etherparse: read here byte by byte.

use bpflab_programs::packet::{
    BAD_DATA_OFFSET, BAD_IHL, BAD_IPV4_CHECKSUM, BAD_TCP_FLAGS, BAD_TOTAL_LENGTH, BAD_TRUNCATED, BAD_UDP_LENGTH,
    BAD_VERSION, ENCAP_GRE, ENCAP_MPLS, ENCAP_VXLAN, FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, FRAGMENT_FIRST,
    FRAGMENT_LATER, FRAGMENT_NONE, NO_VLAN, Packet, TOO_DEEP,
};
use etherparse::checksum::Sum16BitWords;
use etherparse::err::{ip_auth, ipv4, ipv6, tcp};
use etherparse::{
    ArpHardwareId, ArpPacketSlice, EtherType, Ethernet2Slice, Icmpv4Slice, Icmpv6Slice, IpAuthHeaderSlice, IpNumber,
    Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanSlice, TcpHeaderSlice,
    UdpHeaderSlice, ether_type, ip_number,
};

/// What the parser is to find in `frame`.
pub fn parse(frame: &[u8]) -> Packet {
    let frame_len = u32::try_from(frame.len()).expect("test frames are short");
    let packet = Packet { frame_len, vlan: NO_VLAN, inner_vlan: NO_VLAN, ..Packet::default() };
    let mut model = Model { frame, packet };
    model.ethernet();
    model.packet
}

struct Model<'a> {
    frame: &'a [u8],
    packet: Packet,
}

/// The bytes behind the IP headers, to the end of the frame, and how many the IP length field grants.
struct Above<'a> {
    rest: &'a [u8],
    granted: usize,
}

impl<'a> Model<'a> {
    fn bad(&mut self, kind: u32) {
        self.packet.malformed |= kind;
    }

    /// Offset in the frame of its tail `rest`.
    fn offset(&self, rest: &[u8]) -> u16 {
        u16::try_from(self.frame.len() - rest.len()).expect("test frames are short")
    }

    fn ethernet(&mut self) {
        let Ok(ethernet) = Ethernet2Slice::from_slice_without_fcs(self.frame) else {
            return self.bad(BAD_TRUNCATED);
        };
        let (mut kind, mut rest) = (ethernet.ether_type(), ethernet.payload_slice());
        let mut vlans = Vec::new();
        while is_vlan(kind) && vlans.len() < 2 {
            let Ok(tag) = SingleVlanSlice::from_slice(rest) else {
                self.bad(BAD_TRUNCATED);
                break;
            };
            vlans.push(tag.vlan_identifier().value());
            (kind, rest) = (tag.ether_type(), tag.payload_slice());
        }
        self.packet.vlan = vlans.first().copied().unwrap_or(NO_VLAN);
        self.packet.inner_vlan = vlans.get(1).copied().unwrap_or(NO_VLAN);
        self.packet.ethertype = kind.0;
        match kind {
            ether_type::IPV4 => self.ipv4(rest),
            ether_type::IPV6 => self.ipv6(rest),
            ether_type::ARP => self.arp(rest),
            EtherType(0x8847 | 0x8848) => self.mpls(rest),
            _ if is_vlan(kind) && vlans.len() == 2 => self.bad(TOO_DEEP),
            _ => {}
        }
        if self.packet.family == 0 {
            self.packet.src[..6].copy_from_slice(&ethernet.source());
            self.packet.dst[..6].copy_from_slice(&ethernet.destination());
            // Below 1536 the field is a length (IEEE 802.3).
            self.packet.ethertype = if kind.0 < 1536 { 0 } else { kind.0 };
        }
    }

    /// Rule 8.
    fn arp(&mut self, rest: &[u8]) {
        let Some(fixed) = rest.get(..8) else { return self.bad(BAD_TRUNCATED) };
        if fixed[4..6] != [6, 4] {
            return;
        }
        let kinds = [fixed, &[0; 20]].concat();
        let kinds = ArpPacketSlice::from_slice(&kinds).expect("28 bytes are an ARP packet");
        if kinds.hw_addr_type() != ArpHardwareId::ETHERNET || kinds.proto_addr_type() != ether_type::IPV4 {
            return;
        }
        let Ok(arp) = ArpPacketSlice::from_slice(rest) else { return self.bad(BAD_TRUNCATED) };
        self.packet.family = FAMILY_ARP;
        self.packet.src_port = arp.operation().0;
        self.packet.src[..4].copy_from_slice(arp.sender_protocol_addr());
        self.packet.dst[..4].copy_from_slice(arp.target_protocol_addr());
    }

    /// Rule 11.
    fn mpls(&mut self, rest: &[u8]) {
        self.packet.encap = ENCAP_MPLS;
        for label in rest.chunks(4).take(4) {
            match label {
                [_, _, last, _] if last & 1 == 1 => return,
                [_, _, _, _] => {}
                _ => return self.bad(BAD_TRUNCATED),
            }
        }
        self.bad(if rest.len() < 16 { BAD_TRUNCATED } else { TOO_DEEP });
    }

    fn ipv4(&mut self, rest: &'a [u8]) {
        use ipv4::{HeaderError, HeaderSliceError};
        let sliced = Ipv4HeaderSlice::from_slice(rest);
        match &sliced {
            Ok(_) => {}
            Err(HeaderSliceError::Len(_)) => self.bad(BAD_TRUNCATED),
            Err(HeaderSliceError::Content(HeaderError::UnexpectedVersion { .. })) => return self.bad(BAD_VERSION),
            Err(HeaderSliceError::Content(_)) => self.bad(BAD_IHL),
        }
        // Rule 1.
        let Some(mut fixed) = rest.first_chunk::<20>().copied() else { return };
        fixed[0] = 0x45;
        let fixed = Ipv4HeaderSlice::from_slice(&fixed).expect("20 bytes with IHL 5 are a header");
        self.packet.family = FAMILY_IPV4;
        self.packet.src[..4].copy_from_slice(&fixed.source());
        self.packet.dst[..4].copy_from_slice(&fixed.destination());
        self.packet.ttl = fixed.ttl();
        self.packet.proto = fixed.protocol().0;
        let Ok(header) = sliced else { return };
        // Rule 9.
        if Sum16BitWords::new().add_slice(header.slice()).ones_complement() != 0 {
            self.bad(BAD_IPV4_CHECKSUM);
        }
        let (len, total) = (header.slice().len(), usize::from(header.total_len()));
        if total < len {
            return self.bad(BAD_TOTAL_LENGTH);
        }
        // Rule 2.
        if total > rest.len() {
            self.bad(BAD_TOTAL_LENGTH);
        }
        self.fragment(header.fragments_offset().value(), header.more_fragments(), header.identification().into());
        self.transport(header.protocol(), &Above { rest: &rest[len..], granted: total - len });
    }

    fn fragment(&mut self, offset: u16, more: bool, id: u32) {
        self.packet.fragment = match (offset, more) {
            (0, false) => return,
            (0, true) => FRAGMENT_FIRST,
            _ => FRAGMENT_LATER,
        };
        self.packet.fragment_id = id;
    }

    fn ipv6(&mut self, rest: &'a [u8]) {
        let header = match Ipv6HeaderSlice::from_slice(rest) {
            Ok(header) => header,
            Err(ipv6::HeaderSliceError::Len(_)) => return self.bad(BAD_TRUNCATED),
            Err(ipv6::HeaderSliceError::Content(_)) => return self.bad(BAD_VERSION),
        };
        self.packet.family = FAMILY_IPV6;
        self.packet.src = header.source();
        self.packet.dst = header.destination();
        self.packet.ttl = header.hop_limit();
        self.packet.proto = header.next_header().0;
        let mut above = Above { rest: &rest[header.slice().len()..], granted: header.payload_length().into() };
        if above.granted > above.rest.len() {
            self.bad(BAD_TOTAL_LENGTH);
        }
        for _ in 0..=8 {
            let Some(extension) = self.extension(above.rest) else {
                return self.transport(IpNumber(self.packet.proto), &above);
            };
            let Ok((len, next)) = extension else { return self.bad(BAD_TRUNCATED) };
            if len > above.granted {
                return self.bad(BAD_TOTAL_LENGTH);
            }
            self.packet.proto = next.0;
            above = Above { rest: &above.rest[len..], granted: above.granted - len };
            // Rule 5.
            if self.packet.fragment == FRAGMENT_LATER {
                return self.transport(next, &above);
            }
        }
        // Rule 3.
        self.bad(TOO_DEEP);
    }

    /// Length and successor of the extension header at the start of `rest`; nothing if the next header is not one.
    fn extension(&mut self, rest: &[u8]) -> Option<Result<(usize, IpNumber), Cut>> {
        Some(match IpNumber(self.packet.proto) {
            ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_ROUTE | ip_number::IPV6_DEST_OPTIONS => {
                Ipv6RawExtHeaderSlice::from_slice(rest)
                    .map_err(|_| Cut)
                    .map(|raw| (raw.slice().len(), raw.next_header()))
            }
            ip_number::IPV6_FRAG => Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| Cut).map(|fragment| {
                let offset = fragment.fragment_offset().value();
                self.fragment(offset, fragment.more_fragments(), fragment.identification());
                (fragment.slice().len(), fragment.next_header())
            }),
            ip_number::AUTH => match (IpAuthHeaderSlice::from_slice(rest), rest) {
                // Rule 4; 12 bytes are etherparse's minimum, which a length of 0 undercuts.
                (Err(ip_auth::HeaderSliceError::Content(_)), _) => Ok((8, IpNumber(rest[0]))),
                (Err(ip_auth::HeaderSliceError::Len(_)), [next, 0, ..]) if rest.len() >= 8 => Ok((8, IpNumber(*next))),
                (Err(_), _) => Err(Cut),
                (Ok(auth), _) => Ok((auth.slice().len(), auth.next_header())),
            },
            _ => return None,
        })
    }

    fn transport(&mut self, proto: IpNumber, above: &Above<'_>) {
        if self.packet.fragment == FRAGMENT_LATER {
            return self.payload(above, 0);
        }
        match (proto, self.packet.family) {
            (ip_number::TCP, _) => self.tcp(above),
            (ip_number::UDP, _) => self.udp(above),
            (ip_number::ICMP, FAMILY_IPV4) => {
                // Rule 7: the fixed part alone, as an echo request, which has no length of its own.
                let fixed = above.rest.first_chunk::<8>().map(|fixed| [&[8], &fixed[1..]].concat());
                let sliced = fixed.as_deref().map(Icmpv4Slice::from_slice);
                if self.header(above, 8) {
                    let icmp = sliced.expect("8 bytes are there").expect("8 bytes are ICMP");
                    self.types(above.rest[0], icmp.code_u8(), above);
                }
            }
            (ip_number::IPV6_ICMP, FAMILY_IPV6) => {
                if self.header(above, 8) {
                    let icmp = Icmpv6Slice::from_slice(&above.rest[..8]).expect("8 bytes are ICMPv6");
                    self.types(icmp.type_u8(), icmp.code_u8(), above);
                }
            }
            // Rule 11.
            (ip_number::SCTP, _) if self.header(above, 12) => {
                self.packet.src_port = u16::from_be_bytes([above.rest[0], above.rest[1]]);
                self.packet.dst_port = u16::from_be_bytes([above.rest[2], above.rest[3]]);
                self.payload(above, 12);
            }
            (ip_number::GRE, _) if self.header(above, 4) => {
                self.packet.encap = ENCAP_GRE;
                self.payload(above, 0);
            }
            (ip_number::SCTP | ip_number::GRE, _) => {}
            _ => {
                self.packet.l4_offset = self.offset(above.rest);
                self.payload(above, 0);
            }
        }
    }

    /// Whether both the frame and the IP length have room for a header of `len` bytes.
    fn header(&mut self, above: &Above<'_>, len: usize) -> bool {
        if above.rest.len() < len {
            self.bad(BAD_TRUNCATED);
        } else if above.granted < len {
            self.bad(BAD_TOTAL_LENGTH);
        } else {
            self.packet.l4_offset = self.offset(above.rest);
            return true;
        }
        false
    }

    fn payload(&mut self, above: &Above<'_>, header_len: usize) {
        self.packet.payload_offset = self.offset(above.rest) + u16::try_from(header_len).expect("at most 60");
        self.packet.payload_len = u32::try_from(above.granted - header_len).expect("16 bits in the packet");
    }

    fn types(&mut self, kind: u8, code: u8, above: &Above<'_>) {
        (self.packet.src_port, self.packet.dst_port) = (kind.into(), code.into());
        self.payload(above, 8);
    }

    fn tcp(&mut self, above: &Above<'_>) {
        let sliced = TcpHeaderSlice::from_slice(above.rest);
        if !self.header(above, 20) {
            return;
        }
        // Rule 1.
        let mut fixed = *above.rest.first_chunk::<20>().expect("just checked");
        let data_offset = fixed[12] >> 4;
        fixed[12] = 0x50;
        let fixed = TcpHeaderSlice::from_slice(&fixed).expect("20 bytes with data offset 5 are a header");
        self.packet.src_port = fixed.source_port();
        self.packet.dst_port = fixed.destination_port();
        self.packet.seq = fixed.sequence_number();
        self.packet.ack = fixed.acknowledgment_number();
        self.packet.window = fixed.window_size();
        let flags =
            [fixed.fin(), fixed.syn(), fixed.rst(), fixed.psh(), fixed.ack(), fixed.urg(), fixed.ece(), fixed.cwr()];
        self.packet.tcp_flags = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
        self.packet.tcp_header_len = data_offset * 4;
        let [fin, syn, rst, _, ack, ..] = flags;
        if !flags[..6].contains(&true) || (syn && (fin || rst)) || (fin && (rst || !ack)) {
            self.bad(BAD_TCP_FLAGS);
        }
        match sliced {
            Err(tcp::HeaderSliceError::Content(_)) => self.bad(BAD_DATA_OFFSET),
            Err(tcp::HeaderSliceError::Len(error)) if error.required_len <= above.granted => self.bad(BAD_TRUNCATED),
            Err(tcp::HeaderSliceError::Len(_)) => self.bad(BAD_DATA_OFFSET),
            Ok(header) if header.slice().len() > above.granted => self.bad(BAD_DATA_OFFSET),
            Ok(header) => self.payload(above, header.slice().len()),
        }
    }

    fn udp(&mut self, above: &Above<'_>) {
        let sliced = UdpHeaderSlice::from_slice(above.rest);
        if !self.header(above, 8) {
            return;
        }
        let header = sliced.expect("8 bytes are a UDP header");
        self.packet.src_port = header.source_port();
        self.packet.dst_port = header.destination_port();
        if header.destination_port() == 4789 {
            self.packet.encap = ENCAP_VXLAN;
        }
        self.payload(above, 8);
        let (len, whole) = (usize::from(header.length()), self.packet.fragment == FRAGMENT_NONE);
        if len < 8 || (whole && len > above.granted) {
            self.bad(BAD_UDP_LENGTH);
        } else if whole {
            self.packet.payload_len = u32::from(header.length()) - 8;
        }
    }
}

/// The frame ends before the header does.
struct Cut;

fn is_vlan(kind: EtherType) -> bool {
    matches!(kind, ether_type::VLAN_TAGGED_FRAME | ether_type::PROVIDER_BRIDGING | ether_type::VLAN_DOUBLE_TAGGED_FRAME)
}

//! Frames from templates: built once by etherparse, then copied and patched, with checksums kept right by what changed
//! (RFC 1624, equation 3) instead of summed again.

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader,
    Ipv6Header, PacketBuilder, TcpOptionElement,
};

use super::pool::Address;
use crate::checksum;

/// Length of an Ethernet header, bytes.
pub(super) const ETHERNET: usize = 14;
/// Largest payload of TCP with timestamps in a packet of 1500 bytes, by version of IP: 1500 - 20 - 20 - 12 and
/// 1500 - 40 - 20 - 12.
pub(super) const SEGMENT: [usize; 2] = [1448, 1428];
/// Hop limit and time to live of Linux (`IPDEFTTL`, include/uapi/linux/ip.h).
pub(super) const TTL: u8 = 64;

/// Flags of a TCP header (RFC 9293 section 3.1).
pub(super) mod flag {
    pub(in crate::synth) const FIN: u8 = 0x01;
    pub(in crate::synth) const SYN: u8 = 0x02;
    pub(in crate::synth) const RST: u8 = 0x04;
    pub(in crate::synth) const PSH: u8 = 0x08;
    pub(in crate::synth) const ACK: u8 = 0x10;
    pub(in crate::synth) const URG: u8 = 0x20;
}

/// Where things are in a template's frame.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    v6: bool,
    /// Offset of what follows the IP header and its extensions.
    l4: usize,
    /// Offset of the transport's checksum, if it has one.
    checksum: Option<usize>,
    /// Whether the checksum covers a pseudo-header with addresses: all but ICMP over IPv4.
    pseudo: bool,
    /// Whether 0 is written as all ones (RFC 768).
    udp: bool,
}

/// A frame with all that stays the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    bytes: Vec<u8>,
    layout: Layout,
}

/// What a template carries above IP.
#[derive(Clone, Debug)]
pub(super) enum Transport<'a> {
    /// Flags and window are patched in.
    Tcp(&'a [TcpOptionElement]),
    Udp,
    Icmp4(Icmpv4Type),
    Icmp6(Icmpv6Type),
    /// The payload as it is, under a protocol number, as a fragment where one is given.
    Raw(IpNumber, Option<Fragment>),
}

/// A fragment's place in its packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    /// Offset, in units of 8 bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
}

impl Template {
    /// A frame from the first MAC address to the second, with addresses and ports of zero, which are patched in.
    pub(super) fn new(macs: [[u8; 6]; 2], v6: bool, transport: &Transport<'_>, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(ETHERNET + 60 + payload.len());
        let built = if let Transport::Raw(protocol, fragment) = transport {
            raw(&mut bytes, macs, v6, *protocol, *fragment, payload)
        } else {
            let ethernet = PacketBuilder::ethernet2(macs[0], macs[1]);
            let ip = if v6 { ethernet.ipv6([0; 16], [0; 16], TTL) } else { ethernet.ipv4([0; 4], [0; 4], TTL) };
            match transport {
                Transport::Tcp(options) => match ip.tcp(0, 0, 0, 0).options(options) {
                    Ok(tcp) => tcp.write(&mut bytes, payload).map_err(|_| ()),
                    Err(_) => Err(()),
                },
                Transport::Udp => ip.udp(0, 0).write(&mut bytes, payload).map_err(|_| ()),
                Transport::Icmp4(kind) => ip.icmpv4(kind.clone()).write(&mut bytes, payload).map_err(|_| ()),
                Transport::Icmp6(kind) => ip.icmpv6(*kind).write(&mut bytes, payload).map_err(|_| ()),
                Transport::Raw(..) => Ok(()),
            }
        };
        // The parts are this crate's own, and payloads have bounds below those of a packet.
        debug_assert!(built.is_ok(), "{transport:?} with {} bytes", payload.len());
        let ip = if v6 { 40 } else { 20 };
        let l4 = ETHERNET + ip;
        let (checksum, pseudo) = match transport {
            Transport::Tcp(_) => (Some(l4 + 16), true),
            Transport::Udp => (Some(l4 + 6), true),
            Transport::Icmp4(_) => (Some(l4 + 2), false),
            Transport::Icmp6(_) => (Some(l4 + 2), true),
            Transport::Raw(..) => (None, false),
        };
        let l4 = match transport {
            Transport::Raw(_, Some(_)) if v6 => l4 + 8,
            _ => l4,
        };
        Self { bytes, layout: Layout { v6, l4, checksum, pseudo, udp: matches!(transport, Transport::Udp) } }
    }

    /// Copies the template into `frame` and lets it be patched.
    pub(super) fn copy<'a>(&self, frame: &'a mut Vec<u8>) -> Patch<'a> {
        frame.clear();
        frame.extend_from_slice(&self.bytes);
        let mut patch = Patch { data: frame, layout: self.layout, ip: 0, l4: 0 };
        patch.ip = if self.layout.v6 { 0 } else { u64::from(!patch.word(ETHERNET + 10)) };
        patch.l4 = self.layout.checksum.map_or(0, |at| u64::from(!patch.word(at)));
        patch
    }
}

/// A packet of a protocol without checksum, whole or a fragment.
fn raw(
    out: &mut Vec<u8>,
    [source, destination]: [[u8; 6]; 2],
    v6: bool,
    protocol: IpNumber,
    fragment: Option<Fragment>,
    payload: &[u8],
) -> Result<(), ()> {
    let ether_type = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    Ethernet2Header { source, destination, ether_type }.write(out).map_err(|_| ())?;
    let offset = IpFragOffset::try_new(fragment.map_or(0, |fragment| fragment.offset)).map_err(|_| ())?;
    if v6 {
        let extension = if fragment.is_some() { 8 } else { 0 };
        let header = Ipv6Header {
            payload_length: u16::try_from(payload.len() + extension).map_err(|_| ())?,
            next_header: if fragment.is_some() { IpNumber::IPV6_FRAGMENTATION_HEADER } else { protocol },
            hop_limit: TTL,
            ..Ipv6Header::default()
        };
        header.write(out).map_err(|_| ())?;
        if let Some(fragment) = fragment {
            Ipv6FragmentHeader::new(protocol, offset, fragment.more, 0).write(out).map_err(|_| ())?;
        }
    } else {
        let length = u16::try_from(payload.len()).map_err(|_| ())?;
        let mut header = Ipv4Header::new(length, TTL, protocol, [0; 4], [0; 4]).map_err(|_| ())?;
        header.dont_fragment = fragment.is_none();
        header.more_fragments = fragment.is_some_and(|fragment| fragment.more);
        header.fragment_offset = offset;
        header.header_checksum = header.calc_header_checksum();
        header.write(out).map_err(|_| ())?;
    }
    out.extend_from_slice(payload);
    Ok(())
}

/// A frame being made of a template.
#[derive(Debug)]
pub(super) struct Patch<'a> {
    data: &'a mut Vec<u8>,
    layout: Layout,
    /// Sums in ones' complement, not yet folded, of what the checksums cover.
    ip: u64,
    l4: u64,
}

impl Patch<'_> {
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.data[at], self.data[at + 1]])
    }

    /// Writes a 16-bit word and returns what that adds to a sum: `~m + m'`.
    fn replace(&mut self, at: usize, value: u16) -> u64 {
        let old = self.word(at);
        self.data[at..at + 2].copy_from_slice(&value.to_be_bytes());
        u64::from(!old) + u64::from(value)
    }

    /// A word of the IP header, by its offset from there.
    pub(super) fn ip16(&mut self, offset: usize, value: u16) -> &mut Self {
        let delta = self.replace(ETHERNET + offset, value);
        if !self.layout.v6 {
            self.ip += delta;
        }
        self
    }

    /// A word of the transport's header or payload, by its offset from the header's beginning.
    pub(super) fn l4_16(&mut self, offset: usize, value: u16) -> &mut Self {
        let delta = self.replace(self.layout.l4 + offset, value);
        self.l4 += delta;
        self
    }

    /// Two words of the transport's header or payload.
    pub(super) fn l4_32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.l4_16(offset, (value >> 16) as u16).l4_16(offset + 2, value as u16)
    }

    fn address(&mut self, at: usize, address: Address) {
        let mut delta = 0;
        for (word, bytes) in address.bytes().chunks_exact(2).enumerate() {
            delta += self.replace(at + 2 * word, u16::from_be_bytes([bytes[0], bytes[1]]));
        }
        if !self.layout.v6 {
            self.ip += delta;
        }
        if self.layout.pseudo {
            self.l4 += delta;
        }
    }

    /// The IP addresses; of the template's version.
    pub(super) fn addresses(&mut self, source: Address, destination: Address) -> &mut Self {
        debug_assert!(source.v6 == self.layout.v6 && destination.v6 == self.layout.v6);
        let (first, second) = if self.layout.v6 { (8, 24) } else { (12, 16) };
        self.address(ETHERNET + first, source);
        self.address(ETHERNET + second, destination);
        self
    }

    /// A word of the extension header behind the IPv6 header, which no checksum covers.
    pub(super) fn extension16(&mut self, offset: usize, value: u16) -> &mut Self {
        self.replace(ETHERNET + 40 + offset, value);
        self
    }

    /// The MAC addresses.
    pub(super) fn macs(&mut self, [source, destination]: [[u8; 6]; 2]) -> &mut Self {
        self.data[..6].copy_from_slice(&destination);
        self.data[6..12].copy_from_slice(&source);
        self
    }

    /// The ports of TCP or UDP.
    pub(super) fn ports(&mut self, source: u16, destination: u16) -> &mut Self {
        self.l4_16(0, source).l4_16(2, destination)
    }

    /// IPv4: the identification. IPv6 has none but in a fragment header.
    pub(super) fn ident(&mut self, ident: u16) -> &mut Self {
        if self.layout.v6 { self } else { self.ip16(4, ident) }
    }

    /// Time to live or hop limit.
    pub(super) fn ttl(&mut self, ttl: u8) -> &mut Self {
        let at = if self.layout.v6 { 6 } else { 8 };
        let [a, b] = self.word(ETHERNET + at).to_be_bytes();
        let word = if self.layout.v6 { [a, ttl] } else { [ttl, b] };
        self.ip16(at, u16::from_be_bytes(word))
    }

    /// The flags of TCP; the header's length stays.
    pub(super) fn flags(&mut self, flags: u8) -> &mut Self {
        let length = self.data[self.layout.l4 + 12];
        self.l4_16(12, u16::from_be_bytes([length, flags]))
    }

    /// More payload at the end, of which there was none or an even number of bytes: lengths and checksums follow. The
    /// packet stays below 64 KiB.
    pub(super) fn payload(&mut self, payload: &[u8]) -> &mut Self {
        let Layout { v6, l4, checksum, udp, pseudo, .. } = self.layout;
        self.data.extend_from_slice(payload);
        let all = (self.data.len() - ETHERNET) as u16;
        let delta = if v6 { self.replace(ETHERNET + 4, all - 40) } else { self.replace(ETHERNET + 2, all) };
        if !v6 {
            self.ip += delta;
        }
        if checksum.is_some() {
            self.l4 += checksum::sum(payload);
            if pseudo {
                self.l4 += payload.len() as u64;
            }
        }
        if udp {
            self.l4_16(4, (self.data.len() - l4) as u16);
        }
        self
    }

    /// Writes the checksums.
    pub(super) fn finish(&mut self) {
        if !self.layout.v6 {
            let checksum = checksum::of(self.ip);
            self.data[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        if let Some(at) = self.layout.checksum {
            let checksum = if self.layout.udp { checksum::of_udp(self.l4) } else { checksum::of(self.l4) };
            self.data[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;
    use crate::synth::rng::Rng;
    use crate::synth::spoil::spoil;
    use crate::synth::testing;

    #[test]
    fn patched_checksums_are_those_of_the_whole_frame() {
        let mut rng = Rng::new(5, 0);
        let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::Timestamp(1, 2)];
        let mut frame = Vec::new();
        for round in 0..2_000_u64 {
            for v6 in [false, true] {
                let icmp = if v6 {
                    Transport::Icmp6(Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 2 }))
                } else {
                    Transport::Icmp4(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 2 }))
                };
                for transport in [Transport::Tcp(&options), Transport::Udp, icmp] {
                    let template = Template::new([[2; 6], [4; 6]], v6, &transport, &[]);
                    let mut address = || {
                        let mut bytes = Vec::new();
                        rng.bytes(&mut bytes, 16);
                        let v6_bytes = <[u8; 16]>::try_from(&bytes[..]).unwrap();
                        let v4_bytes = <[u8; 4]>::try_from(&bytes[..4]).unwrap();
                        if v6 {
                            Address::from(std::net::IpAddr::from(v6_bytes))
                        } else {
                            std::net::IpAddr::from(v4_bytes).into()
                        }
                    };
                    let (source, destination) = (address(), address());
                    let mut payload = Vec::new();
                    let length = rng.below(1_400) as usize * usize::from(round % 7 != 0);
                    rng.bytes(&mut payload, length);
                    let mut patch = template.copy(&mut frame);
                    patch.addresses(source, destination).ident(rng.next_u16()).ttl(round as u8).payload(&payload);
                    if !matches!(transport, Transport::Icmp4(_) | Transport::Icmp6(_)) {
                        patch.ports(rng.next_u16(), rng.next_u16());
                    }
                    if matches!(transport, Transport::Tcp(_)) {
                        patch.flags(rng.next_u16() as u8).l4_32(4, rng.next_u32()).l4_16(14, rng.next_u16());
                    }
                    patch.finish();
                    testing::assert_sound(&frame);
                    let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
                    if let Some(TransportSlice::Udp(udp)) = &parsed.transport {
                        assert_eq!(udp.payload(), payload);
                    }
                    drop(parsed);
                    spoil(&mut frame);
                    assert!(testing::faults(&frame).iter().any(|fault| fault.contains("checksum")));
                }
            }
        }
    }
}

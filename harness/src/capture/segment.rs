//! Cutting TCP super-frames, as hosts with TSO or GRO see them, into what crossed the wire.

use super::checksum;
use super::parse::{Ip, TCP, View};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Length of the hop-by-hop header that marks an IPv6 packet over 64 KiB.
const JUMBO_HEADER: usize = 8;

/// How one frame is cut.
///
/// Segments carry as much as the MTU allows: the size that the real card used is not in the capture. As
/// `tcp_gso_segment` and `inet_gso_segment` of the kernel do, sequence number and IPv4 identification advance, FIN and
/// PSH stay on the last segment only and CWR on the first, and everything else of the headers is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segments {
    ip: Ip,
    /// Offset of the TCP header.
    tcp: usize,
    /// Offset of the data.
    payload: usize,
    /// Most data per segment.
    mss: usize,
    /// Segments already made.
    made: u64,
    /// Segments in all.
    pub count: u64,
}

impl Segments {
    /// A plan for `data`, or nothing if it is not a whole, unfragmented TCP packet with room for data within the MTU.
    pub(super) fn plan(data: &[u8], view: &View, mtu: u32) -> Option<Self> {
        let ip = view.ip?;
        let (TCP, tcp) = ip.unfragmented()? else { return None };
        if !ip.is_complete(data) || ip.end < tcp + 20 {
            return None;
        }
        let payload = tcp + usize::from(data[tcp + 12] >> 4) * 4;
        if payload < tcp + 20 || payload >= ip.end {
            return None;
        }
        let jumbo = if ip.jumbo { JUMBO_HEADER } else { 0 };
        let mss = (mtu as usize).checked_sub(payload - ip.start - jumbo).filter(|mss| *mss > 0)?;
        let count = (ip.end - payload).div_ceil(mss) as u64;
        Some(Self { ip, tcp, payload, mss, made: 0, count })
    }

    /// Puts the next segment of `data` into `out`; says whether there was one.
    pub(super) fn next(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        if self.made == self.count {
            return false;
        }
        let offset = self.made as usize * self.mss;
        let from = self.payload + offset;
        let to = (from + self.mss).min(self.ip.end);
        let last = self.made + 1 == self.count;
        let mut ip = self.ip;
        let mut tcp = self.tcp;
        out.clear();
        if ip.jumbo {
            // The segment is no jumbogram: its header goes, and what it announced follows the IPv6 header.
            let extension = ip.start + 40;
            out.extend_from_slice(&data[..extension]);
            out[ip.start + 6] = data[extension];
            out.extend_from_slice(&data[extension + JUMBO_HEADER..self.payload]);
            tcp -= JUMBO_HEADER;
        } else {
            out.extend_from_slice(&data[..self.payload]);
        }
        out.extend_from_slice(&data[from..to]);
        ip.end = out.len();
        ip.transport = Some(tcp);
        self.edit(&mut out[ip.start..], tcp - ip.start, offset, last);
        checksum::set_length(out, &ip, ip.end);
        checksum::set_ipv4_header(out, &ip);
        checksum::set_transport(out, &ip);
        self.made += 1;
        true
    }

    /// Identification, sequence number and flags of the segment at `offset` of the data.
    fn edit(&self, packet: &mut [u8], tcp: usize, offset: usize, last: bool) {
        if !self.ip.v6 {
            let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(self.made as u16);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
        }
        let sequence = &mut packet[tcp + 4..tcp + 8];
        let first = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
        sequence.copy_from_slice(&first.wrapping_add(offset as u32).to_be_bytes());
        let flags = &mut packet[tcp + 13];
        if !last {
            *flags &= !(FIN | PSH);
        }
        if self.made > 0 {
            *flags &= !CWR;
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpOptionElement, TransportSlice,
    };

    use super::*;

    fn all(data: &[u8], mtu: u32) -> Vec<Vec<u8>> {
        let mut segments = Segments::plan(data, &View::of(data), mtu).expect("segmentable");
        let mut out = Vec::new();
        let mut frames = Vec::new();
        while segments.next(data, &mut out) {
            frames.push(out.clone());
        }
        assert_eq!(frames.len() as u64, segments.count);
        frames
    }

    fn super_frame(ip: PacketBuilderStep<IpHeaders>, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        ip.tcp(1000, 80, 0xffff_ff00, 100)
            .ack(5)
            .psh()
            .fin()
            .options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(3, 4)])
            .unwrap()
            .write(&mut out, payload)
            .unwrap();
        out
    }

    fn check(frames: &[Vec<u8>], payload: &[u8], mtu: usize, link: usize) {
        let mut rebuilt = Vec::new();
        for (position, frame) in frames.iter().enumerate() {
            assert!(frame.len() <= mtu + link);
            let view = View::of(frame);
            let ip = view.ip.unwrap();
            assert_eq!(ip.end, frame.len());
            assert!(checksum::ipv4_header_is_fine(frame, &ip));
            assert_eq!(checksum::transport(frame, &ip), checksum::Verdict::Fine);
            let sliced = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
            let last = position + 1 == frames.len();
            assert_eq!((tcp.psh(), tcp.fin(), tcp.ack()), (last, last, true));
            assert_eq!(tcp.options(), [1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4]);
            assert_eq!(tcp.sequence_number(), 0xffff_ff00_u32.wrapping_add(rebuilt.len() as u32));
            if let Some(NetSlice::Ipv4(ipv4)) = &sliced.net {
                assert_eq!(ipv4.header().identification(), 0xffff_u16.wrapping_add(position as u16));
            }
            rebuilt.extend_from_slice(tcp.payload());
        }
        assert_eq!(rebuilt, payload);
    }

    #[test]
    fn ipv4_is_cut_as_a_card_would() {
        let payload: Vec<u8> = (0..5000_u32).map(|i| i as u8).collect();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut data = super_frame(ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64), &payload);
        data[18..20].copy_from_slice(&[0xff, 0xff]);
        let frames = all(&data, 1500);
        // 1500 - 20 (IP) - 32 (TCP with timestamps) = 1448 per segment: 3 x 1448 + 656.
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 1514, 14 + 20 + 32 + 656]);
        check(&frames, &payload, 1500, 14);
    }

    #[test]
    fn vlan_tags_and_ipv6_are_kept() {
        let payload = vec![7; 4000];
        let tag = |id: u16| id.try_into().unwrap();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).double_vlan(tag(10), tag(20));
        let data = super_frame(ethernet.ipv6([1; 16], [2; 16], 64), &payload);
        let frames = all(&data, 1280);
        // 1280 - 40 - 32 = 1208: 3 x 1208 + 376.
        assert_eq!(frames.len(), 4);
        check(&frames, &payload, 1280, 22);
        assert!(frames.iter().all(|frame| frame[12..22] == data[12..22]));
    }

    #[test]
    fn a_length_of_zero_means_the_whole_frame() {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut data = super_frame(ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64), &vec![7; 4000]);
        data[16..20].copy_from_slice(&[0, 0, 0xff, 0xff]);
        check(&all(&data, 1500), &vec![7; 4000], 1500, 14);
    }

    #[test]
    fn a_jumbogram_loses_its_hop_by_hop_header() {
        let payload = vec![7; 70_000];
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut data = super_frame(ethernet.ipv6([1; 16], [2; 16], 64), &payload[..100]);
        data.splice(54..54, [6, 0, 0xc2, 4, 0, 1, 0x11, 0x90]);
        data[20] = 0;
        data[18..20].fill(0);
        data.extend_from_slice(&payload[100..]);
        let frames = all(&data, 1500);
        check(&frames, &payload, 1500, 14);
        assert!(frames.iter().all(|frame| frame[20] == 6), "next header is TCP");
    }

    #[test]
    fn cwr_stays_on_the_first_segment() {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut data = super_frame(ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64), &vec![7; 4000]);
        data[47] |= CWR | 0x40;
        let flags: Vec<_> = all(&data, 1500).iter().map(|frame| frame[47] & (CWR | 0x40)).collect();
        assert_eq!(flags, [CWR | 0x40, 0x40, 0x40], "ECE is copied");
    }

    #[test]
    fn what_is_not_tcp_or_not_whole_has_no_plan() {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let good = super_frame(ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64), &vec![7; 4000]);
        let plan = |data: &[u8], mtu| Segments::plan(data, &View::of(data), mtu);
        assert!(plan(&good, 53).is_some() && plan(&good, 52).is_none(), "20 + 32 bytes of headers");
        let mut fragment = good.clone();
        fragment[20] = 0x20;
        assert!(plan(&fragment, 1500).is_none());
        assert!(plan(&good[..3000], 1500).is_none(), "cut by snaplen");
        let mut udp = Vec::new();
        ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut udp, &vec![7; 4000]).unwrap();
        assert!(plan(&udp, 1500).is_none());
        let mut offset = good.clone();
        offset[46] = 0x10;
        assert!(plan(&offset, 1500).is_none(), "data offset of 4 bytes");
    }
}

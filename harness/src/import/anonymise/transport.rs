//! TCP, UDP, and the tunnels in IP and UDP.

use std::ops::Range;

use super::frame::{Change, Frame};
use super::ip::Packet;
use super::link::BRIDGED;
use super::stream::Segment;
use super::{Anonymiser, Payload, Tools, dhcp, dns};
use crate::checksum::fold;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

impl Tools {
    /// Applies the policy to bytes that should have been read and could not be: they are never kept.
    pub(super) fn scrub(&mut self, frame: &mut Frame<'_>, range: Range<usize>) {
        let range = frame.clip(range);
        self.scrub_bytes(&frame.from[range.clone()], &mut frame.to[range]);
    }

    pub(super) fn scrub_bytes(&mut self, from: &[u8], to: &mut [u8]) {
        if self.policy.payload == Payload::Random {
            return self.policy_bytes(from, to, None);
        }
        to.fill(0);
        self.counts.add("unread_bytes", from.len() as u64);
    }
}

/// What a checksum covers, and where it stands.
struct Sum {
    protocol: u8,
    field: usize,
    range: Range<usize>,
    pseudo: bool,
}

impl Anonymiser {
    /// What an IP header says is behind it.
    pub(super) fn transport(&mut self, frame: &mut Frame<'_>, protocol: u8, at: usize, end: usize, packet: &Packet) {
        match protocol {
            TCP => self.tcp(frame, at, end, packet),
            UDP => self.udp(frame, at, end, packet),
            1 => self.icmp(frame, at, end, packet),
            58 => self.icmpv6(frame, at, end, packet),
            2 => self.igmp(frame, at, end, packet),
            4 | 41 | 47 if !packet.whole => self.tools.scrub(frame, at..end),
            4 => self.ipv4(frame, at, end, packet.depth + 1, packet.quoted),
            41 => self.ipv6(frame, at, end, packet.depth + 1, packet.quoted),
            47 => self.gre(frame, at, end, packet),
            // Security parameters index and sequence number (RFC 4303); the rest is secret already.
            50 => {
                frame.keep(at..(at + 8).min(end));
                self.unknown(frame, at + 8, end, || "ESP".to_owned());
            }
            59 => self.tools.scrub(frame, at..end),
            other => self.unknown(frame, at, end, || format!("IP protocol {other}")),
        }
    }

    /// Makes the checksum follow what it covers.
    fn checksum(&self, frame: &mut Frame<'_>, sum: &Sum, packet: &Packet) {
        let Some(old) = frame.u16(sum.field).filter(|_| sum.field + 2 <= frame.from.len()) else { return };
        // No checksum: RFC 768, RFC 6935; of TCP, as some network cards leave it.
        if old == 0 && matches!(sum.protocol, TCP | UDP) {
            return;
        }
        let len = sum.range.len() as u64;
        let addresses = packet.pseudo.from + u64::from(sum.protocol);
        let offload = |sum: u64| fold(sum) == old;
        if matches!(sum.protocol, TCP | UDP) && (offload(addresses + len) || offload(addresses)) {
            return frame.put(sum.field, &packet.pseudo.adjust_sum(old).to_be_bytes());
        }
        let mut change = Change::of(frame, sum.range.clone()).and(packet.rest);
        if sum.pseudo {
            change = change.and(packet.pseudo);
        }
        let new = match change.adjust(old) {
            // RFC 768: 0 is sent as all ones.
            0 if sum.protocol == UDP => 0xffff,
            new => new,
        };
        frame.put(sum.field, &new.to_be_bytes());
    }

    /// As [`Anonymiser::checksum`], of a protocol without ports.
    pub(super) fn plain_checksum(&self, frame: &mut Frame<'_>, at: usize, end: usize, pseudo: bool, packet: &Packet) {
        self.checksum(frame, &Sum { protocol: 0, field: at + 2, range: at..end, pseudo }, packet);
    }

    /// RFC 9293.
    fn tcp(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        frame.keep(at..(at + 20).min(end));
        let Some(header) = frame.array::<20>(at).filter(|_| at + 20 <= end) else { return };
        let len = usize::from(header[12] >> 4) * 4;
        if len < 20 || at + len > end {
            self.tools.counts.add("bad_tcp_headers", 1);
            self.tools.scrub(frame, at + 20..end);
        } else {
            self.tcp_options(frame, at + 20, at + len);
            self.tcp_data(frame, &header, at + len..end, packet);
        }
        self.checksum(frame, &Sum { protocol: TCP, field: at + 16, range: at..end, pseudo: true }, packet);
    }

    fn tcp_data(&mut self, frame: &mut Frame<'_>, header: &[u8; 20], data: Range<usize>, packet: &Packet) {
        if !packet.whole || packet.quoted {
            return self.tools.scrub(frame, data);
        }
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let segment = Segment {
            source: (packet.source, port(0)),
            destination: (packet.destination, port(2)),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            syn: header[13] & 2 != 0,
        };
        if self.learning {
            std::mem::swap(&mut self.tools.counts, &mut self.learned);
            self.streams.learn(&segment, &frame.from[data], &mut self.tools);
            return std::mem::swap(&mut self.tools.counts, &mut self.learned);
        }
        let (from, to) = (&frame.from[data.clone()], &mut frame.to[data]);
        let tools = &mut self.tools;
        let stream = [header[0], header[1], header[2], header[3]];
        let mut policy = |offset: u64, from: &[u8], to: &mut [u8]| {
            tools.policy_bytes(from, to, Some((&stream, offset)));
        };
        let written = self.streams.write(&segment, from, to, &mut policy);
        self.tools.counts.add("stream_bytes_read", written.patched as u64);
        self.tools.counts.add("unread_bytes", written.scrubbed as u64);
        if written.policy > 0 {
            let server = port(0).min(port(2));
            self.tools.counts.unknown(|| format!("tcp/{server}"), written.policy);
        }
    }

    /// Options that everybody uses stay; data of others (MPTCP's addresses, cookies, signatures) does not.
    fn tcp_options(&mut self, frame: &mut Frame<'_>, mut at: usize, end: usize) {
        while let Some(kind) = frame.u8(at).filter(|_| at < end) {
            if kind <= 1 {
                frame.keep(at..at + 1);
                at += 1;
                continue;
            }
            let Some(len) = frame.u8(at + 1).map(usize::from).filter(|_| at + 2 <= end) else { return };
            frame.keep(at..at + 2);
            if len < 2 || at + len > end {
                return;
            }
            match kind {
                // Segment size, window scale, SACK permitted, SACK, timestamps.
                2..=5 | 8 => frame.keep(at..at + len),
                _ => self.tools.counts.add("tcp_options_zeroed", 1),
            }
            at += len;
        }
    }

    /// RFC 768, and what ports announce.
    fn udp(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        frame.keep(at..(at + 8).min(end));
        let Some(header) = frame.array::<8>(at).filter(|_| at + 8 <= end) else { return };
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (source, destination, len) = (number(0), number(2), usize::from(number(4)));
        // What is beyond the datagram but in the packet is nobody's, and stays zeros.
        let until = if (8..=end - at).contains(&len) { at + len } else { end };
        let data = at + 8..until;
        let either = |ports: &[u16]| ports.contains(&source) || ports.contains(&destination);
        if !packet.whole {
            self.tools.scrub(frame, data);
        } else if either(&[53, 5353, 5355]) {
            let (from, to) = (&frame.from[data.clone()], &mut frame.to[data.clone()]);
            if !dns::rewrite(from, to, &mut self.tools) {
                self.tools.counts.add("dns_messages_not_understood", 1);
            }
        } else if either(&[67, 68]) {
            dhcp::rewrite(frame, data.start, data.end, &mut self.tools);
        } else if (destination == 4789 || destination == 8472) && data.len() >= 8 {
            // VXLAN (RFC 7348), and the port that Linux used before it had one.
            frame.keep(data.start..data.start + 8);
            self.ethernet(frame, data.start + 8, data.end, packet.depth + 1);
        } else if destination == 6081 && data.len() >= 8 {
            self.geneve(frame, data.clone(), packet);
        } else {
            let server = source.min(destination);
            self.unknown(frame, data.start, data.end, || format!("udp/{server}"));
        }
        let covered = if packet.whole { at..until } else { at..end };
        self.checksum(frame, &Sum { protocol: UDP, field: at + 6, range: covered, pseudo: true }, packet);
    }

    /// RFC 8926 section 3.4: the data of options is not kept.
    fn geneve(&mut self, frame: &mut Frame<'_>, data: Range<usize>, packet: &Packet) {
        frame.keep(data.start..data.start + 8);
        let options = frame.u8(data.start).map_or(0, |first| usize::from(first & 0x3f) * 4);
        let inner = data.start + 8 + options;
        if let Some(kind) = frame.u16(data.start + 2).filter(|_| inner <= data.end) {
            self.network(frame, kind, inner, data.end, packet.depth + 1);
        }
    }

    /// RFC 2784 and RFC 2890: optional checksum, key and sequence number, then an Ethernet type.
    fn gre(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        let (Some(flags), Some(kind)) = (frame.u16(at), frame.u16(at + 2).filter(|_| at + 4 <= end)) else { return };
        // Routing (RFC 1701) and other versions (PPTP's) are not read.
        if flags & 0x4007 != 0 {
            frame.keep(at..at + 4);
            return self.unknown(frame, at + 4, end, || "GRE with routing or of another version".to_owned());
        }
        let words = [0x8000, 0x2000, 0x1000].iter().filter(|flag| flags & *flag != 0).count();
        let inner = at + 4 + 4 * words;
        frame.keep(at..inner.min(end));
        // ERSPAN is not read, and so is payload.
        let kind = if kind == 0 { BRIDGED } else { kind };
        self.network(frame, kind, inner, end, packet.depth + 1);
        if flags & 0x8000 != 0 {
            let sum = Sum { protocol: 47, field: at + 4, range: at..end, pseudo: false };
            self.checksum(frame, &sum, packet);
        }
    }
}

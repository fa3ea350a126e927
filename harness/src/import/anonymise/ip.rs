//! IPv4 and IPv6: headers, options, extension headers, fragments.

use std::collections::HashMap;
use std::net::IpAddr;

use super::frame::{Change, Frame};
use super::link::MAX_DEPTH;
use super::{Anonymiser, put_v4, put_v6};
use crate::checksum::sum;

/// Datagrams of whose fragments the sums are kept.
const MAX_DATAGRAMS: usize = 1 << 20;
/// Extension headers that are read.
const MAX_EXTENSIONS: u8 = 16;

/// What a transport header has to know of the packet that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The addresses of the pseudo-header.
    pub pseudo: Change,
    /// The rest of a fragmented datagram.
    pub rest: Change,
    /// The datagram is in this packet as a whole.
    pub whole: bool,
    /// The packet stands in an ICMP error.
    pub quoted: bool,
    pub depth: u8,
}

/// Source, destination, protocol and identification of a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

/// Datagrams of the same identification, one after the other.
#[derive(Debug, Default)]
struct Successive {
    changes: Vec<Change>,
    current: usize,
    offsets: Vec<u16>,
}

/// How fragments change the checksum that stands in the first of them.
#[derive(Debug, Default)]
pub(super) struct Fragments(HashMap<Datagram, Successive>);

impl Fragments {
    /// The sum of a datagram's fragments: of the one that comes next where this offset has been seen.
    fn of(&mut self, datagram: Datagram, offset: u16) -> Option<&mut Change> {
        if self.0.len() >= MAX_DATAGRAMS && !self.0.contains_key(&datagram) {
            return None;
        }
        let successive = self.0.entry(datagram).or_default();
        if successive.offsets.contains(&offset) {
            successive.current += 1;
            successive.offsets.clear();
        }
        successive.offsets.push(offset);
        if successive.changes.len() <= successive.current {
            successive.changes.resize(successive.current + 1, Change::default());
        }
        successive.changes.get_mut(successive.current)
    }

    pub(super) fn settle(&mut self) {
        for successive in self.0.values_mut() {
            successive.current = 0;
            successive.offsets.clear();
        }
    }
}

/// Where a packet's data is, and which fragment it is.
struct Data {
    protocol: u8,
    start: usize,
    end: usize,
    id: u32,
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
}

impl Anonymiser {
    /// An IPv4 packet at `at` (RFC 791).
    pub(super) fn ipv4(&mut self, frame: &mut Frame<'_>, at: usize, limit: usize, depth: u8, quoted: bool) {
        let limit = limit.min(frame.from.len());
        let fixed = frame.array::<20>(at).filter(|_| at + 20 <= limit && depth <= MAX_DEPTH);
        let Some(header) = fixed else {
            return frame.keep(at..(at + 12).min(limit));
        };
        frame.keep(at..at + 12);
        put_v4(frame, at + 12, limit, &mut self.tools);
        put_v4(frame, at + 16, limit, &mut self.tools);
        let len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || len < 20 || at + len > limit {
            // Nobody knows where the data begins.
            self.tools.counts.add("bad_ip_headers", 1);
            self.tools.scrub(frame, at + 20..limit);
            return self.header_checksum(frame, at, (at + len.max(20)).min(limit));
        }
        let routed = self.ipv4_options(frame, at + 20, at + len);
        self.header_checksum(frame, at, at + len);
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // Segmentation offload leaves 0.
        let end = if total < len { limit } else { limit.min(at + total) };
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (mut from, mut to) = (sum(&header[12..20]), sum(&frame.to[at + 12..at + 20]));
        if let Some(last) = routed {
            // The pseudo-header has the last destination (RFC 1122 section 4.1.1).
            from = sum(&header[12..16]) + sum(&frame.from[last..last + 4]);
            to = sum(&frame.to[at + 12..at + 16]) + sum(&frame.to[last..last + 4]);
        }
        let packet = Packet {
            source: address(12),
            destination: address(16),
            pseudo: Change { from, to },
            rest: Change::default(),
            whole: true,
            quoted,
            depth,
        };
        let data = Data {
            protocol: header[9],
            start: at + len,
            end,
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset: fragment & 0x1fff,
            more: fragment & 0x2000 != 0,
        };
        self.data(frame, packet, &data);
    }

    fn header_checksum(&self, frame: &mut Frame<'_>, at: usize, end: usize) {
        if let Some(checksum) = frame.u16(at + 10) {
            frame.put(at + 10, &Change::of(frame, at..end).adjust(checksum).to_be_bytes());
        }
    }

    /// Options: addresses in routes and timestamps are replaced, router alert stays, others lose their data. Returns the
    /// place of the last address of a source route that is not over.
    fn ipv4_options(&mut self, frame: &mut Frame<'_>, mut at: usize, end: usize) -> Option<usize> {
        let mut last = None;
        while at < end {
            let kind = frame.u8(at)?;
            if kind <= 1 {
                frame.keep(at..at + 1);
                at += 1;
                continue;
            }
            let len = usize::from(frame.u8(at + 1).filter(|_| at + 2 <= end)?);
            if len < 2 || at + len > end {
                frame.keep(at..at + 2);
                return last;
            }
            frame.keep(at..at + 2);
            match kind {
                // Record route, loose and strict source route.
                7 | 131 | 137 if len >= 3 => {
                    frame.keep(at + 2..at + 3);
                    for address in (at + 3..at + len).step_by(4) {
                        put_v4(frame, address, at + len, &mut self.tools);
                    }
                    let pointer = usize::from(frame.u8(at + 2)?);
                    if kind != 7 && pointer < len && len >= 7 {
                        last = Some(at + 3 + (len - 7) / 4 * 4);
                    }
                }
                // Timestamps, with addresses where the flag is 1 or 3.
                68 if len >= 4 => {
                    frame.keep(at + 2..at + 4);
                    let addresses = frame.u8(at + 3)? & 15 != 0;
                    for (position, word) in (at + 4..at + len).step_by(4).enumerate() {
                        if addresses && position % 2 == 0 {
                            put_v4(frame, word, at + len, &mut self.tools);
                        } else {
                            frame.keep(word..(word + 4).min(at + len));
                        }
                    }
                }
                148 => frame.keep(at + 2..at + len),
                _ => self.tools.counts.add("ip_options_zeroed", 1),
            }
            at += len;
        }
        last
    }

    /// An IPv6 packet at `at` (RFC 8200).
    pub(super) fn ipv6(&mut self, frame: &mut Frame<'_>, at: usize, limit: usize, depth: u8, quoted: bool) {
        let limit = limit.min(frame.from.len());
        let fixed = frame.array::<40>(at).filter(|_| at + 40 <= limit && depth <= MAX_DEPTH);
        let Some(header) = fixed else {
            return frame.keep(at..(at + 8).min(limit));
        };
        frame.keep(at..at + 8);
        if self.learning {
            for address in [frame.array(at + 8), frame.array(at + 24)].into_iter().flatten() {
                self.tools.ids.learn_v6(u128::from_be_bytes(address));
            }
        }
        put_v6(frame, at + 8, limit, &mut self.tools);
        put_v6(frame, at + 24, limit, &mut self.tools);
        if header[0] >> 4 != 6 {
            self.tools.counts.add("bad_ip_headers", 1);
            return self.tools.scrub(frame, at + 40..limit);
        }
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // A jumbogram (RFC 2675) or segmentation offload leave 0.
        let end = if payload == 0 { limit } else { limit.min(at + 40 + payload) };
        let mut addresses = [0; 16];
        addresses.copy_from_slice(&header[8..24]);
        let source = IpAddr::from(addresses);
        addresses.copy_from_slice(&header[24..40]);
        let destination = IpAddr::from(addresses);
        let pseudo = Change { from: sum(&header[8..40]), to: sum(&frame.to[at + 8..at + 40]) };
        let mut packet = Packet { source, destination, pseudo, rest: Change::default(), whole: true, quoted, depth };
        let mut data = Data { protocol: header[6], start: at + 40, end, id: 0, offset: 0, more: false };
        for _ in 0..MAX_EXTENSIONS {
            // Later fragments begin in the middle of what the first one's headers announce.
            if data.offset != 0 || !self.extension(frame, &mut packet, &mut data) {
                break;
            }
        }
        self.data(frame, packet, &data);
    }

    /// Rewrites the extension header that the data begins with, if it does, and passes over it.
    fn extension(&mut self, frame: &mut Frame<'_>, packet: &mut Packet, data: &mut Data) -> bool {
        let at = data.start;
        let len = match (data.protocol, frame.u8(at + 1)) {
            (0 | 43 | 60, Some(units)) => 8 + 8 * usize::from(units),
            (44, Some(_)) => 8,
            (51, Some(units)) => 8 + 4 * usize::from(units),
            _ => return false,
        };
        let Some(next) = frame.u8(at).filter(|_| at + len <= data.end) else { return false };
        match data.protocol {
            0 | 60 => self.options(frame, at, at + len),
            43 => self.routing(frame, packet, at, at + len),
            44 => {
                frame.keep(at..at + 8);
                let fragment = frame.u16(at + 2).unwrap_or_default();
                (data.offset, data.more) = (fragment >> 3, fragment & 1 != 0);
                data.id = frame.u32(at + 4).unwrap_or_default();
            }
            // The authentication header's check value (RFC 4302) is not kept.
            _ => frame.keep(at..(at + 12).min(at + len)),
        }
        (data.protocol, data.start) = (next, at + len);
        true
    }

    /// Hop-by-hop and destination options (RFC 8200 section 4.2): data of unknown ones is not kept.
    fn options(&mut self, frame: &mut Frame<'_>, start: usize, end: usize) {
        frame.keep(start..start + 2);
        let mut at = start + 2;
        while let Some(kind) = frame.u8(at).filter(|_| at < end) {
            let len = match (kind, frame.u8(at + 1)) {
                (0, _) => {
                    at += 1;
                    continue;
                }
                (_, Some(len)) if at + 2 + usize::from(len) <= end => usize::from(len),
                _ => return,
            };
            frame.keep(at..at + 2);
            match kind {
                // Padding is zeros by itself.
                1 => {}
                // Tunnel limit, router alert, jumbo payload.
                4 | 5 | 0xc2 => frame.keep(at + 2..at + 2 + len),
                // Home address (RFC 6275 section 6.3).
                0xc9 => put_v6(frame, at + 2, at + 2 + len, &mut self.tools),
                _ => self.tools.counts.add("ip_options_zeroed", 1),
            }
            at += 2 + len;
        }
    }

    /// Routing headers of types 0, 2 and 4 (RFC 5095, RFC 6275, RFC 8754): lists of addresses, of which one is the last
    /// destination and stands in the pseudo-header (RFC 8200 section 8.1).
    fn routing(&mut self, frame: &mut Frame<'_>, packet: &mut Packet, start: usize, end: usize) {
        frame.keep(start..start + 4);
        let (Some(kind), Some(left)) = (frame.u8(start + 2), frame.u8(start + 3)) else { return };
        if !matches!(kind, 0 | 2 | 4) {
            return self.tools.counts.add("ip_options_zeroed", 1);
        }
        frame.keep(start + 4..start + 8);
        let room = (end - start - 8) / 16;
        // Of segment routing, parameters may follow the list.
        let count = if kind == 4 { room.min(usize::from(frame.u8(start + 4).unwrap_or(0)) + 1) } else { room };
        for position in 0..count {
            put_v6(frame, start + 8 + 16 * position, end, &mut self.tools);
        }
        if left > 0 && count > 0 {
            let last = start + 8 + if kind == 4 { 0 } else { 16 * (count - 1) };
            let source = packet.source;
            let (IpAddr::V6(source), IpAddr::V6(mapped)) = (source, self.tools.ids.ip(source)) else { return };
            let change = Change::of(frame, last..last + 16);
            packet.pseudo = change.and(Change { from: sum(&source.octets()), to: sum(&mapped.octets()) });
        }
    }

    /// What an IP packet carries.
    fn data(&mut self, frame: &mut Frame<'_>, mut packet: Packet, data: &Data) {
        if data.start >= data.end {
            return;
        }
        if data.offset == 0 && !data.more {
            return self.transport(frame, data.protocol, data.start, data.end, &packet);
        }
        packet.whole = false;
        let datagram =
            Datagram { source: packet.source, destination: packet.destination, protocol: data.protocol, id: data.id };
        if data.offset == 0 {
            if let Some(rest) = self.fragments.of(datagram, 0).filter(|_| !packet.quoted) {
                packet.rest = *rest;
            }
            return self.transport(frame, data.protocol, data.start, data.end, &packet);
        }
        // Ports are in the first fragment only, so nobody knows what this is.
        self.tools.scrub(frame, data.start..data.end);
        self.tools.counts.add("later_fragments", 1);
        if !packet.quoted {
            let change = Change::of(frame, data.start..data.end);
            let learning = self.learning;
            if let Some(rest) = self.fragments.of(datagram, data.offset).filter(|_| learning) {
                *rest = rest.and(change);
            }
        }
    }
}

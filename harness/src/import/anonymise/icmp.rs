//! ICMP, ICMPv6 with neighbour discovery and multicast listeners, IGMP.

use super::frame::Frame;
use super::ip::Packet;
use super::{Anonymiser, put_mac, put_v4, put_v6};

impl Anonymiser {
    /// RFC 792.
    pub(super) fn icmp(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        frame.keep(at..(at + 4).min(end));
        let Some(kind) = frame.u8(at).filter(|_| at + 4 <= end) else { return };
        match kind {
            // Echo: identifier and number.
            0 | 8 => {
                frame.keep(at + 4..(at + 8).min(end));
                self.echo(frame, at + 8, end, packet);
            }
            3 | 4 | 5 | 11 | 12 => {
                if kind == 5 {
                    put_v4(frame, at + 4, end, &mut self.tools);
                } else {
                    frame.keep(at + 4..(at + 8).min(end));
                }
                // RFC 4884: the length of the quotation in words, if extensions follow it; they are not kept.
                let words = frame.u8(at + 5).map_or(0, usize::from);
                let end = if kind != 5 && words > 0 { end.min(at + 8 + 4 * words) } else { end };
                self.quotation(frame, at + 8, end, packet, false);
            }
            // Router solicitation; timestamps; address masks.
            10 | 13 | 14 | 17 | 18 => frame.keep(at + 4..(at + 20).min(end)),
            // Router advertisement (RFC 1256): addresses and preferences.
            9 => {
                frame.keep(at + 4..(at + 8).min(end));
                for entry in (at + 8..end).step_by(8) {
                    put_v4(frame, entry, end, &mut self.tools);
                    frame.keep((entry + 4).min(end)..(entry + 8).min(end));
                }
            }
            _ => self.unknown(frame, at + 4, end, || format!("ICMP type {kind}")),
        }
        self.plain_checksum(frame, at, end, false, packet);
    }

    fn echo(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        if packet.whole {
            self.tools.payload(frame, at..end.max(at));
        } else {
            self.tools.scrub(frame, at..end.max(at));
        }
    }

    /// The packet that an error is about, as far as it is quoted.
    fn quotation(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet, v6: bool) {
        if packet.quoted || !packet.whole {
            return self.tools.scrub(frame, at.min(end)..end);
        }
        if !self.learning {
            self.tools.counts.add("quoted_packets", 1);
        }
        if v6 {
            self.ipv6(frame, at, end, packet.depth + 1, true);
        } else {
            self.ipv4(frame, at, end, packet.depth + 1, true);
        }
    }

    /// RFC 4443, RFC 4861, RFC 2710, RFC 3810.
    pub(super) fn icmpv6(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        frame.keep(at..(at + 4).min(end));
        let Some(kind) = frame.u8(at).filter(|_| at + 4 <= end) else { return };
        frame.keep(at + 4..(at + 8).min(end));
        match kind {
            1..=4 => {
                // RFC 4884: in units of 8 bytes, of the two errors that have room for it.
                let units = if matches!(kind, 1 | 3) { frame.u8(at + 4).map_or(0, usize::from) } else { 0 };
                let end = if units > 0 { end.min(at + 8 + 8 * units) } else { end };
                self.quotation(frame, at + 8, end, packet, true);
            }
            128 | 129 => self.echo(frame, at + 8, end, packet),
            // Router solicitation and advertisement.
            133 => self.neighbour_options(frame, at + 8, end, packet),
            134 => {
                frame.keep(at + 8..(at + 16).min(end));
                self.neighbour_options(frame, at + 16, end, packet);
            }
            // Neighbour solicitation and advertisement.
            135 | 136 => {
                self.learned_v6(frame, at + 8, end);
                self.neighbour_options(frame, at + 24, end, packet);
            }
            // Redirect: target and destination.
            137 => {
                put_v6(frame, at + 8, end, &mut self.tools);
                put_v6(frame, at + 24, end, &mut self.tools);
                self.neighbour_options(frame, at + 40, end, packet);
            }
            // Multicast listeners: one group; queries of version 2 name sources behind it.
            130..=132 => {
                put_v6(frame, at + 8, end, &mut self.tools);
                if kind == 130 {
                    frame.keep((at + 24).min(end)..(at + 28).min(end));
                    for source in (at + 28..end).step_by(16) {
                        put_v6(frame, source, end, &mut self.tools);
                    }
                }
            }
            143 => self.listener_records(frame, at + 8, end, 16),
            _ => self.unknown(frame, at + 8, end, || format!("ICMPv6 type {kind}")),
        }
        self.plain_checksum(frame, at, end, true, packet);
    }

    fn learned_v6(&mut self, frame: &mut Frame<'_>, at: usize, end: usize) {
        if self.learning
            && let Some(address) = frame.array(at).filter(|_| at + 16 <= end)
        {
            self.tools.ids.learn_v6(u128::from_be_bytes(address));
        }
        put_v6(frame, at, end, &mut self.tools);
    }

    /// RFC 4861 section 4.6: type, length in units of 8 bytes. Unknown ones lose their data.
    fn neighbour_options(&mut self, frame: &mut Frame<'_>, mut at: usize, end: usize, packet: &Packet) {
        while let Some(kind) = frame.u8(at).filter(|_| at + 2 <= end) {
            let len = frame.u8(at + 1).map_or(0, usize::from) * 8;
            frame.keep(at..at + 2);
            if len == 0 || at + len > end {
                return;
            }
            match kind {
                // Link-layer addresses.
                1 | 2 if len == 8 => put_mac(frame, at + 2, at + len, &mut self.tools),
                // Prefix: its bits are those of the address that stands for it, the rest stays 0.
                3 if len == 32 => {
                    frame.keep(at + 2..at + 16);
                    let bits = frame.u8(at + 2).unwrap_or(0);
                    self.prefix(frame, at + 16, at + len, bits);
                }
                // A redirected packet.
                4 => self.quotation(frame, at + 8, at + len, packet, true),
                5 => frame.keep(at + 2..at + len),
                // Route information (RFC 4191), of which the prefix may be cut.
                24 => {
                    frame.keep(at + 2..at + 8);
                    let bits = frame.u8(at + 2).unwrap_or(0);
                    self.prefix(frame, at + 8, at + len, bits);
                }
                // Recursive name servers (RFC 8106).
                25 => {
                    frame.keep(at + 2..at + 8);
                    for server in (at + 8..at + len).step_by(16) {
                        put_v6(frame, server, at + len, &mut self.tools);
                    }
                }
                _ => self.tools.counts.add("neighbour_options_zeroed", 1),
            }
            at += len;
        }
    }

    fn prefix(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, bits: u8) {
        let mut bytes = [0; 16];
        let len = end.saturating_sub(at).min(16);
        let Some(found) = frame.from.get(at..at + len) else { return };
        bytes[..len].copy_from_slice(found);
        let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
        let mapped = self.tools.ids.v6(u128::from_be_bytes(bytes)) & mask;
        frame.put(at, &mapped.to_be_bytes()[..len]);
    }

    /// IGMP of all versions (RFC 1112, RFC 2236, RFC 3376).
    pub(super) fn igmp(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, packet: &Packet) {
        let end = end.min(frame.from.len());
        frame.keep(at..(at + 4).min(end));
        match frame.u8(at).filter(|_| packet.whole) {
            Some(0x11 | 0x12 | 0x16 | 0x17) => {
                put_v4(frame, at + 4, end, &mut self.tools);
                frame.keep((at + 8).min(end)..(at + 12).min(end));
                for source in (at + 12..end).step_by(4) {
                    put_v4(frame, source, end, &mut self.tools);
                }
            }
            Some(0x22) => {
                frame.keep((at + 4).min(end)..(at + 8).min(end));
                self.listener_records(frame, at + 8, end, 4);
            }
            _ => self.tools.scrub(frame, (at + 4).min(end)..end),
        }
        self.plain_checksum(frame, at, end, false, packet);
    }

    /// Group records of IGMPv3 and MLDv2: a header of four bytes, the group, its sources, auxiliary data.
    fn listener_records(&mut self, frame: &mut Frame<'_>, mut at: usize, end: usize, size: usize) {
        while let (Some(extra), Some(sources)) = (frame.u8(at + 1), frame.u16(at + 2).filter(|_| at + 4 <= end)) {
            frame.keep(at..at + 4);
            at += 4;
            for _ in 0..=sources {
                if at + size > end {
                    return;
                }
                if size == 4 {
                    put_v4(frame, at, end, &mut self.tools);
                } else {
                    put_v6(frame, at, end, &mut self.tools);
                }
                at += size;
            }
            at += 4 * usize::from(extra);
        }
    }
}

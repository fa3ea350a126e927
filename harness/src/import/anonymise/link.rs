//! Link layers: Ethernet, VLAN tags, MPLS, PPPoE, ARP.

use super::frame::Frame;
use super::{Anonymiser, put_mac, put_v4};

/// Layers in one another that are read; what is deeper is payload.
pub(super) const MAX_DEPTH: u8 = 8;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
/// Ethernet in GRE or MPLS (RFC 1701).
pub(super) const BRIDGED: u16 = 0x6558;

impl Anonymiser {
    pub(super) fn frame(&mut self, frame: &mut Frame<'_>) {
        self.ethernet(frame, 0, frame.from.len(), 0);
    }

    /// An Ethernet frame at `start`.
    pub(super) fn ethernet(&mut self, frame: &mut Frame<'_>, start: usize, end: usize, depth: u8) {
        if depth > MAX_DEPTH {
            return self.unknown(frame, start, end, || "layers beyond the eighth".to_owned());
        }
        put_mac(frame, start, end, &mut self.tools);
        put_mac(frame, start + 6, end, &mut self.tools);
        let Some(ethertype) = frame.u16(start + 12).filter(|_| start + 14 <= end) else { return };
        frame.keep(start + 12..start + 14);
        let inner = self.network(frame, ethertype, start + 14, end, depth);
        if let Some((ethertype, at)) = inner {
            self.group_mac(frame, start, ethertype, at, end);
        }
    }

    /// A group's MAC address is made of the group's address (RFC 1112 section 6.4, RFC 2464 section 7), and so of the one
    /// that stands for it.
    fn group_mac(&mut self, frame: &mut Frame<'_>, mac_at: usize, ethertype: u16, at: usize, end: usize) {
        let Some(mac) = frame.array::<6>(mac_at) else { return };
        if self.tools.policy.macs == super::Macs::Keep {
            return;
        }
        let new = match (mac, ethertype) {
            ([1, 0, 0x5e, a, b, c], IPV4)
                if at + 20 <= end
                    && frame.array::<3>(at + 17).is_some_and(|low| [low[0] & 0x7f, low[1], low[2]] == [a, b, c]) =>
            {
                let [a, b, c] = [frame.to[at + 17] & 0x7f, frame.to[at + 18], frame.to[at + 19]];
                [1, 0, 0x5e, a, b, c]
            }
            ([0x33, 0x33, rest @ ..], IPV6) if at + 40 <= end && frame.array(at + 36) == Some(rest) => {
                let [a, b, c, d] = [frame.to[at + 36], frame.to[at + 37], frame.to[at + 38], frame.to[at + 39]];
                [0x33, 0x33, a, b, c, d]
            }
            _ => return,
        };
        frame.put(mac_at, &new);
    }

    /// What an Ethernet type announces. Returns type and place of the IP packet behind all tags, if there is one.
    pub(super) fn network(
        &mut self,
        frame: &mut Frame<'_>,
        ethertype: u16,
        at: usize,
        end: usize,
        depth: u8,
    ) -> Option<(u16, usize)> {
        if depth > MAX_DEPTH {
            self.unknown(frame, at, end, || "layers beyond the eighth".to_owned());
            return None;
        }
        match ethertype {
            IPV4 => self.ipv4(frame, at, end, depth, false),
            IPV6 => self.ipv6(frame, at, end, depth, false),
            ARP | RARP => {
                self.arp(frame, at, end);
                return None;
            }
            // 802.1Q, 802.1ad and its forerunner: four bytes, of which the last two are the next type.
            0x8100 | 0x88a8 | 0x9100 => {
                let inner = frame.u16(at + 2).filter(|_| at + 4 <= end);
                frame.keep(at..(at + 4).min(end));
                return self.network(frame, inner?, at + 4, end, depth + 1);
            }
            0x8847 | 0x8848 => {
                self.mpls(frame, at, end, depth);
                return None;
            }
            0x8864 => {
                self.pppoe(frame, at, end, depth);
                return None;
            }
            // Names of concentrators and services, host identifiers: only the header stays.
            0x8863 => {
                frame.keep(at..(at + 6).min(end));
                self.tools.counts.add("pppoe_discovery_zeroed", 1);
                return None;
            }
            BRIDGED => {
                self.ethernet(frame, at, end, depth + 1);
                return None;
            }
            // A length (IEEE 802.3 section 3.2.6): LLC follows.
            0..=1500 => {
                self.unknown(frame, at, end, || "LLC".to_owned());
                return None;
            }
            other => {
                self.unknown(frame, at, end, || format!("ethertype 0x{other:04x}"));
                return None;
            }
        }
        Some((ethertype, at))
    }

    /// RFC 826, with the lengths of Ethernet and IPv4. Others keep their header alone.
    fn arp(&mut self, frame: &mut Frame<'_>, at: usize, end: usize) {
        frame.keep(at..(at + 8).min(end));
        if frame.array(at + 4) != Some([6, 4]) {
            return;
        }
        let tools = &mut self.tools;
        tools.counts.add("arp_packets", 1);
        for base in [at + 8, at + 18] {
            put_mac(frame, base, end, tools);
            put_v4(frame, base + 6, end, tools);
        }
    }

    /// RFC 3032: labels of four bytes up to the bottom of the stack; the packet's first half byte tells what it is.
    fn mpls(&mut self, frame: &mut Frame<'_>, mut at: usize, end: usize, depth: u8) {
        loop {
            let Some(label) = frame.u32(at).filter(|_| at + 4 <= end) else { return };
            frame.keep(at..at + 4);
            at += 4;
            if label & 0x100 != 0 {
                break;
            }
        }
        match frame.u8(at).map(|first| first >> 4) {
            Some(4) => self.ipv4(frame, at, end, depth + 1, false),
            Some(6) => self.ipv6(frame, at, end, depth + 1, false),
            // A pseudowire's control word (RFC 4385 section 3), most often before Ethernet.
            Some(0) if matches!(frame.u16(at + 16), Some(IPV4 | IPV6 | ARP | 0x8100)) => {
                frame.keep(at..(at + 4).min(end));
                self.ethernet(frame, at + 4, end, depth + 1);
            }
            _ => self.unknown(frame, at, end, || "MPLS payload".to_owned()),
        }
    }

    /// RFC 2516 section 6: a header of six bytes, then PPP. Anything but IP (passwords, for one) is not kept.
    fn pppoe(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, depth: u8) {
        frame.keep(at..(at + 8).min(end));
        let len = frame.u16(at + 4).map_or(0, usize::from);
        let end = end.min(at + 6 + len);
        match frame.u16(at + 6) {
            Some(0x0021) => self.ipv4(frame, at + 8, end, depth + 1, false),
            Some(0x0057) => self.ipv6(frame, at + 8, end, depth + 1, false),
            _ => self.tools.counts.add("ppp_control_zeroed", 1),
        }
    }

    /// Applies the payload policy to a protocol that no rule reads, and notes it.
    pub(super) fn unknown(&mut self, frame: &mut Frame<'_>, at: usize, end: usize, name: impl FnOnce() -> String) {
        let range = frame.clip(at..end);
        if range.is_empty() {
            return;
        }
        if !self.learning {
            self.tools.counts.unknown(name, range.len());
        }
        self.tools.payload(frame, range);
    }
}

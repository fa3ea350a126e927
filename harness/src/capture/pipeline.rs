//! What becomes of each packet of a capture. The survey and the run both go through here, so they cannot disagree.

use super::CaptureError;
use super::checksum::{self, Verdict};
use super::filter::Filter;
use super::finding::{Kind, Tallies};
use super::link::{ETHERNET_HEADER, name_loopback, to_ethernet};
use super::options::{Checksums, Options, Oversize, Truncated};
use super::parse::{TCP, View};
use super::reader::{MAX_PACKET, Packet};
use super::segment::Segments;

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Fate {
    /// Not asked for: the filter does not match.
    Filtered,
    /// Not asked for: the limit is reached.
    BeyondLimit,
    /// Asked for, and not offered. The reason has been counted.
    Refused,
    /// One frame.
    Offered { view: View, wire_len: u32 },
    /// Several frames, to be cut from the buffer.
    Segmented { view: View, segments: Segments },
}

/// Applies the options to one packet after the other.
pub(super) struct Pipeline {
    options: Options,
    filter: Option<Filter>,
    /// Packets asked for so far.
    selected: u64,
    /// Judge checksums, for findings. Costs as much as all the rest.
    inspect: bool,
    last_ns: Option<u64>,
}

impl Pipeline {
    pub(super) fn new(options: &Options, inspect: bool) -> Result<Self, CaptureError> {
        options.validate()?;
        let filter = options.filter.as_deref().map(Filter::new).transpose()?;
        Ok(Self { options: options.clone(), filter, selected: 0, inspect, last_ns: None })
    }

    /// Packets asked for so far, refused ones included.
    pub(super) fn selected(&self) -> u64 {
        self.selected
    }

    /// Whether no further packet can be offered.
    pub(super) fn is_done(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.selected >= limit)
    }

    /// Called after the last packet: a filter that was never needed is still checked.
    pub(super) fn finish(&mut self) -> Result<(), CaptureError> {
        self.filter.as_mut().map_or(Ok(()), Filter::check)
    }

    /// Decides on a packet and puts its Ethernet frame into `frame`. What is unusual is counted in `tallies`.
    pub(super) fn admit(
        &mut self,
        packet: &Packet<'_>,
        frame: &mut Vec<u8>,
        tallies: &mut Tallies,
    ) -> Result<Fate, CaptureError> {
        let link = packet.interface.link;
        if self.is_done() {
            return Ok(Fate::BeyondLimit);
        }
        if !link.is_supported() {
            tallies.refuse(Kind::UnsupportedLink, packet.number);
            return Ok(Fate::Refused);
        }
        if let Some(filter) = &mut self.filter
            && !filter.matches(packet)?
        {
            return Ok(Fate::Filtered);
        }
        self.selected += 1;
        if self.last_ns.is_some_and(|last| packet.time_ns < last) {
            tallies.note(Kind::TimeBackwards, packet.number);
        }
        self.last_ns = Some(packet.time_ns);
        let Some(original) = converted(packet, frame) else {
            tallies.refuse(Kind::NotEthernet, packet.number);
            return Ok(Fate::Refused);
        };
        if name_loopback(frame) {
            tallies.note(Kind::Loopback, packet.number);
        }
        Ok(self.judge(packet.number, original, frame, tallies))
    }

    fn judge(&self, number: u64, mut original: u32, frame: &mut Vec<u8>, tallies: &mut Tallies) -> Fate {
        if frame.len() < ETHERNET_HEADER {
            tallies.refuse(Kind::Runt, number);
            return Fate::Refused;
        }
        original = original.max(frame.len() as u32);
        let truncated = original as usize > frame.len();
        if truncated {
            match self.options.truncated {
                Truncated::Keep => tallies.note(Kind::Truncated, number),
                Truncated::Pad if original <= MAX_PACKET => {
                    frame.resize(original as usize, 0);
                    tallies.note(Kind::Truncated, number);
                }
                Truncated::Pad | Truncated::Refuse => {
                    tallies.refuse(Kind::Truncated, number);
                    return Fate::Refused;
                }
            }
        }
        let padded = truncated && self.options.truncated == Truncated::Pad;
        let view = View::of(frame);
        if self.inspect && !truncated {
            inspect(number, frame, &view, tallies);
        }
        let limit = self.options.mtu as usize + ETHERNET_HEADER + 4 * usize::from(view.tags);
        if frame.len() > limit {
            match self.oversize(number, frame, &view, truncated && !padded, tallies) {
                Some(Fate::Offered { view, wire_len }) => return self.offer(frame, view, wire_len, padded),
                Some(fate) => return fate,
                None => return Fate::Refused,
            }
        }
        self.offer(frame, view, original, padded)
    }

    fn offer(&self, frame: &mut [u8], view: View, wire_len: u32, padded: bool) -> Fate {
        if padded || self.options.checksums == Checksums::Repair {
            checksum::repair(frame, &view);
        }
        Fate::Offered { view, wire_len }
    }

    /// A frame over the MTU: nothing if it is refused.
    fn oversize(
        &self,
        number: u64,
        frame: &mut Vec<u8>,
        view: &View,
        incomplete: bool,
        tallies: &mut Tallies,
    ) -> Option<Fate> {
        let segment = self.options.oversize == Oversize::Segment && !incomplete;
        let mtu = self.options.mtu;
        // An IP packet that fits, with bytes behind it: a trailer that some card or tool captured.
        let fitting = view.ip.filter(|ip| !ip.no_length && ip.end - ip.start <= mtu as usize && ip.end <= frame.len());
        if let Some(ip) = fitting {
            if !segment {
                tallies.refuse(Kind::OversizeTrailer, number);
                return None;
            }
            tallies.note(Kind::OversizeTrailer, number);
            frame.truncate(ip.end);
            return Some(Fate::Offered { view: *view, wire_len: frame_len(frame) });
        }
        let plan = Segments::plan(frame, view, mtu).filter(|_| !incomplete);
        let is_tcp = view.ip.is_some_and(|ip| ip.protocol == TCP);
        match plan {
            Some(segments) if segment => {
                tallies.note(Kind::OversizeTcp, number);
                tallies.made(Kind::OversizeTcp, segments.count);
                Some(Fate::Segmented { view: *view, segments })
            }
            Some(_) => {
                tallies.refuse(Kind::OversizeTcp, number);
                None
            }
            None if is_tcp => {
                tallies.refuse(Kind::OversizeUncut, number);
                None
            }
            None => {
                tallies.refuse(Kind::OversizeOther, number);
                None
            }
        }
    }
}

fn frame_len(frame: &[u8]) -> u32 {
    u32::try_from(frame.len()).unwrap_or(u32::MAX)
}

/// Puts the packet's Ethernet frame into `frame` and returns its length on the wire, or nothing if Ethernet cannot carry
/// it. Nothing else is changed.
fn converted(packet: &Packet<'_>, frame: &mut Vec<u8>) -> Option<u32> {
    let (data, original) = without_fcs(packet);
    let grown = to_ethernet(packet.interface.link, data, frame)?;
    Some(original.saturating_add_signed(grown as i32))
}

/// As a run would see the packet before its options apply: converted to Ethernet, with addresses where a loopback
/// interface has none. Returns the length on the wire, or nothing if Ethernet cannot carry the packet.
pub(crate) fn ethernet_of(packet: &Packet<'_>, frame: &mut Vec<u8>) -> Option<u32> {
    let original = converted(packet, frame)?;
    name_loopback(frame);
    Some(original.max(frame_len(frame)))
}

/// The packet's bytes and its original length, both without frame check sequence.
fn without_fcs<'a>(packet: &Packet<'a>) -> (&'a [u8], u32) {
    let fcs = u32::from(packet.interface.fcs);
    let original = packet.wire_len.saturating_sub(fcs);
    let len = packet.data.len().min(original as usize);
    (&packet.data[..len], original)
}

/// Counts what is wrong with the checksums of a whole frame.
fn inspect(number: u64, frame: &[u8], view: &View, tallies: &mut Tallies) {
    let Some(ip) = &view.ip else { return };
    if ip.no_length {
        tallies.note(Kind::NoLength, number);
    }
    if !checksum::ipv4_header_is_fine(frame, ip) {
        tallies.note(Kind::BadIpv4Checksum, number);
    }
    match (checksum::transport(frame, ip), ip.protocol) {
        (Verdict::Fine, _) => {}
        (Verdict::Offload, _) => tallies.note(Kind::ChecksumOffload, number),
        (Verdict::Bad, TCP) => tallies.note(Kind::BadTcpChecksum, number),
        (Verdict::Bad, _) => tallies.note(Kind::BadUdpChecksum, number),
    }
}

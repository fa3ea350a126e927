//! Conversations: scripts of what two ends say to each other, played for any number of units at once. Sequence numbers,
//! acknowledgements, timestamps and segments follow from the script.

use etherparse::TcpOptionElement;

use super::packet::{ETHERNET, SEGMENT, Template, Transport, flag};
use super::pool::Pool;
use super::ports::{Ends, Ports};
use super::rng::Rng;
use super::script::{Act, Body, Fill, Options, Script, Segment};
use super::stream::{Generator, Made, Unit, side};
use crate::capture::Frame;

/// What distinguishes the units of a conversation's entry.
pub(super) trait Choose: Send {
    /// Sets ends and ports of a unit and returns its script's number. By default set: a source out of the pool, the
    /// targets in turn. Ports left at 0 become one that no other living conversation between the ends has, and the script's
    /// own.
    fn choose(&mut self, unit: &mut Unit) -> usize;

    /// Time by which the unit begins later than its schedule says, ns.
    fn delay_ns(&mut self, _unit: &mut Unit) -> u64 {
        0
    }
}

/// Everything as set by default, by one script.
pub(super) struct Plain;

impl Choose for Plain {
    fn choose(&mut self, _: &mut Unit) -> usize {
        0
    }
}

/// A function that chooses the script.
impl<F: FnMut(&mut Unit) -> usize + Send> Choose for F {
    fn choose(&mut self, unit: &mut Unit) -> usize {
        self(unit)
    }
}

/// What every conversation needs to know.
pub(super) struct Setting {
    pub(super) sources: [Pool; 2],
    pub(super) targets: [Pool; 2],
    /// Of the client's side and the server's.
    pub(super) macs: [[u8; 6]; 2],
    /// Whether only the initiator's frames are made.
    pub(super) one_sided: bool,
}

/// Plays scripts.
pub(super) struct Conversation {
    setting: Setting,
    scripts: Vec<Script>,
    choose: Box<dyn Choose>,
    ports: Ports,
    /// By version and options.
    templates: Vec<Template>,
    /// The message being sent.
    scratch: Vec<u8>,
}

impl Conversation {
    pub(super) fn new(setting: Setting, scripts: Vec<Script>, choose: impl Choose + 'static) -> Self {
        let mut templates = Vec::new();
        for v6 in [false, true] {
            let mss = TcpOptionElement::MaximumSegmentSize(if v6 { 1440 } else { 1460 });
            use TcpOptionElement::{Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
            let syn = [mss.clone(), SelectiveAcknowledgementPermitted, Timestamp(0, 0), Noop, WindowScale(7)];
            let plain = [Noop, Noop, Timestamp(0, 0)];
            let alone = [mss];
            let options: [&[TcpOptionElement]; 4] = [&syn, &plain, &alone, &[]];
            templates.extend(options.map(|options| Template::new(setting.macs, v6, &Transport::Tcp(options), &[])));
            templates.push(Template::new(setting.macs, v6, &Transport::Udp, &[]));
        }
        Self { setting, scripts, choose: Box::new(choose), ports: Ports::default(), templates, scratch: Vec::new() }
    }

    fn template(&self, v6: bool, kind: usize) -> &Template {
        &self.templates[usize::from(v6) * 5 + kind]
    }

    fn macs(&self, unit: &Unit, from: usize) -> [[u8; 6]; 2] {
        let [client, server] = self.setting.macs;
        if (from == 0) != unit.flipped { [client, server] } else { [server, client] }
    }

    /// Writes a message to `scratch`: a text as a whole, of a bulk at most so many bytes from an offset on (`range`).
    /// Returns the length of the whole message, bytes.
    fn write_message(&mut self, unit: &Unit, index: usize, range: (u64, usize)) -> usize {
        let script = &self.scripts[unit.choice as usize];
        self.scratch.clear();
        match &script.messages[index] {
            Body::Text(write) => {
                let mut rng = unit.rng.fork(index as u64);
                // A number that the whole unit shares.
                let shared = unit.rng.fork(u64::MAX).next();
                write(&mut Fill { out: &mut self.scratch, rng: &mut rng, unit, shared });
                self.scratch.len()
            }
            Body::Bulk(total) => {
                let (from, most) = range;
                let length = (total - from.min(*total)).min(most as u64) as usize;
                // Any bytes will do, but no two segments alike.
                let mut rng = Rng::new(from, unit.index);
                rng.bytes(&mut self.scratch, 8.min(length));
                self.scratch.resize(length, 0x2e);
                usize::try_from(*total).unwrap_or(usize::MAX)
            }
        }
    }

    /// A TCP segment with the part `range` of what is in `scratch`.
    fn segment(&mut self, unit: &mut Unit, what: &Segment, range: std::ops::Range<usize>, out: &mut Frame) {
        let (from, to) = (what.from, 1 - what.from);
        let kind = match what.options {
            Options::Opening => 0,
            Options::Timestamps => 1,
            Options::SizeAlone => 2,
            Options::None => 3,
        };
        let milliseconds = (unit.now_ns / 1_000_000) as u32;
        let stamp = unit.tcp.clock[from].wrapping_add(milliseconds);
        let script = &self.scripts[unit.choice as usize];
        let window = what.window.unwrap_or(if what.flags & flag::SYN != 0 {
            script.opening_window
        } else {
            script.window[from]
        });
        let seq = unit.tcp.next[from].wrapping_sub(what.back);
        let ack = if what.flags & flag::ACK != 0 { unit.tcp.seen[from] } else { 0 };
        let mut patch = self.template(unit.v6, kind).copy(&mut out.data);
        patch.macs(self.macs(unit, from));
        patch.addresses(unit.ends[from], unit.ends[to]).ports(unit.ports[from], unit.ports[to]).ttl(script.ttl);
        patch.ident(unit.tcp.ident[from]).l4_32(4, seq).l4_32(8, ack).flags(what.flags).l4_16(14, window);
        match what.options {
            // Behind MSS and SACK-permitted, or behind two NOPs: kind and length, value, echo.
            Options::Opening => {
                patch.l4_32(28, stamp).l4_32(32, unit.tcp.echo[from]);
            }
            Options::Timestamps => {
                patch.l4_32(24, stamp).l4_32(28, unit.tcp.echo[from]);
            }
            Options::SizeAlone | Options::None => {}
        }
        patch.payload(&self.scratch[range.clone()]).finish();
        unit.tcp.ident[from] = unit.tcp.ident[from].wrapping_add(1);
        // What is sent again moves nothing, and what is lost is not seen by the other end.
        if what.back == 0 {
            let control = u32::from(what.flags & flag::SYN != 0) + u32::from(what.flags & flag::FIN != 0);
            unit.tcp.next[from] = seq.wrapping_add(control).wrapping_add(range.len() as u32);
            if !what.lost {
                unit.tcp.seen[to] = unit.tcp.next[from];
                unit.tcp.echo[to] = stamp;
            }
        }
        out.side = side(unit, from);
    }

    /// Sends the next segment of a message. Says whether more is to come.
    fn message(&mut self, unit: &mut Unit, from: usize, index: usize, out: &mut Frame) -> bool {
        let most = SEGMENT[usize::from(unit.v6)];
        if std::mem::take(&mut unit.tcp.acknowledge) {
            self.scratch.clear();
            let options = self.scripts[unit.choice as usize].options;
            self.segment(unit, &Segment { options, ..Segment::new(1 - from, flag::ACK) }, 0..0, out);
            unit.tcp.unacknowledged = 0;
            return true;
        }
        let sent = unit.tcp.sent;
        let total = self.write_message(unit, index, (sent, most));
        // Of a bulk only the segment was written.
        let start = if self.is_bulk(unit, index) { 0 } else { sent as usize };
        let end = (start + most).min(self.scratch.len());
        let length = end - start;
        let last = sent + length as u64 >= total as u64;
        let flags = if last { flag::PSH | flag::ACK } else { flag::ACK };
        let options = self.scripts[unit.choice as usize].options;
        self.segment(unit, &Segment { options, ..Segment::new(from, flags) }, start..end, out);
        unit.tcp.sent = if last { 0 } else { sent + length as u64 };
        unit.tcp.unacknowledged = if last { 0 } else { unit.tcp.unacknowledged + 1 };
        // At least every second full segment is acknowledged (RFC 9293 section 3.8.6.3).
        unit.tcp.acknowledge = unit.tcp.unacknowledged == 2;
        !last
    }

    fn is_bulk(&self, unit: &Unit, index: usize) -> bool {
        matches!(self.scripts[unit.choice as usize].messages[index], Body::Bulk(_))
    }

    fn datagram(&mut self, unit: &mut Unit, from: usize, index: usize, out: &mut Frame) {
        // One datagram each: what would not fit into a packet is not sent.
        let most = 1_500 - if unit.v6 { 48 } else { 28 };
        self.write_message(unit, index, (0, most));
        self.scratch.truncate(most);
        let to = 1 - from;
        let mut patch = self.template(unit.v6, 4).copy(&mut out.data);
        patch.macs(self.macs(unit, from));
        let ttl = self.scripts[unit.choice as usize].ttl;
        patch.addresses(unit.ends[from], unit.ends[to]).ports(unit.ports[from], unit.ports[to]).ttl(ttl);
        patch.ident(unit.tcp.ident[from]).payload(&self.scratch).finish();
        unit.tcp.ident[from] = unit.tcp.ident[from].wrapping_add(1);
        out.side = side(unit, from);
    }

    /// The answer of `from` that the port of the other's last datagram is closed: with that datagram's beginning (RFC 792,
    /// RFC 4443 section 3.1).
    fn unreachable(&mut self, unit: &mut Unit, from: usize, index: usize, out: &mut Frame) {
        let to = 1 - from;
        unit.tcp.ident[to] = unit.tcp.ident[to].wrapping_sub(1);
        self.datagram(unit, to, index, out);
        let most = out.data.len().min(ETHERNET + 548);
        let quoted = out.data[ETHERNET..most].to_vec();
        let kind = if unit.v6 {
            Transport::Icmp6(etherparse::Icmpv6Type::DestinationUnreachable(
                etherparse::icmpv6::DestUnreachableCode::Port,
            ))
        } else {
            Transport::Icmp4(etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Port,
            ))
        };
        let template = Template::new(self.macs(unit, from), unit.v6, &kind, &quoted);
        let mut patch = template.copy(&mut out.data);
        patch.addresses(unit.ends[from], unit.ends[to]).ident(unit.tcp.ident[from]).finish();
        unit.tcp.ident[from] = unit.tcp.ident[from].wrapping_add(1);
        out.side = side(unit, from);
    }

    /// Makes what the script says next.
    fn next(&mut self, unit: &mut Unit, frame: &mut Frame) -> Made {
        let Some(beat) = self.scripts[unit.choice as usize].beats.get(unit.step as usize).copied() else {
            return Made { sent: false, next_ns: None };
        };
        let (goes_on, speaker) = self.act(unit, beat.act, frame);
        let sent = !self.setting.one_sided || speaker == 0;
        let script = &self.scripts[unit.choice as usize];
        let next_ns = if goes_on {
            Some(script.segment_gap_ns)
        } else {
            unit.step += 1;
            script.beats.get(unit.step as usize).map(|next| next.after_ns)
        };
        Made { sent, next_ns }
    }

    /// Makes what the script says. Says whether the act goes on, and who spoke.
    fn act(&mut self, unit: &mut Unit, act: Act, out: &mut Frame) -> (bool, usize) {
        match act {
            Act::Tcp(segment) => {
                self.scratch.clear();
                self.segment(unit, &segment, 0..0, out);
                (false, segment.from)
            }
            Act::Message { from, index } => {
                let acknowledges = unit.tcp.acknowledge;
                (self.message(unit, from, index, out), if acknowledges { 1 - from } else { from })
            }
            Act::Stuck { from, index, again } => {
                let most = SEGMENT[usize::from(unit.v6)];
                let total = self.write_message(unit, index, (0, most));
                let length = total.min(most).min(self.scratch.len());
                let options = self.scripts[unit.choice as usize].options;
                let back = if again { length as u32 } else { 0 };
                let segment = Segment { options, back, lost: !again, ..Segment::new(from, flag::ACK) };
                self.segment(unit, &segment, 0..length, out);
                (false, from)
            }
            Act::Datagram { from, index } => {
                self.datagram(unit, from, index, out);
                (false, from)
            }
            Act::Unreachable { from, index } => {
                self.unreachable(unit, from, index, out);
                (false, from)
            }
        }
    }
}

impl Generator for Conversation {
    fn begin(&mut self, unit: &mut Unit) -> u64 {
        let version = usize::from(unit.v6);
        let source = self.setting.sources[version].pick(&mut unit.rng);
        unit.ends = [source, self.setting.targets[version].nth(unit.index / self.setting.turn())];
        let random = unit.rng.next();
        let mut rng = unit.rng.fork(1 << 32);
        unit.tcp.next = [rng.next_u32(), rng.next_u32()];
        unit.tcp.clock = [rng.next_u32(), rng.next_u32()];
        unit.tcp.ident = [rng.next_u16(), rng.next_u16()];
        let choice = self.choose.choose(unit);
        unit.choice = choice as u32;
        if unit.ports[1] == 0 {
            unit.ports[1] = self.scripts[choice].port;
        }
        if unit.ports[0] == 0 {
            let [client, server] = unit.ends;
            let (lease, port) = self.ports.take(Ends::of(client, server, unit.ports[1]), random);
            (unit.lease, unit.ports[0]) = (Some(lease), port);
        }
        self.choose.delay_ns(unit)
    }

    fn step(&mut self, unit: &mut Unit, frame: &mut Frame) -> Made {
        let made = self.next(unit, frame);
        if made.next_ns.is_none()
            && let Some(lease) = unit.lease.take()
        {
            self.ports.give_back(lease);
        }
        made
    }
}

impl Setting {
    /// With both versions of IP in turn, both visit the same targets.
    fn turn(&self) -> u64 {
        let both = !self.targets[0].is_empty() && !self.targets[1].is_empty();
        if both { 2 } else { 1 }
    }
}

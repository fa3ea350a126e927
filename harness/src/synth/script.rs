//! Scripts: what the two ends of a conversation do, in order, with the time between.

use super::packet::{TTL, flag};
use super::rng::Rng;
use super::stream::Unit;

/// The end that opens a conversation.
pub(super) const CLIENT: usize = 0;
/// The end that answers.
pub(super) const SERVER: usize = 1;

/// Options of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Options {
    /// Of a SYN as Linux sends it: maximum segment size, SACK permitted, timestamps, window scale
    /// (`tcp_options_write`, net/ipv4/tcp_output.c).
    Opening,
    /// Timestamps (RFC 7323), as in every later segment.
    Timestamps,
    /// The maximum segment size alone, as in probes of port scanners.
    SizeAlone,
    /// None.
    None,
}

/// A TCP segment without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: usize,
    pub(super) flags: u8,
    pub(super) options: Options,
    /// Instead of the script's.
    pub(super) window: Option<u16>,
    /// How far before the next sequence number it begins: a keep-alive's 1, a retransmission's length.
    pub(super) back: u32,
    /// It never arrives.
    pub(super) lost: bool,
}

impl Segment {
    pub(super) const fn new(from: usize, flags: u8) -> Self {
        Self { from, flags, options: Options::None, window: None, back: 0, lost: false }
    }
}

/// What an end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Sends a segment.
    Tcp(Segment),
    /// Sends a message over TCP, in as many segments as it takes, which the other end acknowledges on the way.
    Message { from: usize, index: usize },
    /// Sends a first full segment that never arrives, and sends it again.
    Stuck { from: usize, index: usize, again: bool },
    /// Sends a message over UDP.
    Datagram { from: usize, index: usize },
    /// Says by ICMP that the other end's last datagram, a message of that number, reached no port.
    Unreachable { from: usize, index: usize },
}

/// An act, and how long after the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) after_ns: u64,
    pub(super) act: Act,
}

/// Where a message is written.
pub(super) struct Fill<'a> {
    pub(super) out: &'a mut Vec<u8>,
    /// Numbers of this message alone.
    pub(super) rng: &'a mut Rng,
    pub(super) unit: &'a Unit,
    /// A number that all messages of a unit share: a transaction's identifier.
    pub(super) shared: u64,
}

impl Fill<'_> {
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn random(&mut self, count: usize) -> &mut Self {
        self.rng.bytes(self.out, count);
        self
    }

    /// Random lower-case letters and digits.
    pub(super) fn word(&mut self, count: usize) -> &mut Self {
        self.rng.characters(self.out, b"abcdefghijklmnopqrstuvwxyz0123456789", count);
        self
    }
}

/// Writes a message; the same bytes whenever it is called for the same unit.
pub(super) type Writer = Box<dyn Fn(&mut Fill<'_>) + Send>;

/// A message.
pub(super) enum Body {
    /// Written out.
    Text(Writer),
    /// So many bytes of no meaning.
    Bulk(u64),
}

/// What happens, beat by beat. Built from its beginning on by the functions below, which add what a stack adds:
/// acknowledgements, the time of the way.
pub(super) struct Script {
    pub(super) beats: Vec<Beat>,
    pub(super) messages: Vec<Body>,
    pub(super) port: u16,
    pub(super) ttl: u8,
    /// Options of segments after the opening.
    pub(super) options: Options,
    /// Windows as written in the header: in SYN and SYN-ACK, and later (there in units of 128 bytes, by the scale of 7), by end.
    pub(super) opening_window: u16,
    pub(super) window: [u16; 2],
    /// Time between segments of a message, ns: by default that of a full one at 1 Gbit/s.
    pub(super) segment_gap_ns: u64,
    /// Half a round trip, ns.
    way_ns: u64,
    /// Who said something that is not acknowledged yet.
    owing: Option<usize>,
    /// Added to the next beat's time.
    pause_ns: u64,
}

impl Script {
    /// A script with a round trip time in ns. Frames are seen half-way between the ends.
    pub(super) fn new(port: u16, rtt_ns: u64) -> Self {
        Self {
            beats: Vec::new(),
            messages: Vec::new(),
            port,
            ttl: TTL,
            options: Options::Timestamps,
            opening_window: 64_240,
            window: [502, 502],
            segment_gap_ns: 12_112,
            way_ns: rtt_ns / 2,
            owing: None,
            pause_ns: 0,
        }
    }

    /// A TCP connection that is open.
    pub(super) fn tcp(port: u16, rtt_ns: u64) -> Self {
        let mut script = Self::new(port, rtt_ns);
        script.open();
        script
    }

    /// Any segment, `after_ns` after the one before it.
    pub(super) fn segment(&mut self, after_ns: u64, segment: Segment) -> &mut Self {
        self.beat(after_ns, Act::Tcp(segment))
    }

    fn beat(&mut self, after_ns: u64, act: Act) -> &mut Self {
        let after_ns = if self.beats.is_empty() { 0 } else { after_ns + std::mem::take(&mut self.pause_ns) };
        self.beats.push(Beat { after_ns, act });
        self
    }

    fn open(&mut self) {
        let opening = |from, flags| Segment { options: Options::Opening, ..Segment::new(from, flags) };
        let way_ns = self.way_ns;
        self.segment(0, opening(CLIENT, flag::SYN));
        self.segment(way_ns, opening(SERVER, flag::SYN | flag::ACK));
        self.acknowledge(CLIENT, way_ns);
    }

    fn acknowledge(&mut self, from: usize, after_ns: u64) {
        let segment = Segment { options: self.options, ..Segment::new(from, flag::ACK) };
        self.segment(after_ns, segment);
        self.owing = None;
    }

    /// Nothing happens for so long, ns.
    pub(super) fn pause(&mut self, ns: u64) -> &mut Self {
        self.pause_ns += ns;
        self
    }

    /// Adds a message and returns its number.
    pub(super) fn body(&mut self, body: Body) -> usize {
        self.messages.push(body);
        self.messages.len() - 1
    }

    fn say(&mut self, from: usize, body: Body) -> &mut Self {
        let index = self.body(body);
        // The same end speaks again: what it said before has been acknowledged by then. An answer acknowledges by itself.
        if self.owing == Some(from) {
            let pause = std::mem::take(&mut self.pause_ns);
            self.acknowledge(1 - from, self.way_ns);
            self.pause_ns = pause;
        }
        let after_ns = if self.owing == Some(1 - from) || from == SERVER { self.way_ns } else { 0 };
        self.beat(after_ns + 20_000, Act::Message { from, index });
        self.owing = Some(from);
        self
    }

    /// The client says something over TCP.
    pub(super) fn client(&mut self, write: impl Fn(&mut Fill<'_>) + Send + 'static) -> &mut Self {
        self.say(CLIENT, Body::Text(Box::new(write)))
    }

    /// The server does.
    pub(super) fn server(&mut self, write: impl Fn(&mut Fill<'_>) + Send + 'static) -> &mut Self {
        self.say(SERVER, Body::Text(Box::new(write)))
    }

    /// One end sends so many bytes of no meaning over TCP.
    pub(super) fn bulk(&mut self, from: usize, bytes: u64) -> &mut Self {
        self.say(from, Body::Bulk(bytes))
    }

    /// What was said is acknowledged, after the time of the way.
    pub(super) fn settle(&mut self) -> &mut Self {
        if let Some(owing) = self.owing {
            let pause = std::mem::take(&mut self.pause_ns);
            self.acknowledge(1 - owing, self.way_ns);
            self.pause_ns = pause;
        }
        self
    }

    /// What was said last needs no acknowledgement beyond what the script says itself.
    pub(super) fn forget(&mut self) -> &mut Self {
        self.owing = None;
        self
    }

    /// `from` closes the TCP connection, and so does the other end.
    pub(super) fn close(&mut self, from: usize) -> &mut Self {
        self.settle();
        let fin =
            |script: &Self, from| Segment { options: script.options, ..Segment::new(from, flag::FIN | flag::ACK) };
        let (first, second) = (fin(self, from), fin(self, 1 - from));
        self.segment(20_000, first);
        self.segment(self.way_ns, second);
        self.acknowledge(from, self.way_ns);
        self
    }

    /// `from` ends the TCP connection at once.
    pub(super) fn reset(&mut self, from: usize) -> &mut Self {
        self.settle();
        self.segment(20_000, Segment::new(from, flag::RST | flag::ACK))
    }

    /// A datagram of the client.
    pub(super) fn ask(&mut self, write: impl Fn(&mut Fill<'_>) + Send + 'static) -> &mut Self {
        let index = self.body(Body::Text(Box::new(write)));
        self.beat(20_000, Act::Datagram { from: CLIENT, index })
    }

    /// A datagram of the server, after the time of the way.
    pub(super) fn answer(&mut self, write: impl Fn(&mut Fill<'_>) + Send + 'static) -> &mut Self {
        let index = self.body(Body::Text(Box::new(write)));
        self.beat(self.way_ns, Act::Datagram { from: SERVER, index })
    }

    /// The server says by ICMP that the last datagram reached no port.
    pub(super) fn refuse(&mut self) -> &mut Self {
        let index = self.messages.len().saturating_sub(1);
        self.beat(self.way_ns, Act::Unreachable { from: SERVER, index })
    }

    /// A full segment of `from` never arrives, however often it is sent again: first after `first_ns`, then after twice
    /// the time before (RFC 6298 section 5.5).
    pub(super) fn stuck(&mut self, from: usize, bytes: u64, first_ns: u64, times: u32) -> &mut Self {
        let index = self.body(Body::Bulk(bytes));
        self.beat(self.way_ns, Act::Stuck { from, index, again: false });
        for time in 0..times {
            self.beat(first_ns.saturating_mul(1 << time.min(20)), Act::Stuck { from, index, again: true });
        }
        self
    }
}

//! One TCP connection: its two directions in order, and the parser that its first bytes ask for.

use bpflab_programs::packet::{ACK, FIN, RST, SYN};
use bpflab_programs::protocols::{self as shared, Event, NOTE_START, PREFIX, Recognised, recognise};

use super::dns::{self, Framer};
use super::http::{self, Http1};
use super::stream::{Cause, Direction, Hole, Piece, Segment};
use super::tls::{self, Handshake};

/// Bytes of a direction that are kept until it is known what they are.
const MAX_UNDECIDED: usize = 64 * 1024;

/// What a connection has to report.
#[derive(Debug)]
pub enum Report {
    /// A DNS message: direction, time of its first byte, message, what is missing of it.
    Dns(usize, u64, dns::Message, Option<String>),
    /// An exchange and the direction of its request.
    Http(usize, http::Exchange),
    /// A handshake of which nothing more will be read.
    Tls(Box<Handshake>),
}

/// Whether the program shall go on handing over a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// More may come.
    More,
    /// The rest of the connection is of no interest.
    Nothing,
    /// These bytes are of no interest, but a message may begin later (in a tunnel, after STARTTLS).
    NextMessage,
}

/// One TCP connection that is followed.
#[derive(Debug)]
pub struct Connection {
    /// Sequence numbers at which the directions began, where known from a SYN.
    starts: [Option<u32>; 2],
    directions: [Direction; 2],
    /// Sequence numbers of the FINs.
    fins: [Option<u32>; 2],
    lost: u32,
    reader: Reader,
    /// Nothing more is expected: both sides sent FIN and all before it, or one sent RST.
    closed: bool,
    /// What the parsers and directions hold, bytes.
    weight: usize,
}

impl Connection {
    /// A connection that begins with `event`, which is still to be taken in.
    #[must_use]
    pub fn new(event: &Event) -> Self {
        let kind = if event.protocol == shared::DNS { Kind::Dns(<[Framer; 2]>::default()) } else { Kind::undecided() };
        Self {
            starts: [None; 2],
            directions: <[Direction; 2]>::default(),
            fins: [None; 2],
            lost: 0,
            reader: Reader { kind, reports: Vec::new(), wanted: Wanted::More },
            closed: false,
            weight: 0,
        }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Whether nothing more can come of the connection; it is kept only to know its late packets.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.closed || matches!(self.reader.kind, Kind::Ignored)
    }

    /// Whether `event` belongs to a later connection between the same ports.
    #[must_use]
    pub fn is_reused_by(&self, event: &Event) -> bool {
        let direction = usize::from(event.direction & 1);
        let start = (event.notes & NOTE_START != 0).then_some(event.start);
        match (start, self.starts[direction]) {
            (Some(new), Some(old)) => new != old,
            (Some(_), None) if event.tcp_flags & SYN != 0 => true,
            // Bytes beyond the end of a connection that is closed.
            _ if self.closed && event.payload_len > 0 => {
                let next = self.directions[direction].next_seq();
                next.is_none_or(|next| event.seq.wrapping_sub(next).cast_signed() > 0)
            }
            _ => false,
        }
    }

    /// What there is to report so far.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reader.reports)
    }

    /// Takes in an event of this connection.
    pub fn event(&mut self, event: &Event, bytes: &[u8]) -> Wanted {
        let direction = usize::from(event.direction & 1);
        let other = 1 - direction;
        let cause = if event.lost > self.lost { Cause::RingFull } else { Cause::NotSeen };
        self.lost = self.lost.max(event.lost);
        if event.notes & NOTE_START != 0 {
            self.starts[direction].get_or_insert(event.start);
            self.directions[direction].start(event.start);
        }
        let Self { directions, reader, .. } = self;
        if event.tcp_flags & ACK != 0 {
            if directions[other].next_seq().is_none() {
                // The byte that this side waits for is the first that is not known to it.
                directions[other].start(event.ack);
            } else {
                let waits = directions[direction].is_waiting();
                directions[other].acknowledged(event.ack, cause, &mut |piece| reader.piece(other, piece, waits));
            }
        }
        let waits = directions[other].is_waiting();
        let segment = Segment { seq: event.seq, bytes, wire_len: event.payload_len, time_ns: event.time_ns };
        directions[direction].push(segment, cause, &mut |piece| reader.piece(direction, piece, waits));
        if event.tcp_flags & FIN != 0 {
            self.fins[direction] = Some(event.seq.wrapping_add(event.payload_len));
        }
        self.end(event.tcp_flags & RST != 0);
        self.weigh();
        self.reader.wanted
    }

    /// Nothing more will come, and the program counts `lost` events of this connection that did not fit into its ring:
    /// if more than are known, what is unfinished says so.
    pub fn note_lost(&mut self, lost: u32) {
        if lost > self.lost {
            // Which side they came from is not known. A request that was handed over whole is not blamed.
            let server = 1 - self.reader.client();
            self.reader.hole(server, Hole { len: 0, cause: Cause::RingFull });
        }
    }

    /// Whether both sides have ended the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reports everything that is still held; `reason` says why no more will come.
    pub fn finish(&mut self, reason: &str, cause: Cause) {
        let Self { directions, reader, .. } = self;
        for (index, direction) in directions.iter_mut().enumerate() {
            direction.flush(cause, &mut |piece| reader.piece(index, piece, false));
        }
        self.reader.finish(reason);
        self.weigh();
    }

    /// Ends the reading without a report: the connection is none of these protocols.
    pub fn forget(&mut self) {
        self.reader.kind = Kind::Ignored;
        self.weigh();
    }

    fn weigh(&mut self) {
        if matches!(self.reader.kind, Kind::Ignored) {
            self.directions.iter_mut().for_each(Direction::drop_held);
        }
        self.weight = self.reader.buffered() + self.directions.iter().map(Direction::held_bytes).sum::<usize>();
    }

    /// Notes FINs before which all bytes have come, and the end of the connection.
    fn end(&mut self, reset: bool) {
        let ended = [0, 1]
            .map(|index: usize| self.fins[index].is_some() && self.fins[index] == self.directions[index].next_seq());
        for direction in (0..2).filter(|&direction| ended[direction]) {
            self.reader.fin(direction);
        }
        // The program forgets the connection at the second FIN, so what is missing by then will not come.
        if !self.closed && (reset || self.fins.iter().all(Option::is_some)) {
            self.closed = true;
            self.finish(if reset { "the connection was reset" } else { "the connection ended" }, Cause::NotSeen);
            self.reader.wanted = Wanted::Nothing;
        }
    }
}

#[derive(Debug)]
enum Kind {
    /// In-order bytes per direction and the time of the first.
    Undecided([(Vec<u8>, u64); 2]),
    Dns([Framer; 2]),
    Http(Box<Http1>),
    Tls(Box<Handshake>),
    Ignored,
}

impl Kind {
    fn undecided() -> Self {
        Self::Undecided(<[(Vec<u8>, u64); 2]>::default())
    }
}

/// The parser of a connection and what it found.
#[derive(Debug)]
struct Reader {
    kind: Kind,
    reports: Vec<Report>,
    wanted: Wanted,
}

impl Reader {
    /// Takes in the next piece of a direction. `other_waits` says that the other direction holds segments back.
    fn piece(&mut self, direction: usize, piece: Piece<'_>, other_waits: bool) {
        match piece {
            Piece::Bytes(bytes, time_ns) => self.bytes(direction, bytes, time_ns, other_waits),
            Piece::Hole(hole) => self.hole(direction, hole),
        }
    }

    fn bytes(&mut self, direction: usize, bytes: &[u8], time_ns: u64, other_waits: bool) {
        match &mut self.kind {
            Kind::Undecided(kept) => {
                let (text, first_ns) = &mut kept[direction];
                if text.is_empty() {
                    *first_ns = time_ns;
                }
                text.extend_from_slice(bytes);
                self.decide(direction, other_waits);
            }
            Kind::Dns(framers) => {
                let reports = &mut self.reports;
                framers[direction].bytes(bytes, time_ns, &mut |message, first_ns| {
                    reports.push(Report::Dns(direction, first_ns, message, None));
                });
                self.dns_progress();
            }
            Kind::Http(http) => {
                let progress = http.bytes(direction, bytes, time_ns);
                self.http_progress(progress);
            }
            Kind::Tls(handshake) => {
                let progress = handshake.bytes(direction, bytes, time_ns);
                self.tls_progress(progress);
            }
            Kind::Ignored => {}
        }
    }

    fn hole(&mut self, direction: usize, hole: Hole) {
        match &mut self.kind {
            Kind::Undecided(kept) => kept[direction].0.clear(),
            Kind::Dns(framers) => {
                if let Some((message, first_ns)) = framers[direction].stop(hole.to_string()) {
                    self.reports.push(Report::Dns(direction, first_ns, message, Some(hole.to_string())));
                }
                self.dns_progress();
            }
            Kind::Http(http) => {
                let progress = http.hole(direction, hole);
                self.http_progress(progress);
            }
            Kind::Tls(handshake) => {
                let progress = handshake.hole(direction, hole);
                self.tls_progress(progress);
            }
            Kind::Ignored => {}
        }
    }

    /// Direction of the requests, as far as the protocol tells.
    fn client(&self) -> usize {
        match &self.kind {
            Kind::Http(http) => http.client(),
            Kind::Tls(handshake) => handshake.client,
            Kind::Undecided(_) | Kind::Dns(_) | Kind::Ignored => 0,
        }
    }

    fn fin(&mut self, direction: usize) {
        if let Kind::Http(http) = &mut self.kind {
            http.fin(direction);
            self.take_exchanges();
        }
    }

    /// Chooses the parser once the first bytes of a direction allow it.
    fn decide(&mut self, direction: usize, other_waits: bool) {
        let Kind::Undecided(kept) = &mut self.kind else { return };
        let text = kept[direction].0.as_slice();
        let mut prefix = [0; PREFIX];
        let len = text.len().min(PREFIX);
        prefix[..len].copy_from_slice(&text[..len]);
        let kind = match recognise(&prefix, u32::try_from(len).unwrap_or(0)) {
            Recognised::Short => return,
            // The other direction may have something to say once its first bytes have come.
            Recognised::Nothing if other_waits && text.len() < MAX_UNDECIDED => return,
            Recognised::Nothing => return self.ignore(Wanted::NextMessage),
            Recognised::Http if text.starts_with(b"HTTP/") => Kind::Http(Box::new(Http1::new(1 - direction))),
            Recognised::Http => Kind::Http(Box::new(Http1::new(direction))),
            Recognised::Tls if text.get(5) == Some(&2) => Kind::Tls(Box::new(Handshake::new(1 - direction))),
            Recognised::Tls => Kind::Tls(Box::new(Handshake::new(direction))),
        };
        let Kind::Undecided(mut kept) = std::mem::replace(&mut self.kind, kind) else { return };
        // The direction that decided goes first: what the other one has sent so far is at best an answer to it.
        for direction in [direction, 1 - direction] {
            let (text, first_ns) = std::mem::take(&mut kept[direction]);
            if !text.is_empty() {
                self.bytes(direction, &text, first_ns, false);
            }
        }
    }

    fn ignore(&mut self, wanted: Wanted) {
        self.kind = Kind::Ignored;
        self.wanted = wanted;
    }

    fn dns_progress(&mut self) {
        if let Kind::Dns(framers) = &self.kind
            && framers.iter().all(|framer| framer.stopped.is_some())
        {
            self.ignore(Wanted::Nothing);
        }
    }

    fn http_progress(&mut self, progress: http::Progress) {
        self.take_exchanges();
        match progress {
            http::Progress::More => {}
            http::Progress::Foreign => self.ignore(Wanted::NextMessage),
            http::Progress::Over => self.finish("the connection"),
            http::Progress::Tunnel(inside) => {
                self.finish("the connection");
                self.kind = Kind::undecided();
                self.wanted = Wanted::More;
                for (direction, bytes, time_ns) in inside {
                    self.bytes(direction, &bytes, time_ns, false);
                }
            }
        }
    }

    fn tls_progress(&mut self, progress: tls::Progress) {
        match progress {
            tls::Progress::More => {}
            tls::Progress::Foreign => self.ignore(Wanted::NextMessage),
            tls::Progress::Over => self.finish("the handshake"),
        }
    }

    fn take_exchanges(&mut self) {
        if let Kind::Http(http) = &mut self.kind {
            let client = http.client();
            self.reports.extend(http.take_done().into_iter().map(|exchange| Report::Http(client, exchange)));
        }
    }

    /// Ends the parser and reports what it has; `reason` is the subject of "... before the end of the message".
    fn finish(&mut self, reason: &str) {
        if let Kind::Http(http) = &mut self.kind {
            http.finish(reason);
            self.take_exchanges();
        }
        match std::mem::replace(&mut self.kind, Kind::Ignored) {
            Kind::Tls(mut handshake) => {
                handshake.finish(reason);
                self.reports.push(Report::Tls(handshake));
            }
            Kind::Dns(framers) => {
                for (direction, mut framer) in framers.into_iter().enumerate() {
                    let cut = format!("{reason} before the end of the message");
                    if let Some((message, first_ns)) = framer.stop(cut.clone()) {
                        self.reports.push(Report::Dns(direction, first_ns, message, Some(cut)));
                    }
                }
            }
            Kind::Undecided(_) | Kind::Http(_) | Kind::Ignored => {}
        }
        self.wanted = Wanted::Nothing;
    }

    fn buffered(&self) -> usize {
        match &self.kind {
            Kind::Undecided(kept) => kept.iter().map(|(text, _)| text.len()).sum(),
            Kind::Dns(framers) => framers.iter().map(Framer::buffered).sum(),
            Kind::Http(http) => http.buffered(),
            Kind::Tls(handshake) => handshake.buffered(),
            Kind::Ignored => 0,
        }
    }
}

//! One direction of a TCP stream, read as it comes: which protocol it is, and what becomes of its bytes.

use std::collections::VecDeque;

use super::Tools;
use super::http::{self, Head, Kind, METHODS, Method};
use super::stream::{Fate, Fates};
use super::{dns, tls};

/// Longest line of HTTP, and most bytes that are looked at to tell a protocol.
const MAX_LINE: usize = 64 << 10;
/// Most answers that may be outstanding on a connection.
const MAX_METHODS: usize = 4096;

/// What is expected next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The protocol is not known yet.
    #[default]
    Start,
    HttpStart,
    HttpHeader(Head),
    HttpTrailer,
    /// So many bytes of a body, whose end is certain or not, then a line.
    HttpBody {
        left: u64,
        certain: bool,
    },
    HttpChunkSize,
    HttpChunk(u64),
    HttpChunkEnd,
    TlsRecord {
        encrypted: bool,
    },
    /// So many bytes of a record that the policy decides on.
    TlsBody {
        left: usize,
        encrypted: bool,
    },
    DnsMessage,
    /// The policy decides from here on.
    Policy,
    /// Nothing is kept from here on.
    Scrub,
}

/// What reading one piece came to.
enum Step {
    /// So many bytes are done with.
    Done(usize),
    /// More bytes are needed.
    More,
    /// Nothing can be made of the rest.
    Over(State),
}

/// The requests of a connection whose answers have not come.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: VecDeque<Method>,
    /// An answer came without its request, or a direction was not seen from its start: nobody knows which answer is to
    /// which request any more.
    lost: bool,
}

/// A parser and the bytes that it could not yet make sense of.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    at: u64,
    from_start: bool,
}

/// What a step works with.
struct Context<'a> {
    fates: &'a mut Fates,
    requests: &'a mut Requests,
    tools: &'a mut Tools,
    kept: usize,
}

impl Parser {
    /// Whether no further byte changes anything.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Policy | State::Scrub)
    }

    /// Takes in the next bytes of the stream. Returns how many bytes of memory their replacements take.
    pub(super) fn feed(
        &mut self,
        data: &[u8],
        from_start: bool,
        ports: (u16, u16),
        fates: &mut Fates,
        requests: &mut Requests,
        tools: &mut Tools,
    ) -> usize {
        self.from_start = from_start;
        requests.lost |= !from_start;
        self.buffer.extend_from_slice(data);
        let mut context = Context { fates, requests, tools, kept: 0 };
        let mut done = 0;
        while done < self.buffer.len() && !self.is_over() {
            let bytes = std::mem::take(&mut self.buffer);
            let step = self.step(&bytes[done..], ports, &mut context);
            self.buffer = bytes;
            match step {
                Step::Done(len) => {
                    done += len;
                    self.at += len as u64;
                }
                Step::More => break,
                Step::Over(state) => self.over(state, context.fates),
            }
        }
        self.buffer.drain(..done);
        if self.is_over() {
            self.buffer = Vec::new();
        }
        context.kept
    }

    fn over(&mut self, state: State, fates: &mut Fates) {
        let fate = if state == State::Policy { Fate::Policy } else { Fate::Scrub };
        fates.push(self.at, fate);
        self.state = state;
    }

    /// Ends the reading at bytes that will never come.
    pub(super) fn give_up(&mut self, fates: &mut Fates) {
        if !self.is_over() {
            self.over(State::Scrub, fates);
            self.buffer = Vec::new();
        }
    }

    /// Ends the reading at the end of the capture. `hole` says that later bytes are there.
    pub(super) fn settle(&mut self, hole: bool, fates: &mut Fates) {
        let body =
            matches!(self.state, State::HttpBody { certain: true, .. } | State::HttpChunk(_) | State::TlsBody { .. });
        // What follows a hole inside a body may be something else.
        if !body || hole {
            self.give_up(fates);
        }
    }

    fn step(&mut self, bytes: &[u8], ports: (u16, u16), context: &mut Context<'_>) -> Step {
        match self.state {
            State::Start => self.start(bytes, ports),
            State::HttpStart => self.http_start(bytes, context),
            State::HttpHeader(head) => self.http_header(bytes, head, context),
            State::HttpTrailer => {
                let mut ignored = Head::default();
                match self.line(bytes, context, |line, out, tools| http::header(line, out, &mut ignored, tools)) {
                    Ok((len, blank)) => {
                        self.state = if blank { State::HttpStart } else { State::HttpTrailer };
                        Step::Done(len)
                    }
                    Err(step) => step,
                }
            }
            State::HttpBody { left, certain } => {
                let len = left.min(bytes.len() as u64);
                context.fates.push(self.at, if certain { Fate::Policy } else { Fate::Scrub });
                self.state = if len == left { State::HttpStart } else { State::HttpBody { left: left - len, certain } };
                Step::Done(len as usize)
            }
            State::HttpChunkSize => self.chunk_size(bytes, context),
            State::HttpChunk(left) => {
                let len = left.min(bytes.len() as u64);
                context.fates.push(self.at, Fate::Policy);
                self.state = if len == left { State::HttpChunkEnd } else { State::HttpChunk(left - len) };
                Step::Done(len as usize)
            }
            State::HttpChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.patch(&bytes[..2], bytes[..2].into(), context);
                    self.state = State::HttpChunkSize;
                    Step::Done(2)
                }
                [b'\r'] => Step::More,
                _ => Step::Over(State::Scrub),
            },
            State::TlsRecord { encrypted } => self.tls_record(bytes, encrypted, context),
            State::TlsBody { left, encrypted } => {
                let len = left.min(bytes.len());
                context.fates.push(self.at, Fate::Policy);
                self.state = if len == left {
                    State::TlsRecord { encrypted }
                } else {
                    State::TlsBody { left: left - len, encrypted }
                };
                Step::Done(len)
            }
            State::DnsMessage => self.dns_message(bytes, context),
            State::Policy | State::Scrub => Step::Over(self.state),
        }
    }

    fn patch(&self, from: &[u8], to: Box<[u8]>, context: &mut Context<'_>) {
        // Two boxes and their place in the list.
        context.kept += from.len() * 2 + size_of::<(u64, Fate)>();
        context.fates.push(self.at, Fate::Patch { from: from.into(), to });
    }

    /// Tells the protocol by its first bytes, DNS by its port.
    fn start(&mut self, bytes: &[u8], ports: (u16, u16)) -> Step {
        if ports.0 == 53 || ports.1 == 53 {
            self.state = if self.from_start { State::DnsMessage } else { State::Scrub };
            return if self.from_start { Step::Done(0) } else { Step::Over(State::Scrub) };
        }
        let begins = |text: &[u8]| {
            let len = text.len().min(bytes.len());
            bytes[..len] == text[..len]
        };
        if begins(b"HTTP/1.") || METHODS.iter().any(|method| begins(format!("{method} ").as_bytes())) {
            let whole = bytes.len() >= 10 || bytes.contains(&b' ');
            if whole {
                self.state = State::HttpStart;
                return Step::Done(0);
            }
            return Step::More;
        }
        // HTTP/2 without TLS: names are compressed beyond what is read here (RFC 9113 section 3.4, RFC 7541).
        if begins(b"PRI * HTTP/2") {
            return if bytes.len() >= 12 { Step::Over(State::Scrub) } else { Step::More };
        }
        match bytes {
            [tls::HANDSHAKE, 3, 0..=4, ..] => {
                self.state = State::TlsRecord { encrypted: false };
                Step::Done(0)
            }
            [tls::HANDSHAKE] | [tls::HANDSHAKE, 3] => Step::More,
            // The middle of something: it may be a header's value.
            _ if !self.from_start => Step::Over(State::Scrub),
            _ => Step::Over(State::Policy),
        }
    }

    /// Rewrites the line that the bytes begin with. Returns its length and whether it is blank.
    fn line(
        &self,
        bytes: &[u8],
        context: &mut Context<'_>,
        rewrite: impl FnOnce(&[u8], &mut [u8], &mut Tools),
    ) -> Result<(usize, bool), Step> {
        let Some(len) = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1) else {
            return Err(if bytes.len() > MAX_LINE { Step::Over(State::Scrub) } else { Step::More });
        };
        let line = &bytes[..len];
        let mut out = vec![0; len];
        let blank = matches!(line, b"\r\n" | b"\n");
        if blank {
            out.copy_from_slice(line);
        } else {
            rewrite(line, &mut out, context.tools);
        }
        self.patch(line, out.into(), context);
        Ok((len, blank))
    }

    fn http_start(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Step {
        let mut found = None;
        let (len, blank) =
            match self.line(bytes, context, |line, out, tools| found = http::start_line(line, out, tools)) {
                Ok(line) => line,
                Err(step) => return step,
            };
        if blank {
            // Between messages there may be empty lines (RFC 9112 section 2.2).
            return Step::Done(len);
        }
        let Some((head, method)) = found else {
            return Step::Over(State::Scrub);
        };
        if let Some(method) = method {
            context.requests.waiting.push_back(method);
            if context.requests.waiting.len() > MAX_METHODS {
                return Step::Over(State::Scrub);
            }
        }
        self.state = State::HttpHeader(head);
        Step::Done(len)
    }

    fn http_header(&mut self, bytes: &[u8], mut head: Head, context: &mut Context<'_>) -> Step {
        let line = self.line(bytes, context, |line, out, tools| http::header(line, out, &mut head, tools));
        let (len, blank) = match line {
            Ok(line) => line,
            Err(step) => return step,
        };
        self.state = if blank { after_head(head, context.requests) } else { State::HttpHeader(head) };
        if matches!(self.state, State::Policy | State::Scrub) {
            let fate = if self.state == State::Policy { Fate::Policy } else { Fate::Scrub };
            context.fates.push(self.at + len as u64, fate);
        }
        Step::Done(len)
    }

    fn chunk_size(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Step {
        let mut size = None;
        let line = self.line(bytes, context, |line, out, tools| {
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            size = std::str::from_utf8(&line[..digits]).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
            out[..digits].copy_from_slice(&line[..digits]);
            tools.words.text(&line[digits..], &mut out[digits..], &[], false, &mut tools.ids);
        });
        match (line, size) {
            (Err(step), _) => step,
            (Ok((len, _)), Some(size)) => {
                self.state = if size == 0 { State::HttpTrailer } else { State::HttpChunk(size) };
                Step::Done(len)
            }
            (Ok(_), None) => Step::Over(State::Scrub),
        }
    }

    fn tls_record(&mut self, bytes: &[u8], encrypted: bool, context: &mut Context<'_>) -> Step {
        let Some(header) = bytes.first_chunk::<{ tls::RECORD }>() else { return Step::More };
        let [kind, major, _, a, b] = *header;
        let len = usize::from(u16::from_be_bytes([a, b]));
        if major != 3 || !(20..=24).contains(&kind) || len > tls::MAX_RECORD {
            return Step::Over(State::Scrub);
        }
        let whole = tls::RECORD + len;
        let plain = !encrypted && matches!(kind, tls::HANDSHAKE | tls::ALERT | tls::CHANGE_CIPHER_SPEC);
        if !plain {
            self.patch(header, (*header).into(), context);
            self.state = State::TlsBody { left: len, encrypted };
            return Step::Done(tls::RECORD);
        }
        let Some(record) = bytes.get(..whole) else { return Step::More };
        match kind {
            tls::HANDSHAKE => self.handshake(record, context),
            _ => {
                // An alert is two bytes, a change of cipher one.
                let to = if len <= 2 { record.into() } else { scrubbed(record) };
                self.patch(record, to, context);
                self.state = State::TlsRecord { encrypted: kind == tls::CHANGE_CIPHER_SPEC };
                Step::Done(whole)
            }
        }
    }

    /// A record of handshake messages. One that goes on in the next record is not read, and neither is what follows.
    fn handshake(&mut self, record: &[u8], context: &mut Context<'_>) -> Step {
        let start = self.at;
        let mut to = vec![0; record.len()];
        to[..tls::RECORD].copy_from_slice(&record[..tls::RECORD]);
        let mut pieces: Vec<(usize, Fate)> = Vec::new();
        let (mut at, mut begun) = (tls::RECORD, 0);
        let mut take = |to: &[u8], from: usize, until: usize| {
            if from < until {
                pieces.push((from, Fate::Patch { from: record[from..until].into(), to: to[from..until].into() }));
            }
            until
        };
        let mut payload = Vec::new();
        let mut torn = false;
        while at < record.len() {
            let message = tls::message_header(&record[at..]).filter(|(_, len)| at + 4 + len <= record.len());
            let Some((kind, len)) = message else {
                torn = true;
                break;
            };
            to[at..at + 4].copy_from_slice(&record[at..at + 4]);
            let body = at + 4..at + 4 + len;
            if tls::is_hello(kind) {
                if !tls::hello(kind, &record[body.clone()], &mut to[body.clone()], context.tools) {
                    context.tools.counts.add("tls_hellos_not_understood", 1);
                }
            } else {
                begun = take(&to, begun, body.start).max(body.end);
                payload.push(body.start);
            }
            at = body.end;
        }
        take(&to, begun, at);
        for start_of in payload {
            pieces.push((start_of, Fate::Policy));
        }
        pieces.sort_by_key(|(from, _)| *from);
        context.kept += record.len() * 2 + pieces.len() * size_of::<(u64, Fate)>();
        for (from, fate) in pieces {
            context.fates.push(start + from as u64, fate);
        }
        if torn {
            self.at = start + at as u64;
            return Step::Over(State::Scrub);
        }
        self.state = State::TlsRecord { encrypted: false };
        Step::Done(record.len())
    }

    /// RFC 7766 section 8: messages behind their length of two bytes.
    fn dns_message(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Step {
        let Some(prefix) = bytes.first_chunk::<2>() else { return Step::More };
        let whole = 2 + usize::from(u16::from_be_bytes(*prefix));
        let Some(message) = bytes.get(..whole) else { return Step::More };
        let mut to = vec![0; whole];
        to[..2].copy_from_slice(prefix);
        dns::rewrite(&message[2..], &mut to[2..], context.tools);
        self.patch(message, to.into(), context);
        Step::Done(whole)
    }
}

impl Requests {
    /// The request that the next answer is to, if that is known.
    fn answered(&mut self) -> Option<Method> {
        let request = self.waiting.pop_front();
        self.lost |= request.is_none();
        request.filter(|_| !self.lost)
    }
}

/// A record whose header alone is kept.
fn scrubbed(record: &[u8]) -> Box<[u8]> {
    let mut to = vec![0; record.len()];
    to[..tls::RECORD].copy_from_slice(&record[..tls::RECORD]);
    to.into()
}

/// Where the body ends, and so what follows a head (RFC 9112 section 6.3).
fn after_head(head: Head, requests: &mut Requests) -> State {
    let body = |certain| match (head.chunked, head.length) {
        _ if head.unclear => State::Scrub,
        // Both is a smuggler's (RFC 9112 section 6.1).
        (true, Some(_)) => State::Scrub,
        (true, None) if certain => State::HttpChunkSize,
        (true, None) => State::Scrub,
        (false, Some(0)) => State::HttpStart,
        (false, Some(left)) => State::HttpBody { left, certain },
        // A request without length has no body; a response then goes on until the connection ends.
        (false, None) if head.kind == Kind::Request => State::HttpStart,
        (false, None) if certain => State::Policy,
        (false, None) => State::Scrub,
    };
    match head.kind {
        Kind::Request => body(true),
        // Another protocol takes over.
        Kind::Response(101) => State::Scrub,
        Kind::Response(100..=199) => State::HttpStart,
        Kind::Response(code) => match requests.answered() {
            Some(Method::Head) => State::HttpStart,
            Some(Method::Connect) if (200..300).contains(&code) => State::Scrub,
            _ if matches!(code, 204 | 304) => State::HttpStart,
            Some(_) => body(true),
            // The request was not seen: it may have been HEAD, and this no body.
            None => body(false),
        },
    }
}

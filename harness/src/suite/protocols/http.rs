//! HTTP/1.x exchanges (RFC 9112) of one connection, from the ordered bytes of its two directions.

use std::collections::VecDeque;

use super::http_head::{self, Body, Request, Response};
use super::stream::Hole;

/// Bytes that the head of a message, a chunk's size line or a trailer section may have.
pub const MAX_HEAD: usize = 64 * 1024;

/// A request with its final response, or the one of them that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Time of the first byte seen, ns.
    pub first_ns: u64,
    /// Method; empty where no request was seen.
    pub method: String,
    /// Request target as sent.
    pub path: String,
    /// `Host` field.
    pub host: Option<String>,
    /// `1.0` or `1.1`, of the request (of the response where no request was seen).
    pub version: String,
    /// Final status code.
    pub status: Option<u16>,
    /// From the first byte of the request to the first of the final response, ns.
    pub latency_ns: Option<u64>,
    /// Position on the connection, from 1.
    pub number: u64,
    /// The request began before the previous response had ended.
    pub pipelined: bool,
    /// What could not be read, and why.
    pub cut: Option<String>,
}

impl Exchange {
    /// Says something more that could not be read.
    fn add_cut(&mut self, text: &str) {
        match &mut self.cut {
            Some(cut) => {
                cut.push_str("; ");
                cut.push_str(text);
            }
            cut => *cut = Some(text.to_owned()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Reads the head of a message into `text`.
    #[default]
    Head,
    /// Passes over this many bytes of a body.
    Length(u64),
    /// Reads the line with a chunk's size into `text`.
    ChunkSize,
    /// Passes over a chunk.
    Chunk(u64),
    /// Reads the empty line after a chunk.
    ChunkEnd,
    /// Reads the trailer section after the last chunk.
    Trailer,
    /// Passes over a body that ends with the connection.
    UntilClose,
    /// After CONNECT: keeps what comes in `text` until the response says whose bytes they are.
    Waiting,
    /// Reads nothing more, for this reason.
    Stopped(String),
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    state: State,
    text: Vec<u8>,
    /// Time of the first byte of the message under way, ns.
    first_ns: u64,
}

/// What [`Half::step`] came to.
enum Step {
    /// All bytes are used up.
    More,
    /// `text` holds a whole head.
    Head,
    /// The body is over.
    End,
    /// The direction makes no sense any more.
    Bad(String),
}

/// Bytes that belong to the protocol inside a tunnel: direction, bytes, time.
pub type Inside = Vec<(usize, Vec<u8>, u64)>;

/// What has become of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    More,
    /// It never was HTTP/1.x.
    Foreign,
    /// It speaks another protocol from here on (CONNECT or 101), to which these bytes belong already.
    Tunnel(Inside),
    /// Nothing more can be read in either direction.
    Over,
}

/// One connection.
#[derive(Debug, Default)]
pub struct Http1 {
    /// Direction of the requests.
    client: usize,
    halves: [Half; 2],
    /// Requests without a final response, in order.
    pending: VecDeque<Exchange>,
    /// The exchange whose response is being read.
    current: Option<Exchange>,
    /// The last exchange that is complete; kept back so that it can say what ended the reading.
    last: Option<Exchange>,
    done: Vec<Exchange>,
    count: u64,
    /// The request under way began before the previous response had ended.
    pipelined: bool,
}

impl Http1 {
    /// A connection whose requests come in direction `client` (0 or 1).
    #[must_use]
    pub fn new(client: usize) -> Self {
        Self { client, ..Self::default() }
    }

    /// Direction of the requests.
    #[must_use]
    pub fn client(&self) -> usize {
        self.client
    }

    /// Memory held, roughly, in bytes.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let heads: usize = self.halves.iter().map(|half| half.text.len()).sum();
        let pending: usize = self.pending.iter().map(|exchange| 192 + exchange.path.len()).sum();
        heads + pending
    }

    /// The exchanges that are complete.
    pub fn take_done(&mut self) -> Vec<Exchange> {
        std::mem::take(&mut self.done)
    }

    /// Takes in the next bytes of a direction.
    pub fn bytes(&mut self, direction: usize, mut bytes: &[u8], time_ns: u64) -> Progress {
        loop {
            self.begin(direction, &mut bytes, time_ns);
            match self.halves[direction].step(&mut bytes) {
                Step::More => return self.check_first_line(direction),
                Step::Bad(reason) => return self.stop(direction, &reason),
                Step::End => self.end_of_message(direction),
                Step::Head => match self.head(direction) {
                    Err(reason) => return self.stop(direction, &reason),
                    Ok(true) => return self.tunnel(direction, bytes, time_ns),
                    Ok(false) => match self.resume_waiting(direction) {
                        Progress::More => {}
                        progress => return progress,
                    },
                },
            }
        }
    }

    /// The next bytes of a direction are missing. Inside a body that is passed over by its length this is harmless.
    pub fn hole(&mut self, direction: usize, hole: Hole) -> Progress {
        match &mut self.halves[direction].state {
            State::Length(left) if *left == hole.len => self.end_of_message(direction),
            State::Length(left) | State::Chunk(left) if *left > hole.len => *left -= hole.len,
            State::UntilClose | State::Stopped(_) => {}
            _ => return self.stop(direction, &hole.to_string()),
        }
        Progress::More
    }

    /// A direction has ended in order.
    pub fn fin(&mut self, direction: usize) {
        if self.halves[direction].state == State::UntilClose {
            self.end_of_message(direction);
        }
    }

    /// The connection is over, for the reason given: messages that are incomplete say so.
    pub fn finish(&mut self, reason: &str) {
        for direction in [self.client, 1 - self.client] {
            let half = &self.halves[direction];
            let place = match half.state {
                State::Head if !half.text.is_empty() => "before the end of the head".to_owned(),
                State::Length(left) => format!("{left} bytes before the end of the body"),
                State::ChunkSize | State::Chunk(_) | State::ChunkEnd | State::Trailer => {
                    "before the last chunk".to_owned()
                }
                _ => continue,
            };
            self.stop(direction, &format!("{reason} {place}"));
        }
        self.end_of_message(1 - self.client);
        if let State::Stopped(reason) = &self.halves[1 - self.client].state {
            for exchange in &mut self.pending {
                exchange.add_cut(&format!("response not read: {reason}"));
            }
        }
        self.done.extend(self.last.take());
        self.done.extend(self.pending.drain(..));
    }

    /// Notes the time of a message's first byte; empty lines before a message do not count (RFC 9112 section 2.2).
    fn begin(&mut self, direction: usize, bytes: &mut &[u8], time_ns: u64) {
        let half = &mut self.halves[direction];
        if half.state != State::Head || !half.text.is_empty() {
            return;
        }
        while let [b'\r' | b'\n', rest @ ..] = bytes {
            *bytes = rest;
        }
        if bytes.is_empty() {
            return;
        }
        half.first_ns = time_ns;
        if direction == self.client {
            self.pipelined = self.current.is_some() || !self.pending.is_empty();
        }
    }

    /// Says early that a connection is none of ours: its first line is whole and no request line or status line.
    fn check_first_line(&mut self, direction: usize) -> Progress {
        let half = &self.halves[direction];
        if self.count == 0 && half.state == State::Head && half.text.contains(&b'\n') {
            let line = http_head::first_line(&half.text);
            let fits =
                if direction == self.client { Request::line(line).is_some() } else { Response::line(line).is_some() };
            if !fits {
                return Progress::Foreign;
            }
        }
        Progress::More
    }

    /// Reads the head that a direction has collected; true if the connection becomes a tunnel.
    fn head(&mut self, direction: usize) -> Result<bool, String> {
        let head = std::mem::take(&mut self.halves[direction].text);
        if direction == self.client {
            let request = Request::parse(&head).ok_or_else(|| "no HTTP/1.x request line".to_owned())?;
            self.request(&request).map(|()| false)
        } else {
            let response = Response::parse(&head).ok_or_else(|| "no HTTP/1.x status line".to_owned())?;
            self.response(&response)
        }
    }

    fn request(&mut self, request: &Request) -> Result<(), String> {
        let exchange = self.new_exchange(request, None);
        self.pending.push_back(exchange);
        let half = &mut self.halves[self.client];
        half.state = match request.fields.request_body()? {
            _ if request.method == "CONNECT" => State::Waiting,
            Body::Length(0) => State::Head,
            Body::Length(left) => State::Length(left),
            Body::Chunked => State::ChunkSize,
            Body::UntilClose => State::UntilClose,
        };
        Ok(())
    }

    fn new_exchange(&mut self, request: &Request, cut: Option<String>) -> Exchange {
        self.count += 1;
        Exchange {
            first_ns: self.halves[self.client].first_ns,
            method: request.method.clone(),
            path: request.target.clone(),
            host: request.fields.host.clone(),
            version: request.version.clone(),
            number: self.count,
            pipelined: self.pipelined,
            cut,
            ..Exchange::default()
        }
    }

    /// Takes in a response's head; true if the connection becomes a tunnel.
    fn response(&mut self, response: &Response) -> Result<bool, String> {
        let status = response.status;
        let server = 1 - self.client;
        if (100..200).contains(&status) && status != 101 {
            // An interim response (RFC 9110 section 15.2): the final one is still to come.
            return Ok(false);
        }
        let exchange = self.answered(response);
        let connected = exchange.method == "CONNECT" && (200..300).contains(&status);
        if status == 101 || connected {
            self.complete(exchange);
            return Ok(true);
        }
        if exchange.method == "HEAD" || status == 204 || status == 304 {
            self.complete(exchange);
            return Ok(false);
        }
        let body = response.fields.response_body();
        self.current = Some(exchange);
        self.halves[server].state = match body? {
            Body::Length(0) => {
                self.end_of_message(server);
                State::Head
            }
            Body::Length(left) => State::Length(left),
            Body::Chunked => State::ChunkSize,
            Body::UntilClose => State::UntilClose,
        };
        Ok(false)
    }

    /// The exchange that a response answers, with its status.
    fn answered(&mut self, response: &Response) -> Exchange {
        let first_ns = self.halves[1 - self.client].first_ns;
        let status = Some(response.status);
        if let Some(exchange) = self.pending.pop_front() {
            let latency_ns = Some(first_ns.saturating_sub(exchange.first_ns));
            return Exchange { status, latency_ns, ..exchange };
        }
        self.count += 1;
        Exchange {
            first_ns,
            version: response.version.clone(),
            status,
            number: self.count,
            cut: Some("the request was not seen".to_owned()),
            ..Exchange::default()
        }
    }

    fn end_of_message(&mut self, direction: usize) {
        let half = &mut self.halves[direction];
        if !matches!(half.state, State::Stopped(_)) {
            half.state = State::Head;
        }
        if direction != self.client
            && let Some(exchange) = self.current.take()
        {
            self.complete(exchange);
        }
    }

    fn complete(&mut self, exchange: Exchange) {
        self.done.extend(self.last.replace(exchange));
    }

    /// What the client sent after a CONNECT that the server did not grant are further requests.
    fn resume_waiting(&mut self, direction: usize) -> Progress {
        let half = &mut self.halves[self.client];
        if direction == self.client || half.state != State::Waiting || !self.pending.is_empty() {
            return Progress::More;
        }
        half.state = State::Head;
        let (text, time_ns) = (std::mem::take(&mut half.text), half.first_ns);
        self.bytes(self.client, &text, time_ns)
    }

    fn tunnel(&mut self, direction: usize, rest: &[u8], time_ns: u64) -> Progress {
        let half = &mut self.halves[self.client];
        let mut inside = vec![(self.client, std::mem::take(&mut half.text), half.first_ns)];
        inside.push((direction, rest.to_vec(), time_ns));
        inside.retain(|(_, bytes, _)| !bytes.is_empty());
        for half in &mut self.halves {
            *half = Half::default();
        }
        Progress::Tunnel(inside)
    }

    /// Ends the reading of a direction and says so at the exchange that it concerns.
    fn stop(&mut self, direction: usize, reason: &str) -> Progress {
        let half = &mut self.halves[direction];
        let in_head = half.state == State::Head;
        let text = std::mem::take(&mut half.text);
        half.state = State::Stopped(reason.to_owned());
        if direction == self.client {
            if let Some(request) = in_head.then(|| Request::parse_cut(&text)).flatten() {
                let exchange = self.new_exchange(&request, Some(format!("request: {reason}")));
                self.pending.push_back(exchange);
            } else if self.count == 0 {
                return Progress::Foreign;
            } else if let Some(exchange) = self.pending.back_mut().or(self.current.as_mut()).or(self.last.as_mut()) {
                exchange.add_cut(&format!("in or after the request: {reason}"));
            }
        } else if let Some(response) = in_head.then(|| Response::parse_cut(&text)).flatten() {
            let mut exchange = self.answered(&response);
            exchange.add_cut(&format!("response: {reason}"));
            self.complete(exchange);
        } else if let Some(mut exchange) = self.current.take().or_else(|| self.pending.pop_front()) {
            exchange.add_cut(&format!("response: {reason}"));
            self.complete(exchange);
        } else if self.count == 0 {
            return Progress::Foreign;
        } else if let Some(exchange) = &mut self.last {
            exchange.add_cut(&format!("after the response: {reason}"));
        }
        let over = self.halves.iter().all(|half| matches!(half.state, State::Stopped(_)));
        if over { Progress::Over } else { Progress::More }
    }
}

impl Half {
    /// Uses up bytes until something is complete.
    fn step(&mut self, bytes: &mut &[u8]) -> Step {
        loop {
            if bytes.is_empty() {
                return Step::More;
            }
            match self.state {
                State::Head => match self.take_line(bytes) {
                    Some(true) if http_head::is_whole(&self.text) => return Step::Head,
                    Some(_) => {}
                    None => return Step::Bad(format!("a head of more than {MAX_HEAD} bytes")),
                },
                State::Length(left) => match skip(bytes, left) {
                    0 => return Step::End,
                    left => self.state = State::Length(left),
                },
                State::Chunk(left) => match skip(bytes, left) {
                    0 => self.state = State::ChunkEnd,
                    left => self.state = State::Chunk(left),
                },
                State::ChunkSize | State::ChunkEnd | State::Trailer => match self.chunk_line(bytes) {
                    Ok(true) => return Step::End,
                    Ok(false) => {}
                    Err(reason) => return Step::Bad(reason),
                },
                State::Waiting => {
                    if self.text.len() + bytes.len() > MAX_HEAD {
                        return Step::Bad("too much after a CONNECT that is not answered".to_owned());
                    }
                    self.text.extend_from_slice(bytes);
                    *bytes = &[];
                }
                State::UntilClose | State::Stopped(_) => *bytes = &[],
            }
        }
    }

    /// Moves bytes up to the end of the line into `text`: whether the line is whole, or nothing if it is too long.
    fn take_line(&mut self, bytes: &mut &[u8]) -> Option<bool> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        if self.text.len() + line.len() > MAX_HEAD {
            return None;
        }
        self.text.extend_from_slice(line);
        *bytes = rest;
        Some(end.is_some())
    }

    /// Reads a line of the chunked coding (RFC 9112 section 7.1); true at the end of the body.
    fn chunk_line(&mut self, bytes: &mut &[u8]) -> Result<bool, String> {
        if !self.take_line(bytes).ok_or_else(|| format!("a chunk line of more than {MAX_HEAD} bytes"))? {
            return Ok(false);
        }
        let empty = matches!(self.text.as_slice(), b"\n" | b"\r\n");
        let size = http_head::chunk_size(&self.text);
        // The lines of a trailer section count together, so that they are bounded as a head is.
        let end_of_trailer = self.state == State::Trailer && http_head::is_whole(&self.text);
        match self.state {
            State::Trailer if empty || end_of_trailer => {}
            State::Trailer => return Ok(false),
            State::ChunkEnd if empty => self.state = State::ChunkSize,
            State::ChunkEnd => return Err("no line end after a chunk".to_owned()),
            _ => {
                self.state = match size {
                    None => return Err("no chunk size where one must be".to_owned()),
                    Some(0) => State::Trailer,
                    Some(size) => State::Chunk(size),
                };
            }
        }
        self.text.clear();
        Ok(self.state == State::Trailer && (empty || end_of_trailer))
    }
}

/// Drops up to `left` bytes; how many are left to drop.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[len..];
    left - len as u64
}

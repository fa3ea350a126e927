//! The hellos of a TLS handshake (RFC 8446 section 4.1, RFC 5246 section 7.4.1), from the ordered bytes of a
//! connection's two directions.
//!
//! Handshake messages may span records and segments. Only what both versions send in the clear is read: the
//! ClientHello, a HelloRetryRequest, and the ServerHello. SSL 2.0 hellos are not.

use super::ciphers;
use super::printable;
use super::stream::Hole;

/// Bytes that a hello may have; the longest that are sent (with post-quantum keys) have about 2 kB.
const MAX_HELLO: usize = 64 * 1024;
/// Bytes of a record: 2^14 and what TLS 1.2 allows a cipher to add (RFC 5246 section 6.2.3).
const MAX_RECORD: usize = (1 << 14) + 2048;
/// `random` of a ServerHello that is a HelloRetryRequest: SHA-256 of that name (RFC 8446 section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Record types (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Handshake message types (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Extensions (RFC 6066 section 3, RFC 7301, RFC 8446 section 4.2.1).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// What a ClientHello offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The first host name of the server name extension.
    pub sni: Option<String>,
    /// Offered protocols, in order of preference.
    pub alpn: Vec<String>,
    /// The highest version offered.
    pub version: u16,
}

/// What a ServerHello chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerHello {
    /// The chosen version.
    pub version: u16,
    /// The chosen cipher suite.
    pub cipher: u16,
    /// The chosen protocol, where it is not encrypted (up to TLS 1.2).
    pub alpn: Option<String>,
    /// It is a HelloRetryRequest: the client shall send another ClientHello.
    pub retry: bool,
}

/// Whether a value is reserved to grease the protocol (RFC 8701 section 2): `0x?A?A` with both bytes alike.
const fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// `TLS 1.3` and so on, else the number.
#[must_use]
pub fn version_name(version: u16) -> String {
    match version {
        0x0300 => "SSL 3.0".to_owned(),
        0x0301 => "TLS 1.0".to_owned(),
        0x0302 => "TLS 1.1".to_owned(),
        0x0303 => "TLS 1.2".to_owned(),
        0x0304 => "TLS 1.3".to_owned(),
        _ => format!("0x{version:04x}"),
    }
}

/// The IANA name of a cipher suite, else `0xNNNN`.
#[must_use]
pub fn cipher_name(cipher: u16) -> String {
    ciphers::name(cipher).map_or_else(|| format!("0x{cipher:04X}"), str::to_owned)
}

/// Reads bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A vector with one byte of length (RFC 8446 section 3.4).
    fn vector8(&mut self) -> Option<Reader<'a>> {
        let len = self.u8()?;
        self.take(usize::from(len)).map(Reader)
    }

    /// A vector with two bytes of length.
    fn vector16(&mut self) -> Option<Reader<'a>> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(Reader)
    }
}

impl ClientHello {
    /// Reads the body of a ClientHello (after type and length).
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let legacy_version = reader.u16()?;
        reader.take(32)?;
        reader.vector8()?;
        reader.vector16()?;
        reader.vector8()?;
        let mut hello = Self { version: legacy_version, ..Self::default() };
        // Extensions may be absent as a whole (RFC 5246 section 7.4.1.2).
        let mut extensions = if reader.0.is_empty() { Reader(&[]) } else { reader.vector16()? };
        while !extensions.0.is_empty() {
            let (kind, mut data) = (extensions.u16()?, extensions.vector16()?);
            match kind {
                SERVER_NAME => hello.sni = hello.sni.or(host_name(&mut data)),
                ALPN => hello.alpn = protocols(&mut data)?,
                SUPPORTED_VERSIONS => hello.version = highest(&mut data)?.unwrap_or(legacy_version),
                _ => {}
            }
        }
        Some(hello)
    }
}

/// The host name in a server name extension; name type 0 is the only one that was ever defined (RFC 6066 section 3).
fn host_name(data: &mut Reader<'_>) -> Option<String> {
    let mut list = data.vector16()?;
    while !list.0.is_empty() {
        let (kind, name) = (list.u8()?, list.vector16()?);
        if kind == 0 {
            return Some(printable(name.0));
        }
    }
    None
}

/// The protocols in an ALPN extension (RFC 7301 section 3.1), without grease.
fn protocols(data: &mut Reader<'_>) -> Option<Vec<String>> {
    let (mut list, mut found) = (data.vector16()?, Vec::new());
    while !list.0.is_empty() {
        let name = list.vector8()?.0;
        let grease = <[u8; 2]>::try_from(name).is_ok_and(|bytes| is_grease(u16::from_be_bytes(bytes)));
        if !grease {
            found.push(printable(name));
        }
    }
    Some(found)
}

/// The highest version in a client's list, without grease.
fn highest(data: &mut Reader<'_>) -> Option<Option<u16>> {
    let (mut list, mut best) = (data.vector8()?, None);
    while !list.0.is_empty() {
        let version = list.u16()?;
        if !is_grease(version) {
            best = best.max(Some(version));
        }
    }
    Some(best)
}

impl ServerHello {
    /// Reads the body of a ServerHello (after type and length).
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let version = reader.u16()?;
        let retry = *reader.take(32)? == RETRY_RANDOM;
        reader.vector8()?;
        let cipher = reader.u16()?;
        reader.u8()?;
        let mut hello = Self { version, cipher, alpn: None, retry };
        let mut extensions = if reader.0.is_empty() { Reader(&[]) } else { reader.vector16()? };
        while !extensions.0.is_empty() {
            let (kind, mut data) = (extensions.u16()?, extensions.vector16()?);
            match kind {
                SUPPORTED_VERSIONS => hello.version = data.u16()?,
                ALPN => hello.alpn = protocols(&mut data)?.into_iter().next(),
                _ => {}
            }
        }
        Some(hello)
    }
}

/// What one direction has shown.
#[derive(Debug, Default)]
struct Half {
    /// A record that is not whole yet, its header included.
    record: Vec<u8>,
    /// Handshake bytes of whole records that are no whole message yet.
    message: Vec<u8>,
    /// Time of the first byte of the message under way, ns.
    first_ns: u64,
    /// Why nothing more is read here.
    stopped: Option<String>,
}

/// The two hellos of a connection.
#[derive(Debug, Default)]
pub struct Handshake {
    /// Direction of the ClientHello, 0 or 1.
    pub client: usize,
    /// The first ClientHello and the time of its first byte, ns.
    pub client_hello: Option<(ClientHello, u64)>,
    /// The ServerHello that settles the session (or the HelloRetryRequest, if nothing came after it), and its time.
    pub server_hello: Option<(ServerHello, u64)>,
    /// The server asked for another ClientHello.
    pub retried: bool,
    /// What could not be read, and why.
    pub cut: Option<String>,
    halves: [Half; 2],
}

/// What has become of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A hello is still to come.
    More,
    /// It is no TLS handshake.
    Foreign,
    /// Both hellos are through, or cannot come any more.
    Over,
}

impl Handshake {
    /// A connection whose direction `client` (0 or 1) sends the ClientHello.
    #[must_use]
    pub fn new(client: usize) -> Self {
        Self { client, ..Self::default() }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.halves.iter().map(|half| half.record.len() + half.message.len()).sum()
    }

    /// Takes in the next bytes of a direction.
    pub fn bytes(&mut self, direction: usize, mut bytes: &[u8], time_ns: u64) -> Progress {
        while !bytes.is_empty() && self.halves[direction].stopped.is_none() && !self.is_over() {
            let half = &mut self.halves[direction];
            if half.record.is_empty() && half.message.is_empty() {
                half.first_ns = time_ns;
            }
            if let Err(reason) = half.take(&mut bytes) {
                return self.stop(direction, &reason);
            }
            while let Some((kind, body)) = self.halves[direction].next_message() {
                if let Err(reason) = self.message(direction, kind, &body) {
                    return self.stop(direction, &reason);
                }
                self.halves[direction].first_ns = time_ns;
            }
        }
        if self.is_over() { Progress::Over } else { Progress::More }
    }

    /// The next bytes of a direction are missing.
    pub fn hole(&mut self, direction: usize, hole: Hole) -> Progress {
        self.stop(direction, &hole.to_string())
    }

    /// The connection is over, for the reason given.
    pub fn finish(&mut self, reason: &str) {
        for (direction, name) in [(self.client, "ClientHello"), (1 - self.client, "ServerHello")] {
            let half = &self.halves[direction];
            let begun = !half.record.is_empty() || !half.message.is_empty();
            let seen = if direction == self.client { self.client_hello.is_some() } else { self.server_hello.is_some() };
            if begun && !seen && half.stopped.is_none() {
                self.cut.get_or_insert_with(|| format!("{reason} before the end of the {name}"));
            }
        }
    }

    /// Whether anything was recognised that can be reported.
    #[must_use]
    pub fn has_hello(&self) -> bool {
        self.client_hello.is_some() || self.server_hello.is_some()
    }

    /// The first time that is known, ns.
    #[must_use]
    pub fn first_ns(&self) -> u64 {
        let hello = self.client_hello.as_ref().map(|(_, time)| *time);
        hello.or(self.server_hello.as_ref().map(|(_, time)| *time)).unwrap_or(self.halves[self.client].first_ns)
    }

    fn is_over(&self) -> bool {
        self.server_hello.as_ref().is_some_and(|(hello, _)| !hello.retry)
            && (self.client_hello.is_some() || self.halves[self.client].stopped.is_some())
    }

    fn message(&mut self, direction: usize, kind: u8, body: &[u8]) -> Result<(), String> {
        let time_ns = self.halves[direction].first_ns;
        match kind {
            CLIENT_HELLO if direction == self.client => {
                let hello = ClientHello::parse(body).ok_or("a ClientHello that contradicts itself")?;
                // After a retry the client sends the same hello with another key (RFC 8446 section 4.1.2).
                self.client_hello.get_or_insert((hello, time_ns));
                Ok(())
            }
            SERVER_HELLO if direction != self.client => {
                let hello = ServerHello::parse(body).ok_or("a ServerHello that contradicts itself")?;
                self.retried |= hello.retry;
                self.server_hello = Some((hello, time_ns));
                Ok(())
            }
            // A server may ask for a hello first (HelloRequest, RFC 5246 section 7.4.1.1).
            0 if direction != self.client && body.is_empty() => Ok(()),
            _ => Err(format!("a handshake message of type {kind} where a hello must be")),
        }
    }

    fn stop(&mut self, direction: usize, reason: &str) -> Progress {
        let is_client = direction == self.client;
        let half = &mut self.halves[direction];
        let begun = !half.record.is_empty() || !half.message.is_empty();
        *half = Half { first_ns: half.first_ns, stopped: Some(reason.to_owned()), ..Half::default() };
        let seen = if is_client { self.client_hello.is_some() } else { self.server_hello.is_some() };
        if !seen {
            if !self.has_hello() && !begun {
                return Progress::Foreign;
            }
            let side = if is_client { "ClientHello" } else { "ServerHello" };
            self.cut.get_or_insert_with(|| format!("{side}: {reason}"));
        }
        let all_stopped = self.halves.iter().all(|half| half.stopped.is_some());
        if all_stopped || self.is_over() { Progress::Over } else { Progress::More }
    }
}

impl Half {
    /// Takes the bytes of at most one record; its handshake bytes go to `message`.
    fn take(&mut self, bytes: &mut &[u8]) -> Result<(), String> {
        let len = match *self.record {
            [_, _, _, high, low, ..] => 5 + usize::from(u16::from_be_bytes([high, low])),
            _ => 5,
        };
        let (taken, rest) = bytes.split_at(bytes.len().min(len - self.record.len()));
        self.record.extend_from_slice(taken);
        *bytes = rest;
        let &[kind, major, minor, high, low, ref body @ ..] = self.record.as_slice() else { return Ok(()) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(20..=24).contains(&kind) || major != 3 || minor > 4 || len > MAX_RECORD {
            return Err("no TLS record where one must be".to_owned());
        }
        if kind == APPLICATION_DATA {
            return Err("application data has begun".to_owned());
        }
        if body.len() < len {
            return Ok(());
        }
        if kind == HANDSHAKE {
            self.message.extend_from_slice(body);
        }
        self.record.clear();
        Ok(())
    }

    /// The next whole handshake message: its type and body.
    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let &[kind, high, middle, low, ref rest @ ..] = self.message.as_slice() else { return None };
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        if len > MAX_HELLO {
            // Reported as a message of no known type, which ends the reading.
            return Some((u8::MAX, Vec::new()));
        }
        let body = rest.get(..len)?.to_vec();
        self.message.drain(..4 + len);
        Some((kind, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vector16(data)].concat()
    }

    /// A handshake message of this type.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 0][..], &vector16(body)].concat()
    }

    fn client_hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
        message(CLIENT_HELLO, &[fixed, vector16(&extensions.concat())].concat())
    }

    fn server_hello(random: [u8; 32], cipher: [u8; 2], extensions: &[Vec<u8>]) -> Vec<u8> {
        let fixed = [&[3, 3][..], &random, &[0], &cipher, &[0]].concat();
        message(SERVER_HELLO, &[fixed, vector16(&extensions.concat())].concat())
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 1][..], &vector16(body)].concat()
    }

    #[test]
    fn grease_is_passed_over() {
        let hello = client_hello(&[
            extension(0x1a1a, b""),
            extension(SERVER_NAME, b"\0\x06\0\0\x03a.b"),
            extension(ALPN, &vector16(b"\x02\x4a\x4a\x02h2\x08http/1.1")),
            extension(SUPPORTED_VERSIONS, &[6, 0xfa, 0xfa, 3, 4, 3, 3]),
        ]);
        let hello = ClientHello::parse(&hello[4..]).expect("a hello");
        assert_eq!(hello.sni.as_deref(), Some("a.b"));
        assert_eq!((hello.alpn, hello.version), (vec!["h2".to_owned(), "http/1.1".to_owned()], 0x0304));
    }

    #[test]
    fn a_hello_may_span_records_and_records_may_span_segments() {
        let hello = client_hello(&[extension(SERVER_NAME, b"\0\x06\0\0\x03a.b")]);
        let records: Vec<u8> = hello.chunks(7).flat_map(|part| record(HANDSHAKE, part)).collect();
        let mut handshake = Handshake::new(1);
        for (time_ns, byte) in (100..).zip(&records) {
            assert_eq!(handshake.bytes(1, &[*byte], time_ns), Progress::More);
        }
        let (hello, first_ns) = handshake.client_hello.expect("a hello");
        assert_eq!((hello.sni.as_deref(), hello.version, first_ns), (Some("a.b"), 0x0303, 100));
    }

    #[test]
    fn a_retry_is_not_the_answer() {
        let mut handshake = Handshake::new(0);
        let versions = extension(SUPPORTED_VERSIONS, &[3, 4]);
        let retry = record(HANDSHAKE, &server_hello(RETRY_RANDOM, [0x13, 2], std::slice::from_ref(&versions)));
        let answer = record(HANDSHAKE, &server_hello([9; 32], [0x13, 2], &[versions]));
        let change_cipher_spec = record(20, &[1]);
        let hello = record(HANDSHAKE, &client_hello(&[]));
        assert_eq!(handshake.bytes(0, &hello, 10), Progress::More);
        assert_eq!(handshake.bytes(1, &[retry, change_cipher_spec.clone()].concat(), 20), Progress::More);
        assert_eq!(handshake.bytes(0, &[change_cipher_spec, hello].concat(), 30), Progress::More);
        assert_eq!(handshake.bytes(1, &answer, 40), Progress::Over);
        assert!(handshake.retried);
        let (answer, time_ns) = handshake.server_hello.expect("an answer");
        assert_eq!(
            (cipher_name(answer.cipher).as_str(), answer.version, time_ns),
            ("TLS_AES_256_GCM_SHA384", 0x0304, 40)
        );
        assert_eq!((handshake.client_hello.expect("a hello").1, handshake.cut), (10, None));
    }

    #[test]
    fn tls_1_2_shows_the_chosen_protocol() {
        let hello = server_hello([9; 32], [0xc0, 0x2f], &[extension(ALPN, &vector16(b"\x02h2"))]);
        let hello = ServerHello::parse(&hello[4..]).expect("a hello");
        assert_eq!((hello.alpn.as_deref(), version_name(hello.version)), (Some("h2"), "TLS 1.2".to_owned()));
        assert_eq!(cipher_name(0x0a0a), "0x0A0A");
    }

    #[test]
    fn an_answer_that_is_no_tls_is_said() {
        let mut handshake = Handshake::new(0);
        let _ = handshake.bytes(0, &record(HANDSHAKE, &client_hello(&[])), 1);
        let _ = handshake.bytes(1, b"HTTP/1.1 400 Bad Request\r\n", 2);
        assert_eq!(handshake.cut.as_deref(), Some("ServerHello: no TLS record where one must be"));
    }

    #[test]
    fn an_alert_before_the_answer_is_passed_over() {
        let mut handshake = Handshake::new(0);
        let _ = handshake.bytes(0, &record(HANDSHAKE, &client_hello(&[])), 1);
        assert_eq!(handshake.bytes(1, &record(21, &[2, 40]), 2), Progress::More);
        handshake.finish("the connection ended");
        assert_eq!((handshake.server_hello, handshake.cut), (None, None));
    }
}

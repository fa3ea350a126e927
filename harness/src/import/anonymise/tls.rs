//! TLS records and hellos (RFC 8446, RFC 5246): what the handshake negotiates stays, what names or recognises someone
//! does not.

use super::Tools;
use super::policy::Replace;
use super::text::known;

/// Length of a record's header.
pub(super) const RECORD: usize = 5;
/// Longest record: 2^14 and what protection adds (RFC 5246 section 6.2.3).
pub(super) const MAX_RECORD: usize = (1 << 14) + 2048;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// A ServerHello with this random is a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Protocols of the ALPN registry that are in wide use.
const ALPN: [&str; 13] =
    ["http/0.9", "http/1.0", "http/1.1", "h2", "h2c", "h3", "ftp", "imap", "pop3", "dot", "doq", "mqtt", "postgresql"];

/// A cursor over a message that never reads beyond it.
struct Cursor<'a> {
    from: &'a [u8],
    to: &'a mut [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Passes over `len` bytes, which stay as they are.
    fn keep(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.from.get(self.at..self.at + len)?;
        self.to[self.at..self.at + len].copy_from_slice(bytes);
        self.at += len;
        Some(bytes)
    }

    /// Passes over `len` bytes, which become others.
    fn replace(&mut self, len: usize, change: impl FnOnce(&[u8], &mut [u8])) -> Option<()> {
        let bytes = self.from.get(self.at..self.at + len)?;
        change(bytes, &mut self.to[self.at..self.at + len]);
        self.at += len;
        Some(())
    }

    /// A length of one or two bytes, which stays.
    fn length(&mut self, bytes: usize) -> Option<usize> {
        Some(self.keep(bytes)?.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    }
}

/// Kind of a handshake message and length of its body.
pub(super) fn message_header(bytes: &[u8]) -> Option<(u8, usize)> {
    let [kind, a, b, c] = *bytes.first_chunk()?;
    Some((kind, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
}

/// Whether a handshake message is read by [`hello`]. Bodies of others are payload.
pub(super) fn is_hello(kind: u8) -> bool {
    matches!(kind, CLIENT_HELLO | SERVER_HELLO)
}

/// Rewrites the body of a hello into zeros, which stay where it is not understood. Returns whether everything was.
pub(super) fn hello(kind: u8, from: &[u8], to: &mut [u8], tools: &mut Tools) -> bool {
    let mut cursor = Cursor { from, to, at: 0 };
    tools.counts.add("tls_hellos", 1);
    hello_at(kind, &mut cursor, tools).is_some()
}

fn hello_at(kind: u8, cursor: &mut Cursor<'_>, tools: &mut Tools) -> Option<()> {
    cursor.keep(2)?;
    cursor.replace(32, |from, to| {
        // The last bytes may tell of a downgrade (RFC 8446 section 4.1.3).
        let kept = match from {
            from if *from == RETRY => 0,
            [.., b'D', b'O', b'W', b'N', b'G', b'R', b'D', 0 | 1] if kind == SERVER_HELLO => 24,
            _ => 32,
        };
        tools.words.opaque(&from[..kept], &mut to[..kept]);
        to[kept..].copy_from_slice(&from[kept..]);
    })?;
    let session = cursor.length(1)?;
    // Echoed by the server, so the same value must stay the same.
    cursor.replace(session, |from, to| tools.words.opaque(from, to))?;
    if kind == CLIENT_HELLO {
        let suites = cursor.length(2)?;
        cursor.keep(suites)?;
        let compressions = cursor.length(1)?;
        cursor.keep(compressions)?;
    } else {
        cursor.keep(3)?;
    }
    if cursor.at == cursor.from.len() {
        return Some(());
    }
    let end = cursor.length(2)? + cursor.at;
    while cursor.at < end.min(cursor.from.len()) {
        extension(kind, cursor, tools)?;
    }
    (cursor.at == cursor.from.len()).then_some(())
}

fn extension(hello: u8, cursor: &mut Cursor<'_>, tools: &mut Tools) -> Option<()> {
    let kind = cursor.length(2)?;
    let len = cursor.length(2)?;
    let end = cursor.at + len;
    let body = cursor.from.get(cursor.at..end)?;
    match kind {
        0 if len > 0 => server_name(cursor, tools).filter(|()| cursor.at <= end)?,
        16 => protocols(cursor, end, tools)?,
        // The list of responders and what they are asked (RFC 6066 section 8) may be empty.
        5 if body == [1, 0, 0, 0, 0] || body.is_empty() => drop(cursor.keep(len)?),
        // Maximum length, groups, point formats, signature algorithms, heartbeat, encrypt-then-mac, extended master
        // secret, certificate compression, record size, versions, PSK modes, signature algorithms of certificates, key
        // shares, early data.
        1 | 10 | 11 | 13 | 15 | 22 | 23 | 27 | 28 | 42 | 43 | 45 | 50 | 51 => drop(cursor.keep(len)?),
        // Certificate transparency and post-handshake authentication where they only ask; renegotiation at the start.
        18 | 49 if len == 0 => {}
        0xff01 if body == [0] => drop(cursor.keep(len)?),
        // Reserved so that nobody chokes on unknown ones (RFC 8701).
        _ if kind & 0x0f0f == 0x0a0a && len <= 1 => drop(cursor.keep(len)?),
        // Padding is zeros (RFC 7685). Of tickets, cookies, pre-shared keys and the rest the length stays.
        21 => {}
        _ if len == 0 => {}
        _ => {
            tools.counts.add(if hello == CLIENT_HELLO { "tls_client_data_zeroed" } else { "tls_server_data_zeroed" }, 1)
        }
    }
    cursor.at = end;
    Some(())
}

/// RFC 6066 section 3: a list of names, each of type 0.
fn server_name(cursor: &mut Cursor<'_>, tools: &mut Tools) -> Option<()> {
    let end = cursor.length(2)? + cursor.at;
    while cursor.at < end {
        let kind = cursor.length(1)?;
        let len = cursor.length(2)?;
        if kind != 0 {
            cursor.replace(len, |_, _| ())?;
            continue;
        }
        cursor.replace(len, |from, to| tools.words.host(from, to, &mut tools.ids))?;
        if tools.policy.names == Replace::Replace {
            tools.counts.add("tls_server_names", 1);
        }
    }
    Some(())
}

/// RFC 7301: names behind their lengths. Those that everybody uses stay.
fn protocols(cursor: &mut Cursor<'_>, end: usize, tools: &mut Tools) -> Option<()> {
    cursor.length(2)?;
    while cursor.at < end {
        let len = cursor.length(1)?;
        if cursor.at + len > end {
            return None;
        }
        cursor.replace(len, |from, to| {
            if known(from, &ALPN) {
                to.copy_from_slice(from);
            } else {
                tools.words.text(from, to, &[], false, &mut tools.ids);
            }
        })?;
    }
    Some(())
}

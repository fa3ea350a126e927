//! DNS messages (RFC 1035) and their pairing into transactions.

use std::collections::HashMap;

use bpflab_programs::packet::FlowKey;

/// Labels and pointers that a name may have before it is given up: a name has at most 127 labels (RFC 1035
/// section 2.3.4: 255 bytes), and each pointer must lead backwards.
const MAX_STEPS: usize = 255;
/// Bytes of a name, its length bytes included (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
/// Type of the EDNS pseudo-record (RFC 6891 section 6.1.1).
const OPT: u16 = 41;

/// What a message says that is reported here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Message ID.
    pub id: u16,
    /// QR bit: an answer.
    pub response: bool,
    /// Opcode, 0 for a standard query.
    pub opcode: u8,
    /// TC bit.
    pub truncated: bool,
    /// Response code; with EDNS all 12 bits of it (RFC 6891 section 6.1.3).
    pub rcode: u16,
    /// The first question: name in lower case, type.
    pub question: Option<(String, u16)>,
    /// ANCOUNT.
    pub answers: u16,
    /// UDP payload size of the OPT record.
    pub edns_size: Option<u16>,
    /// The message ends before all the records that its header announces.
    pub incomplete: bool,
}

/// Reads a message. `whole` says that `bytes` is all of it; otherwise records beyond its end are merely not seen.
///
/// Nothing is returned for what is no DNS message: a header of under 12 bytes, an unassigned opcode, or a question
/// that cannot be read although its bytes are there.
#[must_use]
pub fn parse(bytes: &[u8], whole: bool) -> Option<Message> {
    let mut cursor = Cursor { bytes, at: 0 };
    let (id, flags) = (cursor.u16()?, cursor.u16()?);
    let counts = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
    let mut message = Message {
        id,
        response: flags & 0x8000 != 0,
        opcode: u8::try_from((flags >> 11) & 0xf).ok()?,
        truncated: flags & 0x0200 != 0,
        rcode: flags & 0xf,
        answers: counts[1],
        ..Message::default()
    };
    if message.opcode > 6 {
        return None;
    }
    for _ in 0..counts[0] {
        let question = cursor.name().and_then(|name| Some((name, cursor.u16()?, cursor.u16()?)));
        let Some((name, kind, _class)) = question else {
            message.incomplete = true;
            return (!whole && message.response || message.question.is_some()).then_some(message);
        };
        message.question.get_or_insert((name, kind));
    }
    let records = counts[1..].iter().map(|&count| u32::from(count)).sum();
    message.incomplete = cursor.records(records, &mut message).is_none();
    Some(message)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A name in lower case and in the text form of RFC 1035 section 5.1, without the final dot; the root is ".".
    fn name(&mut self) -> Option<String> {
        let mut text = String::new();
        let (mut at, mut end, mut wire_len) = (self.at, None, 1_usize);
        for _ in 0..MAX_STEPS {
            let length = usize::from(*self.bytes.get(at)?);
            match length {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Some(if text.is_empty() { ".".to_owned() } else { text });
                }
                1..=63 => {
                    let label = self.bytes.get(at + 1..at + 1 + length)?;
                    wire_len += length + 1;
                    if wire_len > MAX_NAME {
                        return None;
                    }
                    if !text.is_empty() {
                        text.push('.');
                    }
                    push_label(&mut text, label);
                    at += 1 + length;
                }
                192..=255 => {
                    let pointer = (length & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    // RFC 1035 section 4.1.4: to a prior occurrence. What leads backwards cannot loop for ever.
                    if pointer >= at {
                        return None;
                    }
                    at = pointer;
                }
                _ => return None,
            }
        }
        None
    }

    /// Passes over a name without reading it.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match usize::from(*self.take(1)?.first()?) {
                0 => return Some(()),
                length @ 1..=63 => self.take(length).map(|_| ())?,
                192..=255 => return self.take(1).map(|_| ()),
                _ => return None,
            }
        }
    }

    /// Passes over `count` records and takes the EDNS data from the OPT record among them.
    fn records(&mut self, count: u32, message: &mut Message) -> Option<()> {
        for _ in 0..count {
            self.skip_name()?;
            let (kind, class) = (self.u16()?, self.u16()?);
            let ttl = self.take(4)?;
            let length = self.u16()?;
            if kind == OPT && message.edns_size.is_none() {
                // RFC 6891 section 6.1.2: the class is the payload size, the first byte of the TTL extends the rcode.
                message.edns_size = Some(class);
                message.rcode |= u16::from(*ttl.first()?) << 4;
            }
            self.take(usize::from(length))?;
        }
        Some(())
    }
}

fn push_label(text: &mut String, label: &[u8]) {
    for &byte in label {
        match byte {
            b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
            0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
            _ => text.push_str(&format!("\\{byte:03}")),
        }
    }
}

/// Name of a record type (IANA DNS parameters), else `TYPEn` (RFC 3597 section 5).
#[must_use]
pub fn type_name(kind: u16) -> String {
    let name = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        17 => "RP",
        18 => "AFSDB",
        24 => "SIG",
        25 => "KEY",
        28 => "AAAA",
        29 => "LOC",
        33 => "SRV",
        35 => "NAPTR",
        37 => "CERT",
        39 => "DNAME",
        41 => "OPT",
        43 => "DS",
        44 => "SSHFP",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        49 => "DHCID",
        50 => "NSEC3",
        51 => "NSEC3PARAM",
        52 => "TLSA",
        53 => "SMIMEA",
        59 => "CDS",
        60 => "CDNSKEY",
        61 => "OPENPGPKEY",
        62 => "CSYNC",
        63 => "ZONEMD",
        64 => "SVCB",
        65 => "HTTPS",
        99 => "SPF",
        108 => "EUI48",
        109 => "EUI64",
        249 => "TKEY",
        250 => "TSIG",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        256 => "URI",
        257 => "CAA",
        _ => return format!("TYPE{kind}"),
    };
    name.to_owned()
}

/// Name of a response code (IANA DNS parameters), else `RCODEn`.
#[must_use]
pub fn rcode_name(rcode: u16) -> String {
    let name = match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        17 => "BADKEY",
        18 => "BADTIME",
        19 => "BADMODE",
        20 => "BADNAME",
        21 => "BADALG",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        _ => return format!("RCODE{rcode}"),
    };
    name.to_owned()
}

/// Name of an opcode other than the standard query (IANA DNS parameters).
#[must_use]
pub fn opcode_name(opcode: u8) -> Option<&'static str> {
    match opcode {
        1 => Some("IQUERY"),
        2 => Some("STATUS"),
        4 => Some("NOTIFY"),
        5 => Some("UPDATE"),
        6 => Some("DSO"),
        _ => None,
    }
}

/// A query with its answer, or the one of them that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The flow.
    pub key: FlowKey,
    /// Direction of the query.
    pub client: usize,
    /// Time of the first query, or of the answer where no query was seen, ns.
    pub first_ns: u64,
    /// Time of the answer, where a query was seen too.
    pub answered_ns: Option<u64>,
    /// The query, or the answer where none was seen.
    pub message: Message,
    /// The answer.
    pub answer: Option<Message>,
    /// The query was sent again before it was answered, this often.
    pub retransmissions: u64,
    /// What could not be read, and why.
    pub cut: Option<String>,
}

/// Queries and answers of all flows, paired by flow, ID and question (RFC 1035 section 7.3, RFC 5452 section 9.1).
#[derive(Debug, Default)]
pub struct Transactions {
    /// In order of the first message.
    list: Vec<Transaction>,
    /// Transactions by flow, direction of the query and ID: the latest of each question.
    by_id: HashMap<(FlowKey, usize, u16), Vec<usize>>,
    /// Messages that `limit` kept out.
    pub lost: u64,
    limit: usize,
}

impl Transactions {
    /// No transactions yet, and never more than `limit`.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes in a message that the sender of `direction` sent at `time_ns`.
    pub fn message(&mut self, key: FlowKey, direction: usize, time_ns: u64, message: Message, cut: Option<String>) {
        let client = if message.response { 1 - direction } else { direction };
        let id = (key, client, message.id);
        let known = self.by_id.entry(id).or_default();
        let list = &mut self.list;
        let found = known.iter().rposition(|&index| {
            list.get(index).is_some_and(|transaction| same_question(&transaction.message, &message))
        });
        if let Some(transaction) = found.and_then(|place| list.get_mut(known[place])) {
            match (message.response, &transaction.answer) {
                // A copy of the answer, or of a query still open.
                (true, Some(_)) => return,
                (false, None) => {
                    transaction.retransmissions += 1;
                    return;
                }
                (true, None) => {
                    transaction.answered_ns = Some(time_ns);
                    transaction.answer = Some(Message { question: None, ..message });
                    transaction.cut = transaction.cut.take().or(cut);
                    return;
                }
                // Asked again after the answer: another transaction.
                (false, Some(_)) => {}
            }
        }
        if list.len() >= self.limit {
            self.lost += 1;
            return;
        }
        match found {
            Some(place) => known[place] = list.len(),
            None => known.push(list.len()),
        }
        let answer = message.response.then(|| message.clone());
        let transaction =
            Transaction { key, client, first_ns: time_ns, message, answer, cut, ..Transaction::default() };
        list.push(transaction);
    }

    /// All transactions, in order of their first message.
    pub fn take(&mut self) -> Vec<Transaction> {
        self.by_id.clear();
        std::mem::take(&mut self.list)
    }
}

/// Whether the answer belongs to the query: an answer may leave the question out (a format error often does).
fn same_question(query: &Message, other: &Message) -> bool {
    query.opcode == other.opcode && (query.question == other.question || (other.response && other.question.is_none()))
}

/// Takes DNS messages out of one direction of a TCP connection (RFC 1035 section 4.2.2: two bytes of length first).
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Time of the first byte of the message in `buffer`, ns.
    first_ns: u64,
    /// What ended the reading of this direction.
    pub stopped: Option<String>,
}

impl Framer {
    /// Memory that waits for the rest of a message.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes in bytes and calls `found` with each message that they complete and the time of its first byte; what is no
    /// DNS message ends the reading.
    pub fn bytes(&mut self, mut bytes: &[u8], time_ns: u64, found: &mut dyn FnMut(Message, u64)) {
        while !bytes.is_empty() && self.stopped.is_none() {
            if self.buffer.is_empty() {
                self.first_ns = time_ns;
            }
            let wanted = match *self.buffer {
                [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => 2,
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            bytes = rest;
            if let [high, low, message @ ..] = self.buffer.as_slice()
                && message.len() == usize::from(u16::from_be_bytes([*high, *low]))
            {
                match parse(message, true) {
                    Some(message) => found(message, self.first_ns),
                    None => self.stopped = Some("no DNS message where one must be".to_owned()),
                }
                self.buffer.clear();
            }
        }
    }

    /// Bytes are missing: where the next message begins is no longer known. Returns what can be read of the present one
    /// and the time of its first byte.
    pub fn stop(&mut self, reason: String) -> Option<(Message, u64)> {
        if self.stopped.is_some() {
            return None;
        }
        self.stopped = Some(reason);
        let buffer = std::mem::take(&mut self.buffer);
        parse(buffer.get(2..)?, false).map(|message| (message, self.first_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header: ID 7, these flags, one question and these counts of answers and additional records.
    fn header(flags: u16, answers: u16, additional: u16) -> Vec<u8> {
        [7, flags, 1, answers, 0, additional].into_iter().flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn a_query_with_edns() {
        let mut bytes = header(0x0100, 0, 1);
        bytes.extend(b"\x03WWW\x07example\0\0\x1c\0\x01");
        // OPT: root name, type 41, payload size 1232, no extended rcode.
        bytes.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        let message = parse(&bytes, true).expect("a message");
        assert_eq!(message.question, Some(("www.example".to_owned(), 28)));
        assert_eq!((message.response, message.edns_size, message.incomplete), (false, Some(1232), false));
    }

    #[test]
    fn the_rcode_has_twelve_bits_with_edns() {
        let mut bytes = header(0x8180, 0, 1);
        bytes.extend(b"\0\0\x01\0\x01");
        // BADVERS is 16: extended rcode 1, header rcode 0.
        bytes.extend(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
        let message = parse(&bytes, true).expect("a message");
        assert_eq!((message.question.expect("a question").0.as_str(), message.rcode), (".", 16));
        assert_eq!(rcode_name(16), "BADVERS");
        assert_eq!(
            (rcode_name(3001), type_name(65), type_name(1234)),
            ("RCODE3001".into(), "HTTPS".into(), "TYPE1234".into())
        );
    }

    #[test]
    fn compressed_names_lead_backwards_only() {
        // The second question's name is "b" and a pointer to the first's (offset 12).
        let mut bytes: Vec<u8> = [7, 0, 2, 0, 0, 0].into_iter().flat_map(u16::to_be_bytes).collect();
        bytes.extend(b"\x01a\0\0\x01\0\x01\x01b\xc0\x0c\0\x01\0\x01");
        assert!(!parse(&bytes, true).expect("a message").incomplete);
        // A name that points to itself, and one that points behind itself.
        for pointer in [12, 14] {
            let mut bytes = header(0, 0, 0);
            bytes.extend([0xc0, pointer, 0, 0, 1, 0, 1]);
            assert_eq!(parse(&bytes, true), None, "pointer to {pointer}");
        }
    }

    #[test]
    fn a_message_that_is_cut_says_so() {
        let mut bytes = header(0x8180, 1, 0);
        bytes.extend(b"\x01a\0\0\x01\0\x01\xc0\x0c\0\x01");
        let message = parse(&bytes, false).expect("a message");
        assert!(message.incomplete);
        assert_eq!((message.answers, message.question), (1, Some(("a".to_owned(), 1))));
    }

    #[test]
    fn odd_bytes_in_names_are_escaped() {
        let mut bytes = header(0, 0, 0);
        bytes.extend(b"\x04a.b\x07\0\0\x01\0\x01");
        assert_eq!(parse(&bytes, true).and_then(|message| message.question), Some(("a\\.b\\007".to_owned(), 1)));
    }

    #[test]
    fn the_same_question_asked_again_after_its_answer_is_another_transaction() {
        let (query, answer) = (
            Message { id: 1, question: Some(("a".to_owned(), 1)), ..Message::default() },
            Message { id: 1, response: true, rcode: 3, ..Message::default() },
        );
        let mut transactions = Transactions::new(3);
        let key = FlowKey::default();
        for (time_ns, direction, message) in
            [(10, 0, &query), (20, 1, &answer), (25, 1, &answer), (30, 0, &query), (40, 0, &query), (60, 1, &answer)]
        {
            transactions.message(key, direction, time_ns, message.clone(), None);
        }
        let seen: Vec<_> = transactions
            .take()
            .into_iter()
            .map(|transaction| (transaction.first_ns, transaction.answered_ns, transaction.retransmissions))
            .collect();
        // The copy of the answer at 25 belongs to the first; the query at 40 repeats the one at 30.
        assert_eq!(seen, [(10, Some(20), 0), (30, Some(60), 1)]);
    }
}

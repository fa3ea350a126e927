//! DNS messages (RFC 1035): the structure stays, names and addresses are replaced, other data is not kept.

use std::ops::Range;

use super::Tools;
use super::policy::Replace;

const HEADER: usize = 12;
/// Most labels of a name; 255 bytes hold no more than 127 (RFC 1035 section 3.1).
const MAX_LABELS: usize = 128;
/// Most records looked at: a message of 64 KiB has no room for more.
const MAX_RECORDS: u32 = 8192;

/// A message being rewritten in place of zeros.
struct Message<'a, 'b> {
    from: &'a [u8],
    to: &'a mut [u8],
    tools: &'b mut Tools,
}

/// Rewrites the message `from` into `to`, which holds zeros and keeps them where nothing is understood. Returns whether
/// everything was.
pub(super) fn rewrite(from: &[u8], to: &mut [u8], tools: &mut Tools) -> bool {
    tools.counts.add("dns_messages", 1);
    Message { from, to, tools }.all().is_some()
}

impl Message<'_, '_> {
    fn all(&mut self) -> Option<()> {
        let header = self.from.get(..HEADER)?;
        let count = |at: usize| u32::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let (questions, records) = (count(4), count(6) + count(8) + count(10));
        self.keep(0..HEADER)?;
        let mut at = HEADER;
        for _ in 0..questions.min(MAX_RECORDS) {
            at = self.name(at)?;
            self.keep(at..at + 4)?;
            at += 4;
        }
        for _ in 0..records.min(MAX_RECORDS) {
            at = self.record(at)?;
        }
        (at == self.from.len()).then_some(())
    }

    fn keep(&mut self, range: Range<usize>) -> Option<()> {
        let bytes = self.from.get(range.clone())?;
        self.to[range].copy_from_slice(bytes);
        Some(())
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.from.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Rewrites the name at `at`, with the labels that it points to, and returns where it ends.
    fn name(&mut self, at: usize) -> Option<usize> {
        let mut labels: Vec<Range<usize>> = Vec::new();
        let (mut here, mut end) = (at, None);
        loop {
            let len = *self.from.get(here)?;
            match len {
                0 => {
                    self.to[here] = 0;
                    end.get_or_insert(here + 1);
                    break;
                }
                1..=63 => {
                    let label = here + 1..here + 1 + usize::from(len);
                    self.from.get(label.clone())?;
                    self.to[here] = len;
                    here = label.end;
                    labels.push(label);
                }
                // A pointer leads back (RFC 1035 section 4.1.4), so following it ends.
                0xc0.. => {
                    let target = usize::from(self.u16(here)? & 0x3fff);
                    self.keep(here..here + 2)?;
                    end.get_or_insert(here + 2);
                    if target >= here || target < HEADER {
                        break;
                    }
                    here = target;
                }
                _ => return None,
            }
            if labels.len() > MAX_LABELS {
                return None;
            }
        }
        self.tools.words.name(&labels, self.from, self.to, &mut self.tools.ids);
        if self.tools.policy.names == Replace::Replace && !labels.is_empty() {
            self.tools.counts.add("dns_names", 1);
        }
        end
    }

    /// Rewrites the record at `at` and returns where it ends.
    fn record(&mut self, at: usize) -> Option<usize> {
        let at = self.name(at)?;
        let (kind, len) = (self.u16(at)?, usize::from(self.u16(at + 8)?));
        self.keep(at..at + 10)?;
        let data = at + 10..at + 10 + len;
        self.from.get(data.clone())?;
        self.data(kind, data.clone())?;
        Some(data.end)
    }

    fn data(&mut self, kind: u16, data: Range<usize>) -> Option<()> {
        let start = data.start;
        match (kind, data.len()) {
            (1, 4) => self.address(start, 4),
            (28, 16) => self.address(start, 16),
            // NS, CNAME, PTR, DNAME.
            (2 | 5 | 12 | 39, _) => self.names(&[start], data.end),
            // SOA: two names and five numbers.
            (6, _) => {
                let second = self.name(start).filter(|end| *end < data.end)?;
                let numbers = self.name(second).filter(|end| end + 20 == data.end)?;
                self.keep(numbers..data.end)
            }
            // MX; SRV (RFC 2782).
            (15, 3..) => self.keep(start..start + 2).and_then(|()| self.names(&[start + 2], data.end)),
            (33, 7..) => self.keep(start..start + 6).and_then(|()| self.names(&[start + 6], data.end)),
            (16, _) => self.strings(data),
            (41, _) => self.options(data),
            // SVCB and HTTPS (RFC 9460): the parameters hold addresses and keys.
            (64 | 65, 3..) => {
                self.keep(start..start + 2)?;
                self.name(start + 2).filter(|end| *end <= data.end)?;
                self.tools.counts.add("dns_data_zeroed", 1);
                Some(())
            }
            _ => {
                self.tools.counts.add("dns_data_zeroed", 1);
                Some(())
            }
        }
    }

    fn names(&mut self, starts: &[usize], end: usize) -> Option<()> {
        starts.iter().try_for_each(|start| self.name(*start).filter(|at| *at <= end).map(drop))
    }

    fn address(&mut self, at: usize, len: usize) -> Option<()> {
        if len == 4 {
            let address = u32::from_be_bytes(*self.from.get(at..)?.first_chunk()?);
            self.to[at..at + 4].copy_from_slice(&self.tools.ids.v4(address).to_be_bytes());
        } else {
            let address = u128::from_be_bytes(*self.from.get(at..)?.first_chunk()?);
            self.to[at..at + 16].copy_from_slice(&self.tools.ids.v6(address).to_be_bytes());
        }
        self.tools.counts.add("dns_addresses", 1);
        Some(())
    }

    /// TXT: strings behind their lengths, all of whose words are replaced.
    fn strings(&mut self, data: Range<usize>) -> Option<()> {
        let mut at = data.start;
        while at < data.end {
            let text = at + 1..at + 1 + usize::from(self.from[at]);
            if text.end > data.end {
                return None;
            }
            self.to[at] = self.from[at];
            let (from, to) = (&self.from[text.clone()], &mut self.to[text.clone()]);
            self.tools.words.text(from, to, &[], false, &mut self.tools.ids);
            at = text.end;
        }
        self.tools.counts.add("dns_texts", 1);
        Some(())
    }

    /// EDNS options (RFC 6891 section 6.1.2): code and length stay; cookies, client subnets and the like do not.
    fn options(&mut self, data: Range<usize>) -> Option<()> {
        let mut at = data.start;
        while at < data.end {
            let len = usize::from(self.u16(at + 2)?);
            if at + 4 + len > data.end {
                return None;
            }
            self.keep(at..at + 4)?;
            at += 4 + len;
        }
        Some(())
    }
}

//! A frame being rewritten: what was captured, and what is written instead.
//!
//! The new frame begins as zeros. Rules copy or replace what they understand, so what no rule has read cannot be left
//! over from the original.

use std::ops::Range;

use crate::checksum::{fold, sum};

/// A frame as captured and as it will be written, of the same length.
pub(super) struct Frame<'a> {
    /// As captured.
    pub from: &'a [u8],
    /// As written.
    pub to: &'a mut [u8],
}

impl Frame<'_> {
    /// The part of a range that was captured.
    pub(super) fn clip(&self, range: Range<usize>) -> Range<usize> {
        let end = range.end.min(self.from.len());
        range.start.min(end)..end
    }

    /// Leaves a range as it was.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        let range = self.clip(range);
        self.to[range.clone()].copy_from_slice(&self.from[range]);
    }

    /// Writes bytes, as far as they were captured.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        let range = self.clip(at..at + bytes.len());
        let len = range.len();
        self.to[range].copy_from_slice(&bytes[..len]);
    }

    /// Captured bytes at an offset, if all are there.
    pub(super) fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.from.get(at..)?.first_chunk().copied()
    }

    pub(super) fn u8(&self, at: usize) -> Option<u8> {
        self.from.get(at).copied()
    }

    /// A number of 16 bits in network order.
    pub(super) fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// A number of 32 bits in network order.
    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
}

/// What a checksum covers, added up before and after (RFC 1071), each in ones' complement and not folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub from: u64,
    pub to: u64,
}

impl Change {
    /// Of a range that begins at an even offset of what is covered.
    pub(super) fn of(frame: &Frame<'_>, range: Range<usize>) -> Self {
        let range = frame.clip(range);
        Self { from: sum(&frame.from[range.clone()]), to: sum(&frame.to[range]) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { from: self.from + other.from, to: self.to + other.to }
    }

    /// The checksum after the change (RFC 1624 equation 3). What was right is right, what was wrong is wrong by as much;
    /// neither all that is covered nor the rest of a fragmented or truncated packet needs to be at hand.
    pub(super) fn adjust(self, checksum: u16) -> u16 {
        let (from, to) = (fold(self.from), fold(self.to));
        if from % 0xffff == to % 0xffff {
            return checksum;
        }
        !fold(u64::from(!checksum) + u64::from(!from) + u64::from(to))
    }

    /// A sum that is not complemented, as offload leaves the pseudo-header's in the field of the checksum.
    pub(super) fn adjust_sum(self, sum: u16) -> u16 {
        !self.adjust(!sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_follows_its_change_and_keeps_its_error() {
        for (from, to) in [(&b"abcdef"[..], &b"xxcdex"[..]), (b"odd", b"ODD"), (b"\0\0", b"\xff\xff"), (b"ab", b"\0\0")]
        {
            let change = Change { from: sum(from) + 0x1234, to: sum(to) + 0x1234 };
            let (right, after) = (!fold(change.from), !fold(change.to));
            assert_eq!(change.adjust(right), after, "{from:?}");
            let wrong = change.adjust(right.wrapping_add(5));
            assert_ne!(wrong, after);
            assert_eq!(
                Change { from: change.to, to: change.from }.adjust(wrong),
                right.wrapping_add(5),
                "the same error"
            );
        }
        assert_eq!(Change::default().adjust(0xffff), 0xffff);
    }
}

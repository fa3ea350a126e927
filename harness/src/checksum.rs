//! The Internet checksum (RFC 1071): the sum of 16-bit words in ones' complement, complemented. All that checks, makes or
//! follows a checksum adds up here.
//!
//! A checksum of several parts (a pseudo-header, then a segment) is made of their sums: every part but the last has an even
//! number of bytes, sums are added as plain numbers, and the total is folded once (RFC 1071 section 2). A total of 64 bits
//! does not overflow below 2^48 parts.

/// Sum of the 16-bit words of `bytes`, big endian, an odd last byte padded with zero; folded, not complemented. 0 only if all
/// of them are 0.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // Larger words may be added in the machine's own byte order: the sum is the same with its two bytes swapped (RFC 1071
    // section 2, points B and C).
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u64::from(u32::from_ne_bytes(last));
    u64::from(u16::from_be(fold(total)))
}

/// A total as 16 bits: what is above them is added to them, in ones' complement.
#[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
pub(crate) const fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum of what adds up to `total`, with the checksum's own field taken as 0.
pub(crate) const fn of(total: u64) -> u16 {
    !fold(total)
}

/// As [`of`], as UDP writes it: 0 would say that there is no checksum, so all ones stand for it (RFC 768).
pub(crate) const fn of_udp(total: u64) -> u16 {
    match of(total) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Whether what adds up to `total`, its checksum included, is as it was sent.
pub(crate) const fn is_right(total: u64) -> bool {
    fold(total) == 0xffff
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// RFC 1071 section 1 as it is written there: word by word, the carry brought around at once.
    fn by_words(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum: u16, word| {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    #[test]
    fn the_example_of_the_rfc() {
        // Section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!((sum(&bytes), of(sum(&bytes))), (0xddf2, 0x220d));
    }

    #[test]
    fn every_length_adds_up_as_word_by_word_and_as_etherparse_does() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1071);
        let mut bytes = vec![0; 1_600];
        for len in 0..bytes.len() {
            rng.fill(&mut bytes[..len]);
            // Of many bytes all ones, so that carries are brought around more than once.
            if len % 3 == 0 {
                bytes[..len].fill(0xff);
            }
            let bytes = &bytes[..len];
            let total = sum(bytes);
            assert_eq!(fold(total), by_words(bytes), "{len} bytes");
            let theirs = etherparse::checksum::Sum16BitWords::new().add_slice(bytes).ones_complement();
            assert_eq!(of(total), u16::from_be(theirs), "{len} bytes");
        }
    }

    #[test]
    fn parts_add_up_to_the_whole_and_with_their_checksum_to_all_ones() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(2);
        for _ in 0..2_000 {
            let mut bytes = vec![0; rng.random_range(1..200)];
            rng.fill(&mut bytes[..]);
            let (one, two) = bytes.split_at(rng.random_range(0..=bytes.len() / 2) * 2);
            assert_eq!(fold(sum(one) + sum(two)), fold(sum(&bytes)));
            assert!(is_right(sum(&bytes) + u64::from(of(sum(&bytes)))));
            assert!(is_right(sum(&bytes) + u64::from(of_udp(sum(&bytes)))));
        }
    }

    #[test]
    fn no_checksum_is_never_that_of_udp() {
        assert_eq!((of(0xffff), of_udp(0xffff)), (0, 0xffff));
        assert_eq!((of(0), of_udp(0)), (0xffff, 0xffff));
        assert_eq!(of_udp(0x1_0001), of(0x1_0001));
    }
}

//! Crypto-PAn: addresses replaced so that two which share a prefix of any length share one of the same length afterwards.
//!
//! J. Xu, J. Fan, M. Ammar, S. Moon: Prefix-Preserving IP Address Anonymization, ICNP 2002. Bit i of the result is bit i
//! of the address, turned over or not as the first bit of AES-128 tells of the i bits before it, which stand in front
//! of a secret padding.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};

use super::key::Key;

/// The map of one key.
pub struct CryptoPan {
    cipher: Aes128,
    pad: u128,
}

impl CryptoPan {
    /// The map of `key`, as the reference implementation makes it of 32 bytes.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        let (mut cipher_key, mut pad) = ([0; 16], [0; 16]);
        cipher_key.copy_from_slice(&key.bytes()[..16]);
        pad.copy_from_slice(&key.bytes()[16..]);
        let cipher = Aes128::new(&cipher_key.into());
        let mut map = Self { cipher, pad: 0 };
        map.pad = map.encrypt(u128::from_be_bytes(pad));
        map
    }

    fn encrypt(&self, block: u128) -> u128 {
        let mut block = block.to_be_bytes().into();
        self.cipher.encrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    }

    /// Replaces the bits from `keep` on of the `bits` (32 or 128) low bits of `address`; those before stay.
    #[must_use]
    pub fn map(&self, address: u128, bits: u32, keep: u32) -> u128 {
        // As the cipher wants it: the address' first bit is the block's first.
        let shift = 128 - bits;
        let left = address << shift;
        let mut flips = 0_u128;
        for at in keep..bits {
            let prefix = u128::MAX.checked_shl(128 - at).unwrap_or(0);
            let input = (left & prefix) | (self.pad & !prefix);
            flips |= (self.encrypt(input) >> 127) << (127 - at);
        }
        (left ^ flips) >> shift
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// The key of the sample that comes with the reference implementation.
    fn sample() -> CryptoPan {
        CryptoPan::new(&Key::new([
            21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101,
            39, 98, 87, 76, 45, 42, 132, 34, 2,
        ]))
    }

    #[test]
    fn ipv4_is_as_in_the_reference_implementations_sample_trace() {
        let map = sample();
        for (from, to) in [
            ("128.11.68.132", "135.242.180.132"),
            ("129.118.74.4", "134.136.186.123"),
            ("130.132.252.244", "133.68.164.234"),
            ("141.223.7.43", "141.167.8.160"),
            ("141.233.145.108", "141.129.237.235"),
            ("152.163.225.39", "151.140.114.167"),
            ("156.29.3.236", "147.225.12.42"),
            ("165.247.96.84", "162.9.99.234"),
            ("166.107.77.190", "160.132.178.185"),
            ("192.102.249.13", "252.138.62.131"),
            ("192.215.32.125", "252.43.47.189"),
            ("192.233.80.103", "252.25.108.8"),
            ("192.41.57.43", "252.222.221.184"),
            ("193.150.244.223", "253.169.52.216"),
            ("195.205.63.100", "255.186.223.5"),
            ("198.200.171.101", "249.199.68.213"),
            ("204.184.162.189", "243.192.77.90"),
        ] {
            let from: Ipv4Addr = from.parse().unwrap();
            let mapped = map.map(u128::from(from.to_bits()), 32, 0);
            assert_eq!(Ipv4Addr::from_bits(u32::try_from(mapped).unwrap()).to_string(), to, "{from}");
        }
    }

    #[test]
    fn ipv6_is_as_in_the_other_implementations() {
        // No trace came with the reference; these are the vectors that implementations in Go and Python share.
        let map = sample();
        for (from, to) in [
            ("::1", "78ff:f001:9fc0:20df:8380:b1f1:704:ed"),
            ("::2", "78ff:f001:9fc0:20df:8380:b1f1:704:ef"),
            ("::ffff", "78ff:f001:9fc0:20df:8380:b1f1:704:f838"),
            ("2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e"),
            ("2001:db8::2", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c"),
        ] {
            let from: Ipv6Addr = from.parse().unwrap();
            assert_eq!(Ipv6Addr::from_bits(map.map(from.to_bits(), 128, 0)).to_string(), to, "{from}");
        }
    }

    #[test]
    fn common_prefixes_keep_their_length() {
        let map = sample();
        for bit in 0..32 {
            let (a, b) = (0x0a42_0001_u128, 0x0a42_0001 ^ (1 << bit));
            let difference = map.map(a, 32, 8) ^ map.map(b, 32, 8);
            assert_eq!(128 - difference.leading_zeros(), bit + 1, "addresses that differ first in bit {bit}");
        }
    }
}

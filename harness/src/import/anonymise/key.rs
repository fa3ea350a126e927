//! The secret that decides every replacement.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Block of SHA-256, bytes (FIPS 180-4).
const BLOCK: usize = 64;

/// 256 bits: the first half is Crypto-PAn's AES key, the second the block that its padding is made of, as in its
/// reference implementation. The keys of everything else are derived from all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// A file that holds no key, or a key that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("key file {} holds {len} bytes; a key is 32 bytes, or 64 hexadecimal digits", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Its length, bytes; at most one more than a key may have is read.
        len: usize,
    },
    /// The system gives no random numbers.
    #[error("cannot make a key: the system gives no random bytes")]
    Random(#[source] std::io::Error),
}

impl Key {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new key, from the kernel's random numbers.
    ///
    /// # Errors
    /// The system's.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(KeyError::Random)?;
        Ok(Self(bytes))
    }

    /// Reads a key: 32 bytes, or 64 hexadecimal digits and whitespace around them.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        // No more than is needed to tell: the path may be a device without an end.
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(257).read_to_end(&mut bytes));
        read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes).ok_or_else(|| KeyError::Form { path: path.to_owned(), len: bytes.len() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(bytes) = bytes.try_into() {
            return Some(Self(bytes));
        }
        let digits = bytes.trim_ascii();
        if digits.len() != 64 {
            return None;
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(Self(key))
    }

    /// The key as 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 32 bytes that only who has the key can foretell: HMAC-SHA-256 (RFC 2104) of `parts`, each behind its length, so
    /// that no two lists of parts are one.
    pub(super) fn prf(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner_pad = [0x36; BLOCK];
        let mut outer_pad = [0x5c; BLOCK];
        for (at, byte) in self.0.iter().enumerate() {
            inner_pad[at] ^= byte;
            outer_pad[at] ^= byte;
        }
        let mut inner = Sha256::new().chain_update(inner_pad);
        for part in parts {
            inner.update((part.len() as u64).to_be_bytes());
            inner.update(part);
        }
        Sha256::new().chain_update(outer_pad).chain_update(inner.finalize()).finalize().into()
    }

    /// A key of its own for one purpose.
    pub(super) fn derive(&self, purpose: &str) -> Self {
        Self(self.prf(&[b"derive", purpose.as_bytes()]))
    }

    /// Fills `out` with the keystream for `parts`, from byte `offset` of it on.
    pub(super) fn stream(&self, parts: &[&[u8]], mut offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let counter = (offset / 32).to_be_bytes();
            let mut all = Vec::with_capacity(parts.len() + 1);
            all.extend_from_slice(parts);
            all.push(&counter);
            let block = self.prf(&all);
            let from = (offset % 32) as usize;
            let len = (32 - from).min(out.len() - done);
            out[done..done + len].copy_from_slice(&block[from..from + len]);
            done += len;
            offset += len as u64;
        }
    }
}

/// Never shows the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_64_digits() {
        let key = Key::new(*b"0123456789abcdef0123456789ABCDEF");
        assert_eq!(Key::parse(b"0123456789abcdef0123456789ABCDEF"), Some(key.clone()));
        assert_eq!(Key::parse(format!(" {}\n", key.to_hex()).as_bytes()), Some(key.clone()));
        assert_eq!(Key::parse(key.to_hex().to_uppercase().as_bytes()), Some(key.clone()));
        assert_eq!(Key::parse(&[0; 31]), None);
        assert_eq!(Key::parse(&[b'g'; 64]), None);
        assert_eq!(format!("{key:?}"), "Key(secret)");
    }

    #[test]
    fn a_keystream_is_the_same_however_it_is_cut() {
        let key = Key::new([7; 32]);
        let mut whole = [0; 100];
        key.stream(&[b"x"], 5, &mut whole);
        let mut pieces = [0; 100];
        key.stream(&[b"x"], 5, &mut pieces[..40]);
        key.stream(&[b"x"], 45, &mut pieces[40..]);
        assert_eq!(whole, pieces);
        assert_ne!(key.prf(&[b"ab", b"c"]), key.prf(&[b"a", b"bc"]));
    }
}

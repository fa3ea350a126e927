//! The bytes of a capture file: read once, in large pieces, decompressed and hashed on the way.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

/// Bytes asked of the system at a time.
const CHUNK: usize = 1 << 20;

/// The file itself, and a hash of what was read of it.
#[derive(Debug)]
struct Tee {
    file: File,
    digest: Option<Sha256>,
    read: u64,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read += n as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(&buffer[..n]);
        }
        Ok(n)
    }
}

/// The bytes that were read before compression was noticed, and the rest of the file.
type Compressed = BufReader<io::Chain<io::Cursor<Vec<u8>>, Tee>>;

#[derive(Debug)]
enum Input {
    Plain(Tee),
    Gzip(Box<MultiGzDecoder<Compressed>>),
}

impl Input {
    fn tee(&self) -> &Tee {
        match self {
            Self::Plain(tee) => tee,
            Self::Gzip(decoder) => decoder.get_ref().get_ref().get_ref().1,
        }
    }
}

/// How the bytes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceEnd {
    /// At the end of the file.
    Complete,
    /// The compressed data ends early.
    Cut,
    /// The compressed data is damaged; the decoder's words.
    Damaged(String),
}

/// A window on the file that slides forward.
#[derive(Debug)]
pub(super) struct Source {
    input: Input,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    finished: Option<SourceEnd>,
}

impl Source {
    pub(super) fn new(file: File, hash: bool) -> Self {
        let tee = Tee { file, digest: hash.then(Sha256::new), read: 0 };
        Self { input: Input::Plain(tee), buffer: vec![0; CHUNK], start: 0, end: 0, finished: None }
    }

    /// Decompresses from the start of the file on; called when nothing was consumed.
    pub(super) fn into_gzip(self) -> Self {
        let Input::Plain(tee) = self.input else { return self };
        let seen = self.buffer[self.start..self.end].to_vec();
        let decoder = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, io::Cursor::new(seen).chain(tee)));
        let input = Input::Gzip(Box::new(decoder));
        Self { input, buffer: vec![0; CHUNK], start: 0, end: 0, finished: None }
    }

    pub(super) fn is_gzip(&self) -> bool {
        matches!(self.input, Input::Gzip(_))
    }

    /// Bytes of the file (compressed, if it is) read so far.
    pub(super) fn position(&self) -> u64 {
        self.input.tee().read
    }

    /// Reads until `wanted` bytes are in the window; says whether they are. The buffer grows only as bytes arrive,
    /// so that a record that lies about its length costs no memory.
    pub(super) fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.end - self.start < wanted {
            if self.finished.is_some() {
                return Ok(false);
            }
            if self.end == self.buffer.len() {
                if self.start > 0 {
                    self.buffer.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                } else {
                    self.buffer.resize(self.buffer.len() * 2, 0);
                }
            }
            self.read_more()?;
        }
        Ok(true)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let free = &mut self.buffer[self.end..];
        let result = match &mut self.input {
            Input::Plain(tee) => tee.read(free),
            Input::Gzip(decoder) => decoder.read(free),
        };
        let gzip = self.is_gzip();
        match result {
            Ok(0) => self.finished = Some(SourceEnd::Complete),
            Ok(n) => self.end += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if gzip && error.kind() == io::ErrorKind::UnexpectedEof => self.finished = Some(SourceEnd::Cut),
            Err(error) if gzip && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                self.finished = Some(SourceEnd::Damaged(error.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The bytes in the window.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves the window's start. The bytes passed stay readable through [`Source::bytes`] until the next `fill`.
    pub(super) fn consume(&mut self, n: usize) -> Range<usize> {
        let passed = self.start..(self.start + n).min(self.end);
        self.start = passed.end;
        passed
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Passes over `n` bytes of any number without keeping them; says whether there were that many.
    pub(super) fn skip(&mut self, mut n: u64) -> io::Result<bool> {
        while n > 0 {
            if !self.fill(1)? {
                return Ok(false);
            }
            let step = usize::try_from(n).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += step;
            n -= step as u64;
        }
        Ok(true)
    }

    /// How the bytes ended, once `fill` or `skip` said so.
    pub(super) fn finished(&self) -> Option<&SourceEnd> {
        self.finished.as_ref()
    }

    /// Reads what is left of the file and returns its SHA-256 in hexadecimal, if it was asked for.
    pub(super) fn finish(self) -> io::Result<Option<String>> {
        let mut tee = match self.input {
            Input::Plain(tee) => tee,
            Input::Gzip(decoder) => decoder.into_inner().into_inner().into_inner().1,
        };
        if tee.digest.is_some() {
            io::copy(&mut tee, &mut io::sink())?;
        }
        Ok(tee.digest.map(|digest| digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_window_grows_with_what_arrives_and_not_with_what_is_claimed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 << 20]).unwrap();
        let open = || {
            let mut file = file.try_clone().unwrap();
            io::Seek::rewind(&mut file).unwrap();
            Source::new(file, false)
        };
        let mut source = open();
        assert!(!source.fill(1 << 40).unwrap(), "a terabyte of 3 MiB");
        assert_eq!((source.window().len(), source.buffer.len()), (3 << 20, 4 << 20));
        let mut source = open();
        assert!(!source.skip(1 << 40).unwrap());
        assert_eq!(source.buffer.len(), CHUNK, "what is skipped is not kept");
    }
}

//! The files that are written: complete ones or none.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::ImportError;
use super::anonymise::Tuple;
use crate::capture::Writer;

/// Most files of one import: each is open until the end.
pub const MAX_FILES: usize = 500;

/// How packets are distributed to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// All into one.
    #[default]
    None,
    /// A file for each flow, and one for packets that are of none.
    Flow,
    /// A new file after so many nanoseconds.
    Time(u64),
    /// A new file before one grows beyond so many bytes of packets.
    Size(u64),
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is none of `flow`, `time=SECONDS`, `size=BYTES` (`size=10M`)");
        match text.split_once('=') {
            None if text == "flow" => Ok(Self::Flow),
            Some(("time", seconds)) => {
                let seconds: f64 = seconds.parse().ok().filter(|s| (1e-6..=1e9).contains(s)).ok_or_else(wrong)?;
                Ok(Self::Time((seconds * 1e9) as u64))
            }
            Some(("size", size)) => {
                let (digits, unit) = match size.as_bytes().last() {
                    Some(b'k' | b'K') => (&size[..size.len() - 1], 1000),
                    Some(b'M') => (&size[..size.len() - 1], 1_000_000),
                    Some(b'G') => (&size[..size.len() - 1], 1_000_000_000),
                    _ => (size, 1),
                };
                let number: u64 = digits.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
                number.checked_mul(unit).map(Self::Size).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

/// Decides which file a packet goes to, the same in both readings.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    split: Split,
    flows: HashMap<(u8, SocketAddr, SocketAddr), usize>,
    datagrams: HashMap<(u8, SocketAddr, SocketAddr, u32), usize>,
    start_ns: Option<u64>,
    bytes: u64,
    file: usize,
}

impl Distribution {
    pub(super) fn new(split: Split) -> Self {
        Self { split, ..Self::default() }
    }

    /// Number of the file, from 0. With [`Split::Flow`], 0 is for packets of no flow.
    pub(super) fn file(&mut self, time_ns: u64, len: usize, tuples: &[Tuple]) -> usize {
        match self.split {
            Split::None => 0,
            Split::Flow => self.flow(tuples),
            Split::Time(step) => {
                let start = *self.start_ns.get_or_insert(time_ns);
                usize::try_from(time_ns.saturating_sub(start) / step).unwrap_or(usize::MAX)
            }
            Split::Size(limit) => {
                if self.bytes > 0 && self.bytes + len as u64 > limit {
                    self.file += 1;
                    self.bytes = 0;
                }
                self.bytes += len as u64;
                self.file
            }
        }
    }

    fn flow(&mut self, tuples: &[Tuple]) -> usize {
        // An ICMP error goes to the flow that it is about, which it quotes behind its own ends.
        let Some(tuple) = tuples.last() else { return 0 };
        let datagram = tuple.fragment.map(|id| {
            let bare = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
            (tuple.protocol, bare(tuple.source), bare(tuple.destination), id)
        });
        if let Some(known) = datagram.filter(|_| !tuple.has_ports).and_then(|key| self.datagrams.get(&key)) {
            return *known;
        }
        let next = self.flows.len() + 1;
        let file = *self.flows.entry(tuple.undirected()).or_insert(next);
        if let Some(key) = datagram {
            self.datagrams.insert(key, file);
        }
        file
    }
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// Packets in it.
    pub packets: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
}

struct OpenFile {
    file: NamedTempFile,
    writer: Writer,
    packets: u64,
}

/// Files under temporary names, until all of them are complete.
pub(super) struct Output {
    path: PathBuf,
    split: Split,
    force: bool,
    files: HashMap<usize, OpenFile>,
}

/// A sibling of `path`: `incident.pcapng` and `-0001` make `incident-0001.pcapng`.
fn sibling(path: &Path, suffix: &str, extension: Option<&str>) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = extension.map_or_else(
        || path.extension().map(|text| format!(".{}", text.to_string_lossy())).unwrap_or_default(),
        |text| format!(".{text}"),
    );
    path.with_file_name(format!("{stem}{suffix}{extension}"))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Output {
    pub(super) fn new(input: &Path, path: &Path, split: Split, force: bool) -> Result<Self, ImportError> {
        let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if let (Ok(input), Ok(output)) = (std::fs::metadata(input), std::fs::metadata(path))
            && same(&input, &output)
        {
            return Err(ImportError::OverInput { path: path.to_owned() });
        }
        let output = Self { path: path.to_owned(), split, force, files: HashMap::new() };
        if split == Split::None {
            output.refuse_existing(path)?;
        }
        Ok(output)
    }

    fn refuse_existing(&self, path: &Path) -> Result<(), ImportError> {
        if !self.force && path.symlink_metadata().is_ok() {
            return Err(ImportError::Exists { path: path.to_owned() });
        }
        Ok(())
    }

    fn name(&self, file: usize) -> PathBuf {
        match self.split {
            Split::None => self.path.clone(),
            Split::Flow if file == 0 => sibling(&self.path, "-other", None),
            Split::Flow => sibling(&self.path, &format!("-flow{file:04}"), None),
            Split::Time(_) | Split::Size(_) => sibling(&self.path, &format!("-{:04}", file + 1), None),
        }
    }

    fn temporary(&self) -> Result<NamedTempFile, ImportError> {
        // As any other new file: the process' mask applies.
        let mode = std::fs::Permissions::from_mode(0o666);
        tempfile::Builder::new()
            .prefix(".import-")
            .permissions(mode)
            .tempfile_in(folder(&self.path))
            .map_err(|source| ImportError::Write { path: self.path.clone(), source })
    }

    /// Makes sure that a file of this number can be written.
    pub(super) fn open(&mut self, number: usize) -> Result<(), ImportError> {
        if self.files.contains_key(&number) {
            return Ok(());
        }
        if self.files.len() == MAX_FILES {
            return Err(ImportError::TooManyFiles);
        }
        self.refuse_existing(&self.name(number))?;
        let file = self.temporary()?;
        let writer = Writer::create(file.path())?;
        self.files.insert(number, OpenFile { file, writer, packets: 0 });
        Ok(())
    }

    pub(super) fn write(&mut self, number: usize, time_ns: u64, data: &[u8], wire_len: u32) -> Result<(), ImportError> {
        self.open(number)?;
        if let Some(file) = self.files.get_mut(&number) {
            file.writer.write(time_ns, data, wire_len)?;
            file.packets += 1;
        }
        Ok(())
    }

    /// Completes all files and gives them their names, each with a file of provenance beside it. Where one of them cannot
    /// be had, none is left.
    pub(super) fn finish(mut self, provenance: &dyn Fn(&Written) -> String) -> Result<Vec<Written>, ImportError> {
        let mut numbers: Vec<usize> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        let mut complete = Vec::new();
        for number in numbers {
            let Some(open) = self.files.remove(&number) else { continue };
            open.writer.finish()?;
            let path = self.name(number);
            let (bytes, sha256) =
                digest(open.file.path()).map_err(|source| ImportError::Write { path: path.clone(), source })?;
            let written = Written { path: path.clone(), packets: open.packets, bytes, sha256 };
            let table = sibling(&path, "", Some("provenance.toml"));
            self.refuse_existing(&table)?;
            let beside = self.temporary()?;
            std::fs::write(beside.path(), provenance(&written))
                .map_err(|source| ImportError::Write { path: table.clone(), source })?;
            complete.push((open.file, path, Some(written)));
            complete.push((beside, table, None));
        }
        let mut named: Vec<PathBuf> = Vec::new();
        let mut all = Vec::new();
        for (file, path, written) in complete {
            let persisted = if self.force { file.persist(&path) } else { file.persist_noclobber(&path) };
            if let Err(error) = persisted {
                for path in &named {
                    let _ = std::fs::remove_file(path);
                }
                return Err(ImportError::Write { path, source: error.error });
            }
            named.push(path);
            all.extend(written);
        }
        Ok(all)
    }
}

/// Length and SHA-256 of a file.
fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut len, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                len += read as u64;
            }
        }
    }
    Ok((len, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_read_and_mistakes_named() {
        assert_eq!("flow".parse(), Ok(Split::Flow));
        assert_eq!("time=0.5".parse(), Ok(Split::Time(500_000_000)));
        assert_eq!("size=10M".parse(), Ok(Split::Size(10_000_000)));
        for wrong in ["", "time", "time=0", "time=-1", "time=NaN", "size=0", "size=M", "size=99999999999G", "flows"] {
            assert!(wrong.parse::<Split>().unwrap_err().contains("`size=10M`"), "{wrong}");
        }
        assert_eq!(sibling(Path::new("a/b.pcapng"), "-0001", None), Path::new("a/b-0001.pcapng"));
        assert_eq!(sibling(Path::new("b.pcapng"), "", Some("provenance.toml")), Path::new("b.provenance.toml"));
    }
}

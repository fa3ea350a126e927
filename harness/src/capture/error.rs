//! What can be wrong with a capture as a whole. What is wrong with single packets is a
//! [`Finding`](super::Finding).

use std::io;
use std::path::{Path, PathBuf};

use super::link::{LinkType, SUPPORTED};

/// A capture that cannot be used, or a request that does not fit it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file cannot be opened: missing, no permission.
    #[error("cannot open capture {}", path.display())]
    Open {
        /// The capture.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Reading failed half way, for a reason outside the file's contents.
    #[error("cannot read capture {}", path.display())]
    Read {
        /// The capture.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A directory, pipe or device: a capture is read twice and so must be a regular file.
    #[error("capture {} is {what}, not a regular file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
        /// What it is instead, with its article.
        what: &'static str,
    },
    /// No bytes at all.
    #[error("capture {} is empty: 0 bytes, not even a file header", path.display())]
    Empty {
        /// The capture.
        path: PathBuf,
    },
    /// Another kind of file.
    #[error("{} is not a capture: it looks like {looks}; expected pcap or pcapng", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// What its first bytes say, with advice where there is some.
        looks: String,
    },
    /// The file ends inside its own header.
    #[error("capture {} is cut off inside its {format} file header: {len} bytes", path.display())]
    HeaderCut {
        /// The capture.
        path: PathBuf,
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// Length of the file (after decompression), bytes.
        len: usize,
    },
    /// A version of the format that this reader does not know.
    #[error("capture {} is {format} version {major}.{minor}; supported is {supported}", path.display())]
    Version {
        /// The capture.
        path: PathBuf,
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
        /// What is supported.
        supported: &'static str,
    },
    /// No packet of the capture can be turned into an Ethernet frame.
    #[error("capture {} has link type {link}, which cannot be turned into Ethernet; supported are {SUPPORTED}", path.display())]
    UnsupportedLink {
        /// The capture.
        path: PathBuf,
        /// Its link type (the first, if there are several).
        link: LinkType,
    },
    /// The header is fine but not one packet can be read.
    #[error("no packet of capture {} can be read: {reason}", path.display())]
    NothingReadable {
        /// The capture.
        path: PathBuf,
        /// Why reading stopped before the first packet.
        reason: String,
    },
    /// libpcap refuses the filter expression.
    #[error("filter expression `{expression}` does not compile for link type {link}: {message}")]
    Filter {
        /// As given.
        expression: String,
        /// Link type it was compiled for.
        link: LinkType,
        /// libpcap's words.
        message: String,
    },
    /// The program was built without libpcap.
    #[error("filter expression `{expression}` cannot be used: bpflab was built without the `filter` feature (libpcap)")]
    FilterMissing {
        /// As given.
        expression: String,
    },
    /// An MTU that no frame could be sent with.
    #[error("an MTU of {mtu} bytes is out of range: 68 (RFC 791) to 65535")]
    Mtu {
        /// As given.
        mtu: u32,
    },
    /// The file is not the one that was surveyed.
    #[error("capture {} changed after it was surveyed: {what}", path.display())]
    Changed {
        /// The capture.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// An artefact cannot be written.
    #[error("cannot write capture {}", path.display())]
    Write {
        /// The file being written.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl CaptureError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

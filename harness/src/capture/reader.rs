//! A capture as a stream of packets, as they stand in the file.
//!
//! The crate `pcap-file` takes the formats apart into header, records and blocks; what those mean is decided here. Fed
//! with damaged files neither 2.0.0 nor 3.0.0-rc.3 panics, but their typed layers lose what this lab needs: 2.0.0
//! refuses every truncated packet, ignores `if_tsresol` and swaps the halves of a packet block's time; 3.0.0-rc.3
//! gives up a packet for a comment that is not UTF-8 and keeps any number of interfaces. Both read into a buffer of
//! fixed size and call a record that does not fit an end of file. So only their stateless lowest layer is used, from
//! the stable release, and every length is checked here before it is believed.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use byteorder_slice::{BigEndian, LittleEndian};
use pcap_file::Endianness;
use pcap_file::pcap::{PcapHeader, RawPcapPacket};
use serde::Serialize;

use super::CaptureError;
use super::identify::{Looks, identify};
use super::link::LinkType;
use super::pcapng::Sections;
use super::source::{Source, SourceEnd};
use super::time::Resolution;

/// Longest packet that is believed, bytes: libpcap's `MAXIMUM_SNAPLEN`.
pub const MAX_PACKET: u32 = 262_144;

/// Length of a pcap record's header.
const RECORD_HEADER: usize = 16;

/// The format of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// libpcap's classic format.
    Pcap,
    /// Blocks: `draft-ietf-opsawg-pcapng`.
    Pcapng,
}

impl Format {
    /// `pcap` or `pcapng`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
        }
    }
}

/// Order of the bytes of numbers in the file (packets are always in network order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// Least significant first.
    Little,
    /// Most significant first.
    Big,
}

impl From<Endianness> for ByteOrder {
    fn from(order: Endianness) -> Self {
        match order {
            Endianness::Little => Self::Little,
            Endianness::Big => Self::Big,
        }
    }
}

/// Where packets were captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Section of the file, from 0; always 0 in a pcap.
    pub section: u32,
    /// Number within the section, from 0.
    pub id: u32,
    /// Name, if the capture tells.
    pub name: Option<String>,
    /// Link type.
    pub link: LinkType,
    /// Most bytes kept of a packet; 0 is no limit.
    pub snaplen: u32,
    /// Unit of timestamps.
    pub resolution: Resolution,
    /// Added to every timestamp, seconds.
    pub offset_s: i64,
    /// Bytes of frame check sequence at the end of every packet; they are left out of frames.
    pub fcs: u8,
    /// Packets read from this interface so far.
    pub packets: u64,
}

/// A packet as captured.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Number in the file, from 1.
    pub number: u64,
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub time_ns: u64,
    /// Length on the wire, bytes; never less than `data`.
    pub wire_len: u32,
    /// What was captured of it, link-layer header first.
    pub data: &'a [u8],
    /// Where.
    pub interface: &'a Interface,
}

/// How reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the file, after a whole record.
    Complete,
    /// The file ends inside a record.
    Cut,
    /// The file cannot be understood from here on; why.
    Damaged(String),
}

/// A count and the number of the first packet concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Number of the first, 0 if none.
    pub first: u64,
}

impl Tally {
    pub(super) fn add(&mut self, number: u64) {
        if self.count == 0 {
            self.first = number;
        }
        self.count += 1;
    }
}

/// Packets that are in the file but have no usable form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Skipped: of an interface that the file does not describe.
    pub no_interface: Tally,
    /// Skipped: lengths that contradict each other, or longer than [`MAX_PACKET`].
    pub bad_record: Tally,
    /// Given the time of the packet before them: simple packet blocks have none.
    pub untimed: Tally,
    /// Time set to the nearest that 64 bits of nanoseconds since 1970 can express.
    pub clamped_time: Tally,
}

/// A packet found in the window, in a form that borrows nothing.
#[derive(Debug)]
pub(super) struct Located {
    pub interface: usize,
    pub time_ns: u64,
    pub wire_len: u32,
    pub data: Range<usize>,
}

/// Why there is no further packet.
#[derive(Debug)]
pub(super) enum Stop {
    End(End),
    Io(std::io::Error),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum Layout {
    Pcap { order: Endianness },
    Pcapng(Sections),
}

/// What both layouts change while they read.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Interfaces of the current section.
    pub interfaces: Vec<Interface>,
    /// Number of the last packet seen.
    pub number: u64,
    /// Its time.
    pub last_ns: u64,
    pub oddities: Oddities,
}

/// Streams the packets of a pcap or pcapng file, gzip-compressed or not, in bounded memory.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    source: Source,
    layout: Layout,
    state: State,
    order: ByteOrder,
    end: Option<End>,
    file_len: u64,
}

impl Reader {
    /// Opens a capture and reads its header.
    ///
    /// # Errors
    /// The file is missing, not a regular file, empty, no capture, cut off inside its header, or of another version.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::open_with(path, false)
    }

    /// As [`Reader::open`], hashing the file on the way if `hash`.
    pub(super) fn open_with(path: &Path, hash: bool) -> Result<Self, CaptureError> {
        // Looked at before opening: opening a pipe would wait for a writer.
        let metadata =
            std::fs::metadata(path).map_err(|source| CaptureError::Open { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "a pipe, socket or device" };
            return Err(CaptureError::NotAFile { path: path.to_owned(), what });
        }
        let file = File::open(path).map_err(|source| CaptureError::Open { path: path.to_owned(), source })?;
        let mut source = Source::new(file, hash);
        source.fill(64).map_err(CaptureError::read(path))?;
        if source.window().is_empty() {
            return Err(CaptureError::Empty { path: path.to_owned() });
        }
        if identify(source.window()) == Looks::Gzip {
            source = source.into_gzip();
            source.fill(64).map_err(CaptureError::read(path))?;
        }
        let mut state = State::default();
        let (layout, order) = read_header(path, &mut source, &mut state)?;
        let file_len = metadata.len();
        Ok(Self { path: path.to_owned(), source, layout, state, order, end: None, file_len })
    }

    /// The format of the file.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.layout {
            Layout::Pcap { .. } => Format::Pcap,
            Layout::Pcapng(_) => Format::Pcapng,
        }
    }

    /// Whether the file is gzip-compressed.
    #[must_use]
    pub fn is_gzip(&self) -> bool {
        self.source.is_gzip()
    }

    /// Byte order of the file (of its first section).
    #[must_use]
    pub fn byte_order(&self) -> ByteOrder {
        self.order
    }

    /// Length of the file, bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes of the file read so far, for a progress display.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// How the file ended, once [`Reader::next_packet`] returned nothing.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// What could not be used as it stands, so far.
    #[must_use]
    pub fn oddities(&self) -> &Oddities {
        &self.state.oddities
    }

    /// Packets seen so far, those that were skipped included.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.state.number
    }

    /// The interfaces described so far: at most [`MAX_LISTED`](super::MAX_LISTED) of ended sections, then all of the
    /// current one.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        let ended = match &self.layout {
            Layout::Pcapng(sections) => sections.ended(),
            Layout::Pcap { .. } => &[],
        };
        ended.iter().chain(&self.state.interfaces)
    }

    /// The next packet, or nothing at the end of what is readable: [`Reader::end`] then says which end it was.
    ///
    /// # Errors
    /// The system's, on reading.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, CaptureError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let next = match &mut self.layout {
            Layout::Pcap { order } => next_record(*order, &mut self.source, &mut self.state),
            Layout::Pcapng(sections) => sections.next_packet(&mut self.source, &mut self.state),
        };
        match next {
            Ok(found) => {
                self.state.last_ns = found.time_ns;
                let interface = &mut self.state.interfaces[found.interface];
                interface.packets += 1;
                let data = self.source.bytes(found.data);
                let wire_len = found.wire_len.max(u32::try_from(data.len()).unwrap_or(u32::MAX));
                let number = self.state.number;
                Ok(Some(Packet { number, time_ns: found.time_ns, wire_len, data, interface }))
            }
            Err(Stop::End(end)) => {
                self.end = Some(end);
                Ok(None)
            }
            Err(Stop::Io(source)) => Err(CaptureError::Read { path: self.path.clone(), source }),
        }
    }

    /// Reads the rest of the file for its hash; nothing if it was not asked for.
    pub(super) fn finish(self) -> Result<Option<String>, CaptureError> {
        self.source.finish().map_err(CaptureError::read(&self.path))
    }
}

fn read_header(path: &Path, source: &mut Source, state: &mut State) -> Result<(Layout, ByteOrder), CaptureError> {
    match identify(source.window()) {
        Looks::Pcap => {
            let (interface, order) = pcap_header(path, source)?;
            state.interfaces.push(interface);
            Ok((Layout::Pcap { order }, order.into()))
        }
        Looks::Pcapng => {
            let sections = Sections::open(path, source)?;
            let order = sections.order().into();
            Ok((Layout::Pcapng(sections), order))
        }
        looks => {
            let looks = match looks {
                Looks::Other(looks) => looks,
                _ => "gzip-compressed data".to_owned(),
            };
            let looks = if source.is_gzip() { format!("a gzip file of {looks}") } else { looks };
            Err(CaptureError::NotACapture { path: path.to_owned(), looks })
        }
    }
}

fn pcap_header(path: &Path, source: &mut Source) -> Result<(Interface, Endianness), CaptureError> {
    let window = source.window();
    let Ok((_, header)) = PcapHeader::from_slice(window) else {
        return Err(CaptureError::HeaderCut { path: path.to_owned(), format: "pcap", len: window.len() });
    };
    source.consume(24);
    let (major, minor) = (header.version_major, header.version_minor);
    // Before 2.4 the two lengths of a record were swapped, by some writers (libpcap, sf-pcap.c).
    if major != 2 || minor < 4 {
        let path = path.to_owned();
        return Err(CaptureError::Version { path, format: "pcap", major, minor, supported: "2.4" });
    }
    let nano = header.ts_resolution == pcap_file::TsResolution::NanoSecond;
    let field = u32::from(header.datalink);
    let interface = Interface {
        section: 0,
        id: 0,
        name: None,
        link: LinkType(field & 0x03ff_ffff),
        snaplen: header.snaplen,
        resolution: Resolution::Decimal(if nano { 9 } else { 6 }),
        offset_s: 0,
        // Bit 26: the length of the FCS is known; bits 28 to 31: that length in units of 16 bits.
        fcs: if field & 0x0400_0000 == 0 { 0 } else { u8::try_from((field >> 28) * 2).unwrap_or(0) },
        packets: 0,
    };
    Ok((interface, header.endianness))
}

/// What it means that the window holds less than a record.
pub(super) fn short(source: &Source) -> Stop {
    Stop::End(match source.finished() {
        Some(SourceEnd::Damaged(reason)) => End::Damaged(format!("the compressed data is damaged: {reason}")),
        Some(SourceEnd::Complete) if source.window().is_empty() => End::Complete,
        _ => End::Cut,
    })
}

fn next_record(order: Endianness, source: &mut Source, state: &mut State) -> Result<Located, Stop> {
    let parse = match order {
        Endianness::Big => RawPcapPacket::from_slice::<BigEndian>,
        Endianness::Little => RawPcapPacket::from_slice::<LittleEndian>,
    };
    if !source.fill(RECORD_HEADER)? {
        return Err(short(source));
    }
    let claimed = [source.window()[8], source.window()[9], source.window()[10], source.window()[11]];
    let claimed = if order.is_little() { u32::from_le_bytes(claimed) } else { u32::from_be_bytes(claimed) };
    if claimed > MAX_PACKET {
        let number = state.number + 1;
        let reason = format!("packet {number} claims {claimed} captured bytes, more than the {MAX_PACKET} possible");
        return Err(Stop::End(End::Damaged(reason)));
    }
    let len = RECORD_HEADER + claimed as usize;
    if !source.fill(len)? {
        return Err(short(source));
    }
    let Ok((_, record)) = parse(source.window()) else { return Err(short(source)) };
    let unit = if state.interfaces[0].resolution == Resolution::Decimal(9) { 1 } else { 1000 };
    // A fraction of a second or more is against the format, and harmless.
    let time_ns = u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_frac) * unit;
    let wire_len = record.orig_len;
    state.number += 1;
    let range = source.consume(len);
    Ok(Located { interface: 0, time_ns, wire_len, data: range.start + RECORD_HEADER..range.end })
}

//! pcapng: sections, interfaces and the three kinds of packet blocks (`draft-ietf-opsawg-pcapng`).

use std::ops::Range;
use std::path::Path;

use byteorder_slice::{BigEndian, LittleEndian};
use pcap_file::Endianness;
use pcap_file::pcapng::RawBlock;

use super::CaptureError;
use super::link::LinkType;
use super::reader::{End, Interface, Located, MAX_PACKET, State, Stop, short};
use super::source::Source;
use super::time::Resolution;

/// Longest block that is read as a whole, bytes. Others (secrets, names, statistics) are passed over at any length.
const MAX_BLOCK: u32 = 16 << 20;
/// Interfaces kept of one section. Packets of others count as packets without interface.
const MAX_INTERFACES: usize = 1 << 16;
/// Interfaces of ended sections that are kept for the survey.
pub const MAX_LISTED: usize = 1024;
/// Characters kept of an interface's name.
const MAX_NAME: usize = 64;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Position in a pcapng file: the current section.
#[derive(Debug)]
pub(super) struct Sections {
    order: Endianness,
    number: u32,
    ended: Vec<Interface>,
}

/// Type and total length of the next block.
struct Head {
    kind: u32,
    len: u32,
}

impl Sections {
    /// Reads the first section header.
    pub(super) fn open(path: &Path, source: &mut Source) -> Result<Self, CaptureError> {
        let mut sections = Self { order: Endianness::Little, number: 0, ended: Vec::new() };
        match sections.section(source) {
            Ok(()) => Ok(sections),
            Err(SectionError::Version { major, minor }) => {
                let path = path.to_owned();
                Err(CaptureError::Version { path, format: "pcapng", major, minor, supported: "1.0 and 1.2" })
            }
            Err(SectionError::Stop(Stop::Io(source))) => Err(CaptureError::Read { path: path.to_owned(), source }),
            Err(SectionError::Stop(Stop::End(End::Damaged(reason)))) => {
                Err(CaptureError::NothingReadable { path: path.to_owned(), reason })
            }
            Err(SectionError::Stop(Stop::End(_))) => {
                let len = source.window().len();
                Err(CaptureError::HeaderCut { path: path.to_owned(), format: "pcapng", len })
            }
        }
    }

    pub(super) fn order(&self) -> Endianness {
        self.order
    }

    /// Interfaces of the sections before the current one.
    pub(super) fn ended(&self) -> &[Interface] {
        &self.ended
    }

    /// Reads blocks until one holds a packet of a described interface.
    pub(super) fn next_packet(&mut self, source: &mut Source, state: &mut State) -> Result<Located, Stop> {
        loop {
            let head = self.head(source)?;
            match head.kind {
                SECTION => self.next_section(source, state)?,
                INTERFACE => {
                    let body = self.block(source, head.len)?;
                    let id = u32::try_from(state.interfaces.len()).unwrap_or(u32::MAX);
                    match interface(source.bytes(body), self.order, self.number, id) {
                        Some(interface) if state.interfaces.len() < MAX_INTERFACES => state.interfaces.push(interface),
                        Some(_) => {}
                        None => return Err(damaged("an interface description without link type".to_owned())),
                    }
                }
                PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    let body = self.block(source, head.len)?;
                    if let Some(found) = packet(head.kind, self.order, source, body, state) {
                        return Ok(found);
                    }
                }
                _ => self.skip(source, &head)?,
            }
        }
    }

    fn next_section(&mut self, source: &mut Source, state: &mut State) -> Result<(), Stop> {
        let room = MAX_LISTED.saturating_sub(self.ended.len()).min(state.interfaces.len());
        self.ended.extend(state.interfaces.drain(..).take(room));
        state.interfaces.clear();
        self.number = self.number.saturating_add(1);
        self.section(source).map_err(|error| match error {
            SectionError::Stop(stop) => stop,
            SectionError::Version { major, minor } => {
                damaged(format!("section {} is of version {major}.{minor}", self.number))
            }
        })
    }

    /// Reads a section header, which tells its own byte order.
    fn section(&mut self, source: &mut Source) -> Result<(), SectionError> {
        if !source.fill(12).map_err(Stop::Io)? {
            return Err(short(source).into());
        }
        self.order = match source.window()[8..12] {
            [0x1a, 0x2b, 0x3c, 0x4d] => Endianness::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => Endianness::Little,
            _ => return Err(damaged("a section header without its byte-order magic".to_owned()).into()),
        };
        let len = u32_at(source.window(), 4, self.order).unwrap_or(0);
        let body = self.block(source, len)?;
        let body = source.bytes(body);
        let (Some(major), Some(minor)) = (u16_at(body, 4, self.order), u16_at(body, 6, self.order)) else {
            return Err(damaged("a section header without version".to_owned()).into());
        };
        // 1.2 was written by mistake and is to be read as 1.0 (section 4.1).
        if major != 1 || !matches!(minor, 0 | 2) {
            return Err(SectionError::Version { major, minor });
        }
        Ok(())
    }

    fn head(&self, source: &mut Source) -> Result<Head, Stop> {
        if !source.fill(12)? {
            return Err(short(source));
        }
        let kind = u32_at(source.window(), 0, self.order).unwrap_or(0);
        let len = u32_at(source.window(), 4, self.order).unwrap_or(0);
        Ok(Head { kind, len })
    }

    /// Takes a whole block and returns where its body is.
    fn block(&self, source: &mut Source, len: u32) -> Result<Range<usize>, Stop> {
        if len > MAX_BLOCK {
            return Err(damaged(format!("a block claims {len} bytes, more than the {MAX_BLOCK} possible")));
        }
        // A length below the minimum is left to the parser to refuse.
        if !source.fill((len as usize).max(12))? {
            return Err(short(source));
        }
        let parsed = match self.order {
            Endianness::Big => RawBlock::from_slice::<BigEndian>(source.window()),
            Endianness::Little => RawBlock::from_slice::<LittleEndian>(source.window()),
        };
        let taken = match parsed {
            Ok((rest, _)) => source.window().len() - rest.len(),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let block = source.consume(taken);
        Ok(block.start + 8..block.end - 4)
    }

    /// Passes over a block of a kind that holds no packets.
    fn skip(&self, source: &mut Source, head: &Head) -> Result<(), Stop> {
        if head.len < 12 || !head.len.is_multiple_of(4) {
            return Err(damaged(format!("a block of type {:#x} claims {} bytes", head.kind, head.len)));
        }
        if !source.skip(u64::from(head.len) - 4)? || !source.fill(4)? {
            return Err(Stop::End(match short(source) {
                Stop::End(End::Complete) => End::Cut,
                Stop::End(end) => end,
                io @ Stop::Io(_) => return Err(io),
            }));
        }
        let trailer = u32_at(source.window(), 0, self.order);
        source.consume(4);
        if trailer != Some(head.len) {
            return Err(damaged(format!("a block of type {:#x} has two different lengths", head.kind)));
        }
        Ok(())
    }
}

enum SectionError {
    Stop(Stop),
    Version { major: u16, minor: u16 },
}

impl From<Stop> for SectionError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

fn damaged(reason: String) -> Stop {
    Stop::End(End::Damaged(reason))
}

fn u16_at(bytes: &[u8], at: usize, order: Endianness) -> Option<u16> {
    let bytes = *bytes.get(at..)?.first_chunk()?;
    Some(if order.is_little() { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
}

fn u32_at(bytes: &[u8], at: usize, order: Endianness) -> Option<u32> {
    let bytes = *bytes.get(at..)?.first_chunk()?;
    Some(if order.is_little() { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
}

fn interface(body: &[u8], order: Endianness, section: u32, id: u32) -> Option<Interface> {
    let mut interface = Interface {
        section,
        id,
        name: None,
        link: LinkType(u32::from(u16_at(body, 0, order)?)),
        snaplen: u32_at(body, 4, order)?,
        resolution: Resolution::Decimal(6),
        offset_s: 0,
        fcs: 0,
        packets: 0,
    };
    let mut at = 8;
    while let (Some(code), Some(len)) = (u16_at(body, at, order), u16_at(body, at + 2, order)) {
        let Some(value) = body.get(at + 4..at + 4 + usize::from(len)) else { break };
        at += 4 + usize::from(len).next_multiple_of(4);
        match (code, value) {
            (0, _) => break,
            // if_name, if_tsresol, if_fcslen (in bits), if_tsoffset; section 4.2.
            (2, name) => interface.name = Some(String::from_utf8_lossy(name).chars().take(MAX_NAME).collect()),
            (9, [octet]) => interface.resolution = Resolution::from_octet(*octet),
            (13, [bits]) => interface.fcs = bits / 8,
            (14, value) => {
                if let Some(bytes) = value.first_chunk::<8>() {
                    interface.offset_s =
                        if order.is_little() { i64::from_le_bytes(*bytes) } else { i64::from_be_bytes(*bytes) };
                }
            }
            _ => {}
        }
    }
    Some(interface)
}

/// The packet in a block, or nothing if it cannot be used: then it has been counted.
fn packet(kind: u32, order: Endianness, source: &Source, body: Range<usize>, state: &mut State) -> Option<Located> {
    state.number += 1;
    let number = state.number;
    let bytes = source.bytes(body.clone());
    // Where the data begin; interface; time; captured and original length.
    let fields = if kind == SIMPLE_PACKET {
        u32_at(bytes, 0, order).map(|wire_len| (4, 0, None, None, wire_len))
    } else {
        let interface = if kind == PACKET { u16_at(bytes, 0, order).map(u32::from) } else { u32_at(bytes, 0, order) };
        let word = |at| u32_at(bytes, at, order);
        match (interface, word(4), word(8), word(12), word(16)) {
            (Some(interface), Some(high), Some(low), Some(captured), Some(wire_len)) => {
                let ticks = u64::from(high) << 32 | u64::from(low);
                Some((20, interface, Some(ticks), Some(captured), wire_len))
            }
            _ => None,
        }
    };
    let Some((start, interface, ticks, captured, wire_len)) = fields else {
        state.oddities.bad_record.add(number);
        return None;
    };
    let index = interface as usize;
    let Some(described) = state.interfaces.get(index) else {
        state.oddities.no_interface.add(number);
        return None;
    };
    // A simple packet block has no captured length: it is what snaplen left of the original (section 4.4).
    let snaplen = if described.snaplen == 0 { u32::MAX } else { described.snaplen };
    let captured = captured.unwrap_or(wire_len.min(snaplen).min((bytes.len() - start) as u32));
    if captured > MAX_PACKET || captured as usize > bytes.len() - start {
        state.oddities.bad_record.add(number);
        return None;
    }
    let time_ns = match ticks {
        None => {
            state.oddities.untimed.add(number);
            state.last_ns
        }
        Some(ticks) => {
            let (time_ns, clamped) = described.resolution.to_ns(ticks, described.offset_s);
            if clamped {
                state.oddities.clamped_time.add(number);
            }
            time_ns
        }
    };
    let data = body.start + start;
    Some(Located { interface: index, time_ns, wire_len, data: data..data + captured as usize })
}

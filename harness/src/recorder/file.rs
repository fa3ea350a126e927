//! A recording as a pcapng file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::{DataLink, PcapError};

use super::Recording;

/// `epb_flags`: the direction is in the lowest two bits (pcapng, section 4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes the frames with their comments, by position.
pub(super) fn write(recording: &Recording, comments: &BTreeMap<usize, Vec<String>>, path: &Path) -> io::Result<()> {
    let mut writer = PcapNgWriter::new(BufWriter::with_capacity(1 << 18, File::create(path)?)).map_err(io_error)?;
    for interface in &recording.interfaces {
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(&interface.name)),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        writer.write_pcapng_block(block).map_err(io_error)?;
    }
    for (position, frame) in recording.frames.iter().enumerate() {
        let mut options = vec![EnhancedPacketOption::Flags(if frame.outgoing { OUTBOUND } else { INBOUND })];
        for comment in comments.get(&position).into_iter().flatten() {
            // An option's length has 16 bits.
            let end = comment.floor_char_boundary(usize::from(u16::MAX));
            options.push(EnhancedPacketOption::Comment(Cow::Borrowed(&comment[..end])));
        }
        let block = EnhancedPacketBlock {
            interface_id: u32::try_from(frame.interface).unwrap_or(u32::MAX),
            timestamp: Duration::from_nanos(frame.time_ns),
            original_len: frame.wire_len.max(u32::try_from(frame.data.len()).unwrap_or(u32::MAX)),
            data: Cow::Borrowed(&frame.data),
            options,
        };
        writer.write_pcapng_block(block).map_err(io_error)?;
    }
    let last = recording.frames.last().map_or(0, |frame| frame.time_ns);
    for (index, interface) in (0_u32..).zip(&recording.interfaces) {
        let block = InterfaceStatisticsBlock {
            interface_id: index,
            timestamp: last,
            options: vec![
                InterfaceStatisticsOption::IsbIfRecv(interface.passed),
                InterfaceStatisticsOption::IsbIfDrop(interface.lost),
            ],
        };
        writer.write_pcapng_block(block).map_err(io_error)?;
    }
    writer.into_inner().flush()
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

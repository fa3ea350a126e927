//! A recording as a pcapng file.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, PcapError};

use super::events::Placed;
use super::{RecordedInterface, RecorderError, Recording};

/// `epb_flags`: the direction is in the lowest two bits (pcapng, section 4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// An option's length has 16 bits (pcapng, section 3.5).
const LONGEST: usize = u16::MAX as usize;
/// The section's comment leaves room to say how much is missing.
const LONGEST_SECTION: usize = 60_000;

/// A file that a recording is to be written to, opened beforehand: that it cannot be written is found out before
/// anything runs. A new file that nothing was written to is removed again.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: Option<File>,
    is_new: bool,
}

impl Target {
    /// Opens the file, and leaves what is in it until there is a recording.
    ///
    /// # Errors
    /// [`RecorderError::Write`].
    pub fn open(path: &Path) -> Result<Self, RecorderError> {
        let failed = |source| RecorderError::Write { path: path.to_owned(), source };
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file: Some(file), is_new })
    }

    /// Writes the frames with their comments.
    pub(super) fn write(
        mut self,
        recording: &Recording,
        about: &[String],
        placed: &Placed,
    ) -> Result<(), RecorderError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        // A pipe has no length.
        let cut = if file.metadata().is_ok_and(|meta| meta.is_file()) { file.set_len(0) } else { Ok(()) };
        let result = cut.and_then(|()| write(file, recording, about, placed));
        self.is_new &= result.is_err();
        result.map_err(|source| RecorderError::Write { path: self.path.clone(), source })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_new {
            // Whatever failed before is what must be heard of.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

fn write(file: File, recording: &Recording, about: &[String], placed: &Placed) -> io::Result<()> {
    let section = section(&section_comment(about, &placed.unplaced));
    let buffer = BufWriter::with_capacity(1 << 18, file);
    let mut writer = PcapNgWriter::with_section_header(buffer, section).map_err(io_error)?;
    for interface in &recording.interfaces {
        writer.write_pcapng_block(description(interface)).map_err(io_error)?;
    }
    for (position, frame) in recording.frames.iter().enumerate() {
        let mut options = vec![EnhancedPacketOption::Flags(if frame.outgoing { OUTBOUND } else { INBOUND })];
        for comment in frame.comments.iter().chain(placed.comments.get(&position).into_iter().flatten()) {
            options.push(EnhancedPacketOption::Comment(Cow::Borrowed(cut(comment, LONGEST))));
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

fn section(comment: &str) -> SectionHeaderBlock<'static> {
    let application = format!("bpflab {}", env!("CARGO_PKG_VERSION"));
    SectionHeaderBlock {
        options: vec![
            SectionHeaderOption::UserApplication(Cow::Owned(application)),
            SectionHeaderOption::OS(Cow::Owned(format!("Linux {}", crate::kernel::release()))),
            SectionHeaderOption::Comment(Cow::Owned(cut(comment, LONGEST).to_owned())),
        ],
        ..SectionHeaderBlock::default()
    }
}

fn description(interface: &RecordedInterface) -> InterfaceDescriptionBlock<'_> {
    InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(cut(&interface.name, LONGEST))),
            InterfaceDescriptionOption::IfDescription(Cow::Borrowed(cut(&interface.description, LONGEST))),
            InterfaceDescriptionOption::IfTsResol(9),
        ],
    }
}

/// One line each, and a last one that says how many found no room.
fn section_comment(about: &[String], unplaced: &[String]) -> String {
    let mut comment = String::new();
    let lines: Vec<&String> = about.iter().chain(unplaced).collect();
    for (written, line) in lines.iter().enumerate() {
        if comment.len() + line.len() >= LONGEST_SECTION {
            comment.push_str(&format!("... and {} more lines, for which there is no room here", lines.len() - written));
            break;
        }
        comment.push_str(line);
        comment.push('\n');
    }
    comment.truncate(comment.trim_end().len());
    comment
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nothing_was_written_to_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new.pcapng"), folder.path().join("old.pcapng"));
        std::fs::write(&old, "before").unwrap();
        drop((Target::open(&new).unwrap(), Target::open(&old).unwrap()));
        assert!(!new.exists());
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "before");
        let error = Target::open(&folder.path().join("none/x.pcapng")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write recording "), "{error}");
    }

    #[test]
    fn a_section_comment_that_is_too_long_says_so() {
        let lines: Vec<String> = (0..10_000).map(|number| format!("line {number} of the observation")).collect();
        let comment = section_comment(&[], &lines);
        assert!(comment.len() <= LONGEST, "{}", comment.len());
        assert!(comment.ends_with(" more lines, for which there is no room here"), "{comment}");
    }
}

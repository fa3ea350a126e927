//! Captures as artefacts: what was offered, what arrived.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, PcapError};

use super::CaptureError;

/// Writes Ethernet frames to a pcapng file: one section, one interface, nanoseconds, no snaplen.
pub struct Writer {
    path: PathBuf,
    inner: PcapNgWriter<BufWriter<File>>,
}

impl Writer {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let file = File::create(path).map_err(CaptureError::write(path))?;
        let start = |file| {
            let mut inner = PcapNgWriter::new(BufWriter::with_capacity(1 << 18, file))?;
            inner.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: vec![InterfaceDescriptionOption::IfTsResol(9)],
            })?;
            Ok(inner)
        };
        let inner = start(file).map_err(io_error).map_err(CaptureError::write(path))?;
        Ok(Self { path: path.to_owned(), inner })
    }

    /// Appends a frame: time in nanoseconds since 1970, bytes captured, length on the wire (raised to that of `data` if
    /// less).
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, time_ns: u64, data: &[u8], wire_len: u32) -> Result<(), CaptureError> {
        self.block(time_ns, data, wire_len, Vec::new())
    }

    /// As [`Writer::write`], with a comment that Wireshark shows beside the frame. Cut at 65535 bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn write_commented(
        &mut self,
        time_ns: u64,
        data: &[u8],
        wire_len: u32,
        comment: &str,
    ) -> Result<(), CaptureError> {
        // An option's length has 16 bits.
        let comment = &comment[..comment.floor_char_boundary(usize::from(u16::MAX))];
        self.block(time_ns, data, wire_len, vec![EnhancedPacketOption::Comment(Cow::Borrowed(comment))])
    }

    fn block(
        &mut self,
        time_ns: u64,
        data: &[u8],
        wire_len: u32,
        options: Vec<EnhancedPacketOption<'_>>,
    ) -> Result<(), CaptureError> {
        let original_len = wire_len.max(u32::try_from(data.len()).unwrap_or(u32::MAX));
        // The crate writes nanoseconds whatever the resolution, which is why the interface says nanoseconds.
        let timestamp = Duration::from_nanos(time_ns);
        let block =
            EnhancedPacketBlock { interface_id: 0, timestamp, original_len, data: Cow::Borrowed(data), options };
        self.inner.write_pcapng_block(block).map_err(io_error).map_err(CaptureError::write(&self.path))?;
        Ok(())
    }

    /// Writes what is still buffered and closes the file. Dropping the writer does the same, without telling of errors.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self) -> Result<(), CaptureError> {
        self.inner.into_inner().flush().map_err(CaptureError::write(&self.path))
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

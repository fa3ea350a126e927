//! Capture filter expressions, by libpcap.

use super::CaptureError;
#[cfg(feature = "filter")]
use super::link::LinkType;
use super::reader::Packet;

/// An expression, compiled for each link type that comes along.
#[cfg(feature = "filter")]
pub(crate) struct Filter {
    expression: String,
    programs: Vec<(LinkType, pcap::BpfProgram)>,
    padded: Vec<u8>,
}

#[cfg(feature = "filter")]
impl Filter {
    #[allow(clippy::unnecessary_wraps, reason = "the signature of the one without libpcap")]
    pub(crate) fn new(expression: &str) -> Result<Self, CaptureError> {
        Ok(Self { expression: expression.to_owned(), programs: Vec::new(), padded: Vec::new() })
    }

    /// Compiles the expression if no packet has come along to need it: a mistake shows without packets, too.
    pub(crate) fn check(&mut self) -> Result<(), CaptureError> {
        if self.programs.is_empty() {
            self.program(LinkType::ETHERNET)?;
        }
        Ok(())
    }

    /// Whether the packet matches, in its own link type.
    pub(crate) fn matches(&mut self, packet: &Packet<'_>) -> Result<bool, CaptureError> {
        let position = self.program(packet.interface.link)?;
        let program = &self.programs[position].1;
        let wire_len = packet.wire_len.min(super::reader::MAX_PACKET) as usize;
        if packet.data.len() >= wire_len {
            return Ok(program.filter(packet.data));
        }
        // The crate passes one length for both captured and original; `len` and `greater` mean the original.
        self.padded.clear();
        self.padded.extend_from_slice(packet.data);
        self.padded.resize(wire_len, 0);
        Ok(program.filter(&self.padded))
    }

    fn program(&mut self, link: LinkType) -> Result<usize, CaptureError> {
        if let Some(position) = self.programs.iter().position(|(known, _)| *known == link) {
            return Ok(position);
        }
        let program = compile(&self.expression, link).map_err(|error| CaptureError::Filter {
            expression: self.expression.clone(),
            link,
            message: match error {
                pcap::Error::PcapError(message) => message,
                other => other.to_string(),
            },
        })?;
        self.programs.push((link, program));
        Ok(self.programs.len() - 1)
    }
}

#[cfg(feature = "filter")]
fn compile(expression: &str, link: LinkType) -> Result<pcap::BpfProgram, pcap::Error> {
    // Files have LINKTYPE_ numbers, libpcap's functions DLT_ numbers. They differ for raw IP only, of those supported
    // here: DLT_RAW is 12 on Linux.
    let dlt = match link.0 {
        14 | 101 => 12,
        other => i32::try_from(other).map_err(|_| pcap::Error::InvalidLinktype)?,
    };
    pcap::Capture::dead(pcap::Linktype(dlt))?.compile(expression, true)
}

/// Stands for libpcap in a build without it.
#[cfg(not(feature = "filter"))]
pub(crate) struct Filter;

#[cfg(not(feature = "filter"))]
impl Filter {
    pub(crate) fn new(expression: &str) -> Result<Self, CaptureError> {
        Err(CaptureError::FilterMissing { expression: expression.to_owned() })
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the signature of the one with libpcap")]
    pub(crate) fn check(&mut self) -> Result<(), CaptureError> {
        Ok(())
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the signature of the one with libpcap")]
    pub(crate) fn matches(&mut self, _: &Packet<'_>) -> Result<bool, CaptureError> {
        Ok(true)
    }
}

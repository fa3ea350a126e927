//! The first pass over a capture: everything about it is known, and said, before a run begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::CaptureError;
use super::finding::{Context, Finding, Kind, Tallies};
use super::options::Options;
use super::pipeline::{Fate, Pipeline};
use super::reader::{ByteOrder, End, Format, Interface, Packet, Reader, Tally};
use super::sides::{Endpoints, Learner, Sides, SidesBasis};

/// Bytes of the file between two reports of progress.
const PROGRESS_STEP: u64 = 4 << 20;
/// Most bytes of headers in front of a segment's data: Ethernet with two tags, IP and TCP with options.
const MOST_HEADERS: u64 = 22 + 60 + 60;
/// Bytes of an Ethernet header with two tags.
const LINK_HEADERS: usize = 22;

/// What a capture is, what is unusual about it, and what will be offered of it under given options.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// The capture.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Whether the file is gzip-compressed.
    pub gzip: bool,
    /// Its byte order (of the first section).
    pub byte_order: ByteOrder,
    /// Length of the file, bytes.
    pub file_len: u64,
    /// SHA-256 of the file as it is, in hexadecimal.
    pub sha256: String,
    /// Where packets were captured, with link type, resolution and number of packets each. A pcap has one interface.
    pub interfaces: Vec<Interface>,
    /// Packets in the file, unusable ones included.
    pub packets: u64,
    /// Captured bytes of these packets.
    pub captured_bytes: u64,
    /// Bytes of these packets on the wire.
    pub wire_bytes: u64,
    /// Packets that the filter let pass, up to the limit.
    pub selected: u64,
    /// Packets that the filter did not let pass.
    pub filtered_out: u64,
    /// Packets after the limit was reached.
    pub beyond_limit: u64,
    /// Packets that were asked for and will not be offered, for reasons in `findings`.
    pub refused: u64,
    /// Frames that [`Frames`](super::Frames) will offer; more than packets where some are segmented.
    pub will_offer: u64,
    /// Bytes of those frames together, at most: those of segments are estimated.
    pub will_offer_bytes: u64,
    /// Bytes of the longest of them, at most.
    pub longest: usize,
    /// Earliest time of the selected packets, nanoseconds since 1970.
    pub first_ns: Option<u64>,
    /// Latest time of the selected packets.
    pub last_ns: Option<u64>,
    /// By what addresses the side of each frame is decided.
    pub sides_basis: SidesBasis,
    /// IP addresses per side, of the offered frames.
    pub endpoints: Endpoints,
    /// Everything unusual.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    pub(super) sides: Arc<Sides>,
}

impl Survey {
    /// Reads the whole capture once.
    ///
    /// # Errors
    /// The file is missing, no capture, of an unknown version, unreadable from its first packet on, or none of its
    /// packets can be turned into Ethernet; an invalid filter or MTU. See [`CaptureError`].
    pub fn of(path: &Path, options: &Options) -> Result<Self, CaptureError> {
        Self::with_progress(path, options, &mut |_, _| {})
    }

    /// As [`Survey::of`]; `progress` is told now and then how many bytes of how many have been read.
    ///
    /// # Errors
    /// As [`Survey::of`].
    pub fn with_progress(
        path: &Path,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, CaptureError> {
        let mut pipeline = Pipeline::new(options, true)?;
        let mut reader = Reader::open_with(path, true)?;
        if reader.format() == Format::Pcap {
            refuse_unsupported(path, &reader, 0)?;
        }
        let mut pass = Pass::new(options);
        let (mut reported, file_len) = (0, reader.file_len());
        while let Some(packet) = reader.next_packet()? {
            pass.take(&packet, &mut pipeline)?;
            let position = reader.position();
            if position - reported >= PROGRESS_STEP {
                reported = position;
                progress(position, file_len);
            }
        }
        pipeline.finish()?;
        let packets = reader.packets();
        let end = reader.end().cloned().unwrap_or(End::Complete);
        if packets == 0 && end != End::Complete {
            return Err(CaptureError::NothingReadable { path: path.to_owned(), reason: in_words(&end) });
        }
        if packets > 0 {
            refuse_unsupported(path, &reader, packets)?;
        }
        pass.file(&reader, &end, pipeline.selected());
        let mut survey = pass.into_survey(&reader, &end, options, pipeline.selected());
        survey.path = path.to_owned();
        survey.sha256 = reader.finish()?.unwrap_or_default();
        progress(file_len, file_len);
        Ok(survey)
    }

    /// The finding of a kind, if there is one.
    #[must_use]
    pub fn finding(&self, kind: Kind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }
}

fn in_words(end: &End) -> String {
    match end {
        End::Complete => "it has none".to_owned(),
        End::Cut => "the file is cut off inside its first record".to_owned(),
        End::Damaged(reason) => reason.clone(),
    }
}

/// An error if all of `packets` packets are of unsupported link types.
fn refuse_unsupported(path: &Path, reader: &Reader, packets: u64) -> Result<(), CaptureError> {
    let unsupported = || reader.interfaces().filter(|interface| !interface.link.is_supported());
    let affected: u64 = unsupported().map(|interface| interface.packets).sum();
    match unsupported().next() {
        Some(interface) if affected == packets => {
            Err(CaptureError::UnsupportedLink { path: path.to_owned(), link: interface.link })
        }
        _ => Ok(()),
    }
}

/// What is counted while the packets go by.
struct Pass {
    frame: Vec<u8>,
    tallies: Tallies,
    learner: Learner,
    captured_bytes: u64,
    wire_bytes: u64,
    filtered_out: u64,
    beyond_limit: u64,
    will_offer: u64,
    will_offer_bytes: u64,
    longest: usize,
    mtu: usize,
    /// Earliest and latest time of the selected packets.
    times: Option<(u64, u64)>,
}

impl Pass {
    fn new(options: &Options) -> Self {
        Self {
            frame: Vec::new(),
            tallies: Tallies::default(),
            learner: Learner::new(&options.sides),
            captured_bytes: 0,
            wire_bytes: 0,
            filtered_out: 0,
            beyond_limit: 0,
            will_offer: 0,
            will_offer_bytes: 0,
            longest: 0,
            mtu: options.mtu as usize,
            times: None,
        }
    }

    fn take(&mut self, packet: &Packet<'_>, pipeline: &mut Pipeline) -> Result<(), CaptureError> {
        self.captured_bytes += packet.data.len() as u64;
        self.wire_bytes += u64::from(packet.wire_len);
        let before = pipeline.selected();
        let fate = pipeline.admit(packet, &mut self.frame, &mut self.tallies)?;
        if pipeline.selected() > before {
            let (first, last) = self.times.unwrap_or((packet.time_ns, packet.time_ns));
            self.times = Some((first.min(packet.time_ns), last.max(packet.time_ns)));
        }
        let (view, frames) = match fate {
            Fate::Filtered => {
                self.filtered_out += 1;
                return Ok(());
            }
            Fate::BeyondLimit => {
                self.beyond_limit += 1;
                return Ok(());
            }
            Fate::Refused => return Ok(()),
            Fate::Offered { view, .. } => (view, 1),
            Fate::Segmented { view, segments } => (view, segments.count),
        };
        self.will_offer += frames;
        // Each segment has headers of its own, and none is longer than the MTU allows.
        self.will_offer_bytes += self.frame.len() as u64 + frames.saturating_sub(1) * MOST_HEADERS;
        let most = if frames > 1 { self.mtu + LINK_HEADERS } else { usize::MAX };
        self.longest = self.longest.max(self.frame.len().min(most));
        self.learner.learn(packet.number, &self.frame, &view);
        Ok(())
    }

    /// Adds what only the reader knows.
    fn file(&mut self, reader: &Reader, end: &End, selected: u64) {
        let whole = Tally { count: 1, first: 0 };
        let oddities = reader.oddities();
        self.tallies.set(Kind::NoInterface, oddities.no_interface, true);
        self.tallies.set(Kind::BadRecord, oddities.bad_record, true);
        self.tallies.set(Kind::Untimed, oddities.untimed, false);
        self.tallies.set(Kind::TimeOutOfRange, oddities.clamped_time, false);
        match end {
            End::Complete => {}
            End::Cut => self.tallies.set(Kind::CutOff, whole, false),
            End::Damaged(_) => self.tallies.set(Kind::Damaged, whole, false),
        }
        if reader.packets() == 0 {
            self.tallies.set(Kind::NoPackets, whole, false);
        } else if selected == 0 && self.filtered_out + self.beyond_limit > 0 {
            self.tallies.set(Kind::NothingSelected, whole, false);
        }
    }

    fn into_survey(mut self, reader: &Reader, end: &End, options: &Options, selected: u64) -> Survey {
        let learned = self.learner.finish();
        self.tallies.set(Kind::SameSide, learned.same_side, false);
        self.tallies.set(Kind::ManyEndpoints, learned.overflown, false);
        let context = Context { options, basis: learned.sides.basis, end, packets: reader.packets() };
        Survey {
            path: PathBuf::new(),
            format: reader.format(),
            gzip: reader.is_gzip(),
            byte_order: reader.byte_order(),
            file_len: reader.file_len(),
            sha256: String::new(),
            interfaces: reader.interfaces().cloned().collect(),
            packets: reader.packets(),
            captured_bytes: self.captured_bytes,
            wire_bytes: self.wire_bytes,
            selected,
            filtered_out: self.filtered_out,
            beyond_limit: self.beyond_limit,
            refused: self.tallies.refused(),
            will_offer: self.will_offer,
            will_offer_bytes: self.will_offer_bytes,
            longest: self.longest,
            first_ns: self.times.map(|times| times.0),
            last_ns: self.times.map(|times| times.1),
            sides_basis: learned.sides.basis,
            endpoints: learned.endpoints,
            findings: self.tallies.findings(&context),
            sides: Arc::new(learned.sides),
        }
    }
}

//! The second pass over a capture: the frames that a run is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CaptureError;
use super::finding::Tallies;
use super::options::{Options, Side};
use super::parse::View;
use super::pipeline::{Fate, Pipeline};
use super::reader::Reader;
use super::segment::Segments;
use super::sides::Sides;
use super::survey::Survey;

/// An Ethernet frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of its packet in the file, from 1. Segments of one super-frame share it.
    pub number: u64,
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub time_ns: u64,
    /// Length on the wire, bytes, without frame check sequence: more than `data` where that was truncated and kept.
    pub wire_len: u32,
    /// The frame, from its destination address on.
    pub data: Vec<u8>,
    /// The end of the wire at which it enters.
    pub side: Side,
}

impl Default for Frame {
    /// An empty buffer for [`Frames::next_into`].
    fn default() -> Self {
        Self { number: 0, time_ns: 0, wire_len: 0, data: Vec::new(), side: Side::Client }
    }
}

/// A super-frame being cut.
struct Cutting {
    segments: Segments,
    data: Vec<u8>,
    active: bool,
    number: u64,
    time_ns: u64,
    side: Side,
}

/// The frames of a capture, in the order of the file: exactly as many as the survey announced.
pub struct Frames {
    path: PathBuf,
    reader: Reader,
    pipeline: Pipeline,
    tallies: Tallies,
    sides: Arc<Sides>,
    cutting: Option<Cutting>,
    offered: u64,
    announced: u64,
    done: bool,
}

impl Frames {
    /// Opens the capture again. `options` must be those of the survey.
    ///
    /// # Errors
    /// As [`Reader::open`], or the file is no longer the one that was surveyed.
    pub fn open(path: &Path, options: &Options, survey: &Survey) -> Result<Self, CaptureError> {
        let pipeline = Pipeline::new(options, false)?;
        let reader = Reader::open(path)?;
        if reader.file_len() != survey.file_len {
            let what = format!("{} bytes long instead of {}", reader.file_len(), survey.file_len);
            return Err(CaptureError::Changed { path: path.to_owned(), what });
        }
        Ok(Self {
            path: path.to_owned(),
            reader,
            pipeline,
            tallies: Tallies::default(),
            sides: Arc::clone(&survey.sides),
            cutting: None,
            offered: 0,
            announced: survey.will_offer,
            done: false,
        })
    }

    /// Puts the next frame into `frame`, reusing its buffer; says whether there was one.
    ///
    /// # Errors
    /// The system's, on reading; and [`CaptureError::Changed`] in place of the end, if there were more or fewer frames
    /// than announced. After an error there are no more frames.
    pub fn next_into(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        if self.done {
            return Ok(false);
        }
        let found = self.advance(frame);
        match found {
            Ok(true) if self.offered < self.announced => self.offered += 1,
            Ok(true) => {
                self.done = true;
                return Err(self.changed("more"));
            }
            Ok(false) => {
                self.done = true;
                if self.offered < self.announced {
                    return Err(self.changed("fewer"));
                }
            }
            Err(_) => self.done = true,
        }
        found
    }

    fn changed(&self, how: &str) -> CaptureError {
        let what = format!("{how} frames than the {} announced", self.announced);
        CaptureError::Changed { path: self.path.clone(), what }
    }

    fn advance(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        if self.next_segment(frame) {
            return Ok(true);
        }
        while !self.pipeline.is_done() {
            let Some(packet) = self.reader.next_packet()? else { return Ok(false) };
            let fate = self.pipeline.admit(&packet, &mut frame.data, &mut self.tallies)?;
            let (number, time_ns) = (packet.number, packet.time_ns);
            match fate {
                Fate::Filtered | Fate::BeyondLimit | Fate::Refused => {}
                Fate::Offered { view, wire_len } => {
                    let side = self.sides.of(&frame.data, &view);
                    (frame.number, frame.time_ns, frame.wire_len, frame.side) = (number, time_ns, wire_len, side);
                    return Ok(true);
                }
                Fate::Segmented { view, segments } => {
                    self.start_cutting(number, time_ns, &view, segments, &mut frame.data);
                    return Ok(self.next_segment(frame));
                }
            }
        }
        Ok(false)
    }

    fn start_cutting(&mut self, number: u64, time_ns: u64, view: &View, segments: Segments, data: &mut Vec<u8>) {
        let side = self.sides.of(data, view);
        let mut cutting = Cutting { segments, data: Vec::new(), active: true, number, time_ns, side };
        if let Some(previous) = &mut self.cutting {
            std::mem::swap(&mut cutting.data, &mut previous.data);
        }
        std::mem::swap(&mut cutting.data, data);
        self.cutting = Some(cutting);
    }

    fn next_segment(&mut self, frame: &mut Frame) -> bool {
        let Some(cutting) = self.cutting.as_mut().filter(|cutting| cutting.active) else { return false };
        cutting.active = cutting.segments.next(&cutting.data, &mut frame.data);
        if cutting.active {
            let wire_len = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
            (frame.number, frame.time_ns, frame.wire_len, frame.side) =
                (cutting.number, cutting.time_ns, wire_len, cutting.side);
        }
        cutting.active
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut frame = Frame::default();
        match self.next_into(&mut frame) {
            Ok(true) => Some(Ok(frame)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

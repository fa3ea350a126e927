//! Declared traffic as a capture file.

use std::path::Path;

use super::merge::{FrameSource, join};
use super::place::Hosts;
use super::spec::Spec;
use super::{START_NS, SynthError};
use crate::capture::{self, CaptureError, Frame, Frames, Oversize, Survey, Writer};

/// Why traffic could not be written to a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The declaration is wrong.
    #[error(transparent)]
    Synth(#[from] SynthError),
    /// The file cannot be written, or the capture underneath not be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time of the first and the last frame, ns since 1970; 0 if there is none.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// Frames between two calls of `progress`.
const PROGRESS_EVERY: u64 = 4_096;

/// Writes the traffic of `specs` between `hosts` into the pcapng file `path`, merged by time; with a capture underneath if
/// `background` names one, whose first frame is then the beginning of all. `progress` is told the number of frames so far
/// and says whether to go on.
///
/// # Errors
/// Whatever is wrong with a declaration; a capture that cannot be read; a file that cannot be written.
pub fn write(
    specs: &[Spec],
    hosts: &Hosts,
    background: Option<&Path>,
    path: &Path,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Written, WriteError> {
    let mut sources: Vec<Box<dyn FrameSource<Error = CaptureError>>> = Vec::new();
    let mut base_ns = START_NS;
    if let Some(capture) = background {
        // As it is: what becomes of unusual frames is decided when the whole is played.
        let options = capture::Options { mtu: 65_535, oversize: Oversize::Refuse, ..capture::Options::default() };
        let survey = Survey::of(capture, &options)?;
        base_ns = survey.first_ns.unwrap_or(START_NS);
        sources.push(Box::new(Frames::open(capture, &options, &survey)?));
    }
    for spec in specs {
        sources.push(Box::new(spec.frames_among(hosts)?.starting_at(base_ns + spec.start_ns())));
    }
    let mut writer = Writer::create(path)?;
    let (mut frame, mut written) = (Frame::default(), Written::default());
    let mut source = join(sources);
    while source.next_into(&mut frame)? {
        writer.write(frame.time_ns, &frame.data, frame.wire_len)?;
        if written.frames == 0 {
            written.first_ns = frame.time_ns;
        }
        written.frames += 1;
        written.bytes += u64::from(frame.wire_len);
        written.last_ns = frame.time_ns;
        if written.frames.is_multiple_of(PROGRESS_EVERY) && !progress(written.frames) {
            written.interrupted = true;
            break;
        }
    }
    writer.finish()?;
    Ok(written)
}

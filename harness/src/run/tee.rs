//! The frames of a run, kept as they pass.

use std::path::Path;

use super::RunError;
use crate::capture::{CaptureError, Frame, Frames, Writer};

/// Passes frames on and keeps a copy of each in `offered.pcapng`.
pub(super) struct Tee {
    frames: Frames,
    copy: Option<Writer>,
    pub(super) first_ns: Option<u64>,
}

impl Tee {
    pub(super) fn new(frames: Frames, folder: Option<&Path>) -> Result<Self, RunError> {
        let copy = match folder {
            None => None,
            Some(folder) => {
                let failed = |source| RunError::Artefact { path: folder.to_owned(), source };
                std::fs::create_dir_all(folder).map_err(failed)?;
                Some(Writer::create(&folder.join("offered.pcapng"))?)
            }
        };
        Ok(Self { frames, copy, first_ns: None })
    }

    /// The next frame, into a buffer that is used again; false at the end.
    pub(super) fn next_into(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        if !self.frames.next_into(frame)? {
            return Ok(false);
        }
        self.first_ns.get_or_insert(frame.time_ns);
        if let Some(copy) = &mut self.copy {
            copy.write(frame.time_ns, &frame.data, frame.wire_len)?;
        }
        Ok(true)
    }

    pub(super) fn finish(&mut self) -> Result<(), RunError> {
        match self.copy.take() {
            None => Ok(()),
            Some(writer) => Ok(writer.finish()?),
        }
    }
}

impl Iterator for Tee {
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

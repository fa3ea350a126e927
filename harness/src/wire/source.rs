//! Where the frames of a flood come from: something that can be read again and again.

use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, Frame, Frames, Options, Survey};

/// Why a source gives no frame.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// How much a source gives, once through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Frames, at most.
    pub frames: u64,
    /// Their bytes, at most.
    pub bytes: u64,
    /// Bytes of the longest, at most.
    pub longest: usize,
}

/// Frames that can be had more than once.
pub trait Source {
    /// How much it gives.
    fn size(&self) -> Size;

    /// Puts the next frame into `frame`, reusing its buffer; says whether there was one.
    ///
    /// # Errors
    /// It could not be read or made.
    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError>;

    /// Goes back to the first frame.
    ///
    /// # Errors
    /// It cannot be read again.
    fn rewind(&mut self) -> Result<(), SourceError>;
}

/// Frames in memory.
#[derive(Debug)]
pub struct Given<'a> {
    frames: &'a [Frame],
    next: usize,
}

impl<'a> Given<'a> {
    /// Those frames.
    #[must_use]
    pub const fn new(frames: &'a [Frame]) -> Self {
        Self { frames, next: 0 }
    }
}

impl Source for Given<'_> {
    fn size(&self) -> Size {
        let lengths = || self.frames.iter().map(|frame| frame.data.len());
        Size {
            frames: self.frames.len() as u64,
            bytes: lengths().map(|len| len as u64).sum(),
            longest: lengths().max().unwrap_or_default(),
        }
    }

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        let Some(next) = self.frames.get(self.next) else { return Ok(false) };
        self.next += 1;
        frame.clone_from(next);
        Ok(true)
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.next = 0;
        Ok(())
    }
}

/// The frames of a capture, read anew each time.
pub struct OfCapture<'a> {
    path: PathBuf,
    options: &'a Options,
    survey: &'a Survey,
    frames: Frames,
}

impl<'a> OfCapture<'a> {
    /// The frames that `survey` announced under `options`.
    ///
    /// # Errors
    /// As [`Frames::open`].
    pub fn new(path: &Path, options: &'a Options, survey: &'a Survey) -> Result<Self, CaptureError> {
        let frames = Frames::open(path, options, survey)?;
        Ok(Self { path: path.to_owned(), options, survey, frames })
    }
}

impl Source for OfCapture<'_> {
    fn size(&self) -> Size {
        let Survey { will_offer, will_offer_bytes, longest, .. } = *self.survey;
        Size { frames: will_offer, bytes: will_offer_bytes, longest }
    }

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        Ok(self.frames.next_into(frame)?)
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.frames = Frames::open(&self.path, self.options, self.survey)?;
        Ok(())
    }
}

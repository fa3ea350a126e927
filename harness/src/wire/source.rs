//! Where the frames of a flood come from: something that can be read again and again.

use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, Frame, Frames, Options, Survey};
use crate::synth::{self, FrameSource, Hosts, Spec, SynthError};

/// Why a source gives no frame.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// How much a source gives, once through. What is not known is as large as can be.
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

/// Most frames that are made only to count them: so many take less than a tenth of a second.
const COUNTED: u64 = 65_536;

/// The frames of declared traffic, made anew from the seed each time. Nothing is kept but what streams need: [`Synth`]
/// says how much that is.
///
/// ```no_run
/// use std::sync::atomic::AtomicBool;
///
/// use bpflab::synth::{Hosts, Spec};
/// use bpflab::topology::{Network, presets};
/// use bpflab::wire::{self, Attachments, FloodOptions, OfSynth};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let network = Network::build(&presets::bridge())?;
/// let attachments = Attachments::new(&network)?;
/// let syns = Spec { count: Some(50_000_000), ..Spec::new("syn-flood") };
/// let mut source = OfSynth::new(&[syns], &Hosts::from(network.topology()))?;
/// let (options, stop) = (FloodOptions::default(), AtomicBool::new(false));
/// let outcome = wire::flood(&network, &attachments, &mut source, &options, &stop, &mut |_| Ok(()))?;
/// assert_eq!((outcome.sent(), outcome.lost()), (50_000_000, 0));
/// # Ok(())
/// # }
/// ```
///
/// [`Synth`]: crate::synth::Synth
pub struct OfSynth {
    specs: Vec<Spec>,
    hosts: Hosts,
    stream: Box<dyn FrameSource<Error = CaptureError>>,
    /// Once through, if that was counted.
    size: Option<Size>,
    /// What was given since the last rewind, and the most that was given between two.
    given: Size,
    most: Size,
}

impl OfSynth {
    /// The traffic of `specs` between `hosts`, merged by time.
    ///
    /// # Errors
    /// Whatever is wrong with a declaration.
    pub fn new(specs: &[Spec], hosts: &Hosts) -> Result<Self, SynthError> {
        let stream = synth::frames_of(specs, hosts)?;
        let (given, most) = (Size::default(), Size::default());
        let mut source = Self { specs: specs.to_vec(), hosts: hosts.clone(), stream, size: None, given, most };
        source.count()?;
        Ok(source)
    }

    /// Goes through the first frames: often that is all.
    fn count(&mut self) -> Result<(), SynthError> {
        let mut frame = Frame::default();
        while self.given.frames < COUNTED {
            // Nothing is read from a file: making frames does not fail.
            if !self.next_into(&mut frame).unwrap_or_default() {
                self.size = Some(self.given);
                break;
            }
        }
        (self.given, self.most) = (Size::default(), Size::default());
        self.stream = synth::frames_of(&self.specs, &self.hosts)?;
        Ok(())
    }

    /// Frames and bytes once through, as far as that is known by now: the most that was given before a rewind or until now.
    #[must_use]
    pub fn given(&self) -> Size {
        self.size.unwrap_or(if self.given.frames > self.most.frames { self.given } else { self.most })
    }
}

impl Source for OfSynth {
    /// Exact for up to 65 536 frames, else unknown.
    fn size(&self) -> Size {
        self.size.unwrap_or(Size { frames: u64::MAX, bytes: u64::MAX, longest: synth::LONGEST_FRAME })
    }

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        let is_one = self.stream.next_into(frame)?;
        if is_one {
            let len = frame.data.len();
            let Size { frames, bytes, longest } = &mut self.given;
            (*frames, *bytes, *longest) = (*frames + 1, *bytes + len as u64, len.max(*longest));
        }
        Ok(is_one)
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.most = Self::given(self);
        self.given = Size::default();
        self.stream = synth::frames_of(&self.specs, &self.hosts)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &mut OfSynth) -> Vec<Frame> {
        let (mut frames, mut frame) = (Vec::new(), Frame::default());
        while source.next_into(&mut frame).unwrap() {
            frames.push(frame.clone());
        }
        frames
    }

    #[test]
    fn rewinding_makes_the_same_frames_again() {
        let http = Spec { count: Some(40), ..Spec::new("http-transactions") };
        let flood = Spec { count: Some(100), seed: 7, ..Spec::new("syn-flood") };
        for specs in [vec![http.clone()], vec![http, flood]] {
            let mut source = OfSynth::new(&specs, &Hosts::default()).unwrap();
            let first = all(&mut source);
            let bytes = first.iter().map(|frame| frame.data.len() as u64).sum();
            let longest = first.iter().map(|frame| frame.data.len()).max().unwrap();
            assert_eq!(source.size(), Size { frames: first.len() as u64, bytes, longest });
            source.rewind().unwrap();
            let mut frame = Frame::default();
            source.next_into(&mut frame).unwrap();
            // From the middle as well.
            source.rewind().unwrap();
            assert!(all(&mut source) == first);
        }
    }

    #[test]
    fn more_than_is_counted_is_told_when_it_was_given() {
        let specs = [Spec { count: Some(COUNTED + 10), ..Spec::new("syn-flood") }];
        let mut source = OfSynth::new(&specs, &Hosts::default()).unwrap();
        let size = source.size();
        assert_eq!((size.frames, size.longest, source.given().frames), (u64::MAX, synth::LONGEST_FRAME, 0));
        let mut frame = Frame::default();
        while source.next_into(&mut frame).unwrap() {}
        source.rewind().unwrap();
        source.next_into(&mut frame).unwrap();
        // A SYN without options over IPv4 has 54 bytes.
        let once = Size { frames: COUNTED + 10, bytes: 54 * (COUNTED + 10), longest: 54 };
        assert_eq!(source.given(), once);
    }

    #[test]
    fn nothing_gives_nothing() {
        let none = [Spec { count: Some(0), ..Spec::new("udp-flood") }];
        for specs in [&none[..], &[]] {
            let mut source = OfSynth::new(specs, &Hosts::default()).unwrap();
            assert_eq!((source.size(), all(&mut source).len()), (Size::default(), 0));
        }
        let error = OfSynth::new(&[Spec::new("udp-flod")], &Hosts::default()).err().unwrap();
        assert!(error.to_string().contains("did you mean `udp-flood`?"), "{error}");
    }
}

//! Several streams as one.

use super::SynthError;
use super::place::Hosts;
use super::spec::Spec;
use super::stream::Synth;
use crate::capture::{CaptureError, Frame, Frames};

/// A source of frames in order of time.
pub trait FrameSource {
    /// Why a frame could not be had.
    type Error;

    /// Puts the next frame into `frame`, reusing its buffer; says whether there was one.
    ///
    /// # Errors
    /// The source's.
    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, Self::Error>;
}

impl FrameSource for Synth {
    type Error = CaptureError;

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, Self::Error> {
        Ok(Self::next_into(self, frame))
    }
}

impl FrameSource for Frames {
    type Error = CaptureError;

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, Self::Error> {
        Self::next_into(self, frame)
    }
}

/// Several sources as one, by time; of equal times the earlier source first. Frames are numbered anew from 1.
pub struct Merge<'a, E> {
    sources: Vec<Source<'a, E>>,
    number: u64,
}

struct Source<'a, E> {
    source: Box<dyn FrameSource<Error = E> + 'a>,
    /// The next frame of this source, if `is_full`.
    frame: Frame,
    is_full: bool,
    is_done: bool,
}

/// Merges sources by time. A source that goes back in time goes on at once.
#[must_use]
pub fn merge<'a, E>(sources: Vec<Box<dyn FrameSource<Error = E> + 'a>>) -> Merge<'a, E> {
    let source = |source| Source { source, frame: Frame::default(), is_full: false, is_done: false };
    Merge { sources: sources.into_iter().map(source).collect(), number: 0 }
}

/// The only source as it is, else all of them merged: merging costs as much as making a frame.
pub(super) fn join<'a, E: 'a>(
    mut sources: Vec<Box<dyn FrameSource<Error = E> + 'a>>,
) -> Box<dyn FrameSource<Error = E> + 'a> {
    match sources.pop() {
        Some(only) if sources.is_empty() => only,
        last => Box::new(merge(sources.into_iter().chain(last).collect())),
    }
}

/// The frames of several declarations between `hosts` as one stream, by time.
///
/// # Errors
/// Whatever is wrong with a declaration.
pub fn frames_of(specs: &[Spec], hosts: &Hosts) -> Result<Box<dyn FrameSource<Error = CaptureError>>, SynthError> {
    let stream = |spec: &Spec| -> Result<Box<dyn FrameSource<Error = CaptureError>>, SynthError> {
        Ok(Box::new(spec.frames_among(hosts)?))
    };
    Ok(join(specs.iter().map(stream).collect::<Result<_, _>>()?))
}

impl<E> FrameSource for Merge<'_, E> {
    type Error = E;

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, E> {
        for source in self.sources.iter_mut().filter(|source| !source.is_full && !source.is_done) {
            source.is_full = source.source.next_into(&mut source.frame)?;
            source.is_done = !source.is_full;
        }
        let ready = self.sources.iter_mut().filter(|source| source.is_full);
        let Some(next) = ready.min_by_key(|source| source.frame.time_ns) else { return Ok(false) };
        std::mem::swap(frame, &mut next.frame);
        next.is_full = false;
        self.number += 1;
        frame.number = self.number;
        Ok(true)
    }
}

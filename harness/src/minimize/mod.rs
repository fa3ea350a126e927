//! From a capture to the smallest one that still shows what was seen.
//!
//! A [`Probe`] says whether a condition holds for a capture: most often by running it through the programs
//! ([`Replayed`]). [`minimize`] tries smaller and smaller ones: whole conversations are left out first, then packets, then
//! payload bytes, which are cut off from the end or set to zero, with lengths and checksums that fit. Each step is delta
//! debugging, so that nothing single of what is left can go; since programs see packets in their order and in their time,
//! there may be other minimal captures.

mod ddmin;
mod flows;
mod probe;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::capture::{CaptureError, Frame, Writer, edit};
use crate::run::RunError;

pub use probe::{Probe, Replayed};

/// Most blocks into which a payload is divided to set them to zero, one by one.
const BLOCKS: usize = 32;

/// Why there is no smaller capture.
#[derive(Debug, thiserror::Error)]
pub enum MinimizeError {
    /// The condition does not hold to begin with.
    #[error("cannot minimise {}: the condition does not hold for it", path.display())]
    HoldsNot {
        /// The capture.
        path: PathBuf,
    },
    /// It holds at one time and not at another.
    #[error("cannot minimise {}: of {tries} runs of all its packets the condition held in {held}", path.display())]
    Unsteady {
        /// The capture.
        path: PathBuf,
        /// How often it was tried.
        tries: u32,
        /// How often it held.
        held: u32,
    },
    /// It holds for the file, but not for its packets as Ethernet frames.
    #[error("cannot minimise {}: the condition holds for the file, but no more when its packets are written anew", path.display())]
    Rewritten {
        /// The capture.
        path: PathBuf,
    },
    /// A capture could not be read or written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
    /// Another kernel could not be asked.
    #[error("cannot compare kernels: {0}")]
    Kernels(String),
}

/// What is being made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Conversations.
    Flows,
    /// Packets.
    Packets,
    /// Bytes of payload that are not zero.
    Bytes,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Flows => "flows",
            Self::Packets => "packets",
            Self::Bytes => "payload bytes",
        })
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being made smaller.
    pub stage: Stage,
    /// How many of it there were.
    pub before: usize,
    /// How many of it there are at most.
    pub now: usize,
    /// How often the condition was tried, in all stages.
    pub probes: u64,
}

/// What a stage did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reduction {
    /// What was made smaller.
    pub stage: Stage,
    /// How many of it there were.
    pub before: usize,
    /// How many are left.
    pub after: usize,
    /// How often the condition was tried.
    pub probes: u64,
}

/// The smallest capture that was found.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// Its frames.
    pub frames: Vec<Frame>,
    /// What each stage did.
    pub stages: Vec<Reduction>,
    /// Whether nothing single of it can go. Otherwise the search was ended before, by time or a signal.
    pub complete: bool,
}

/// When a search ends before it is done.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// Not later than this.
    pub deadline: Option<Instant>,
    /// As soon as this is set.
    pub stop: &'a AtomicBool,
    /// How often the whole capture is tried first: twice where a run may turn out one way or the other.
    pub tries: u32,
}

/// Makes a smaller capture of the frames of `path`; candidates are written into `folder`, one at a time.
///
/// # Errors
/// See [`MinimizeError`]. Time that is over is none: what was found until then is returned.
pub fn minimize(
    path: &Path,
    frames: Vec<Frame>,
    folder: &Path,
    probe: &mut dyn Probe,
    limits: Limits<'_>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Minimal, MinimizeError> {
    check(path, probe, limits)?;
    let candidate = folder.join("candidate.pcapng");
    let mut search =
        Search { candidate, probe, limits, on_progress, probes: 0, known: HashMap::new(), stages: Vec::new() };
    if !search.holds(&frames)? {
        return Err(MinimizeError::Rewritten { path: path.to_owned() });
    }
    let mut best = frames;
    let ended = search.all(&mut best);
    match ended {
        Ok(()) => Ok(Minimal { frames: best, stages: search.stages, complete: true }),
        Err(Ended::Early) => Ok(Minimal { frames: best, stages: search.stages, complete: false }),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// Whether the condition holds for the capture as it is, each time.
fn check(path: &Path, probe: &mut dyn Probe, limits: Limits<'_>) -> Result<(), MinimizeError> {
    let mut held = 0;
    for _ in 0..limits.tries {
        held += u32::from(probe.holds(path)?);
    }
    match held {
        0 => Err(MinimizeError::HoldsNot { path: path.to_owned() }),
        held if held < limits.tries => {
            Err(MinimizeError::Unsteady { path: path.to_owned(), tries: limits.tries, held })
        }
        _ => Ok(()),
    }
}

/// Why a search is over before its end.
enum Ended {
    Early,
    Failed(MinimizeError),
}

impl<E: Into<MinimizeError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Search<'a> {
    candidate: PathBuf,
    probe: &'a mut dyn Probe,
    limits: Limits<'a>,
    on_progress: &'a mut dyn FnMut(Progress),
    probes: u64,
    /// What was tried, by a hash of its frames. A clash would leave something in that could go, and nothing else.
    known: HashMap<u64, bool>,
    stages: Vec<Reduction>,
}

impl Search<'_> {
    /// Whether the condition holds for these frames.
    fn holds(&mut self, frames: &[Frame]) -> Result<bool, MinimizeError> {
        let mut hasher = DefaultHasher::new();
        frames.iter().for_each(|frame| (frame.time_ns, &frame.data).hash(&mut hasher));
        let hash = hasher.finish();
        if let Some(known) = self.known.get(&hash) {
            return Ok(*known);
        }
        let mut writer = Writer::create(&self.candidate)?;
        for frame in frames {
            writer.write(frame.time_ns, &frame.data, frame.wire_len)?;
        }
        writer.finish()?;
        self.probes += 1;
        let holds = self.probe.holds(&self.candidate)?;
        self.known.insert(hash, holds);
        Ok(holds)
    }

    fn try_frames(&mut self, frames: &[Frame], progress: Progress) -> Result<bool, Ended> {
        let over = self.limits.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if over || self.limits.stop.load(Ordering::Relaxed) {
            return Err(Ended::Early);
        }
        (self.on_progress)(Progress { probes: self.probes, ..progress });
        Ok(self.holds(frames)?)
    }

    fn all(&mut self, best: &mut Vec<Frame>) -> Result<(), Ended> {
        let groups = flows::group(best);
        self.parts(Stage::Flows, best, &groups)?;
        let single: Vec<Vec<usize>> = (0..best.len()).map(|index| vec![index]).collect();
        self.parts(Stage::Packets, best, &single)?;
        self.bytes(best)
    }

    /// Leaves out those of `groups` (positions in `best`) that are not needed.
    fn parts(&mut self, stage: Stage, best: &mut Vec<Frame>, groups: &[Vec<usize>]) -> Result<(), Ended> {
        let (all, start) = (best.clone(), self.probes);
        let (before, mut now) = (groups.len(), groups.len());
        let result = ddmin::ddmin((0..groups.len()).collect(), &mut |chosen| {
            let mut positions: Vec<usize> = chosen.iter().flat_map(|group| &groups[*group]).copied().collect();
            positions.sort_unstable();
            let frames: Vec<Frame> = positions.into_iter().map(|position| all[position].clone()).collect();
            let holds = self.try_frames(&frames, Progress { stage, before, now, probes: 0 })?;
            if holds {
                (*best, now) = (frames, chosen.len());
            }
            Ok(holds)
        });
        self.stages.push(Reduction { stage, before, after: now, probes: self.probes - start });
        result.map(drop)
    }

    /// Cuts payloads, and sets what is left of them to zero, as far as it is not needed.
    fn bytes(&mut self, best: &mut Vec<Frame>) -> Result<(), Ended> {
        let (start, before) = (self.probes, used(best));
        let result = (0..best.len()).try_for_each(|index| {
            self.cut(best, index, before)?;
            self.zero(best, index, before)
        });
        let after = used(best);
        self.stages.push(Reduction { stage: Stage::Bytes, before, after, probes: self.probes - start });
        result
    }

    fn try_frame(&mut self, best: &mut Vec<Frame>, index: usize, data: Vec<u8>, before: usize) -> Result<bool, Ended> {
        let mut frames = best.clone();
        frames[index].wire_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        frames[index].data = data;
        let progress = Progress { stage: Stage::Bytes, before, now: used(best), probes: 0 };
        let holds = self.try_frames(&frames, progress)?;
        if holds {
            *best = frames;
        }
        Ok(holds)
    }

    /// Looks for the shortest payload of a frame by halving what may be left.
    fn cut(&mut self, best: &mut Vec<Frame>, index: usize, before: usize) -> Result<(), Ended> {
        let Some(range) = edit::payload(&best[index].data) else { return Ok(()) };
        let (whole, mut needed, mut enough) = (best[index].data.clone(), 0, range.len());
        while needed < enough {
            // All of it first: most payloads are not needed at all.
            let keep = if needed == 0 && enough == range.len() { 0 } else { usize::midpoint(needed, enough) };
            let Some(shorter) = edit::cut(&whole, keep) else { return Ok(()) };
            if self.try_frame(best, index, shorter, before)? {
                enough = keep;
            } else {
                needed = keep + 1;
            }
        }
        Ok(())
    }

    /// Sets blocks of a frame's payload to zero.
    fn zero(&mut self, best: &mut Vec<Frame>, index: usize, before: usize) -> Result<(), Ended> {
        let Some(range) = edit::payload(&best[index].data).filter(|range| !range.is_empty()) else { return Ok(()) };
        let whole = best[index].data.clone();
        let payload = &whole[range];
        let block = payload.len().div_ceil(BLOCKS);
        let blocks: Vec<usize> = payload
            .chunks(block)
            .enumerate()
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .map(|(at, _)| at)
            .collect();
        let with = |kept: &[usize]| {
            let bytes = payload.chunks(block).enumerate().flat_map(|(at, bytes)| {
                let keep = kept.contains(&at);
                bytes.iter().map(move |byte| if keep { *byte } else { 0 })
            });
            edit::refill(&whole, &bytes.collect::<Vec<u8>>())
        };
        // Without any: the search takes for granted that something is needed.
        let Some(empty) = with(&[]) else { return Ok(()) };
        if blocks.is_empty() || self.try_frame(best, index, empty, before)? {
            return Ok(());
        }
        ddmin::ddmin(blocks, &mut |kept| match with(kept) {
            Some(data) => self.try_frame(best, index, data, before),
            None => Ok(false),
        })
        .map(drop)
    }
}

/// Payload bytes that are not zero.
fn used(frames: &[Frame]) -> usize {
    let of = |frame: &Frame| {
        edit::payload(&frame.data).map_or(0, |range| frame.data[range].iter().filter(|byte| **byte != 0).count())
    };
    frames.iter().map(of).sum()
}

#[cfg(test)]
mod tests;

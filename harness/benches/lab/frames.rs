//! What is replayed: the frames of the committed captures, over and over.

use std::error::Error;
use std::path::Path;

use bpflab::capture::{Frame, Frames, Options, Survey};

/// Between two captures, and between two rounds over all of them: long enough for every connection to be over.
const GAP_NS: u64 = 3_600_000_000_000;

/// The frames of every capture of the repository, in the order of the files' names.
pub fn captures() -> Result<Vec<Vec<Frame>>, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            files.push(path);
        }
    }
    files.sort();
    let options = Options::default();
    let mut captures = Vec::new();
    for file in files {
        let survey = Survey::of(&file, &options)?;
        captures.push(Frames::open(&file, &options, &survey)?.collect::<Result<Vec<Frame>, _>>()?);
    }
    captures.retain(|frames| !frames.is_empty());
    if captures.is_empty() {
        return Err(format!("no captures in {}", folder.display()).into());
    }
    Ok(captures)
}

/// At least `count` frames: whole captures one after the other, numbered from 1, times going on from one to the next.
pub fn repeated(captures: &[Vec<Frame>], count: usize) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::with_capacity(count);
    let mut start_ns = 1_700_000_000_000_000_000;
    for capture in captures.iter().cycle() {
        if all.len() >= count {
            break;
        }
        let times = || capture.iter().map(|frame| frame.time_ns);
        let (first, last) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        for (number, frame) in (all.len() as u64 + 1..).zip(capture) {
            all.push(Frame { number, time_ns: start_ns + (frame.time_ns - first), ..frame.clone() });
        }
        start_ns += last - first + GAP_NS;
    }
    all
}

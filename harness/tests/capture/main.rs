//! The reading side: whole files in, surveys and frames out.

#![allow(missing_docs, reason = "a test")]

mod files;
mod formats;
mod hostile;
mod policies;
mod sides;

use std::path::Path;

use bpflab::capture::{Frame, Frames, Options, Survey};

/// Surveys a capture and reads it, checking that the two passes agree.
fn run(path: &Path, options: &Options) -> (Survey, Vec<Frame>) {
    let survey = Survey::of(path, options).unwrap_or_else(|error| panic!("{error}"));
    let frames: Vec<_> = Frames::open(path, options, &survey)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(frames.len() as u64, survey.will_offer);
    assert!(survey.selected + survey.filtered_out + survey.beyond_limit <= survey.packets);
    (survey, frames)
}

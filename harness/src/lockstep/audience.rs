//! Who hears of the packets of a lockstep run, and what.

use crate::capture::{CaptureError, Frame};

/// What a program said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Its name.
    pub program: &'a str,
    /// The kernel's name of its verdict.
    pub verdict: &'static str,
    /// Whether that ended the packet's way.
    pub ends: bool,
    /// Whether it is one that may change packets: one under test.
    pub under_test: bool,
}

/// Where a packet's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Behind the last program.
    Passed,
    /// At the last of the verdicts.
    Ended {
        /// That verdict.
        verdict: &'static str,
    },
    /// It is of a kind that `BPF_PROG_TEST_RUN` does not take.
    Unrunnable,
}

/// A packet's way through the programs.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// The verdicts, in order.
    pub verdicts: &'a [Said<'a>],
    /// Where it ended.
    pub outcome: Outcome,
    /// Its bytes as the last program left them, where one may have changed them.
    pub left: Option<&'a [u8]>,
    /// What objects under test said meanwhile, by rings and by printing.
    pub events: &'a [String],
}

/// Who hears of the packets of a run.
pub trait Audience {
    /// A packet passed: the frame, and its bytes as the programs left it.
    ///
    /// # Errors
    /// Of a file, for example; it ends the run.
    fn delivered(&mut self, frame: &Frame, left: &[u8]) -> Result<(), CaptureError> {
        let _ = (frame, left);
        Ok(())
    }

    /// Whether [`Audience::packet`] is to be called. Rings are read after each packet then, which costs time.
    fn listens(&self) -> bool {
        false
    }

    /// A packet went its way.
    ///
    /// # Errors
    /// As of [`Audience::delivered`].
    fn packet(&mut self, frame: &Frame, passage: &Passage<'_>) -> Result<(), CaptureError> {
        let _ = (frame, passage);
        Ok(())
    }
}

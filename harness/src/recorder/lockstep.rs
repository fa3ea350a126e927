//! What lockstep mode offers, with each verdict.

use super::join::told;
use super::taps::Store;
use super::{Ended, Recorded, RecordedInterface, Recording};
use crate::capture::{CaptureError, Frame, Side};
use crate::lockstep::{Audience, Outcome, Passage};

/// Names of the sides, and of the interfaces for frames as programs left them.
const SIDES: [&str; 2] = ["client", "server"];
/// The device under test as lockstep's account calls it.
const HOST: &str = "dut";

/// The packets of a lockstep run in their order, each with what the programs said of it: an interface for each side that
/// packets are offered from, and one more for what programs under test made of those that they changed and let pass.
#[derive(Debug)]
pub struct PacketLog {
    recording: Recording,
    store: Store,
}

impl Default for PacketLog {
    fn default() -> Self {
        let interface = |name: &str| RecordedInterface {
            name: name.to_owned(),
            host: HOST.to_owned(),
            description: format!("packets that were offered from the {name}'s side"),
            ..RecordedInterface::default()
        };
        let behind = |name: &str| RecordedInterface {
            name: format!("{name} behind the programs"),
            description: format!(
                "packets from the {name}'s side that programs changed and let pass, as they left them"
            ),
            behind: true,
            ..interface(name)
        };
        let interfaces = SIDES.map(interface).into_iter().chain(SIDES.map(behind)).collect();
        Self { recording: Recording { interfaces, frames: Vec::new(), told: true }, store: Store::default() }
    }
}

impl PacketLog {
    /// The recording; interfaces that nothing changed on are left out.
    #[must_use]
    pub fn finish(self) -> Recording {
        let mut recording = self.recording;
        let used = |index: usize| recording.frames.iter().any(|frame| frame.interface == index);
        let (third, fourth) = (used(2), used(3));
        if !third {
            recording.frames.iter_mut().filter(|frame| frame.interface == 3).for_each(|frame| frame.interface = 2);
        }
        let mut index = 0;
        recording.interfaces.retain(|_| {
            index += 1;
            index <= 2 || (index == 3 && third) || (index == 4 && fourth)
        });
        recording
    }

    fn push(&mut self, interface: usize, frame: Recorded) {
        self.recording.interfaces[interface].passed += 1;
        self.recording.frames.push(frame);
    }

    fn lost(&mut self, interface: usize) {
        self.recording.interfaces[interface].passed += 1;
        self.recording.interfaces[interface].lost += 1;
    }
}

impl Audience for PacketLog {
    fn listens(&self) -> bool {
        true
    }

    fn packet(&mut self, frame: &Frame, passage: &Passage<'_>) -> Result<(), CaptureError> {
        let side = usize::from(frame.side == Side::Server);
        let (comments, ended) = comments(frame, passage);
        let Some(data) = self.store.keep(&frame.data) else {
            self.lost(side);
            return Ok(());
        };
        let wire_len = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
        let recorded =
            Recorded { time_ns: frame.time_ns, interface: side, outgoing: false, wire_len, data, comments, ended };
        self.push(side, recorded);
        let Some(left) = passage.left.filter(|left| *left != frame.data && matches!(passage.outcome, Outcome::Passed))
        else {
            return Ok(());
        };
        let Some(data) = self.store.keep(left) else {
            self.lost(side + 2);
            return Ok(());
        };
        let comments = vec!["as the programs left the packet before it".to_owned()];
        let wire_len = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let (interface, ended) = (side + 2, None);
        let recorded = Recorded { time_ns: frame.time_ns, interface, outgoing: false, wire_len, data, comments, ended };
        self.push(interface, recorded);
        Ok(())
    }
}

fn comments(frame: &Frame, passage: &Passage<'_>) -> (Vec<String>, Option<Ended>) {
    let mut comments = Vec::new();
    // The suite's programs let all but a few packets pass: of them only a verdict that ends one is told.
    let verdicts = passage.verdicts.iter().filter(|verdict| verdict.under_test || verdict.ends);
    let verdicts: Vec<String> = verdicts.map(|one| format!("{} by {}", one.verdict, one.program)).collect();
    if !verdicts.is_empty() {
        comments.push(format!("verdict: {}", verdicts.join(", ")));
    }
    let ended = match passage.outcome {
        Outcome::Passed => None,
        Outcome::Ended { verdict } => {
            let by = if verdict.starts_with("XDP") { "xdp" } else { "tc" };
            Some(Ended { by: by.to_owned(), reason: verdict.to_owned() })
        }
        Outcome::Unrunnable => {
            comments.push("not run: the kernel takes no such frame (BPF_PROG_TEST_RUN)".to_owned());
            None
        }
    };
    if let Some(left) = passage.left.filter(|left| *left != frame.data) {
        comments.push(format!("changed: {}", told(&frame.data, left)));
    }
    comments.extend(passage.events.iter().map(|event| format!("event: {event}")));
    (comments, ended)
}

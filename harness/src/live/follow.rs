//! How the played client of a real application goes along with answers that are not the recorded ones.
//!
//! As long as the application answers as much as recorded, everything is as recorded, acknowledgements and their faults
//! included. Once it answers more or less, the two have parted: numbers of the recorded server say nothing any more. The
//! played client then acknowledges whatever comes, sends its requests when it has been answered, and leaves out recorded
//! packets that did nothing but acknowledge.

use super::packet::{flag, is_before};
use super::peer::Patience;
use super::script::{Flow, Step};

/// An application that has begun to answer and is silent for so long has answered, ns: longer than the kernel delays what
/// it sends, and as long as it waits for an acknowledgement (`TCP_RTO_MIN`).
const QUIET_NS: u64 = 200_000_000;

/// Numbers are relative to the SYNs, as in the script.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// The application answers another number of bytes than the recorded one.
    pub(super) parted: bool,
    /// Recorded packets that are left out: acknowledgements of what was not sent.
    pub(super) skipped: u64,
    /// When the last packet with data or an end was sent: what the live end had sent by then, and what it acknowledged in
    /// the capture.
    asked_at: u32,
    asked_ack: u32,
    /// When the live end sent something new last.
    heard_ns: u64,
    /// The widest window of the played end.
    window: Option<u16>,
}

impl Follow {
    /// The live end has sent something new.
    pub(super) fn heard(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
    }

    /// Whether a recorded packet is left out.
    pub(super) fn leaves_out(&self, flow: &Flow, index: usize) -> bool {
        let is_bare =
            |step: &Step| step.packet.span() == 0 && step.packet.flags() & (flag::SYN | flag::RST) == 0 && step.seq > 0;
        // The last one stands for the recorded end's having been answered.
        self.parted && index + 1 < flow.steps.len() && index > 1 && is_bare(&flow.steps[index])
    }

    /// Whether a packet waits for the live end, which has sent everything before `live_sent`.
    pub(super) fn waits(&self, ack: u32, live_sent: u32) -> bool {
        is_before(live_sent, ack) && (!self.parted || is_before(self.asked_ack, ack))
    }

    /// Until when a packet waits at most that could have gone at `since_ns`.
    pub(super) fn deadline_ns(&self, since_ns: u64, patience: Patience, live_sent: u32) -> u64 {
        let latest = since_ns + patience.whole_ns;
        if is_before(self.asked_at, live_sent) {
            latest.min(self.heard_ns.max(since_ns) + QUIET_NS + patience.round_trip_ns)
        } else {
            latest
        }
    }

    /// A recorded packet goes out.
    pub(super) fn sends(&mut self, step: &Step, live_sent: u32) {
        if step.packet.span() == 0 {
            return;
        }
        // More than the recorded server had sent by then: its answer was shorter. One number is its SYN's.
        let is_more = step.ack.is_some() && u64::from(live_sent) > step.after.max(1) && live_sent < u32::MAX / 2;
        self.parted |= is_more;
        self.asked_at = live_sent;
        self.asked_ack = step.ack.unwrap_or(self.asked_ack);
    }

    /// The widest window that the played end announced, as it stands in its packets.
    pub(super) fn window(&mut self, flow: &Flow) -> u16 {
        let packets = || flow.steps.iter().map(|step| &step.packet);
        let widest = || packets().filter(|packet| packet.flags() & flag::SYN == 0).map(|packet| packet.window()).max();
        *self.window.get_or_insert_with(|| widest().unwrap_or(u16::MAX))
    }
}

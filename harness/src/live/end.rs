//! How a TCP connection ends, as its packets tell.

use super::packet::flag;

/// What was seen of a connection's beginning and end. The first side is the client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    answered: bool,
    established: bool,
    finished: [bool; 2],
    reset: Option<usize>,
}

impl End {
    /// Takes in a packet of side 0 (client) or 1 (server).
    pub(super) fn see(&mut self, side: usize, flags: u8) {
        if flags & flag::RST != 0 {
            // Later ones answer what was still under way.
            if self.reset.is_none() && self.finished != [true; 2] {
                self.reset = Some(side);
            }
            return;
        }
        if flags & flag::SYN != 0 {
            self.answered |= side == 1;
            return;
        }
        self.established |= side == 0 && self.answered && flags & flag::ACK != 0;
        self.finished[side] |= flags & flag::FIN != 0;
    }

    /// Whether both sides are done with it.
    pub(super) fn is_over(self) -> bool {
        self.reset.is_some() || self.finished == [true; 2]
    }

    pub(super) fn was_reset(self) -> bool {
        self.reset.is_some()
    }

    /// Whether the server has said that it sends nothing more.
    pub(super) fn server_has_finished(self) -> bool {
        self.finished[1]
    }

    /// Whether nothing at all came of the server.
    pub(super) fn was_ignored(self) -> bool {
        !self.answered && !self.finished[1] && self.reset != Some(1)
    }

    /// Whether the server has agreed to talk.
    pub(super) fn was_answered(self) -> bool {
        self.answered
    }

    pub(super) fn text(self) -> String {
        const SIDES: [&str; 2] = ["client", "server"];
        match (self.reset, self.finished) {
            (Some(1), _) if !self.answered => "refused".to_owned(),
            (Some(side), _) => format!("reset by {}", SIDES[side]),
            (None, [true, true]) => "closed".to_owned(),
            (None, [true, false]) => "half-closed by client".to_owned(),
            (None, [false, true]) => "half-closed by server".to_owned(),
            (None, [false, false]) if !self.answered => "unanswered".to_owned(),
            (None, [false, false]) if !self.established => "half-open".to_owned(),
            (None, [false, false]) => "open".to_owned(),
        }
    }
}

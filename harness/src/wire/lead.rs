//! How long before its time a frame must be sent to arrive when it is due.

/// Most that a frame is sent ahead of its time: what took longer was held up.
const MOST_NS: u64 = 150_000;
/// A link that was idle for less is as fast as one that was not.
const IDLE_NS: u64 = 125_000;

/// How long frames take to the far end of the link, ns. The longer the link was idle, the less of what they need is still in
/// the caches, and they take several times as long; a frame that is sent as much earlier arrives when it is due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lead {
    /// By how long nothing was sent: less than [`IDLE_NS`], less than twice that, and so on.
    after: [Option<u64>; 9],
}

impl Lead {
    fn class(&self, idle_ns: u64) -> usize {
        let doublings = (idle_ns / IDLE_NS).checked_ilog2().map_or(0, |log| log as usize + 1);
        doublings.min(self.after.len() - 1)
    }

    /// What is known of as long a rest, or lies between what is known of a shorter and of a longer one.
    pub(super) fn ns(&self, idle_ns: u64) -> u64 {
        let class = self.class(idle_ns);
        if let Some(known) = self.after[class] {
            return known;
        }
        let known = |at: usize| Some((at as u64, self.after[at]?));
        let (from, shorter) = (0..class).rev().find_map(known).unwrap_or_default();
        match (class + 1..self.after.len()).find_map(known) {
            Some((to, longer)) => shorter + longer.saturating_sub(shorter) * (class as u64 - from) / (to - from),
            None => shorter,
        }
    }

    /// Takes in how long a frame took. One that was held up counts less than one that was not.
    pub(super) fn learn(&mut self, idle_ns: u64, took_ns: u64) {
        let expected = self.ns(idle_ns);
        let most = if expected == 0 { MOST_NS } else { MOST_NS.min(2 * expected) };
        let took_ns = took_ns.min(most);
        let known = &mut self.after[self.class(idle_ns)];
        *known = Some(match *known {
            Some(known) if took_ns > known => known + (took_ns - known) / 8,
            Some(known) => known - (known - took_ns) / 4,
            None if expected == 0 => took_ns,
            None => u64::midpoint(expected, took_ns),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn nothing_is_known_at_first() {
        assert_eq!(Lead::default().ns(0), 0);
        assert_eq!(Lead::default().ns(u64::MAX), 0);
    }

    #[test]
    fn what_is_not_known_lies_between_what_is() {
        let mut lead = Lead::default();
        lead.learn(u64::MAX, 40_000);
        // A link that was never idle is the fastest there is.
        assert_eq!(
            [0, MS / 8, MS / 4, 2 * MS, 8 * MS, 20 * MS].map(|idle| lead.ns(idle)),
            [0, 5_000, 10_000, 25_000, 35_000, 40_000]
        );
        lead.learn(MS, 10_000);
        assert_eq!(lead.ns(MS), 15_000, "20,000 were expected");
        assert_eq!([0, MS / 4, 2 * MS, 20 * MS].map(|idle| lead.ns(idle)), [0, 7_500, 21_250, 40_000]);
    }

    #[test]
    fn what_is_learned_of_long_rests_says_nothing_of_short_ones() {
        let mut lead = Lead::default();
        lead.learn(0, 3_000);
        lead.learn(20 * MS, 9_000);
        assert_eq!(lead.ns(0), 3_000);
    }

    #[test]
    fn a_frame_that_was_held_up_counts_little() {
        let mut lead = Lead::default();
        lead.learn(0, 4_000);
        lead.learn(0, 900_000);
        assert_eq!(lead.ns(0), 4_500, "as if it had taken twice as long as expected, an eighth of that");
        lead.learn(0, 2_500);
        assert_eq!(lead.ns(0), 4_000);
        let mut lead = Lead::default();
        lead.learn(0, 900_000);
        assert_eq!(lead.ns(0), MOST_NS);
    }
}

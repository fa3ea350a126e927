//! Packets that the played end sent and the live end never had: they were lost behind the place of the capture.

use std::collections::{BTreeSet, HashMap};

/// Most answers that are looked at for one packet.
const LOOKED_AT: usize = 256;

/// A packet of the played end that takes sequence numbers, counted from its SYN.
#[derive(Clone, Copy, Debug)]
struct Sent {
    from: u32,
    to: u32,
    /// How many answers were before it.
    answers: usize,
    is_probe: bool,
}

/// What a packet of the live end says of the played one's.
#[derive(Debug)]
struct Answer {
    ack: u32,
    blocks: Vec<[u32; 2]>,
}

/// Finds out which packets were lost, by what the live end said of them.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    sent: Vec<Sent>,
    answers: Vec<Answer>,
    /// The highest acknowledgement among the answers up to each.
    acked: Vec<u32>,
}

impl Withheld {
    /// The played end sent so many numbers from `seq` on, or none. `is_probe`: beyond the live end's window.
    pub(super) fn sent(&mut self, seq: u32, span: u32, is_probe: bool) {
        self.sent.push(Sent { from: seq, to: seq.saturating_add(span), answers: self.answers.len(), is_probe });
    }

    /// The live end acknowledged everything before `ack`, and what is in `blocks`.
    pub(super) fn answered(&mut self, ack: u32, blocks: Vec<[u32; 2]>) {
        // What is far ahead is behind, or nonsense.
        let ack = if ack < u32::MAX / 2 { ack } else { 0 };
        self.acked.push(self.acked.last().copied().unwrap_or_default().max(ack));
        self.answers.push(Answer { ack, blocks });
    }

    /// The packets that were lost, by number: each of them was sent again later and taken then, and nothing that the live
    /// end said in between, or of the repetition, shows that it had the first.
    pub(super) fn lost(&self) -> BTreeSet<usize> {
        let mut by_start: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, sent) in self.sent.iter().enumerate().filter(|(_, sent)| sent.to > sent.from) {
            by_start.entry(sent.from).or_default().push(index);
        }
        let repeat = |index: usize| {
            let same = by_start.get(&self.sent[index].from)?;
            let later = &same[same.partition_point(|other| *other <= index)..];
            later.iter().copied().find(|other| self.sent[*other].to >= self.sent[index].to)
        };
        let candidates = (0..self.sent.len()).filter(|index| self.sent[*index].to > self.sent[*index].from);
        candidates.filter(|index| repeat(*index).is_some_and(|repeat| self.never_came(*index, repeat))).collect()
    }

    fn never_came(&self, index: usize, repeat: usize) -> bool {
        let Sent { from, to, answers: first, is_probe } = self.sent[index];
        let second = self.sent[repeat].answers;
        let was_acknowledged = second > 0 && self.acked[second - 1] > from;
        if is_probe || was_acknowledged {
            return false;
        }
        let covers = |block: &[u32; 2]| block[0] <= from && to <= block[1];
        if self.answers[first..second].iter().take(LOOKED_AT).any(|answer| answer.blocks.iter().any(covers)) {
            return false;
        }
        // Nothing was ever taken: the live end was silent, and is to be.
        let Some(reply) = self.answers[second..].iter().take(LOOKED_AT).find(|answer| answer.ack >= to) else {
            return false;
        };
        // A first block below the acknowledgement reports a duplicate (RFC 2883 section 4): both had come.
        !reply.blocks.first().is_some_and(|block| block[1] <= reply.ack && covers(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_and_taken_then_was_lost_before() {
        let mut all = Withheld::default();
        // Bytes 1 to 100, 101 to 200 and 201 to 300: the second is lost, of the third a block tells.
        all.sent(1, 100, false);
        all.sent(101, 100, false);
        all.sent(201, 100, false);
        all.answered(101, vec![]);
        all.answered(101, vec![[201, 301]]);
        all.sent(101, 100, false);
        all.answered(301, vec![]);
        assert_eq!(all.lost(), [1].into());
    }

    #[test]
    fn what_came_twice_is_sent_twice() {
        // The repetition was needless, as the duplicate SACK says.
        let mut all = Withheld::default();
        all.sent(1, 100, false);
        all.sent(1, 100, false);
        all.answered(101, vec![[1, 101]]);
        assert_eq!(all.lost(), [].into());
        // It was acknowledged before.
        let mut all = Withheld::default();
        all.sent(1, 100, false);
        all.answered(101, vec![]);
        all.sent(1, 100, false);
        all.answered(101, vec![]);
        assert_eq!(all.lost(), [].into());
        // It was never taken at all.
        let mut all = Withheld::default();
        all.sent(0, 1, false);
        all.sent(0, 1, false);
        assert_eq!(all.lost(), [].into());
        // Beyond the window.
        let mut all = Withheld::default();
        all.sent(101, 1, true);
        all.answered(101, vec![]);
        all.sent(101, 100, false);
        all.answered(201, vec![]);
        assert_eq!(all.lost(), [].into());
    }
}

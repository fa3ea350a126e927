//! What was seen at the two ends of a link, put together: every frame that was on the link, once.
//!
//! Of a frame that crosses the link, the end that sends it is the first to see it, and the other the second. What both
//! have seen is one frame. XDP at the second end may have swallowed it (only the first saw it) or changed it (the second
//! saw another in its place); and XDP at the first end may have sent one that its own end does not see.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::packet::Packet;
use super::{Ended, Recorded};
use crate::observation::ChangedField;
use crate::subject::changed_fields;

/// Of a frame that is longer, what the lab's far ends keep is its beginning: more is not compared.
const COMPARED: usize = bpflab_programs::ledger::RECORD_BYTES;

/// A frame at one end of a link.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    /// Position of the link.
    pub(super) link: usize,
    /// Kernel time, ns since the UNIX epoch.
    pub(super) time_ns: u64,
    /// Whether a tap saw it, and its time is its own; else the lab sent it, at some time after this one.
    pub(super) exact: bool,
    /// Whether the device under test sent it.
    pub(super) outgoing: bool,
    /// Whether the sending end saw it.
    pub(super) first: bool,
    /// Bytes on the wire.
    pub(super) wire_len: u32,
    pub(super) data: Arc<[u8]>,
    /// What is known of its end.
    pub(super) comments: Vec<String>,
    pub(super) ended: Option<Ended>,
}

impl Sighting {
    pub(super) fn new(link: usize, time_ns: u64, wire_len: u32, data: Arc<[u8]>) -> Self {
        let (comments, ended) = (Vec::new(), None);
        Self { link, time_ns, exact: true, outgoing: false, first: true, wire_len, data, comments, ended }
    }
}

/// A recorded link.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    /// `HOST.INTERFACE` of the device under test's end.
    pub(super) near: String,
    /// The same of the other.
    pub(super) far: String,
    /// The XDP program at the device under test's end.
    pub(super) xdp: Option<String>,
    /// Frames that found no room at the device under test's end, and at the other.
    pub(super) lost: [u64; 2],
}

/// What the second end saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    /// The frame that the first saw.
    Same(usize),
    /// Several of those in one, by receive offload.
    Merged,
    /// Another in place of what the first saw.
    Changed(usize),
    /// What the first did not see.
    Alone,
}

/// Puts together what was seen of a link, with `wire` as the position of its interface and `behind` as that of the one
/// for frames as XDP left them.
pub(super) fn join(link: &Link, [wire, behind]: [usize; 2], sightings: Vec<Sighting>) -> Vec<Recorded> {
    let mut frames = Vec::with_capacity(sightings.len());
    let (out, into): (Vec<_>, Vec<_>) = sightings.into_iter().partition(|sighting| sighting.outgoing);
    let halves = |mut all: Vec<Sighting>| {
        // Stable: what the lab sent is in its order.
        all.sort_by_key(|sighting| sighting.time_ns);
        all.into_iter().partition::<Vec<_>, _>(|sighting| sighting.first)
    };
    let (first, second) = halves(into);
    incoming(link, [wire, behind], first, second, &mut frames);
    let (first, second) = halves(out);
    outgoing(link, wire, first, second, &mut frames);
    frames
}

fn incoming(
    link: &Link,
    [wire, behind]: [usize; 2],
    first: Vec<Sighting>,
    second: Vec<Sighting>,
    to: &mut Vec<Recorded>,
) {
    let (matches, seen) = matches(&first, &second, link.xdp.is_some());
    let mut changes: BTreeMap<usize, String> = BTreeMap::new();
    for (sighting, matched) in second.into_iter().zip(&matches) {
        match matched {
            Match::Same(_) | Match::Merged => {}
            Match::Changed(at) => {
                let program = link.xdp.as_deref().unwrap_or("XDP");
                changes.insert(*at, format!("changed by {program}: {}", told(&first[*at].data, &sighting.data)));
                to.push(recorded(sighting, behind, vec![format!("as {program} left the frame before it")]));
            }
            Match::Alone => to.push(recorded(sighting, wire, Vec::new())),
        }
    }
    let mut before = 0;
    for (at, (mut sighting, seen)) in first.into_iter().zip(seen).enumerate() {
        if !sighting.exact {
            sighting.time_ns = seen.unwrap_or(sighting.time_ns).max(before);
            before = sighting.time_ns;
        }
        let mut comments: Vec<String> = changes.remove(&at).into_iter().collect();
        // Of what the lab sent it knows the end, whether or not the taps saw it.
        if seen.is_none() && sighting.exact {
            comments.push(unseen(link));
        }
        to.push(recorded(sighting, wire, comments));
    }
}

fn outgoing(link: &Link, wire: usize, first: Vec<Sighting>, second: Vec<Sighting>, to: &mut Vec<Recorded>) {
    let (matches, seen) = matches(&first, &second, false);
    for (sighting, seen) in first.into_iter().zip(seen) {
        let lost = (seen.is_none() && link.lost[1] == 0).then(|| format!("not seen at {}", link.far));
        to.push(recorded(sighting, wire, lost.into_iter().collect()));
    }
    let alone = second.into_iter().zip(matches).filter(|(_, matched)| *matched == Match::Alone);
    for (sighting, _) in alone {
        let past = (link.lost[0] == 0).then(|| "sent by XDP, past the stack and tc".to_owned());
        to.push(recorded(sighting, wire, past.into_iter().collect()));
    }
}

fn recorded(sighting: Sighting, interface: usize, more: Vec<String>) -> Recorded {
    let Sighting { time_ns, outgoing, wire_len, data, mut comments, ended, .. } = sighting;
    comments.extend(more);
    Recorded { time_ns, interface, outgoing, wire_len, data, comments, ended }
}

/// What is said of a frame that came out nowhere.
fn unseen(link: &Link) -> String {
    let doubt = if link.lost[0] > 0 { " (or the recorder had no room for it)" } else { "" };
    match &link.xdp {
        Some(program) => {
            format!("not seen behind XDP: {program} dropped it, sent it back or redirected it{doubt}")
        }
        None => format!("not seen at {}{doubt}", link.near),
    }
}

/// What is different, in one line.
pub(super) fn told(before: &[u8], after: &[u8]) -> String {
    let one = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let fields = changed_fields(before, after);
    let field =
        |changed: &ChangedField| format!("{} {} > {}", changed.field, one(&changed.before), one(&changed.after));
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// What each frame of `second` is, and of each of `first` when the other end saw it. Both are in the order of time.
fn matches(first: &[Sighting], second: &[Sighting], may_change: bool) -> (Vec<Match>, Vec<Option<u64>>) {
    let mut found = Found { first, second, matches: vec![Match::Alone; second.len()], seen: vec![None; first.len()] };
    found.same();
    if found.matches.contains(&Match::Alone) && found.seen.contains(&None) {
        let parsed = |all: &[Sighting], open: &dyn Fn(usize) -> bool| -> BTreeMap<usize, Packet> {
            let open = all.iter().enumerate().filter(|(at, _)| open(*at));
            open.map(|(at, sighting)| (at, Packet::of(&sighting.data))).collect()
        };
        let firsts = parsed(first, &|at| found.seen[at].is_none());
        let seconds = parsed(second, &|at| found.matches[at] == Match::Alone);
        found.merged(&firsts, &seconds);
        if may_change {
            found.changed(&firsts, &seconds);
            found.in_place();
        }
    }
    (found.matches, found.seen)
}

struct Found<'a> {
    first: &'a [Sighting],
    second: &'a [Sighting],
    matches: Vec<Match>,
    seen: Vec<Option<u64>>,
}

impl Found<'_> {
    fn is(&mut self, second: usize, matched: Match, firsts: &[usize]) {
        self.matches[second] = matched;
        for first in firsts {
            self.seen[*first] = Some(self.second[second].time_ns);
        }
    }

    /// Frames of the same bytes. Where fewer came out than went in, each that came out is the last that went in before.
    fn same(&mut self) {
        type Group = (Vec<usize>, Vec<usize>);
        let mut groups: HashMap<(u32, &[u8]), Group> = HashMap::new();
        let (first, second) = (self.first, self.second);
        for (at, sighting) in first.iter().enumerate() {
            groups.entry(same_key(sighting)).or_default().0.push(at);
        }
        for (at, sighting) in second.iter().enumerate() {
            groups.entry(same_key(sighting)).or_default().1.push(at);
        }
        for (went, came) in groups.into_values() {
            if went.len() <= came.len() {
                for (went, came) in went.into_iter().zip(came) {
                    self.is(came, Match::Same(went), &[went]);
                }
                continue;
            }
            let mut went = went.into_iter().rev();
            for came in came.into_iter().rev() {
                let time_ns = second[came].time_ns;
                if let Some(went) = went.find(|went| first[*went].time_ns <= time_ns) {
                    self.is(came, Match::Same(went), &[went]);
                }
            }
        }
    }

    /// Segments of one connection that receive offload made one frame of.
    fn merged(&mut self, firsts: &BTreeMap<usize, Packet>, seconds: &BTreeMap<usize, Packet>) {
        let mut starts: HashMap<(&str, u32), Vec<usize>> = HashMap::new();
        for (at, packet) in firsts {
            if let Some(tcp) = packet.tcp.filter(|_| !packet.payload.is_empty()) {
                starts.entry((&packet.flow, tcp.sequence)).or_default().push(*at);
            }
        }
        for (came, packet) in seconds {
            let Some(tcp) = packet.tcp else { continue };
            let mut rest = &self.second[*came].data[packet.payload.clone()];
            let (mut next, mut parts) = (tcp.sequence, Vec::new());
            while !rest.is_empty() {
                let fits = |at: &&usize| {
                    let part = &self.first[**at].data[firsts[*at].payload.clone()];
                    self.seen[**at].is_none() && rest.starts_with(part)
                };
                let Some(part) = starts.get(&(packet.flow.as_str(), next)).and_then(|all| all.iter().find(fits)) else {
                    break;
                };
                let len = firsts[part].payload.len();
                parts.push(*part);
                rest = &rest[len..];
                next = next.wrapping_add(u32::try_from(len).unwrap_or_default());
            }
            if rest.is_empty() && parts.len() > 1 {
                self.is(*came, Match::Merged, &parts);
            }
        }
    }

    /// Frames with what they carry unchanged, as translation and routing leave it.
    fn changed(&mut self, firsts: &BTreeMap<usize, Packet>, seconds: &BTreeMap<usize, Packet>) {
        let mut cores: HashMap<u64, VecDeque<usize>> = HashMap::new();
        for (at, packet) in firsts.iter().filter(|(at, _)| self.seen[**at].is_none()) {
            if let Some(core) = packet.core {
                cores.entry(core).or_default().push_back(*at);
            }
        }
        for (came, packet) in seconds {
            if self.matches[*came] != Match::Alone {
                continue;
            }
            let time_ns = self.second[*came].time_ns;
            let went = packet.core.and_then(|core| cores.get_mut(&core)).and_then(|all| {
                let went = all.front().copied().filter(|went| self.first[*went].time_ns <= time_ns)?;
                all.pop_front();
                Some(went)
            });
            if let Some(went) = went {
                self.is(*came, Match::Changed(went), &[went]);
            }
        }
    }

    /// A link keeps the order: where as many frames went in as came out between two that are known, they are each
    /// other's.
    fn in_place(&mut self) {
        let (mut from, mut waiting) = (0, Vec::new());
        for came in 0..=self.second.len() {
            let to = match self.matches.get(came) {
                Some(Match::Same(went) | Match::Changed(went)) => *went,
                Some(Match::Alone) => {
                    waiting.push(came);
                    continue;
                }
                Some(Match::Merged) => continue,
                None => self.first.len(),
            };
            let open: Vec<usize> = (from..to).filter(|went| self.seen[*went].is_none()).collect();
            if open.len() == waiting.len() {
                for (went, came) in open.into_iter().zip(&waiting) {
                    self.is(*came, Match::Changed(went), &[went]);
                }
            }
            waiting.clear();
            from = from.max(to + 1);
        }
    }
}

fn same_key(sighting: &Sighting) -> (u32, &[u8]) {
    (sighting.wire_len, &sighting.data[..sighting.data.len().min(COMPARED)])
}

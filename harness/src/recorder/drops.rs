//! What the kernel gave up, and the ICMP errors that it sent for it, on their packets.

use super::events::Notes;
use super::packet::quoted_flow;
use crate::observation::{Drop, DropClass, IcmpError};

impl Notes<'_> {
    /// Packets that were given up: of their flow, those that came into the host and did not leave it. Of a host whose
    /// links are not recorded, the last of the flow that left towards it, which the comment says. Packets of which the
    /// run knows their end are not looked for again.
    pub(super) fn drop(&mut self, drop: &Drop) {
        let text = format!("drop: {} in {} by {} on {}", drop.reason, drop.place, drop.by, drop.host);
        // Names of the packets' flows say nothing of tags.
        let flow = drop.flow.split(" vlan ").next().unwrap_or_default();
        let of_flow = self.positions(flow);
        let is_known = |position: &&usize| {
            self.recording.frames[**position].ended.as_ref().is_some_and(|ended| {
                let same = ended.by == drop.by && ended.reason == drop.reason;
                // The kernel's word for what a program did.
                same || (drop.by == "kernel" && drop.class == DropClass::Verdict && ended.by != "kernel")
            })
        };
        let known = of_flow.iter().filter(is_known).count();
        let left = usize::try_from(drop.packets).unwrap_or(usize::MAX).saturating_sub(known);
        if left == 0 {
            return;
        }
        let host = |interface: usize| &self.recording.interfaces[interface].host;
        let is_here = (0..self.recording.interfaces.len()).any(|interface| *host(interface) == drop.host);
        let mut positions: Vec<usize> = if is_here {
            let came_in = |position: &usize| {
                let frame = &self.recording.frames[*position];
                !frame.outgoing && *host(frame.interface) == drop.host && frame.ended.is_none()
            };
            of_flow.into_iter().filter(came_in).filter(|position| !self.leaves(*position)).collect()
        } else {
            let went = |position: &usize| self.recording.frames[*position].outgoing;
            (0..self.packets.len()).rev().filter(went).filter(|at| self.packets[*at].flow == flow).collect()
        };
        positions.truncate(left);
        let told = if is_here { "" } else { " (which packet is told by the flow alone)" };
        if positions.len() < left {
            self.unplaced(format!("{}: {} of {text} are on no packet here", drop.flow, left - positions.len()));
        }
        for position in positions {
            self.note(position, format!("{text}{told}"));
        }
    }

    /// Whether a packet that came in leaves.
    fn leaves(&self, position: usize) -> bool {
        let copies = self.copies.get(&self.packets[position].identity);
        copies.into_iter().flatten().any(|other| *other > position && self.recording.frames[*other].outgoing)
    }

    /// On the ICMP errors themselves, which quote the packet that they are about.
    pub(super) fn icmp_error(&mut self, error: &IcmpError) {
        let is_it = |position: &usize| {
            let same = self.packets[*position].icmp.is_some_and(|icmp| {
                (icmp.proto, icmp.kind, icmp.code) == (error.proto.as_str(), error.kind, error.code)
            });
            let sent = self.recording.frames[*position].outgoing;
            same && sent && quoted_flow(self.payload(*position)).as_ref() == Some(&error.flow)
        };
        let wanted = usize::try_from(error.packets).unwrap_or(usize::MAX);
        let found: Vec<usize> = (0..self.packets.len()).filter(is_it).take(wanted).collect();
        let cause = if error.dropped_for.is_empty() {
            String::new()
        } else {
            format!(", dropped for {}", error.dropped_for.join(", "))
        };
        let text = format!("icmp: {} for {}{cause}", error.meaning, error.flow);
        if found.len() < wanted {
            self.unplaced(format!("{} of {text} are on no packet here", wanted - found.len()));
        }
        for position in found {
            self.note(position, text.clone());
        }
    }
}

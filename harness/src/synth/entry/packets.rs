//! Parts of the entries that make single packets and fragments.

use etherparse::IpNumber;

use super::super::packet::{Fragment, Patch, Template, Transport};
use super::super::pool::{Address, Pool};
use super::super::rng::Rng;
use super::super::spec::Context;
use super::super::stream::{Generator, Made, Unit};
use super::both;
use crate::capture::{Frame, Side};

/// A generator out of a function that makes a frame.
struct Packets<F>(F);

impl<F: FnMut(&mut Unit, &mut Frame) -> Made + Send> Generator for Packets<F> {
    fn begin(&mut self, _: &mut Unit) -> u64 {
        0
    }

    fn step(&mut self, unit: &mut Unit, frame: &mut Frame) -> Made {
        frame.side = Side::Client;
        (self.0)(unit, frame)
    }
}

/// Units of one packet or a few, all from the client's side.
pub(super) fn packets(make: impl FnMut(&mut Unit, &mut Frame) -> Made + Send + 'static) -> Box<dyn Generator> {
    Box::new(Packets(make))
}

/// Who sends to whom.
pub(super) struct Ends {
    sources: [Pool; 2],
    targets: [Pool; 2],
    turn: u64,
}

impl Ends {
    pub(super) fn of(context: &Context<'_>) -> Self {
        let turn = context.versions().count() as u64;
        Self { sources: context.sources.clone(), targets: context.targets.clone(), turn }
    }

    /// Source and target of a unit; the same for all of its packets.
    pub(super) fn choose(&self, unit: &Unit) -> [Address; 2] {
        let version = usize::from(unit.v6);
        let source = self.sources[version].pick(&mut unit.rng.fork(1));
        [source, self.targets[version].nth(unit.index / self.turn)]
    }
}

/// Offset of what follows an IP header without extensions.
const fn payload_at(v6: bool) -> usize {
    if v6 { 54 } else { 34 }
}

/// Cuts packets into fragments.
pub(super) struct Cutter {
    ends: Ends,
    whole: [Template; 2],
    pieces: [Template; 2],
    scratch: Vec<u8>,
}

impl Cutter {
    /// Of TCP or UDP with this payload.
    pub(super) fn new(context: &Context<'_>, tcp: bool, payload: &[u8]) -> Self {
        let transport = |_| if tcp { Transport::Tcp(&[]) } else { Transport::Udp };
        let protocol = if tcp { IpNumber::TCP } else { IpNumber::UDP };
        let fragment = Some(Fragment { offset: 0, more: false });
        Self {
            ends: Ends::of(context),
            whole: both(context, transport, payload),
            pieces: both(context, |_| Transport::Raw(protocol, fragment), &[]),
            scratch: Vec::new(),
        }
    }

    /// Makes the fragment with the bytes `range` of the packet behind its IP header, said to stand at `offset`, a multiple
    /// of 8. `header` sets ports and the like; `change` may alter the fragment's bytes.
    pub(super) fn fragment(
        &mut self,
        unit: &Unit,
        frame: &mut Frame,
        (range, offset, more): (std::ops::Range<usize>, usize, bool),
        header: impl FnOnce(&mut Patch<'_>),
        change: impl FnOnce(&mut [u8]),
    ) {
        let version = usize::from(unit.v6);
        let [source, target] = self.ends.choose(unit);
        let mut patch = self.whole[version].copy(&mut self.scratch);
        patch.addresses(source, target);
        header(&mut patch);
        patch.finish();
        let bytes = &mut self.scratch[payload_at(unit.v6)..];
        let end = range.end.min(bytes.len());
        let bytes = &mut bytes[range.start.min(end)..end];
        change(bytes);
        let mut patch = self.pieces[version].copy(&mut frame.data);
        let id = unit.rng.fork(2).next_u32();
        patch.addresses(source, target).payload(bytes);
        place(&mut patch, unit.v6, id, offset, more);
        patch.finish();
    }
}

/// Writes identification, offset and flag of a fragment.
pub(super) fn place(patch: &mut Patch<'_>, v6: bool, id: u32, offset: usize, more: bool) {
    if v6 {
        patch.extension16(2, (offset & 0xfff8) as u16 | u16::from(more));
        patch.extension16(4, (id >> 16) as u16).extension16(6, id as u16);
    } else {
        patch.ident(id as u16).ip16(6, (offset / 8) as u16 | if more { 0x2000 } else { 0 });
    }
}

/// Bytes of no meaning, the same ones each time.
pub(super) fn random(bytes: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    Rng::new(0, 0).bytes(&mut payload, bytes);
    payload
}

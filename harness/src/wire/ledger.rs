//! The ledger's object in userspace: loaded for one replay, its programs around those under test, its maps in memory.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use bpflab_programs::ledger::{Arrival, Counters, Fate, ORDERS_PER_SIDE, Order, print};

use super::WireError;
use super::attach::{
    Attached, Attachments, Named, Stack, UnderTest, XdpMode, attach_tc, attach_tcx, attach_traced, attach_xdp,
    step_priority,
};
use super::inject::{Outgoing, Receiver};
use super::kit::Kit;
use super::place::{Place, Port, disable_gro};
use crate::object::Object;
use crate::suite::{Loaded, Programs};
use crate::sys::{self, MappedArray, TcDirection, TcxPosition, read_pod};
use crate::topology::Network;

/// Priority of the ledger's first tc program in each direction.
const BEFORE: u16 = 1;
/// Priority of its last.
const AFTER: u16 = 60_000;

/// Words of `Counters`, for single reads.
const XDP: usize = 0;
const ARRIVED: usize = 2;

/// A frame that arrived at a far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Kernel time of its arrival, ns since the UNIX epoch.
    pub time_ns: u64,
    /// Bytes of the frame.
    pub wire_len: u32,
    /// Its bytes, at most 4096 of them.
    pub data: Vec<u8>,
    /// Where it arrived: 0 the client, 1 the server.
    pub side: usize,
}

/// The ledger in place for one replay.
pub(super) struct Ledger {
    // Detached before the kit goes.
    attached: Stack,
    kit: Kit,
    epoch_ns: u64,
}

impl Ledger {
    /// Loads the object, or takes one that waits, and attaches it around the programs of `attachments`.
    pub(super) fn arm(
        network: &Network,
        place: &Place,
        attachments: &Attachments,
        record: bool,
    ) -> Result<Self, WireError> {
        // A program for frames of several pages can be called by one of its kind only; which kind a program is, only
        // the kernel says (bpf_prog_map_compatible, kernel/bpf/core.c).
        let ledger = match Self::arm_with(place, attachments, record, "ledger_xdp") {
            Err(refused @ WireError::Chain { .. }) => {
                Self::arm_with(place, attachments, record, "ledger_xdp_frags").map_err(|_| refused)?
            }
            result => result?,
        };
        disable_gro(network, place)?;
        Ok(ledger)
    }

    fn arm_with(place: &Place, attachments: &Attachments, record: bool, root: &'static str) -> Result<Self, WireError> {
        let mut kit = Kit::take(root, record)?;
        kit.point_at(place);
        for (side, under_test) in (0_u32..).zip(&attachments.xdp) {
            if let Some(UnderTest { object, program, fd, .. }) = under_test {
                kit.chain(side, fd.as_fd()).map_err(|source| WireError::Chain {
                    object: object.clone(),
                    program: program.clone(),
                    source,
                })?;
            }
        }
        let mut attached = Stack::default();
        attach_tracing(&mut kit.object, attachments, &mut attached)?;
        attach_packet_programs(&mut kit.object, place, attachments, root, &mut attached)?;
        Ok(Self { attached, kit, epoch_ns: epoch_ns() })
    }

    /// Detaches the programs and keeps the object for the next replay.
    pub(super) fn disarm(self) {
        let Self { attached, kit, .. } = self;
        drop(attached);
        kit.give_back();
    }

    /// Frames that arrived at the far end of a side.
    pub(super) fn arrived(&self, side: usize) -> u64 {
        arrived(&self.kit.counters, side)
    }

    pub(super) fn counters(&self, side: usize) -> Counters {
        self.kit.counters.get(side)
    }

    /// Packets that the device under test made and sent out on a side.
    pub(super) fn generated(&self, side: u32) -> Result<u64, WireError> {
        let values = self.kit.generated.get(&side, 0);
        let values = values.map_err(|source| self.kit.object.map_error("GENERATED", source))?;
        Ok(values.iter().sum())
    }

    pub(super) fn fate(&self, slot: u32) -> Fate {
        self.kit.fates.get(slot as usize)
    }

    /// Makes a slot ready for another packet.
    pub(super) fn clear(&self, slot: u32) {
        self.kit.fates.set(slot as usize, Fate::default());
    }

    /// A time of the monotonic clock as the recording has it, ns since the UNIX epoch.
    pub(super) const fn wall_ns(&self, monotonic_ns: u64) -> u64 {
        self.epoch_ns + monotonic_ns
    }

    /// Hands over the frames that have arrived since the last call, in the order of their arrival.
    pub(super) fn collect(&mut self, mut take: impl FnMut(Arrived)) {
        let Some(ring) = &mut self.kit.arrived else { return };
        while let Some(entry) = ring.next() {
            let Some(head) = read_pod::<Arrival>(&entry) else { continue };
            let bytes = &entry[size_of::<Arrival>()..];
            take(Arrived {
                time_ns: self.epoch_ns + head.time_ns,
                wire_len: head.len,
                data: bytes[..bytes.len().min(head.captured as usize)].to_vec(),
                side: head.side as usize,
            });
        }
    }
}

impl Receiver for Ledger {
    fn announce(&self, side: usize, number: u64, frame: &Outgoing<'_>) {
        let index = side * ORDERS_PER_SIDE + index_of(number) % ORDERS_PER_SIDE;
        let len = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
        let order = Order { time_ns: frame.time_ns, print: print(frame.data), slot: frame.slot, len };
        self.kit.used.set(self.kit.used.get().max(frame.slot as usize + 1));
        self.kit.orders.set(index, order);
        // The order before the number that makes it visible.
        fence(Ordering::Release);
        self.kit.announced.set(side, number + 1);
    }

    fn withdraw(&self, side: usize, number: u64) {
        self.kit.announced.set(side, number);
    }

    fn seen(&self, side: usize) -> u64 {
        self.kit.counters.counter(side, XDP)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only the remainder by a small power of two is used")]
const fn index_of(number: u64) -> usize {
    number as usize
}

/// What to add to kernel time to get ns since the UNIX epoch.
fn epoch_ns() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX).saturating_sub(sys::monotonic_ns())
}

/// Frames that the counters say arrived at the far end of a side.
pub(super) fn arrived(counters: &MappedArray<Counters>, side: usize) -> u64 {
    counters.counter(side, ARRIVED)
}

/// The programs at tracepoints.
pub(super) const TRACED: [(&str, &str); 2] = [("ledger_kfree", "kfree_skb"), ("ledger_consume", "consume_skb")];
/// Those that are needed where an XDP program is under test.
pub(super) const TRACED_XDP: [(&str, &str); 3] = [
    ("ledger_exception", "xdp_exception"),
    ("ledger_redirect", "xdp_redirect"),
    ("ledger_redirect_err", "xdp_redirect_err"),
];

/// The one that is needed where a tc egress program is under test.
pub(super) const TRACED_EGRESS: [(&str, &str); 1] = [("ledger_xmit", "net_dev_start_xmit")];

/// The tracepoints see everything from the first packet on, so they come first.
fn attach_tracing(object: &mut Object, attachments: &Attachments, attached: &mut Stack) -> Result<(), WireError> {
    let xdp = attachments.xdp.iter().flatten().take(1).flat_map(|_| TRACED_XDP);
    let has_egress = attachments.programs.0.iter().any(|side| !side.egress.is_empty());
    let egress = TRACED_EGRESS.into_iter().filter(|_| has_egress);
    for (program, tracepoint) in TRACED.into_iter().chain(xdp).chain(egress) {
        let loaded = Programs::load(object, program, Some(tracepoint))?;
        attached.push(attach_traced(named(object, program, &loaded), tracepoint)?);
    }
    Ok(())
}

fn named<'a>(object: &'a Object, program: &'a str, loaded: &'a Loaded) -> Named<'a> {
    Named { object: object.name(), program, fd: loaded.fd.as_fd() }
}

fn attach_packet_programs(
    object: &mut Object,
    place: &Place,
    attachments: &Attachments,
    root: &str,
    attached: &mut Stack,
) -> Result<(), WireError> {
    for (side, link) in place.links() {
        let (names, dut) = (&attachments.programs.0[side], &link.dut);
        let mut tc = |program: &str, direction, priority| {
            let loaded = Programs::load(object, program, None)?;
            attached.push(attach_tc(named(object, program, &loaded), dut, direction, priority)?);
            Ok::<_, WireError>(())
        };
        // Where there are programs at tcx, which come before clsact and may be the last to see a packet, the first look
        // at it is there as well.
        if names.ingress_tcx == 0 {
            tc("ledger_first", TcDirection::Ingress, BEFORE)?;
        }
        for number in 0..names.ingress.len() - names.ingress_tcx {
            tc("ledger_step", TcDirection::Ingress, step_priority(number))?;
        }
        if names.egress_tcx == 0 && !names.egress.is_empty() {
            tc("ledger_exit", TcDirection::Egress, BEFORE)?;
        }
        for number in 0..names.egress.len() - names.egress_tcx {
            tc("ledger_egress_step", TcDirection::Egress, step_priority(number))?;
        }
        tc("ledger_out", TcDirection::Egress, AFTER)?;
        let [ingress, egress] = &attachments.tcx[side];
        attach_around(object, dut, TcDirection::Ingress, ["ledger_first", "ledger_step"], ingress, attached)?;
        attach_around(object, dut, TcDirection::Egress, ["ledger_exit", "ledger_egress_step"], egress, attached)?;
        let mode = attachments.xdp[side].as_ref().map_or(XdpMode::Driver, |under_test| under_test.mode);
        let sink = if side == 0 { "sink_client" } else { "sink_server" };
        for (program, port, mode) in [(sink, &link.far, XdpMode::Driver), (root, dut, mode)] {
            let loaded = Programs::load(object, program, None)?;
            attached.push(attach_xdp(named(object, program, &loaded), port, mode)?);
        }
    }
    Ok(())
}

/// Puts the ledger's programs before the first of the tcx programs under test and after each, if there are any.
fn attach_around(
    object: &mut Object,
    port: &Port,
    direction: TcDirection,
    [first, step]: [&str; 2],
    under_test: &[OwnedFd],
    attached: &mut Stack,
) -> Result<(), WireError> {
    let positions = under_test.iter().map(|link| (step, TcxPosition::After(link.as_fd())));
    let first = under_test.first().map(|_| (first, TcxPosition::First));
    for (program, position) in first.into_iter().chain(positions) {
        let loaded = Programs::load(object, program, None)?;
        let link = attach_tcx(named(object, program, &loaded), port, direction, position)?;
        attached.push(Attached::Descriptor(link));
    }
    Ok(())
}

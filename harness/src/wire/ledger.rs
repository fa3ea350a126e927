//! The ledger's object in userspace: loaded for one replay, its programs around those under test, its maps in memory.

use std::sync::atomic::{Ordering, fence};

use aya::maps::{MapData, MapError, PerCpuArray, ProgramArray, RingBuf};
use bpflab_programs::ledger::{Arrival, Counters, Fate, ORDERS_PER_SIDE, Offsets, Order, SIDES, SLOTS, print};

use super::WireError;
use super::attach::{Attachments, Direction, Stack, attach_tc, attach_tracepoint, attach_xdp, step_priority};
use super::inject::{Outgoing, Receiver};
use super::place::{Place, disable_gro};
use crate::kernel::btf::{Btf, BtfError};
use crate::object::{LoadOptions, Object, ObjectError, suite};
use crate::sys::{self, MappedArray, bytes_of, read_pod};
use crate::topology::Network;

/// Priority of the ledger's first tc program in each direction.
const BEFORE: u16 = 1;
/// Priority of its last.
const AFTER: u16 = 60_000;
/// Bytes of the ring of recorded frames: over 30 times what can be outstanding between two looks at it.
const RING_BYTES: u32 = 32 << 20;
/// The smallest ring, where nothing is recorded.
const NO_RING: u32 = 4096;

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
    // Detached before the maps go.
    _attached: Stack,
    orders: MappedArray<Order>,
    announced: MappedArray<u64>,
    fates: MappedArray<Fate>,
    counters: MappedArray<Counters>,
    generated: PerCpuArray<MapData, u64>,
    arrived: Option<RingBuf<MapData>>,
    epoch_ns: u64,
    _chain: ProgramArray<MapData>,
    object: Object,
}

impl Ledger {
    /// Loads the object and attaches it around the programs of `attachments`.
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

    fn arm_with(place: &Place, attachments: &Attachments, record: bool, root: &str) -> Result<Self, WireError> {
        let mut object = load(place, record)?;
        object.load_program(root, None)?;
        let mut chain: ProgramArray<MapData> = take(&mut object, "CHAIN")?;
        if let Some((name, fd)) = &attachments.xdp {
            chain.set(0, fd, 0).map_err(|source| WireError::Chain {
                object: name.clone(),
                program: attachments.programs.xdp.clone().unwrap_or_default(),
                source: Box::new(source),
            })?;
        }
        let mut attached = Stack::default();
        attach_tracing(&mut object, attachments, &mut attached)?;
        attach_packet_programs(&mut object, place, attachments, root, &mut attached)?;
        Ok(Self {
            orders: object.mapped("ORDERS", SIDES * ORDERS_PER_SIDE)?,
            announced: object.mapped("ANNOUNCED", SIDES)?,
            fates: object.mapped("FATES", SLOTS)?,
            counters: object.mapped("COUNTERS", SIDES)?,
            generated: take(&mut object, "GENERATED")?,
            arrived: if record { Some(take(&mut object, "ARRIVED")?) } else { None },
            epoch_ns: epoch_ns(),
            _chain: chain,
            object,
            _attached: attached,
        })
    }

    /// Frames that arrived at the far end of a side.
    pub(super) fn arrived(&self, side: usize) -> u64 {
        arrived(&self.counters, side)
    }

    pub(super) fn counters(&self, side: usize) -> Counters {
        self.counters.get(side)
    }

    /// Packets that the device under test made and sent out on a side.
    pub(super) fn generated(&self, side: u32) -> Result<u64, WireError> {
        let values = self.generated.get(&side, 0);
        let values = values.map_err(|source| self.object.map_error("GENERATED", source))?;
        Ok(values.iter().sum())
    }

    pub(super) fn fate(&self, slot: u32) -> Fate {
        self.fates.get(slot as usize)
    }

    /// Makes a slot ready for another packet.
    pub(super) fn clear(&self, slot: u32) {
        self.fates.set(slot as usize, Fate::default());
    }

    /// Hands over the frames that have arrived since the last call, in the order of their arrival.
    pub(super) fn collect(&mut self, mut take: impl FnMut(Arrived)) {
        let Some(ring) = &mut self.arrived else { return };
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
        self.orders.set(index, order);
        // The order before the number that makes it visible.
        fence(Ordering::Release);
        self.announced.set(side, number + 1);
    }

    fn withdraw(&self, side: usize, number: u64) {
        self.announced.set(side, number);
    }

    fn seen(&self, side: usize) -> u64 {
        self.counters.counter(side, XDP)
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

/// Loads the object for a place; attaches nothing.
pub(super) fn load(place: &Place, record: bool) -> Result<Object, WireError> {
    let offsets = offsets(Btf::kernel()?)?;
    let server = place.server.as_ref().map_or(0, |link| link.dut.ifindex);
    let options = LoadOptions {
        globals: vec![
            ("DUT_NETNS", bytes_of(&place.netns), true),
            ("CLIENT_IFINDEX", bytes_of(&place.client.dut.ifindex), true),
            ("SERVER_IFINDEX", bytes_of(&server), true),
            ("RECORD", if record { bytes_of(&1_u32) } else { bytes_of(&0_u32) }, true),
            ("OFFSETS", bytes_of(&offsets), true),
        ],
        max_entries: vec![("ARRIVED", if record { RING_BYTES } else { NO_RING })],
        ..LoadOptions::default()
    };
    Ok(Object::load("ledger", suite::LEDGER, &options)?)
}

fn offsets(btf: &Btf) -> Result<Offsets, BtfError> {
    Ok(Offsets {
        mark: btf.offset("sk_buff.mark")?,
        dev: btf.offset("sk_buff.dev")?,
        head: btf.offset("sk_buff.head")?,
        end: btf.offset("sk_buff.end")?,
        mac_header: btf.offset("sk_buff.mac_header")?,
        meta_len: btf.offset("skb_shared_info.meta_len")?,
        ifindex: btf.offset("net_device.ifindex")?,
        net: btf.offset("net_device.nd_net.net")?,
        inum: btf.offset("net.ns.inum")?,
        has_reason: u32::from(btf.tracepoint_args("kfree_skb").is_some_and(|args| args >= 3)),
    })
}

/// Takes a map out of the object as a typed one.
fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(object: &mut Object, name: &str) -> Result<M, ObjectError> {
    let map = object.ebpf.take_map(name).ok_or_else(|| object.missing(format!("map {name}")))?;
    M::try_from(map).map_err(|source| object.map_error(name, source))
}

/// The tracepoints see everything from the first packet on, so they come first.
fn attach_tracing(object: &mut Object, attachments: &Attachments, attached: &mut Stack) -> Result<(), WireError> {
    attached.push(attach_tracepoint(object, "ledger_kfree", "kfree_skb")?);
    attached.push(attach_tracepoint(object, "ledger_consume", "consume_skb")?);
    if attachments.programs.xdp.is_some() {
        attached.push(attach_tracepoint(object, "ledger_exception", "xdp_exception")?);
        attached.push(attach_tracepoint(object, "ledger_redirect", "xdp_redirect")?);
        attached.push(attach_tracepoint(object, "ledger_redirect_err", "xdp_redirect_err")?);
    }
    Ok(())
}

fn attach_packet_programs(
    object: &mut Object,
    place: &Place,
    attachments: &Attachments,
    root: &str,
    attached: &mut Stack,
) -> Result<(), WireError> {
    let (ingress, egress) = (attachments.programs.ingress.len(), attachments.programs.egress.len());
    for (side, link) in place.links() {
        let dut = &link.dut;
        attached.push(attach_tc(object, "ledger_first", dut, Direction::Ingress, BEFORE)?);
        for number in 0..ingress {
            attached.push(attach_tc(object, "ledger_step", dut, Direction::Ingress, step_priority(number))?);
        }
        if egress > 0 {
            attached.push(attach_tc(object, "ledger_exit", dut, Direction::Egress, BEFORE)?);
        }
        for number in 0..egress {
            attached.push(attach_tc(object, "ledger_egress_step", dut, Direction::Egress, step_priority(number))?);
        }
        attached.push(attach_tc(object, "ledger_out", dut, Direction::Egress, AFTER)?);
        let sink = if side == 0 { "sink_client" } else { "sink_server" };
        attached.push(attach_xdp(object, sink, &link.far)?);
        attached.push(attach_xdp(object, root, dut)?);
    }
    Ok(())
}

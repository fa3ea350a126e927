//! The ledger's object in userspace: loaded for one replay, its programs around those under test, its maps in memory.

use std::cell::Cell;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray, RingBuf};
use bpflab_programs::ledger::{
    Arrival, Counters, Fate, ORDERS_PER_SIDE, Offsets, Order, Place as InMap, SIDES, SLOTS, print,
};

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
        if let Some((name, fd)) = &attachments.xdp {
            kit.chain.set(0, fd, 0).map_err(|source| WireError::Chain {
                object: name.clone(),
                program: attachments.programs.xdp.clone().unwrap_or_default(),
                source: Box::new(source),
            })?;
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

/// The loaded object with its maps in memory. It serves one replay after the other: where the device under test is
/// stands in a map, so that the programs need not be verified anew.
pub(super) struct Kit {
    root: &'static str,
    orders: MappedArray<Order>,
    announced: MappedArray<u64>,
    fates: MappedArray<Fate>,
    counters: MappedArray<Counters>,
    place: MappedArray<InMap>,
    generated: PerCpuArray<MapData, u64>,
    arrived: Option<RingBuf<MapData>>,
    chain: ProgramArray<MapData>,
    /// Slots below this one may have been written.
    used: Cell<usize>,
    pub(super) object: Object,
}

/// Kits that wait for the next replay of this process. Parallel replays need as many; more than these are let go, since
/// the ring of one takes 32 MiB.
static WAITING: Mutex<Vec<Kit>> = Mutex::new(Vec::new());
const MOST_WAITING: usize = 2;

impl Kit {
    /// A kit as new: one that waits, or a fresh one. `root` is the root program that it is for.
    ///
    /// It is emptied now rather than when it was given back: by then every program that a detached tracepoint still ran
    /// on another CPU has ended.
    fn take(root: &'static str, record: bool) -> Result<Self, WireError> {
        let found = {
            let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            let index = waiting.iter().position(|kit| kit.root == root && kit.arrived.is_some() == record);
            index.map(|index| waiting.swap_remove(index))
        };
        if let Some(mut kit) = found
            && kit.reset().is_ok()
        {
            return Ok(kit);
        }
        Self::load(root, record)
    }

    fn give_back(self) {
        let surplus = {
            let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(self);
            (waiting.len() > MOST_WAITING).then(|| waiting.remove(0))
        };
        drop(surplus);
    }

    /// Loads the object; attaches nothing.
    pub(super) fn load(root: &'static str, record: bool) -> Result<Self, WireError> {
        let offsets = offsets(Btf::kernel()?)?;
        let options = LoadOptions {
            globals: vec![
                ("RECORD", if record { bytes_of(&1_u32) } else { bytes_of(&0_u32) }, true),
                ("OFFSETS", bytes_of(&offsets), true),
            ],
            max_entries: vec![("ARRIVED", if record { RING_BYTES } else { NO_RING })],
            ..LoadOptions::default()
        };
        let mut object = Object::load("ledger", suite::LEDGER, &options)?;
        // Before the map that it calls through is written: the kernel then knows which kind of program may be in there.
        object.load_program(root, None)?;
        Ok(Self {
            root,
            orders: object.mapped("ORDERS", SIDES * ORDERS_PER_SIDE)?,
            announced: object.mapped("ANNOUNCED", SIDES)?,
            fates: object.mapped("FATES", SLOTS)?,
            counters: object.mapped("COUNTERS", SIDES)?,
            place: object.mapped("PLACE", 1)?,
            generated: take(&mut object, "GENERATED")?,
            arrived: if record { Some(take(&mut object, "ARRIVED")?) } else { None },
            chain: take(&mut object, "CHAIN")?,
            used: Cell::new(0),
            object,
        })
    }

    /// Makes every map as it was after loading; orders that nobody announces are never read.
    fn reset(&mut self) -> Result<(), MapError> {
        match self.chain.clear_index(&0) {
            // There was no program under test.
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
        for slot in 0..self.used.replace(0) {
            self.fates.set(slot, Fate::default());
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| std::io::Error::from(error))?;
        for side in 0..SIDES {
            self.announced.set(side, 0);
            self.counters.set(side, Counters::default());
            let zeros = PerCpuValues::try_from(vec![0; cpus])?;
            self.generated.set(u32::try_from(side).unwrap_or_default(), zeros, 0)?;
        }
        while self.arrived.as_mut().is_some_and(|ring| ring.next().is_some()) {}
        Ok(())
    }

    /// Tells the programs where the device under test is.
    pub(super) fn point_at(&self, place: &Place) {
        let server = place.server.as_ref().map_or(0, |link| link.dut.ifindex);
        let (netns, client) = (place.netns, place.client.dut.ifindex);
        self.place.set(0, InMap { netns, client, server, reserved: 0 });
    }

    pub(super) fn counters(&self) -> &MappedArray<Counters> {
        &self.counters
    }
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

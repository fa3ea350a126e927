//! The ledger's object, loaded once for the replays of a process.

use std::cell::Cell;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use bpflab_programs::ledger::{Counters, Fate, ORDERS_PER_SIDE, Offsets, Order, Place as InMap, SIDES, SLOTS};

use super::WireError;
use super::place::Place;
use crate::kernel::btf::{Btf, BtfError};
use crate::object::{LoadOptions, Object, ObjectError, suite};
use crate::sys::{MapHandle, MappedArray, bytes_of};

/// Bytes of the ring of recorded frames: over 30 times what can be outstanding between two looks at it.
const RING_BYTES: u32 = 32 << 20;
/// The smallest ring, where nothing is recorded.
const NO_RING: u32 = 4096;

/// The loaded object with its maps in memory. It serves one replay after the other: where the device under test is
/// stands in a map, so that the programs need not be verified anew.
pub(super) struct Kit {
    root: &'static str,
    pub(super) orders: MappedArray<Order>,
    pub(super) announced: MappedArray<u64>,
    pub(super) fates: MappedArray<Fate>,
    pub(super) counters: MappedArray<Counters>,
    place: MappedArray<InMap>,
    pub(super) generated: PerCpuArray<MapData, u64>,
    pub(super) arrived: Option<RingBuf<MapData>>,
    chain: MapHandle,
    /// Slots below this one may have been written.
    pub(super) used: Cell<usize>,
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
    pub(super) fn take(root: &'static str, record: bool) -> Result<Self, WireError> {
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

    pub(super) fn give_back(self) {
        let surplus = {
            let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(self);
            (waiting.len() > MOST_WAITING).then(|| waiting.remove(0))
        };
        drop(surplus);
    }

    /// Loads the object; attaches nothing.
    pub(super) fn load(root: &'static str, record: bool) -> Result<Self, WireError> {
        let mut object = load_object(record)?;
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
            chain: MapHandle::new(object.map_fd("CHAIN")?).map_err(|source| object.map_error("CHAIN", source))?,
            used: Cell::new(0),
            object,
        })
    }

    /// Makes every map as it was after loading; orders that nobody announces are never read.
    fn reset(&mut self) -> Result<(), MapError> {
        for side in 0..SIDES as u32 {
            // Whether there was a program under test does not matter.
            self.chain.delete(&side.to_ne_bytes()).map_err(MapError::IoError)?;
        }
        for slot in 0..self.used.replace(0) {
            self.fates.set(slot, Fate::default());
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        for side in 0..SIDES {
            self.announced.set(side, 0);
            self.counters.set(side, Counters::default());
            let zeros = PerCpuValues::try_from(vec![0; cpus])?;
            self.generated.set(u32::try_from(side).unwrap_or_default(), zeros, 0)?;
        }
        while self.arrived.as_mut().is_some_and(|ring| ring.next().is_some()) {}
        Ok(())
    }

    /// Sets the XDP program under test of a side.
    pub(super) fn chain(&self, side: u32, program: BorrowedFd<'_>) -> std::io::Result<()> {
        self.chain.update(Some(&side.to_ne_bytes()), &program.as_raw_fd().to_ne_bytes(), 0)
    }

    /// Tells the programs where the device under test is.
    pub(super) fn point_at(&self, place: &Place) {
        let server = place.server.as_ref().map_or(0, |link| link.dut.ifindex);
        let (netns, client) = (place.netns, place.client.dut.ifindex);
        self.place.set(0, InMap { netns, client, server, reserved: 0 });
    }
}

/// The object's maps, fitted to the running kernel; none of its programs.
pub(super) fn load_object(record: bool) -> Result<Object, WireError> {
    let offsets = offsets(Btf::kernel()?)?;
    let options = LoadOptions {
        globals: vec![
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

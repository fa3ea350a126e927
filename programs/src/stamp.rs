//! Where a program takes the time from, and the mark that the lab puts on each packet.

use crate::pod;

/// `CLOCK_SOURCE`: monotonic kernel time (`bpf_ktime_get_ns`), ns since boot.
pub const CLOCK_KERNEL: u32 = 0;
/// `CLOCK_SOURCE`: the first entry of the object's `CLOCK` map, written by the lockstep runner before each packet;
/// ns since the UNIX epoch.
pub const CLOCK_MAP: u32 = 1;
/// `CLOCK_SOURCE`: the [`Stamp`] in the packet's metadata, put there by the ledger's XDP program; ns since the UNIX
/// epoch. A packet without a stamp (one that the lab did not send) falls back to `CLOCK`.
pub const CLOCK_STAMP: u32 = 2;

/// What the ledger writes in front of each packet it recognises (XDP metadata, read through `data_meta`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// [`Stamp::MAGIC`], so that another program's metadata is not taken for ours.
    pub magic: u32,
    /// Slot of the packet in the ledger's `FATES`.
    pub slot: u32,
    /// The capture's own time of this packet, ns since the UNIX epoch.
    pub time_ns: u64,
}

impl Stamp {
    /// First word of every stamp.
    pub const MAGIC: u32 = 0xb9f1_ab01;
}

const _: () = assert!(size_of::<Stamp>() == 16);
pod!(Stamp);

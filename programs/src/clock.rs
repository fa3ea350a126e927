//! The time as a program sees it: the kernel's, or the capture's.

use aya_ebpf::{bindings::__sk_buff, bindings::xdp_md, btf_maps::Array, helpers::bpf_ktime_get_ns};

use crate::stamp::{CLOCK_KERNEL, CLOCK_STAMP, Stamp};

/// Flag that lets userspace write an array map through `mmap`, without a system call (`BPF_F_MMAPABLE`).
pub const MMAPABLE: usize = 1 << 10;

/// The type of an object's `CLOCK` map.
pub type ClockMap = Array<u64, 1, MMAPABLE>;

/// Declares the two statics that make an object's time selectable at load: `CLOCK_SOURCE` and `CLOCK`.
#[macro_export]
macro_rules! clock {
    () => {
        /// Which clock this object uses, see `stamp`.
        #[unsafe(no_mangle)]
        static CLOCK_SOURCE: aya_ebpf::Global<u32> = aya_ebpf::Global::new($crate::stamp::CLOCK_KERNEL);
        /// The time of the packet under way where the lockstep runner sets it, ns since the UNIX epoch.
        #[aya_ebpf::macros::btf_map]
        static CLOCK: $crate::clock::ClockMap = $crate::clock::ClockMap::new();
    };
}

/// The stamp in the metadata `[meta, data)`, if the lab put one there.
#[inline(always)]
pub fn stamp(meta: usize, data: usize) -> Option<Stamp> {
    if meta + size_of::<Stamp>() > data {
        return None;
    }
    // SAFETY: the bound above covers the whole stamp; metadata is 4-byte aligned, so the read is unaligned.
    let stamp = unsafe { core::ptr::read_unaligned(meta as *const Stamp) };
    (stamp.magic == Stamp::MAGIC).then_some(stamp)
}

/// The present time for an XDP program, in ns.
#[inline(always)]
pub fn now_xdp(ctx: *const xdp_md, source: u32, map: &ClockMap) -> u64 {
    // SAFETY: the context of the running program.
    let (meta, data) = unsafe { ((*ctx).data_meta as usize, (*ctx).data as usize) };
    now(meta, data, source, map)
}

/// The present time for a tc program, in ns.
#[inline(always)]
pub fn now_skb(ctx: *const __sk_buff, source: u32, map: &ClockMap) -> u64 {
    // SAFETY: the context of the running program.
    let (meta, data) = unsafe { ((*ctx).data_meta as usize, (*ctx).data as usize) };
    now(meta, data, source, map)
}

#[inline(always)]
fn now(meta: usize, data: usize, source: u32, map: &ClockMap) -> u64 {
    if source == CLOCK_KERNEL {
        // SAFETY: the helper has no precondition.
        return unsafe { bpf_ktime_get_ns() };
    }
    if source == CLOCK_STAMP
        && let Some(stamp) = stamp(meta, data)
    {
        return stamp.time_ns;
    }
    map.get(0).copied().unwrap_or(0)
}

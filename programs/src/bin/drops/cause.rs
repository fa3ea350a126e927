//! Drops for want of room in a socket's buffer, on kernels that give no reasons.
//!
//! There the place does not tell: `udp_queue_rcv_one_skb` also gives up what a filter or a checksum refuses. Two
//! tracepoints do, one before the buffer is freed and one right after.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use bpflab_programs::atomic::add_u64;
use bpflab_programs::drops::{CAUSE_SOCKET_BUFFER, DropKey};

use crate::{DROPS, count};

/// The drop that this CPU has accounted for last, and its bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Last {
    key: DropKey,
    bytes: u64,
    /// 1 while `key` is that of the drop before.
    valid: u64,
}

/// What happened last on this CPU.
#[btf_map]
static LAST: PerCpuArray<Last, 1> = PerCpuArray::new();
/// The buffer that a socket's queue on this CPU has refused, until it is freed.
#[btf_map]
static REFUSED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The cause that is known of a buffer that is being freed; what was freed before it is past.
#[inline(always)]
pub fn of(skb: *const u8) -> u8 {
    if let Some(last) = LAST.get_ptr_mut(0) {
        // SAFETY: this CPU's value.
        unsafe { (*last).valid = 0 };
    }
    let Some(refused) = REFUSED.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's value.
    unsafe {
        if *refused != skb as u64 {
            return 0;
        }
        *refused = 0;
    }
    CAUSE_SOCKET_BUFFER
}

/// Keeps a drop that was counted, in case that its cause is told now.
#[inline(always)]
pub fn keep(key: &DropKey, bytes: u64) {
    if let Some(last) = LAST.get_ptr_mut(0) {
        // SAFETY: this CPU's value.
        unsafe {
            (*last).key = *key;
            (*last).bytes = bytes;
            (*last).valid = 1;
        }
    }
}

/// A queue refuses a buffer that its caller frees next (`__sock_queue_rcv_skb`, net/core/sock.c).
#[inline(always)]
pub fn refused(skb: *const u8) {
    if let Some(refused) = REFUSED.get_ptr_mut(0) {
        // SAFETY: this CPU's value.
        unsafe { *refused = skb as u64 };
    }
}

/// The datagram freed just before this had no room: its drop is counted under that cause instead. On the kernels that
/// need this, the tracepoint follows `kfree_skb` (`__udp_queue_rcv_skb`, net/ipv4/udp.c).
#[inline(always)]
pub fn had_no_room() {
    const UDP: u8 = 17;
    let Some(last) = LAST.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's value, which nothing else writes until the next drop.
    let last = unsafe { &mut *last };
    if last.valid == 0 || last.key.proto != UDP || last.key.cause != 0 {
        return;
    }
    last.valid = 0;
    if let Some(counted) = DROPS.get_ptr_mut(&last.key) {
        // SAFETY: the map's values are 8-byte aligned and live as long as the program.
        unsafe {
            add_u64(&raw mut (*counted).packets, 1_u64.wrapping_neg());
            add_u64(&raw mut (*counted).bytes, last.bytes.wrapping_neg());
        }
    }
    last.key.cause = CAUSE_SOCKET_BUFFER;
    count(&last.key, last.bytes);
}

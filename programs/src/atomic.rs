//! Atomic additions to map values that several CPUs share.
//!
//! The BPF target has no compare-and-swap in every version that the objects must run on, so `core::sync::atomic` offers
//! it nothing but loads and stores. The addition without a result (`BPF_XADD`) exists on all kernels.

use core::arch::asm;

/// Adds `value` to the counter at `counter`, atomically and without ordering.
///
/// # Safety
/// `counter` points into a map value and is aligned.
#[inline(always)]
pub unsafe fn add_u64(counter: *mut u64, value: u64) {
    // SAFETY: the caller's; the verifier checks that the pointer is into a map value.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack, preserves_flags)) }
}

/// As [`add_u64`], for a counter of 32 bits.
///
/// # Safety
/// As [`add_u64`].
#[inline(always)]
pub unsafe fn add_u32(counter: *mut u32, value: u32) {
    let value = u64::from(value);
    // SAFETY: as above.
    unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack, preserves_flags)) }
}

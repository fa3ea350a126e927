//! Numbers of which every kernel's verifier knows what it must, and no more than that: the instructions that it sees are
//! the ones written here.

use core::arch::asm;

/// `value` where it is 1 to `MOST`, else another number of that range.
///
/// For the length that a helper is passed. A comparison in Rust may be compiled to one of a copy, or to one with 0, from
/// which the verifier of some kernels does not learn that the number itself is at least 1 (seen on 5.10 and 6.1).
#[inline(always)]
#[must_use]
pub fn one_to<const MOST: u32>(mut value: u64) -> u32 {
    // SAFETY: arithmetic and a jump over the next instruction.
    unsafe {
        asm!(
            "{value} += -1",
            "if {value} < {most} goto +1",
            "{value} = 0",
            "{value} += 1",
            value = inout(reg) value,
            most = const MOST,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value as u32
}

/// Zero, of which LLVM does not know that it is zero: a value that is built from it is stored word by word. Otherwise
/// LLVM calls `memset`, and in a program that consists of two functions the verifier of 5.10 takes every number for one
/// that matters (`__mark_reg_unknown`, kernel/bpf/verifier.c), so that paths never look alike to it.
#[inline(always)]
#[must_use]
pub fn zero() -> u64 {
    let zero;
    // SAFETY: sets a register.
    unsafe { asm!("{zero} = 0", zero = out(reg) zero, options(pure, nomem, nostack, preserves_flags)) };
    zero
}

/// The same value, of which the verifier knows nothing any more: paths that meet again then look alike to it, and what
/// follows is walked once. `noise` is any number that it does not know; it does not see that the two operations cancel.
#[inline(always)]
#[must_use]
pub fn forget(mut value: u64, noise: u64) -> u64 {
    // SAFETY: arithmetic only.
    unsafe {
        asm!(
            "{value} ^= {noise}",
            "{value} ^= {noise}",
            value = inout(reg) value,
            noise = in(reg) noise,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value
}

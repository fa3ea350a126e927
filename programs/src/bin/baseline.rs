//! What the benchmarks compare with: programs that do nothing, and one that does a single map lookup.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// One counter, found by hash, as a program that keeps state per packet would.
#[btf_map]
static COUNT: HashMap<u32, u64, 1> = HashMap::new();

/// Passes every frame.
#[xdp]
pub fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Passes every frame after one hash lookup and an increment; userspace has made the entry of key 0.
#[xdp]
pub fn one_lookup(_: XdpContext) -> u32 {
    if let Some(count) = COUNT.get_ptr_mut(0) {
        // SAFETY: an entry that is never removed; a lost increment does not matter here.
        unsafe { *count += 1 };
    }
    XDP_PASS
}

/// Leaves every packet to the next filter.
#[classifier]
pub fn empty_tc(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Lets the object use helpers that are reserved for GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

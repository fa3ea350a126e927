//! Programs that end packets in each of the ways a program can, for tests of the lab itself.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros repeat each documented function without its documentation")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Drops frames of an odd number of bytes.
#[xdp]
pub fn drop_odd(ctx: XdpContext) -> u32 {
    drop_odd_length(ctx.data_end() - ctx.data())
}

/// As `drop_odd`, for frames of several pages.
#[xdp(frags)]
pub fn drop_odd_frags(ctx: XdpContext) -> u32 {
    drop_odd_length(ctx.data_end() - ctx.data())
}

#[inline(always)]
fn drop_odd_length(length: usize) -> u32 {
    if length & 1 == 1 { XDP_DROP } else { XDP_PASS }
}

/// By the length of the frame modulo 4: passes, drops, sends back or aborts.
#[xdp]
pub fn each_verdict(ctx: XdpContext) -> u32 {
    match (ctx.data_end() - ctx.data()) & 3 {
        0 => XDP_PASS,
        1 => XDP_DROP,
        2 => XDP_TX,
        _ => XDP_ABORTED,
    }
}

/// Lets the next program decide.
#[classifier]
pub fn pass(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Drops IPv4 datagrams of UDP, and lets the next program decide about everything else.
#[classifier]
pub fn shot_udp(ctx: TcContext) -> i32 {
    if is_udp(&ctx) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// Drops IPv4 datagrams of UDP and ends the chain of programs for everything else, as many programs do.
#[classifier]
pub fn shot_udp_else_ok(ctx: TcContext) -> i32 {
    if is_udp(&ctx) { TC_ACT_SHOT } else { TC_ACT_OK }
}

/// Segments of at least [`LARGE`] bytes that `shot_large_segments` has seen.
#[btf_map]
static SEGMENTS: Array<u64, 1> = Array::new();
/// Which of them are dropped: bit n for the n-th, from 0.
#[unsafe(no_mangle)]
static LOSE: Global<u64> = Global::new(0);
/// A frame from here on is a segment with data.
const LARGE: u32 = 1000;

/// Drops chosen frames among the large ones of IPv4 TCP, each once; a link that loses what a test decides.
#[classifier]
pub fn shot_large_segments(ctx: TcContext) -> i32 {
    if ctx.len() < LARGE || !is_protocol(&ctx, 6) {
        return TC_ACT_UNSPEC;
    }
    let Some(seen) = SEGMENTS.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the map's only value; one direction of one connection passes here, a segment at a time.
    let number = unsafe {
        *seen += 1;
        *seen - 1
    };
    if number < 64 && LOSE.load() >> number & 1 == 1 { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn is_udp(ctx: &TcContext) -> bool {
    is_protocol(ctx, 17)
}

#[inline(always)]
fn is_protocol(ctx: &TcContext, wanted: u8) -> bool {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 24 > end {
        return false;
    }
    // SAFETY: within the frame, by the check above: the ethertype, and the protocol of an IPv4 header.
    let (ethertype, protocol) = unsafe { (((data + 12) as *const [u8; 2]).read(), ((data + 23) as *const u8).read()) };
    ethertype == [0x08, 0x00] && protocol == wanted
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

//! The shared parser alone: what it finds in a frame goes to an array that userspace maps.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use bpflab_programs::clock::MMAPABLE;
use bpflab_programs::packet::Packet;
use bpflab_programs::parse::{parse_skb, parse_xdp};

/// The headers of the last packet.
#[btf_map]
static PARSED: Array<Packet, 1, MMAPABLE> = Array::new();

/// Parses the frame into `PARSED` and passes it on.
#[xdp]
pub fn parse_only(ctx: XdpContext) -> u32 {
    let mut packet = Packet::default();
    parse_xdp(ctx.ctx, &mut packet);
    publish(packet);
    XDP_PASS
}

/// As `parse_only`, from a socket buffer.
#[classifier]
pub fn parse_only_tc(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    parse_skb(ctx.skb.skb, &mut packet);
    publish(packet);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn publish(packet: Packet) {
    if let Some(slot) = PARSED.get_ptr_mut(0) {
        // SAFETY: a pointer to the map's only element, which no other program uses.
        unsafe { slot.write(packet) };
    }
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

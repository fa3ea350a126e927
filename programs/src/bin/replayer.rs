//! Sends frames from inside the kernel, and counts what arrives. See `bpflab_programs::replayer`.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros repeat each documented function without its documentation")]

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::{Array, DevMap, ProgramArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_xdp_adjust_tail, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use bpflab_programs::bound::one_to;
use bpflab_programs::clock::MMAPABLE;
use bpflab_programs::replayer::{Chunk, FAR, LARGEST, METERS, MOST_LOOKS, Meter, Moment, Run, SIDES, Slot};

/// Not 0: sinks note when each frame arrives, as far as `TIMES` goes.
#[unsafe(no_mangle)]
static NOTE_TIMES: Global<u32> = Global::new(0);
/// Entries of `TIMES`.
#[unsafe(no_mangle)]
static TIMES_LEN: Global<u32> = Global::new(0);
/// Not 0: sinks read a sequence number (32 bits, big endian) at this byte of each frame and expect them in order.
#[unsafe(no_mangle)]
static SEQUENCE_AT: Global<u32> = Global::new(0);
/// Sequence numbers go from 0 to this, exclusively, and start anew.
#[unsafe(no_mangle)]
static SEQUENCE_END: Global<u64> = Global::new(0);

/// The frames, one after the other. Sized at load.
#[btf_map]
static ARENA: Array<Chunk, 1, MMAPABLE> = Array::new();
/// Where each frame is. Sized at load.
#[btf_map]
static FRAMES: Array<Slot, 1, MMAPABLE> = Array::new();
/// When each is due, and when it was sent. Sized at load.
#[btf_map]
static MOMENTS: Array<Moment, 1, MMAPABLE> = Array::new();
/// What is sent.
#[btf_map]
static RUN: Array<Run, 1, MMAPABLE> = Array::new();
/// The far end's interface of each side, into which its frames go. A map of interfaces, unlike a plain redirect, reaches
/// those of other network namespaces.
#[btf_map]
static LINKS: DevMap<SIDES> = DevMap::new();
/// What was seen.
#[btf_map]
static SEEN: Array<Meter, METERS, MMAPABLE> = Array::new();
/// When frames arrived at the client side's sink, ns of `bpf_ktime_get_ns`. Sized at load.
#[btf_map]
static TIMES: Array<u64, 1, MMAPABLE> = Array::new();
/// The XDP program under test of each side.
#[btf_map]
static CHAIN: ProgramArray<SIDES> = ProgramArray::new();

/// Makes the kernel's frame the next one of the list and sends it off. One caller at a time.
#[xdp]
pub fn replay(ctx: XdpContext) -> u32 {
    let Some(run) = RUN.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: a map's value; userspace writes it only while the program does not run.
    let run = unsafe { &mut *run };
    if run.next >= run.end {
        run.next = run.first;
    }
    let slot = FRAMES.get(run.next).copied();
    run.next += 1;
    if let Some(slot) = slot
        && make(ctx.ctx, slot, run.initial)
    {
        return redirect(run, slot);
    }
    run.failed += 1;
    XDP_ABORTED
}

/// As `replay`, but each frame waits until it is due. The kernel must be told to hand over one frame at a time: then each
/// is through the other end before the program runs again. One run more than there are frames notes the end of the last.
#[xdp]
pub fn replay_when_due(ctx: XdpContext) -> u32 {
    let Some(run) = RUN.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: a map's value; userspace writes it only while the program does not run.
    let run = unsafe { &mut *run };
    // SAFETY: no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if run.next > run.first
        && let Some(before) = MOMENTS.get_ptr_mut(run.next - 1)
    {
        // SAFETY: a map's value.
        unsafe { (*before).through_ns = now_ns };
    }
    if run.next >= run.end {
        return XDP_DROP;
    }
    let (slot, moment) = (FRAMES.get(run.next).copied(), MOMENTS.get_ptr_mut(run.next));
    run.next += 1;
    if let (Some(slot), Some(moment)) = (slot, moment)
        && make(ctx.ctx, slot, run.initial)
    {
        // SAFETY: a map's value.
        let moment = unsafe { &mut *moment };
        (moment.ready_ns, moment.sent_ns) = (now_ns, now_ns);
        // One that is late has no time to look at the clock.
        let mut due_ns = moment.due_ns;
        if now_ns < due_ns {
            // SAFETY: the callback takes a number and the pointer that follows it, which lives longer than the call.
            unsafe { bpf_loop(MOST_LOOKS, is_due as *mut c_void, (&raw mut due_ns).cast::<c_void>(), 0) };
            // SAFETY: no precondition.
            moment.sent_ns = unsafe { bpf_ktime_get_ns() };
        }
        return redirect(run, slot);
    }
    run.failed += 1;
    XDP_ABORTED
}

/// Ends the loop (1) once the moment has come.
extern "C" fn is_due(_: u32, due_ns: *const u64) -> i64 {
    // SAFETY: what was handed to the loop.
    i64::from(unsafe { bpf_ktime_get_ns() >= *due_ns })
}

/// Sends the frame off.
#[inline(always)]
fn redirect(run: &mut Run, slot: Slot) -> u32 {
    let side = (slot.side & 1) as usize;
    run.sent[side] += 1;
    run.bytes[side] += u64::from(slot.len);
    LINKS.redirect(side as u32, 0).unwrap_or(XDP_ABORTED)
}

/// Copies the frame of `slot` over that of the context.
#[inline(always)]
fn make(ctx: *mut xdp_md, slot: Slot, initial: u32) -> bool {
    let Some(chunk) = ARENA.get_ptr(slot.chunk()) else { return false };
    let change = i32::from(slot.len) - initial as i32;
    // SAFETY: the program's own context; whatever pointers into the packet there were are not used again.
    if change != 0 && unsafe { bpf_xdp_adjust_tail(ctx, change) } != 0 {
        return false;
    }
    let len = one_to::<{ LARGEST as u32 }>(u64::from(slot.len));
    // SAFETY: the offset is below a chunk's size, and the slack behind it is as long as the longest frame.
    unsafe { bpf_xdp_store_bytes(ctx, 0, chunk.byte_add(slot.offset() as usize).cast_mut().cast::<c_void>(), len) == 0 }
}

/// Counts a frame. One NAPI instance takes in a side's frames, so nobody else advances the counter.
#[inline(always)]
fn count(ctx: *mut xdp_md, index: usize) -> Option<&'static mut Meter> {
    let meter = SEEN.get_ptr_mut(index as u32)?;
    // SAFETY: a map's value, and the context of the running program.
    let (meter, len) = unsafe { (&mut *meter, ((*ctx).data_end - (*ctx).data) & 0xffff) };
    meter.bytes += u64::from(len);
    // SAFETY: as above; volatile, because userspace reads it meanwhile.
    unsafe { (&raw mut meter.frames).write_volatile(meter.frames + 1) };
    Some(meter)
}

/// Where the device under test takes frames in: counts, and goes on to the program under test, if there is one.
#[inline(always)]
fn gate(ctx: XdpContext, side: usize) -> u32 {
    count(ctx.ctx, side);
    // SAFETY: the map holds XDP programs only; without one the call returns and the packet passes.
    unsafe { CHAIN.tail_call(&ctx, side as u32) };
    XDP_PASS
}

/// Towards the client.
#[xdp]
pub fn gate_client(ctx: XdpContext) -> u32 {
    gate(ctx, 0)
}

/// Towards the server.
#[xdp]
pub fn gate_server(ctx: XdpContext) -> u32 {
    gate(ctx, 1)
}

/// As `gate_client`, for programs under test that take fragmented frames.
#[xdp(frags)]
pub fn gate_client_frags(ctx: XdpContext) -> u32 {
    gate(ctx, 0)
}

/// As `gate_server`, for programs under test that take fragmented frames.
#[xdp(frags)]
pub fn gate_server_frags(ctx: XdpContext) -> u32 {
    gate(ctx, 1)
}

/// At a far end: counts and swallows, so that its own stack never answers.
#[xdp]
pub fn sink_client(ctx: XdpContext) -> u32 {
    let time = if NOTE_TIMES.load() == 0 {
        0
    } else {
        // SAFETY: no precondition.
        unsafe { bpf_ktime_get_ns() }
    };
    let Some(meter) = count(ctx.ctx, FAR) else { return XDP_DROP };
    if NOTE_TIMES.load() != 0
        && meter.frames <= u64::from(TIMES_LEN.load())
        && let Some(at) = TIMES.get_ptr_mut((meter.frames - 1) as u32)
    {
        // SAFETY: a map's value.
        unsafe { *at = time };
    }
    if SEQUENCE_AT.load() != 0 {
        check_order(&ctx, meter);
    }
    XDP_DROP
}

/// The server's.
#[xdp]
pub fn sink_server(ctx: XdpContext) -> u32 {
    count(ctx.ctx, FAR + 1);
    XDP_DROP
}

#[inline(always)]
fn check_order(ctx: &XdpContext, meter: &mut Meter) {
    let at = ctx.data() + SEQUENCE_AT.load() as usize;
    if at + 4 > ctx.data_end() {
        meter.disordered += 1;
        return;
    }
    // SAFETY: within the frame, by the check above.
    let number = u64::from(u32::from_be_bytes(unsafe { (at as *const [u8; 4]).read_unaligned() }));
    meter.disordered += u64::from(number != meter.expected);
    let next = number + 1;
    meter.expected = if next >= SEQUENCE_END.load() { 0 } else { next };
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

//! The lab's own object in wire mode: announces, stamps and follows every packet through the device under test, and
//! counts what arrives at the far ends. See `bpflab_programs::ledger` for how a packet is recognised.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros repeat each documented function without its documentation")]

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::btf_maps::{Array, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::helpers::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_xdp_adjust_meta, generated,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint, classifier, xdp};
use aya_ebpf::programs::{BtfTracePointContext, TcContext, XdpContext};
use bpflab_programs::bound::one_to;
use bpflab_programs::clock::MMAPABLE;
use bpflab_programs::ledger::{
    Arrival, Counters, Fate, LEFT_CLIENT, LEFT_SERVER, LINEAR_BYTES, ORDERS_PER_SIDE, Offsets, Order, PRINT_BYTES,
    Place, RECORD_BYTES, SIDES, SLOTS, mark, print_word, tag,
};
use bpflab_programs::stamp::Stamp;

/// Not 0: frames that arrive at the far ends are handed to userspace.
#[unsafe(no_mangle)]
static RECORD: Global<u32> = Global::new(0);
/// Field offsets of the running kernel.
#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets {
    mark: 0,
    dev: 0,
    head: 0,
    end: 0,
    mac_header: 0,
    meta_len: 0,
    ifindex: 0,
    net: 0,
    inum: 0,
    has_reason: 0,
});

/// Where the device under test is.
#[btf_map]
static PLACE: Array<Place, 1, MMAPABLE> = Array::new();
/// What the injector announces, a ring of `ORDERS_PER_SIDE` per side.
#[btf_map]
static ORDERS: Array<Order, { SIDES * ORDERS_PER_SIDE }, MMAPABLE> = Array::new();
/// How many orders each side has been given.
#[btf_map]
static ANNOUNCED: Array<u64, SIDES, MMAPABLE> = Array::new();
/// How far each packet came, by slot.
#[btf_map]
static FATES: Array<Fate, SLOTS, MMAPABLE> = Array::new();
/// Counters per side.
#[btf_map]
static COUNTERS: Array<Counters, SIDES, MMAPABLE> = Array::new();
/// Packets that the device under test made itself and sent out, per side. Any CPU may send.
#[btf_map]
static GENERATED: PerCpuArray<u64, SIDES> = PerCpuArray::new();
/// The XDP program under test of each side.
#[btf_map]
static CHAIN: ProgramArray<SIDES> = ProgramArray::new();
/// Frames at the far ends. Sized at load; frames that find it full are counted in `Counters::unrecorded`.
#[btf_map]
static ARRIVED: RingBuf<Arrival, 4096> = RingBuf::new();

/// Root XDP program at both interfaces of the device under test: recognises the packet, stamps it, and goes on to the
/// program under test, if there is one.
#[xdp]
pub fn ledger_xdp(ctx: XdpContext) -> u32 {
    let Some(side) = recognise(ctx.ctx) else { return XDP_PASS };
    // SAFETY: the map holds XDP programs only; without one the call returns and the packet passes.
    unsafe { CHAIN.tail_call(&ctx, side) };
    XDP_PASS
}

/// As `ledger_xdp`, for programs under test that take fragmented frames: the kernel lets only a program of the same
/// kind call them (Linux 5.18).
#[xdp(frags)]
pub fn ledger_xdp_frags(ctx: XdpContext) -> u32 {
    let Some(side) = recognise(ctx.ctx) else { return XDP_PASS };
    // SAFETY: as above.
    unsafe { CHAIN.tail_call(&ctx, side) };
    XDP_PASS
}

/// The side that the packet came from; it is stamped if it is one that was announced there.
#[inline(always)]
fn recognise(ctx: *mut xdp_md) -> Option<u32> {
    // SAFETY: the context of the running program.
    let side = side(unsafe { (*ctx).ingress_ifindex })?;
    note(ctx, side);
    Some(side)
}

#[inline(always)]
fn note(ctx: *mut xdp_md, side: u32) {
    let (Some(counters), Some(announced)) = (COUNTERS.get_ptr_mut(side), ANNOUNCED.get_ptr(side)) else { return };
    // SAFETY: map values live as long as the program; `ANNOUNCED` is written by userspace, hence volatile. A side's
    // packets are all handled by one NAPI instance, so nobody else advances the counter.
    unsafe {
        let number = (*counters).xdp;
        if number < announced.read_volatile() {
            let index = side * ORDERS_PER_SIDE as u32 + (number as u32 & (ORDERS_PER_SIDE as u32 - 1));
            if let Some(order) = ORDERS.get(index)
                && is_ordered(ctx, order)
            {
                if !stamp(ctx, order) {
                    (*counters).unstamped += 1;
                }
                if let Some(fate) = FATES.get_ptr_mut(order.slot) {
                    (*fate).seen_xdp = 1;
                }
                (*counters).slot = order.slot;
                (*counters).cpus |= 1 << (bpf_get_smp_processor_id() & 63);
                (&raw mut (*counters).xdp).write_volatile(number + 1);
                return;
            }
        }
        (*counters).foreign += 1;
    }
}

/// Whether the packet is the one that `order` announces.
#[inline(always)]
fn is_ordered(ctx: *mut xdp_md, order: &Order) -> bool {
    // SAFETY: the context of the running program.
    let (data, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    let mut print = 0;
    let mut offset = 0;
    while offset < PRINT_BYTES {
        if data + offset + 8 > end {
            break;
        }
        // SAFETY: within the packet, by the check above.
        print = print_word(print, unsafe { ((data + offset) as *const u64).read_unaligned() });
        offset += 8;
    }
    // Of a frame of several pages only the first is visible; the print covers it.
    let length = (end - data) & 0xffff;
    print == order.print && (length == order.len as usize || order.len as usize > LINEAR_BYTES)
}

/// Writes the stamp in front of the packet.
#[inline(always)]
fn stamp(ctx: *mut xdp_md, order: &Order) -> bool {
    // SAFETY: the context of the running program; the helper checks the room.
    if unsafe { bpf_xdp_adjust_meta(ctx, -(size_of::<Stamp>() as i32)) } != 0 {
        return false;
    }
    // SAFETY: the context of the running program.
    let (meta, data) = unsafe { ((*ctx).data_meta as usize, (*ctx).data as usize) };
    if meta + size_of::<Stamp>() > data {
        return false;
    }
    let stamp = Stamp { magic: Stamp::MAGIC, slot: order.slot, time_ns: order.time_ns };
    // SAFETY: the bound above covers the stamp; metadata is 4-byte aligned only.
    unsafe { (meta as *mut Stamp).write_unaligned(stamp) };
    true
}

/// First tc program at ingress: takes the slot from the stamp into `skb->mark`.
#[classifier]
pub fn ledger_first(ctx: TcContext) -> i32 {
    if let Some(slot) = stamped_slot(ctx.skb.skb)
        && let (Some(fate), Some(place)) = (FATES.get_ptr_mut(slot), PLACE.get(0))
    {
        // SAFETY: a map value and the context of the running program.
        unsafe {
            (*fate).seen_tc = 1;
            (*ctx.skb.skb).mark = mark(tag(place.netns), slot);
        }
    }
    NEXT
}

/// Follows each tc program at ingress: that one let the packet go on.
#[classifier]
pub fn ledger_step(ctx: TcContext) -> i32 {
    // SAFETY: the context of the running program.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if let Some(fate) = slot_of(mark).and_then(|slot| FATES.get_ptr_mut(slot)) {
        // SAFETY: a map value.
        unsafe { (*fate).tc_passed += 1 };
    } else if let Some(fate) = stamped_slot(ctx.skb.skb).and_then(|slot| FATES.get_ptr_mut(slot)) {
        // SAFETY: a map value. The mark belongs to the program under test now: it is left alone.
        unsafe {
            (*fate).tc_passed += 1;
            (*fate).remarked = 1;
        }
    }
    NEXT
}

/// First tc program at egress; attached only where others follow.
#[classifier]
pub fn ledger_exit(ctx: TcContext) -> i32 {
    // SAFETY: the context of the running program.
    let (mark, ifindex) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).ifindex) };
    if let Some(side) = side(ifindex)
        && let Some(fate) = slot_of(mark).and_then(|slot| FATES.get_ptr_mut(slot))
    {
        // SAFETY: a map value.
        unsafe { (*fate).seen_egress |= direction(side) };
    }
    NEXT
}

/// Follows each tc program at egress.
#[classifier]
pub fn ledger_egress_step(ctx: TcContext) -> i32 {
    // SAFETY: the context of the running program.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if let Some(fate) = slot_of(mark).and_then(|slot| FATES.get_ptr_mut(slot)) {
        // SAFETY: a map value.
        unsafe { (*fate).egress_passed += 1 };
    }
    NEXT
}

/// Last tc program at egress: the packet leaves the device under test.
#[classifier]
pub fn ledger_out(ctx: TcContext) -> i32 {
    // SAFETY: the context of the running program.
    let (mark, ifindex) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).ifindex) };
    let Some(side) = side(ifindex) else { return NEXT };
    if let Some(fate) = slot_of(mark).and_then(|slot| FATES.get_ptr_mut(slot)) {
        // SAFETY: a map value.
        unsafe { (*fate).left |= direction(side) };
    } else if let Some(generated) = GENERATED.get_ptr_mut(side) {
        // SAFETY: this CPU's value, and tc runs with softirqs off.
        unsafe { *generated += 1 };
    }
    NEXT
}

/// A packet is handed to its device. Attached only where tc egress programs are under test: one that returns
/// `TC_ACT_OK` ends their chain before `ledger_out`, and a copy that the host takes in looks like a stolen packet.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn ledger_xmit(ctx: BtfTracePointContext) -> i32 {
    if let Some(slot) = marked(ctx.arg(0), &OFFSETS.load())
        && let Some(side) = read(ctx.arg(1), OFFSETS.load().ifindex).and_then(side)
        && let Some(fate) = FATES.get_ptr_mut(slot)
    {
        // SAFETY: a map value.
        unsafe { (*fate).left |= direction(side) };
    }
    0
}

/// The kernel gives a buffer up.
#[btf_tracepoint(function = "kfree_skb")]
pub fn ledger_kfree(ctx: BtfTracePointContext) -> i32 {
    let offsets = OFFSETS.load();
    let skb: *const u8 = ctx.arg(0);
    let location: u64 = ctx.arg(1);
    // Pruned by the verifier where the argument does not exist: the global is constant once loaded.
    let reason: u32 = if offsets.has_reason != 0 { ctx.arg(2) } else { 0 };
    match marked(skb, &offsets) {
        Some(slot) => dropped(slot, reason, location),
        None => match early(skb, &offsets) {
            Some(Early::Passed(slot)) => dropped(slot, reason, location),
            Some(Early::Ended(slot)) => ended(slot, XDP_DROP),
            None => {}
        },
    }
    0
}

/// The kernel is done with a buffer.
#[btf_tracepoint(function = "consume_skb")]
pub fn ledger_consume(ctx: BtfTracePointContext) -> i32 {
    let offsets = OFFSETS.load();
    if let Some(fate) = marked(ctx.arg(0), &offsets).and_then(|slot| FATES.get_ptr_mut(slot)) {
        // SAFETY: a map value.
        unsafe { (*fate).consumed = 1 };
    }
    0
}

/// A driver met `XDP_ABORTED`, an unknown verdict, or a packet that it could not send back. It says so right after the
/// program's return, so the packet is the one that XDP saw last on that interface.
#[btf_tracepoint(function = "xdp_exception")]
pub fn ledger_exception(ctx: BtfTracePointContext) -> i32 {
    let verdict: u32 = ctx.arg(2);
    if let Some(slot) = busy_slot(ctx.arg(0)) {
        ended(slot, if verdict > XDP_REDIRECT { XDP_ABORTED } else { verdict });
    }
    0
}

/// A driver redirects a packet; again the one that XDP saw last.
#[btf_tracepoint(function = "xdp_redirect")]
pub fn ledger_redirect(ctx: BtfTracePointContext) -> i32 {
    if let Some(slot) = busy_slot(ctx.arg(0)) {
        ended(slot, XDP_REDIRECT);
    }
    0
}

/// A driver could not redirect a packet.
#[btf_tracepoint(function = "xdp_redirect_err")]
pub fn ledger_redirect_err(ctx: BtfTracePointContext) -> i32 {
    if let Some(slot) = busy_slot(ctx.arg(0)) {
        ended(slot, XDP_REDIRECT);
    }
    0
}

#[inline(always)]
fn dropped(slot: u32, reason: u32, location: u64) {
    if let Some(fate) = FATES.get_ptr_mut(slot) {
        // SAFETY: a map value; `dropped` is stored last, because userspace reads the others once it is set.
        unsafe {
            if (*fate).dropped == 0 {
                (&raw mut (*fate).reason).write_volatile(reason);
                (&raw mut (*fate).location).write_volatile(location);
                (&raw mut (*fate).dropped).write_volatile(1);
            }
        }
    }
}

/// Notes how XDP ended a packet. The first to know is right: the buffer of an aborted packet is freed like a dropped
/// one's, afterwards.
#[inline(always)]
fn ended(slot: u32, verdict: u32) {
    if let Some(fate) = FATES.get_ptr_mut(slot) {
        // SAFETY: a map value.
        unsafe {
            if (*fate).xdp_verdict == 0 {
                (*fate).xdp_verdict = verdict as u8 + 1;
            }
        }
    }
}

/// The slot that XDP is busy with on a device, if that is one of the device under test's.
#[inline(always)]
fn busy_slot(dev: *const u8) -> Option<u32> {
    let offsets = OFFSETS.load();
    if netns(dev, &offsets)? != PLACE.get(0)?.netns {
        return None;
    }
    let counters = COUNTERS.get(side(read(dev, offsets.ifindex)?)?)?;
    Some(counters.slot)
}

/// The inode number of a network device's namespace.
#[inline(always)]
fn netns(dev: *const u8, offsets: &Offsets) -> Option<u32> {
    let net: usize = read(dev, offsets.net)?;
    read(net as *const u8, offsets.inum)
}

/// The slot of a marked buffer in the device under test.
#[inline(always)]
fn marked(skb: *const u8, offsets: &Offsets) -> Option<u32> {
    let slot = slot_of(read(skb, offsets.mark)?)?;
    let dev: usize = read(skb, offsets.dev)?;
    let place = PLACE.get(0)?;
    match netns(dev as *const u8, offsets) {
        Some(netns) if netns != place.netns => None,
        // A buffer in a socket's queue has no device (its field holds other things); then the mark alone must do.
        _ => Some(slot),
    }
}

/// A packet whose buffer is freed before tc could mark it.
enum Early {
    /// XDP let it pass.
    Passed(u32),
    /// XDP did not.
    Ended(u32),
}

/// Recognises an unmarked buffer by the stamp in front of its Ethernet header, where XDP left it
/// (`skb_metadata_end`, include/linux/skbuff.h). The kernel sets the metadata's length only once XDP has let the packet
/// pass.
#[inline(always)]
fn early(skb: *const u8, offsets: &Offsets) -> Option<Early> {
    let dev: usize = read(skb, offsets.dev)?;
    if netns(dev as *const u8, offsets)? != PLACE.get(0)?.netns {
        return None;
    }
    let head = read::<usize>(skb, offsets.head)? as *const u8;
    let mac_header = u32::from(read::<u16>(skb, offsets.mac_header)?);
    if mac_header < size_of::<Stamp>() as u32 {
        return None;
    }
    let stamp: Stamp = read(head, mac_header - size_of::<Stamp>() as u32)?;
    if stamp.magic != Stamp::MAGIC {
        return None;
    }
    let end: u32 = read(skb, offsets.end)?;
    let meta_len: u8 = read(head.wrapping_add(end as usize), offsets.meta_len)?;
    Some(if meta_len == 0 { Early::Ended(stamp.slot) } else { Early::Passed(stamp.slot) })
}

/// Reads a kernel structure's field.
#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper tolerates any address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()) }.ok()
}

/// Far end of the client's side: counts and swallows, so that the client's own stack never answers.
#[xdp]
pub fn sink_client(ctx: XdpContext) -> u32 {
    sink(ctx.ctx, 0);
    XDP_DROP
}

/// Far end of the server's side.
#[xdp]
pub fn sink_server(ctx: XdpContext) -> u32 {
    sink(ctx.ctx, 1);
    XDP_DROP
}

#[inline(always)]
fn sink(ctx: *mut xdp_md, side: u32) {
    // SAFETY: the context of the running program.
    let length = unsafe { ((*ctx).data_end as usize - (*ctx).data as usize) & 0xffff };
    let Some(counters) = COUNTERS.get_ptr_mut(side) else { return };
    // SAFETY: a map value; one NAPI instance per side.
    unsafe {
        if RECORD.load() != 0 && !record(ctx, side, length) {
            (*counters).unrecorded += 1;
        }
        (*counters).arrived_bytes += length as u64;
        (&raw mut (*counters).arrived).write_volatile((*counters).arrived + 1);
    }
}

#[inline(always)]
fn record(ctx: *mut xdp_md, side: u32, length: usize) -> bool {
    // The size of a ring entry must be a constant: a few classes keep short frames short.
    if length <= 128 {
        record_as::<128, 128>(ctx, side, length)
    } else if length <= 512 {
        record_as::<512, 512>(ctx, side, length)
    } else if length <= 1536 {
        record_as::<1536, 1536>(ctx, side, length)
    } else {
        record_as::<RECORD_BYTES, { RECORD_BYTES as u32 }>(ctx, side, length)
    }
}

#[repr(C)]
struct Recorded<const N: usize> {
    arrival: Arrival,
    bytes: [u8; N],
}

#[inline(always)]
fn record_as<const N: usize, const SIZE: u32>(ctx: *mut xdp_md, side: u32, length: usize) -> bool {
    let Some(mut entry) = ARRIVED.reserve_untyped::<Recorded<N>>(0) else { return false };
    let to = entry.as_mut_ptr();
    // No frame is shorter than its Ethernet header; of one longer than the room, the beginning is kept.
    let captured = one_to::<SIZE>(if length < N { length } else { N } as u64);
    // SAFETY: the entry is reserved with its full size, of which `captured` is no more than the room for bytes. The helper
    // checks the addresses that it reads; those of the frame are in one piece up to `data_end`.
    unsafe {
        // One call. Bounds checks for each word would be 120,000 steps for the verifier; bpf_xdp_load_bytes came in 5.18.
        let data = (*ctx).data as usize as *const c_void;
        generated::bpf_probe_read_kernel((&raw mut (*to).bytes).cast(), captured, data);
        (*to).arrival = Arrival { time_ns: bpf_ktime_get_ns(), len: length as u32, captured, side, reserved: 0 };
    }
    entry.submit(0);
    true
}

/// `TC_ACT_UNSPEC`: no verdict, the next program decides.
const NEXT: i32 = -1;

/// The bit of a side in `Fate::left`.
#[inline(always)]
fn direction(side: u32) -> u8 {
    if side == 0 { LEFT_CLIENT } else { LEFT_SERVER }
}

/// The side of an interface of the device under test.
#[inline(always)]
fn side(ifindex: u32) -> Option<u32> {
    let place = PLACE.get(0)?;
    if ifindex == place.client {
        Some(0)
    } else if ifindex == place.server {
        Some(1)
    } else {
        None
    }
}

/// The slot in a mark of this lab's.
#[inline(always)]
fn slot_of(mark: u32) -> Option<u32> {
    (mark >> 16 == tag(PLACE.get(0)?.netns)).then_some(mark & 0xffff)
}

/// The slot in the packet's stamp. A program under test may have put metadata of its own in front of it.
#[inline(always)]
fn stamped_slot(ctx: *const __sk_buff) -> Option<u32> {
    // SAFETY: the context of the running program.
    let (meta, data) = unsafe { ((*ctx).data_meta as usize, (*ctx).data as usize) };
    let mut offset = 0;
    while offset <= 16 {
        if meta + offset + size_of::<Stamp>() > data {
            return None;
        }
        // SAFETY: within the metadata, by the check above.
        let stamp = unsafe { ((meta + offset) as *const Stamp).read_unaligned() };
        if stamp.magic == Stamp::MAGIC {
            return Some(stamp.slot);
        }
        offset += 4;
    }
    None
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

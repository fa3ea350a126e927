//! TCP connections as an observer on the path sees them, and the state changes of the kernel's own sockets.
//!
//! The rules are in `bpflab_programs::tcp_state`; everything is decided here, per segment, so that a replay of any
//! length needs no more memory than its connections.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use bpflab_programs::packet::{
    ACK, BAD_DATA_OFFSET, BAD_IHL, BAD_IPV4_CHECKSUM, BAD_VERSION, FAMILY_IPV4, FAMILY_IPV6, FIN, FRAGMENT_LATER,
    FlowKey, Packet, RST, SYN,
};
use bpflab_programs::tcp_state::{
    Connection, EVENT_BYTES, Entry, LOST_CONNECTIONS, LOST_EVENTS, LOST_HOLES, LOST_KINDS, MAX_CONNECTIONS, Totals,
};
use bpflab_programs::{clock, parse::parse_skb};
use segment::{Segment, masked};

#[path = "tcp_state/acknowledgement.rs"]
mod acknowledgement;
#[path = "tcp_state/handshake.rs"]
mod handshake;
#[path = "tcp_state/segment.rs"]
mod segment;
#[path = "tcp_state/sequence.rs"]
mod sequence;
#[path = "tcp_state/sockets.rs"]
mod sockets;

clock!();

/// Do not allocate all entries in advance.
const NO_PREALLOC: usize = 1;
/// IP protocol of TCP.
const TCP: u8 = 6;
/// A segment with one of these faults is dropped before it can change a connection.
const UNUSABLE: u32 = BAD_IHL | BAD_IPV4_CHECKSUM | BAD_DATA_OFFSET | BAD_VERSION;

/// Connections under way, and finished ones whose ports were not used again.
#[btf_map]
static CONNECTIONS: HashMap<FlowKey, Entry, MAX_CONNECTIONS, NO_PREALLOC> = HashMap::new();
/// Finished connections whose ports were used again, and the kernel's transitions.
#[btf_map]
static EVENTS: RingBuf<Connection, EVENT_BYTES> = RingBuf::new();
/// Segments by flag.
#[btf_map]
static TOTALS: PerCpuArray<Totals, 1> = PerCpuArray::new();
/// What was not seen for lack of room, by `LOST_*`.
#[btf_map]
static LOST: PerCpuArray<u64, LOST_KINDS> = PerCpuArray::new();

/// What a new connection starts from; too large for the stack.
// SAFETY: plain integers, for which all zeros is a value.
static EMPTY: Entry = unsafe { core::mem::zeroed() };

/// Takes one segment into account and leaves the verdict to others.
#[classifier]
pub fn tcp_state_ingress(ctx: TcContext) -> i32 {
    let mut packet = Packet::default();
    parse_skb(ctx.skb.skb, &mut packet);
    let ip = packet.family == FAMILY_IPV4 || packet.family == FAMILY_IPV6;
    if ip
        && packet.proto == TCP
        && packet.tcp_header_len >= 20
        && packet.fragment != FRAGMENT_LATER
        && packet.malformed & UNUSABLE == 0
    {
        observe(&ctx, &packet);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn observe(ctx: &TcContext, packet: &Packet) {
    count(packet.tcp_flags);
    let now = clock::now_skb(ctx.skb.skb, CLOCK_SOURCE.load(), &CLOCK);
    let segment = Segment::new(ctx, packet, now);
    let (key, direction) = packet.flow();
    let direction = masked::<1>(segment.settle(direction as u64));
    let Some(entry) = entry(&key, direction, &segment) else {
        lost(LOST_CONNECTIONS, 1);
        return;
    };
    // SAFETY: a pointer to a map value, valid until the program ends. All of it but the lock is accessed only between
    // these two calls; the helpers take the lock's address, so no access moves past them.
    let forgotten = unsafe {
        let lock = (&raw mut (*entry).lock).cast();
        bpf_spin_lock(lock);
        let forgotten = handshake::track(&mut (*entry).connection, &key, direction, &segment);
        bpf_spin_unlock(lock);
        forgotten
    };
    if forgotten != 0 {
        lost(LOST_HOLES, forgotten.into());
    }
}

/// The entry of the segment's connection, made if there is none; nothing if there is no room.
#[inline(always)]
fn entry(key: &FlowKey, direction: usize, segment: &Segment) -> Option<*mut Entry> {
    let mut flags = BPF_NOEXIST;
    if let Some(entry) = CONNECTIONS.get_ptr_mut(key) {
        if segment.flags & (SYN | ACK | RST) != SYN {
            return Some(entry);
        }
        // SAFETY: a shared read without the lock: the decision concerns a connection that is over.
        let old = unsafe { &(*entry).connection };
        if !handshake::starts_new(old, direction, segment) {
            return Some(entry);
        }
        if EVENTS.output(old, 0).is_err() {
            lost(LOST_EVENTS, 1);
        }
        flags = BPF_ANY;
    }
    // Another CPU may have made the entry in the meantime: whatever the result, what stands there now is used.
    let _ = CONNECTIONS.insert(key, &EMPTY, flags.into());
    CONNECTIONS.get_ptr_mut(key)
}

#[inline(always)]
fn count(flags: u8) {
    if flags & (SYN | RST | FIN) == 0 {
        return;
    }
    if let Some(totals) = TOTALS.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        let totals = unsafe { &mut *totals };
        match flags & (SYN | ACK) {
            SYN => totals.syn += 1,
            flags if flags & SYN != 0 => totals.syn_ack += 1,
            _ => {}
        }
        totals.rst += u64::from(flags & RST != 0);
        totals.fin += u64::from(flags & FIN != 0);
    }
}

#[inline(always)]
fn lost(kind: u32, count: u64) {
    if let Some(lost) = LOST.get_ptr_mut(kind) {
        // SAFETY: this CPU's own element.
        unsafe { *lost += count };
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

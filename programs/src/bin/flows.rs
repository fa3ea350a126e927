//! Per-flow accounting: packets and bytes per direction, malformed packets, and what each hook saw.
//!
//! One hook accounts: XDP, or tc ingress where the topology has no XDP. The others only count packets and bytes, so
//! that a difference between hooks shows where packets went.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]
#![allow(clippy::needless_borrows_for_generic_args, reason = "passing keys by value copies them for every call")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use bpflab_programs::atomic::{add_u32, add_u64};
use bpflab_programs::bound::zero;
use bpflab_programs::clock::{now_skb, now_xdp};
use bpflab_programs::flows::{
    Flow, FragmentKey, FragmentOwner, HOOK_TC_EGRESS, HOOK_TC_INGRESS, HOOK_XDP, HOOKS as HOOK_COUNT, HookCount,
    MAX_FLOWS, MAX_FRAGMENTED,
};
use bpflab_programs::packet::{
    B_TO_A, BAD_KINDS, FAMILY_IPV6, FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE, FlowKey, Packet,
};
use bpflab_programs::parse::{parse_skb, parse_xdp};

bpflab_programs::clock!();

/// 1: malformed packets are dropped by the hook that accounts.
#[unsafe(no_mangle)]
static DROP_MALFORMED: Global<u32> = Global::new(0);
/// 1: tc ingress accounts, because XDP does not run.
#[unsafe(no_mangle)]
static ACCOUNT_AT_TC: Global<u32> = Global::new(0);

/// All flows. Memory is taken per flow, not for the most there may be: a short run then starts and ends at once.
#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, MAX_FLOWS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// Packets that could not be accounted because `FLOWS` was full.
#[btf_map]
static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Malformed packets by bit number of `BAD_*`.
#[btf_map]
static MALFORMED: PerCpuArray<u64, BAD_KINDS> = PerCpuArray::new();
/// What each hook saw, by `HOOK_*`.
#[btf_map]
static HOOKS: PerCpuArray<HookCount, HOOK_COUNT> = PerCpuArray::new();
/// Flows of fragmented datagrams, for the fragments that have no ports.
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentOwner, MAX_FRAGMENTED> = LruHashMap::new();

/// Accounts each frame that arrives.
#[xdp]
pub fn flows_xdp(ctx: XdpContext) -> u32 {
    let mut packet = Packet::default();
    parse_xdp(ctx.ctx, &mut packet);
    count(HOOK_XDP, packet.frame_len);
    account(&packet, now_xdp(ctx.ctx, CLOCK_SOURCE.load(), &CLOCK));
    if packet.malformed != 0 && DROP_MALFORMED.load() == 1 { XDP_DROP } else { XDP_PASS }
}

/// Counts what XDP let pass, or accounts in its place.
#[classifier]
pub fn flows_ingress(ctx: TcContext) -> i32 {
    count(HOOK_TC_INGRESS, frame_len(&ctx));
    if ACCOUNT_AT_TC.load() == 1 {
        let mut packet = Packet::default();
        parse_skb(ctx.skb.skb, &mut packet);
        account(&packet, now_skb(ctx.skb.skb, CLOCK_SOURCE.load(), &CLOCK));
        if packet.malformed != 0 && DROP_MALFORMED.load() == 1 {
            return TC_ACT_SHOT;
        }
    }
    // Not TC_ACT_OK, which would end the chain of filters.
    TC_ACT_UNSPEC
}

/// Counts what leaves.
#[classifier]
pub fn flows_egress(ctx: TcContext) -> i32 {
    count(HOOK_TC_EGRESS, frame_len(&ctx));
    TC_ACT_UNSPEC
}

/// Bytes of the frame on the wire: the kernel keeps the outer VLAN tag beside the data.
#[inline(always)]
fn frame_len(ctx: &TcContext) -> u32 {
    // SAFETY: the context of the running program.
    let (len, tagged) = unsafe { ((*ctx.skb.skb).len, (*ctx.skb.skb).vlan_present) };
    if tagged != 0 { len + 4 } else { len }
}

#[inline(always)]
fn count(hook: u32, bytes: u32) {
    if let Some(count) = HOOKS.get_ptr_mut(hook) {
        // SAFETY: this CPU's element; programs of one hook do not interrupt each other on a CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(bytes);
        }
    }
}

/// Adds one to this CPU's counter.
#[inline(always)]
fn increment<const N: usize>(counters: &PerCpuArray<u64, N>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: as in `count`.
        unsafe { *counter += 1 };
    }
}

/// Adds `packet` to its flow and to the counters of malformed packets.
#[inline(always)]
fn account(packet: &Packet, now: u64) {
    if packet.malformed != 0 {
        for bit in 0..BAD_KINDS as u32 {
            if packet.malformed >> bit & 1 != 0 {
                increment(&MALFORMED, bit);
            }
        }
    }
    let (mut key, mut direction) = packet.flow();
    if packet.fragment != FRAGMENT_NONE {
        owner(packet, &mut key, &mut direction);
    }
    let mut entry = FLOWS.get_ptr_mut(&key);
    if entry.is_none() {
        let zero = zero();
        let fresh = Flow {
            packets: [zero; 2],
            bytes: [zero; 2],
            first_ns: now,
            last_ns: zero,
            fragments: zero as u32,
            tcp_flags: [zero as u8; 2],
            encap: zero as u8,
            first_direction: direction as u8,
        };
        // Another CPU may have been faster: both then add to the entry that is there.
        let _ = FLOWS.insert(&key, &fresh, u64::from(BPF_NOEXIST));
        entry = FLOWS.get_ptr_mut(&key);
    }
    match entry {
        // SAFETY: an entry of the map; none is ever removed while programs run.
        Some(flow) => unsafe { add(flow, packet, direction, now) },
        None => increment(&LOST, 0),
    }
}

/// Notes the flow of a first fragment, and finds that of a later one. A later fragment that comes before the first, or
/// whose first fragment is forgotten, stays with the flow without ports.
#[inline(always)]
fn owner(packet: &Packet, key: &mut FlowKey, direction: &mut usize) {
    let datagram = FragmentKey {
        src: packet.src,
        dst: packet.dst,
        id: packet.fragment_id,
        vlan: packet.vlan,
        family: packet.family,
        proto: if packet.family == FAMILY_IPV6 { 0 } else { packet.proto },
    };
    if packet.fragment == FRAGMENT_FIRST {
        let _ = FRAGMENTS.insert(&datagram, &FragmentOwner { flow: *key, direction: *direction as u64 }, 0);
    } else if packet.fragment == FRAGMENT_LATER
        // SAFETY: copied at once; an entry evicted meanwhile could at worst name another datagram's flow.
        && let Some(found) = unsafe { FRAGMENTS.get(&datagram) }
    {
        *key = found.flow;
        *direction = found.direction as usize;
    }
}

/// Adds one packet to an entry that other CPUs may be adding to as well.
///
/// # Safety
/// `flow` points to an entry of `FLOWS`.
#[inline(always)]
unsafe fn add(flow: *mut Flow, packet: &Packet, direction: usize, now: u64) {
    // SAFETY: the caller's; counters are touched by atomic operations only.
    unsafe {
        let (packets, bytes, flags) = if direction == B_TO_A {
            (&raw mut (*flow).packets[1], &raw mut (*flow).bytes[1], &raw mut (*flow).tcp_flags[1])
        } else {
            (&raw mut (*flow).packets[0], &raw mut (*flow).bytes[0], &raw mut (*flow).tcp_flags[0])
        };
        add_u64(packets, 1);
        add_u64(bytes, u64::from(packet.frame_len));
        if packet.fragment != FRAGMENT_NONE {
            add_u32(&raw mut (*flow).fragments, 1);
        }
        // The rest is written without atomicity: two CPUs that see one flow at the same instant may lose a flag, and
        // leave the earlier of two times that are nanoseconds apart.
        if now > (*flow).last_ns {
            (*flow).last_ns = now;
        }
        if packet.tcp_flags & !*flags != 0 {
            *flags |= packet.tcp_flags;
        }
        if packet.encap != 0 && (*flow).encap == 0 {
            (*flow).encap = packet.encap;
        }
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

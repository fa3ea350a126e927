//! Counts the packets that the kernel drops in the network namespaces of a run, and the ICMP errors that the device
//! under test sends.
//!
//! The tracepoint `skb:kfree_skb` has two arguments before 5.17, then the reason, then (6.11) the receiving socket.
//! An access to an absent argument is refused by the verifier, so each is behind a read-only flag, whose branch the
//! verifier prunes. Fields of kernel structs are read by helper at offsets that userspace takes from BTF.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, btf_tracepoint, classifier};
use aya_ebpf::programs::{BtfTracePointContext, TcContext};
use bpflab_programs::atomic::add_u64;
use bpflab_programs::bound::forget;
use bpflab_programs::drops::{
    AnswerKey, DropCount, DropKey, LOST_FULL, LOST_KINDS, LOST_UNATTRIBUTED, Layout, MAX_ANSWERS, MAX_DROPS, MAX_NETNS,
};
use bpflab_programs::packet::{FAMILY_IPV4, FAMILY_IPV6};
use dissect::{dissect, new_key};
use fields::{at, field, netns, pointer};

#[path = "drops/answer.rs"]
mod answer;
#[path = "drops/cause.rs"]
mod cause;
#[path = "drops/dissect.rs"]
mod dissect;
#[path = "drops/fields.rs"]
mod fields;

#[unsafe(no_mangle)]
static LAYOUT: Global<Layout> = Global::new(Layout {
    skb_head: 0,
    skb_data: 0,
    skb_tail: 0,
    skb_len: 0,
    skb_dev: 0,
    skb_sk: 0,
    skb_dst: 0,
    skb_mac_header: 0,
    skb_network_header: 0,
    skb_protocol: 0,
    skb_vlan_tci: 0,
    skb_vlan_present: 0,
    vlan_present_mask: 0,
    dev_net: 0,
    dev_ifindex: 0,
    sock_net: 0,
    dst_dev: 0,
    net_inum: 0,
});
/// Whether the tracepoint has a third argument, the reason.
#[unsafe(no_mangle)]
static HAS_REASON: Global<u32> = Global::new(0);
/// Whether it has a fourth, the receiving socket.
#[unsafe(no_mangle)]
static HAS_RX_SK: Global<u32> = Global::new(0);
/// The reasons that mean that a packet was not dropped: `SKB_NOT_DROPPED_YET` and `SKB_CONSUMED`.
#[unsafe(no_mangle)]
static NO_DROPS: Global<[u32; 2]> = Global::new([0, 0]);

/// Inode numbers of the namespaces to watch, each with the index of an interface there whose drops do not count, or 0:
/// that of a bridge without addresses, which hands copies of group frames to a stack that has no use for them.
#[btf_map]
static NETNS: HashMap<u32, u32, MAX_NETNS> = HashMap::new();
/// What was dropped.
#[btf_map]
static DROPS: HashMap<DropKey, DropCount, MAX_DROPS> = HashMap::new();
/// ICMP errors that were sent.
#[btf_map]
static ANSWERS: HashMap<AnswerKey, u64, MAX_ANSWERS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// What was not counted in `DROPS` and `ANSWERS`, by `LOST_*`.
#[btf_map]
static LOST: Array<u64, LOST_KINDS> = Array::new();

/// Accounts for one dropped packet.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let (skb, location) = (ctx.arg::<*const u8>(0), ctx.arg::<u64>(1));
    let has_reason = HAS_REASON.load() != 0;
    let mut reason = 0;
    let mut cause = 0;
    if has_reason {
        reason = ctx.arg::<u32>(2);
        let [not_dropped, consumed] = NO_DROPS.load();
        if reason == not_dropped || reason == consumed {
            return 0;
        }
    } else {
        cause = cause::of(skb);
    }
    let rx_sk = if HAS_RX_SK.load() != 0 { ctx.arg::<*const u8>(3) } else { core::ptr::null() };
    let layout = LAYOUT.load();
    let netns = forget(netns(skb, rx_sk, &layout).into(), location) as u32;
    if netns != 0 {
        let Some(silent) = NETNS.get_ptr(netns) else { return 0 };
        // SAFETY: an entry of the map; userspace writes it before anything is attached.
        let silent = unsafe { *silent };
        let device = pointer(field(skb, layout.skb_dev));
        if silent != 0 && at::<u32>(device.wrapping_add(layout.dev_ifindex as usize)) == silent {
            return 0;
        }
    }
    let mut key = new_key(location, reason, netns);
    let bytes = dissect(skb, &layout, &mut key);
    if netns != 0 {
        // What has neither ethertype nor IP header is no packet of a network: UNIX and netlink sockets use buffers too.
        if key.ethertype != 0 {
            key.cause = forget(cause.into(), location) as u8;
            count(&key, bytes);
            if !has_reason {
                cause::keep(&key, bytes);
            }
        }
    } else if key.family == FAMILY_IPV4 || key.family == FAMILY_IPV6 {
        lose(LOST_UNATTRIBUTED);
    }
    0
}

/// `sock_rcvqueue_full(sk, skb)`; attached where drops have no reasons, as the next one is.
#[btf_tracepoint(function = "sock_rcvqueue_full")]
pub fn queue_full(ctx: BtfTracePointContext) -> i32 {
    cause::refused(ctx.arg(1));
    0
}

/// `udp_fail_queue_rcv_skb(rc, sk)`.
#[btf_tracepoint(function = "udp_fail_queue_rcv_skb")]
pub fn udp_no_room(_ctx: BtfTracePointContext) -> i32 {
    cause::had_no_room();
    0
}

/// Looks for ICMP errors among what leaves the device under test.
#[classifier]
pub fn answers(ctx: TcContext) -> i32 {
    answer::look(&ctx);
    // Not TC_ACT_OK, which would end the chain of filters.
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(key: &DropKey, bytes: u64) {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if add(key, bytes, now) {
        return;
    }
    let first = DropCount { packets: 1, bytes, first_ns: now, last_ns: now };
    if DROPS.insert(key, &first, u64::from(BPF_NOEXIST)).is_err() && !add(key, bytes, now) {
        // Neither new nor there: no room.
        lose(LOST_FULL);
    }
}

/// Adds to an entry; false if there is none.
#[inline(always)]
fn add(key: &DropKey, bytes: u64, now: u64) -> bool {
    let Some(count) = DROPS.get_ptr_mut(key) else { return false };
    // SAFETY: the map's values are 8-byte aligned and live as long as the program; counters are only added to
    // atomically, and the time is one aligned store.
    unsafe {
        add_u64(&raw mut (*count).packets, 1);
        add_u64(&raw mut (*count).bytes, bytes);
        (*count).last_ns = now;
    }
    true
}

#[inline(always)]
fn lose(kind: u32) {
    if let Some(lost) = LOST.get_ptr_mut(kind) {
        // SAFETY: as in `add`.
        unsafe { add_u64(lost, 1) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

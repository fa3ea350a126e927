//! Times packets on their way through the kernel's receive path, from the driver to the application's read, in the
//! network namespaces of a run.
//!
//! The kernels that this object runs on do not have the same functions: a stage has a program for each kind of probe
//! (BTF-typed tracepoint, fentry, fexit, kprobe), and userspace attaches the first that the kernel takes and that a
//! packet has been seen to pass. All programs of a stage do the same. Fields of kernel structs are read by helper at
//! offsets that userspace takes from BTF.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::{btf_map, btf_tracepoint, fentry, fexit, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext};
use bpflab_programs::atomic::add_u64;
use bpflab_programs::latency::{
    CONTROLS, EVENT_BYTES, Event, Histogram, Journey, LOST_KINDS, Layout, MAX_FLOWS, MAX_NETNS, MAX_PACKETS,
    MAX_QUEUED, MAX_QUEUES, MAX_SOCKETS, MAX_TOTALS, Queue, QueueKey, QueuedKey, STAGE_DRIVER, STAGE_IP, STAGE_RECEIVE,
    STAGE_TRANSPORT, Socket, StepKey, point,
};

#[path = "latency/dissect.rs"]
mod dissect;
#[path = "latency/fields.rs"]
mod fields;
#[path = "latency/journey.rs"]
mod journey;
#[path = "latency/queue.rs"]
mod queue;
#[path = "latency/socket.rs"]
mod socket;

// SAFETY: plain integers, for which all zeros is a value.
#[unsafe(no_mangle)]
static LAYOUT: Global<Layout> = Global::new(unsafe { core::mem::zeroed() });
/// Bit `n` is set if stage `n` is to be timed.
#[unsafe(no_mangle)]
static STAGE_MASK: Global<u32> = Global::new(0);

/// Inode numbers of the namespaces to watch; the value is of no account.
#[btf_map]
static NETNS: HashMap<u32, u32, MAX_NETNS> = HashMap::new();
/// How the programs that are attached work together, by `CONTROL_*`.
#[btf_map]
static CONTROL: Array<u32, CONTROLS> = Array::new();
/// Packets seen at each place, by `point`: the proof that a probe fires.
#[btf_map]
static HITS: PerCpuArray<u64, { point::COUNT }> = PerCpuArray::new();
/// Packets between driver and socket, by the address of their `sk_buff`. Of many ends nothing is heard, so the oldest
/// give way.
#[btf_map]
static PACKETS: LruHashMap<u64, Journey, MAX_PACKETS> = LruHashMap::new();
/// Packets on sockets' queues.
#[btf_map]
static QUEUED: HashMap<QueuedKey, Journey, MAX_QUEUED> = HashMap::new();
/// Sockets by address.
#[btf_map]
static SOCKETS: LruHashMap<u64, Socket, MAX_SOCKETS> = LruHashMap::new();
/// Receive queues by local endpoint.
#[btf_map]
static QUEUES: HashMap<QueueKey, Queue, MAX_QUEUES> = HashMap::new();
/// Times by host, kind and step.
#[btf_map]
static TOTALS: PerCpuHashMap<StepKey, Histogram, MAX_TOTALS> = PerCpuHashMap::new();
/// Times by flow as well.
#[btf_map]
static FLOWS: HashMap<StepKey, Histogram, MAX_FLOWS> = HashMap::new();
/// Every single time.
#[btf_map]
static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
/// What was not counted, by `LOST_*`.
#[btf_map]
static LOST: Array<u64, LOST_KINDS> = Array::new();

fn lost(kind: u32) {
    if let Some(lost) = LOST.get_ptr_mut(kind) {
        // SAFETY: a map's value, 8-byte aligned, valid until the program ends.
        unsafe { add_u64(lost, 1) };
    }
}

fn hit(point: u32) {
    if let Some(hits) = HITS.get_ptr_mut(point) {
        // SAFETY: as in `lost`.
        unsafe { add_u64(hits, 1) };
    }
}

/// Programs of which the first argument is the buffer of a packet that enters the stack.
macro_rules! entrances {
    ($($name:ident $tracepoint:literal $stage:ident $point:ident;)+) => {$(
        #[btf_tracepoint(function = $tracepoint)]
        pub fn $name(ctx: BtfTracePointContext) -> i32 {
            journey::enter(ctx.arg::<*const u8>(0), $stage, point::$point);
            0
        }
    )+};
}

entrances! {
    napi_gro_receive "napi_gro_receive_entry" STAGE_DRIVER DRIVER;
    napi_gro_frags "napi_gro_frags_entry" STAGE_DRIVER DRIVER;
    netif_receive "netif_receive_skb_entry" STAGE_DRIVER DRIVER;
    netif_receive_list "netif_receive_skb_list_entry" STAGE_DRIVER DRIVER;
    netif_rx "netif_rx_entry" STAGE_DRIVER DRIVER;
    receive "netif_receive_skb" STAGE_RECEIVE RECEIVE;
}

/// Pairs of programs at functions whose first argument is the buffer of a packet under way.
macro_rules! passages {
    ($($fentry:ident $kprobe:ident $stage:ident $point:ident;)+) => {$(
        #[fentry]
        pub fn $fentry(ctx: FEntryContext) -> i32 {
            journey::pass(ctx.arg::<*const u8>(0), $stage, point::$point);
            0
        }

        #[kprobe]
        pub fn $kprobe(ctx: ProbeContext) -> u32 {
            if let Some(skb) = ctx.arg::<*const u8>(0) {
                journey::pass(skb, $stage, point::$point);
            }
            0
        }
    )+};
}

passages! {
    ip4_fentry ip4_kprobe STAGE_IP IP4;
    ip6_fentry ip6_kprobe STAGE_IP IP6;
    tcp4_fentry tcp4_kprobe STAGE_TRANSPORT TCP4;
    tcp6_fentry tcp6_kprobe STAGE_TRANSPORT TCP6;
    udp4_fentry udp4_kprobe STAGE_TRANSPORT UDP4;
    udp6_fentry udp6_kprobe STAGE_TRANSPORT UDP6;
}

/// `tcp_probe(sk, skb)`, at the start of `tcp_rcv_established`.
#[btf_tracepoint(function = "tcp_probe")]
pub fn segment(ctx: BtfTracePointContext) -> i32 {
    socket::segment(ctx.arg(0), ctx.arg(1), point::SEGMENT);
    0
}

/// `tcp_rcv_state_process(sk, skb)`.
#[fentry]
pub fn segment_fentry(ctx: FEntryContext) -> i32 {
    socket::segment(ctx.arg(0), ctx.arg(1), point::SEGMENT_STATE);
    0
}

/// As [`segment_fentry`].
#[kprobe]
pub fn segment_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        socket::segment(sk, skb, point::SEGMENT_STATE);
    }
    0
}

/// `sk_data_ready(sk)`, at the start of `sock_def_readable`.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn ready(ctx: BtfTracePointContext) -> i32 {
    socket::ready(ctx.arg(0));
    0
}

/// `sock_def_readable(sk)`.
#[fentry]
pub fn ready_fentry(ctx: FEntryContext) -> i32 {
    socket::ready(ctx.arg(0));
    0
}

/// As [`ready_fentry`].
#[kprobe]
pub fn ready_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg(0) {
        socket::ready(sk);
    }
    0
}

/// `__udp_enqueue_schedule_skb(sk, skb)`, whose result (behind the arguments) is 0 if the datagram is on the queue.
#[fexit]
pub fn udp_queued(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(2) == 0 {
        socket::datagram_queued(ctx.arg(0), ctx.arg::<*const u8>(1) as u64, point::UDP_QUEUED);
    }
    0
}

/// `skb_consume_udp(sk, skb, len)`, whose length is negative if the datagram was only looked at.
#[fentry]
pub fn udp_read_fentry(ctx: FEntryContext) -> i32 {
    if ctx.arg::<i32>(2) >= 0 {
        socket::datagram_read(ctx.arg::<*const u8>(1));
    }
    0
}

/// As [`udp_read_fentry`].
#[kprobe]
pub fn udp_read_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(len)) = (ctx.arg::<*const u8>(1), ctx.arg::<i32>(2))
        && len >= 0
    {
        socket::datagram_read(skb);
    }
    0
}

/// `sock_recv_length(sk, ret, flags)`.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn udp_read_length(ctx: BtfTracePointContext) -> i32 {
    /// `MSG_PEEK`.
    const PEEK: i32 = 2;
    if ctx.arg::<i32>(1) >= 0 && ctx.arg::<i32>(2) & PEEK == 0 {
        socket::oldest_datagram_read(ctx.arg(0));
    }
    0
}

/// `consume_skb(skb)`: of a datagram, the end of its read.
#[btf_tracepoint(function = "consume_skb")]
pub fn udp_read_consumed(ctx: BtfTracePointContext) -> i32 {
    socket::datagram_consumed(ctx.arg(0));
    0
}

/// `tcp_rcv_space_adjust(sk)`, after each copy to the application.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn tcp_read(ctx: BtfTracePointContext) -> i32 {
    socket::segments_read(ctx.arg(0));
    0
}

/// `kfree_skb(skb)`: a packet that nobody will read.
#[btf_tracepoint(function = "kfree_skb")]
pub fn freed(ctx: BtfTracePointContext) -> i32 {
    socket::forget_packet(ctx.arg(0));
    0
}

/// `inet_sock_set_state(sk, old, new)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state(ctx: BtfTracePointContext) -> i32 {
    /// `TCP_CLOSE`.
    const CLOSE: u32 = 7;
    if ctx.arg::<u32>(2) == CLOSE {
        socket::forget_socket(ctx.arg(0));
    }
    0
}

/// `udp_fail_queue_rcv_skb(rc, sk)`.
#[btf_tracepoint(function = "udp_fail_queue_rcv_skb")]
pub fn udp_refused(ctx: BtfTracePointContext) -> i32 {
    queue::refused(ctx.arg(1));
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

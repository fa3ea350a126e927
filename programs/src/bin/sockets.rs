//! What the kernel says of its own TCP sockets, in the network namespaces that are watched.
//!
//! All programs are at tracepoints and do the same: read the socket and note what it says. Fields are read by helper at
//! offsets that userspace takes from BTF. An object of its own, so that a kernel on which it does not load loses
//! nothing else.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]
#![allow(clippy::needless_borrows_for_generic_args, reason = "passing keys by value copies them for every call")]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use bpflab_programs::atomic::{add_u32, add_u64};
use bpflab_programs::bound::{forget, zero};
use bpflab_programs::sockets::{LOST_KINDS, Layout, MAX_NETNS, MAX_SOCKETS, Socket, SocketKey};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`; sockets of MPTCP and SCTP pass the same tracepoints.
const TCP: u16 = 6;

const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;

// SAFETY: plain integers, for which all zeros is a value.
#[unsafe(no_mangle)]
static LAYOUT: Global<Layout> = Global::new(unsafe { core::mem::zeroed() });

/// Network namespaces to look at, by inode number; the value is of no account.
#[btf_map]
static NETNS: HashMap<u32, u32, MAX_NETNS> = HashMap::new();
/// The sockets.
#[btf_map]
static SOCKETS: HashMap<SocketKey, Socket, MAX_SOCKETS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// Events that found `SOCKETS` full.
#[btf_map]
static LOST: Array<u64, LOST_KINDS> = Array::new();

/// One offset of the running kernel. Read alone: a copy of the whole layout would fill the stack.
macro_rules! offset {
    ($field:ident) => {
        offset_at(core::mem::offset_of!(Layout, $field))
    };
}

/// The word at `place` of the layout.
#[inline(always)]
fn offset_at(place: usize) -> u32 {
    // SAFETY: the place of a field of the layout, all of which are words. Userspace sets it before the program is
    // loaded; the read is volatile, so that the compiler does not take the initial value for the final one.
    unsafe { (&raw const LAYOUT).cast::<u8>().add(place).cast::<u32>().read_volatile() }
}

/// `inet_sock_set_state(sk, oldstate, newstate)`: the socket still has the old state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn socket_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let (old, new) = (ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    let mut key = no_key();
    if !key_of(sk, &mut key) {
        return 0;
    }
    // One number, so that the verifier of 5.10 need not follow two ways through all of the above.
    let begins = u64::from(new == SYN_SENT) | (u64::from(old == SYN_RECV) & u64::from(new == ESTABLISHED));
    if forget(begins, key.netns.into()) != 0 {
        // The same ports may have been used before.
        let _ = SOCKETS.remove(&key);
    }
    if let Some(socket) = note(sk, &key) {
        // SAFETY: an entry of the map; the kernel holds the socket's lock.
        unsafe { (*socket).state = new };
    }
    0
}

/// `tcp_probe(sk, skb)`: an established socket is about to take a segment in.
#[btf_tracepoint(function = "tcp_probe")]
pub fn socket_receives(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let mut key = no_key();
    if key_of(sk, &mut key) {
        note(sk, &key);
    }
    0
}

/// `net_dev_queue(skb)`: a segment is on its way out. Its window has been set, and the socket remembers which.
#[btf_tracepoint(function = "net_dev_queue")]
pub fn socket_sends(ctx: BtfTracePointContext) -> i32 {
    let sk: usize = field(ctx.arg(0), offset!(skb_sk));
    if sk == 0 {
        return 0;
    }
    let sk = sk as *const u8;
    let mut key = no_key();
    if !key_of(sk, &mut key) {
        return 0;
    }
    let Some(socket) = note(sk, &key) else { return 0 };
    let wscale: u8 = field(sk, offset!(rcv_wscale));
    // SAFETY: an entry of the map. The window of a SYN is not scaled (RFC 7323 section 2.2).
    unsafe {
        if (*socket).state != SYN_SENT && (*socket).state != SYN_RECV {
            (*socket).rcv_wnd = field(sk, offset!(rcv_wnd));
            (*socket).rcv_wscale = (wscale >> (offset!(rcv_wscale_shift) & 7)) & 0xf;
            (*socket).has_window = 1;
        }
    }
    0
}

/// `tcp_retransmit_skb(sk, skb, ...)`: a segment was sent again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn socket_retransmits(ctx: BtfTracePointContext) -> i32 {
    event(ctx.arg(0), |socket| &raw mut socket.retransmit_events)
}

/// `tcp_receive_reset(sk)`: a RST that the socket accepts.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn socket_reset_in(ctx: BtfTracePointContext) -> i32 {
    event(ctx.arg(0), |socket| &raw mut socket.resets_received)
}

/// `tcp_send_reset(sk, skb, ...)`: the socket answers a segment by a RST. There may be no socket.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn socket_reset_out(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    // The verifier demands the question since it knows that this one may be absent.
    if sk.is_null() {
        return 0;
    }
    event(sk, |socket| &raw mut socket.resets_sent)
}

#[inline(always)]
fn event(sk: *const u8, counter: impl Fn(&mut Socket) -> *mut u32) -> i32 {
    let mut key = no_key();
    if key_of(sk, &mut key)
        && let Some(socket) = note(sk, &key)
    {
        // SAFETY: an entry of the map.
        unsafe { add_u32(counter(&mut *socket), 1) };
    }
    0
}

/// A key to fill in.
#[inline(always)]
fn no_key() -> SocketKey {
    let none = zero();
    // SAFETY: the same bytes, any value of which is valid.
    let address = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([none; 2]) };
    SocketKey {
        local: address,
        remote: address,
        netns: none as u32,
        local_port: none as u16,
        remote_port: none as u16,
        family: none as u16,
        reserved: none as u16,
    }
}

/// Fills in the key of a socket; false if it is not watched or has no connection.
#[inline(always)]
fn key_of(sk: *const u8, key: &mut SocketKey) -> bool {
    // Of these, only the first part is that of a socket (`struct request_sock`, `struct inet_timewait_sock`).
    let state: u8 = field(sk, offset!(state));
    if matches!(state, 0 | TIME_WAIT | LISTEN | NEW_SYN_RECV) {
        return false;
    }
    let net: usize = field(sk, offset!(net));
    key.netns = at((net as *const u8).wrapping_add(offset!(net_inum) as usize));
    if NETNS.get_ptr(key.netns).is_none() || field::<u16>(sk, offset!(protocol)) != TCP {
        return false;
    }
    key.local_port = u16::from_be(field(sk, offset!(sport)));
    key.remote_port = u16::from_be(field(sk, offset!(dport)));
    key.family = field(sk, offset!(family));
    if key.family == AF_INET {
        key.local[..4].copy_from_slice(&field::<u32>(sk, offset!(saddr)).to_ne_bytes());
        key.remote[..4].copy_from_slice(&field::<u32>(sk, offset!(daddr)).to_ne_bytes());
    } else if key.family == AF_INET6 {
        key.local = field(sk, offset!(saddr6));
        key.remote = field(sk, offset!(daddr6));
    } else {
        return false;
    }
    // A socket of the kernel's own that answers for others has neither.
    key.local_port != 0 && key.remote_port != 0
}

/// Notes what a socket says now.
#[inline(always)]
fn note(sk: *const u8, key: &SocketKey) -> Option<*mut Socket> {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if SOCKETS.get_ptr(key).is_none() {
        let none = zero();
        let fresh = Socket {
            first_ns: now,
            last_ns: now,
            srtt_us8: none as u32,
            cwnd: none as u32,
            cwnd_max: none as u32,
            rcv_wnd: none as u32,
            total_retrans: none as u32,
            retransmit_events: none as u32,
            resets_received: none as u32,
            resets_sent: none as u32,
            state: none as u8,
            rcv_wscale: none as u8,
            has_window: none as u8,
            reserved: none as u8,
            reserved2: none as u32,
        };
        let _ = SOCKETS.insert(key, &fresh, u64::from(BPF_NOEXIST));
    }
    let Some(socket) = SOCKETS.get_ptr_mut(key) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: a map's value, 8-byte aligned, valid until the program ends.
            unsafe { add_u64(lost, 1) };
        }
        return None;
    };
    // SAFETY: an entry of the map. Whoever runs a TCP socket holds its lock, so that there is one writer.
    unsafe {
        (*socket).last_ns = now;
        (*socket).srtt_us8 = field(sk, offset!(srtt_us));
        let cwnd: u32 = field(sk, offset!(snd_cwnd));
        (*socket).cwnd = cwnd;
        if cwnd > (*socket).cwnd_max {
            (*socket).cwnd_max = cwnd;
        }
        (*socket).total_retrans = field(sk, offset!(total_retrans));
        (*socket).state = field(sk, offset!(state));
    }
    Some(socket)
}

/// Reads a field of a struct behind `base`; zero if that address cannot be read. No field used here lies beyond a page
/// of the start, and by the mask the verifier knows that.
#[inline(always)]
fn field<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    at(base.wrapping_add((offset & 0xfff) as usize))
}

/// Reads kernel memory; zero if that address cannot be read.
#[inline(always)]
fn at<T: Copy + Default>(address: *const u8) -> T {
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address.cast::<T>()) }.unwrap_or_default()
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

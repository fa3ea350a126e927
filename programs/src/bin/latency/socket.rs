//! Packets at sockets: put on the receive queue, read, given up.

use aya_ebpf::bindings::BPF_ANY;
use bpflab_programs::atomic::add_u64;
use bpflab_programs::latency::{
    BY_BUFFER, CONTROL_QUEUED_BY_READY, CONTROL_READ_BY_SOCKET, Journey, KIND_TCP, KIND_UDP, LOST_MERGED, LOST_QUEUED,
    LOST_SOCKETS, LOST_UNFOLLOWED, QueuedKey, STAGE_QUEUED, STAGE_READ, STAGE_TRANSPORT, Socket, point,
};

use crate::fields::{at, field, netns_of_socket, offset};
use crate::journey::{advance, now};
use crate::queue::{count_queued, fill, socket};
use crate::{CONTROL, NETNS, PACKETS, QUEUED, QUEUES, SOCKETS, hit, lost};

const TCP: u16 = 6;
const UDP: u16 = 17;
/// Packets whose place is looked at in one call; the next call goes on.
const MOST_AT_ONCE: u32 = 64;

#[inline(always)]
fn control(index: u32) -> bool {
    CONTROL.get(index).is_some_and(|value| *value != 0)
}

/// Whether TCP sequence number `a` is after `b` (RFC 9293 section 3.4).
#[inline(always)]
fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// A segment meets its socket. With new payload, it is on the queue or will be as soon as what is missing before it has
/// come; a segment that the socket gives up after this remains, and counts when its bytes have come again.
#[inline(always)]
pub fn segment(sk: *const u8, skb: *const u8, point: u32) {
    let id = skb as u64;
    let Some(journey) = PACKETS.get_ptr_mut(id) else { return };
    hit(point);
    advance(journey, STAGE_TRANSPORT, now());
    grown(skb, journey);
    // SAFETY: a map's value, valid until the program ends.
    let (kind, end_seq) = unsafe { ((*journey).kind, (*journey).end_seq) };
    if kind == KIND_TCP && after(end_seq, field(sk, offset!(tcp_rcv_nxt))) {
        match socket(sk) {
            Some(socket) => append(socket, sk as u64, journey),
            None => lost(LOST_SOCKETS),
        }
    }
    let _ = PACKETS.remove(id);
}

/// A segment that finds its socket in use waits in the backlog, where the kernel appends the next one's payload to it
/// (`tcp_add_backlog`). What an acknowledgement has gained so is followed as the segment that it was.
#[inline(always)]
fn grown(skb: *const u8, journey: *mut Journey) {
    let (len, data): (u32, usize) = (field(skb, offset!(skb_len)), field(skb, offset!(skb_data)));
    // The data offset of the TCP header, in words of 4 bytes (RFC 9293 section 3.1).
    let words = at::<u8>((data as *const u8).wrapping_add(12)) >> 4;
    let payload = len.wrapping_sub(u32::from(words) * 4);
    // SAFETY: a map's value, valid until the program ends.
    let journey = unsafe { &mut *journey };
    if journey.kind == KIND_UDP || payload <= journey.payload || payload > len {
        return;
    }
    if journey.kind == KIND_TCP {
        lost(LOST_MERGED);
    }
    journey.kind = KIND_TCP;
    journey.end_seq = journey.end_seq.wrapping_add(payload - journey.payload);
    journey.payload = payload;
}

/// Puts a packet behind the others of its socket.
#[inline(always)]
fn append(socket: *mut Socket, sk: u64, journey: *mut Journey) {
    // SAFETY: maps' values, valid until the program ends. TCP holds the socket's lock; datagrams that arrive on several
    // CPUs at once may take each other's number, which is why a buffer's address is preferred where it is known.
    unsafe {
        let key = QueuedKey { owner: sk, number: (*socket).tail };
        (*journey).socket = sk;
        if QUEUED.insert(&key, &*journey, u64::from(BPF_ANY)).is_err() {
            lost(LOST_QUEUED);
            return;
        }
        (*socket).tail += 1;
    }
}

/// The socket has data for its owner.
#[inline(always)]
pub fn ready(sk: *const u8) {
    match field::<u16>(sk, offset!(sock_protocol)) {
        TCP => segments_ready(sk),
        UDP if control(CONTROL_QUEUED_BY_READY) => newest_datagram(sk),
        _ => {}
    }
}

/// All segments that are in order now are on the queue.
#[inline(always)]
fn segments_ready(sk: *const u8) {
    let id = sk as u64;
    let Some(socket) = SOCKETS.get_ptr_mut(id) else { return };
    hit(point::READY);
    let (now, rcv_nxt) = (now(), field(sk, offset!(tcp_rcv_nxt)));
    for _ in 0..MOST_AT_ONCE {
        // SAFETY: a map's value, valid until the program ends; the kernel holds the socket's lock.
        let (owner, mid, tail) = unsafe { ((*socket).address, (*socket).mid, (*socket).tail) };
        if mid >= tail {
            break;
        }
        if let Some(journey) = QUEUED.get_ptr_mut(&QueuedKey { owner, number: mid }) {
            // SAFETY: as above.
            if after(unsafe { (*journey).end_seq }, rcv_nxt) {
                break;
            }
            latency_segment_queued(owner, mid, now);
        }
        // SAFETY: as above.
        unsafe { (*socket).mid = mid + 1 };
    }
    let copied: u32 = field(sk, offset!(tcp_copied_seq));
    fill(sk, socket, u64::from(rcv_nxt.wrapping_sub(copied)));
}

/// Accounts for packet `number` of socket `sk`, which is on the queue now.
///
/// A global function of numbers only: the kernel verifies it once by itself (`do_check_subprogs` in
/// kernel/bpf/verifier.c), and not anew for each turn of the loop that calls it, which would take it ten times as long.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn latency_segment_queued(sk: u64, number: u64, now: u64) -> u64 {
    if let Some(journey) = QUEUED.get_ptr_mut(&QueuedKey { owner: sk, number }) {
        advance(journey, STAGE_QUEUED, now);
        // SAFETY: maps' values, valid until the program ends.
        unsafe {
            if let Some(socket) = SOCKETS.get_ptr(sk) {
                count_queued(socket);
            }
        }
    }
    0
}

/// Accounts for packet `number` of socket `sk`, which has been read; as [`latency_segment_queued`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn latency_segment_read(sk: u64, number: u64, now: u64) -> u64 {
    let key = QueuedKey { owner: sk, number };
    if let Some(journey) = QUEUED.get_ptr_mut(&key) {
        hit(point::TCP_READ);
        finish(journey, now);
        let _ = QUEUED.remove(&key);
    }
    0
}

/// The newest datagram of the queue is the one that has just been put there.
#[inline(always)]
fn newest_datagram(sk: *const u8) {
    if NETNS.get_ptr(netns_of_socket(sk)).is_none() {
        return;
    }
    hit(point::READY);
    let newest: u64 = field(sk, offset!(sock_newest));
    // SAFETY: a map's value, valid until the program ends.
    let known = PACKETS.get_ptr(newest).is_some_and(|journey| unsafe { (*journey).kind } == KIND_UDP);
    if known {
        datagram_queued(sk, newest, point::UDP_QUEUED);
    } else {
        lost(LOST_UNFOLLOWED);
    }
}

/// A datagram is on the queue; `id` is its buffer's address.
#[inline(always)]
pub fn datagram_queued(sk: *const u8, id: u64, point: u32) {
    // It is not there if a reader on another CPU was quicker.
    let Some(journey) = PACKETS.get_ptr_mut(id) else { return };
    hit(point);
    advance(journey, STAGE_QUEUED, now());
    // SAFETY: maps' values, valid until the program ends.
    let payload = u64::from(unsafe { (*journey).payload });
    let Some(socket) = socket(sk) else {
        lost(LOST_SOCKETS);
        return;
    };
    if control(CONTROL_READ_BY_SOCKET) {
        append(socket, sk as u64, journey);
    } else {
        // SAFETY: as above.
        unsafe { (*journey).socket = sk as u64 };
        // SAFETY: as above; nothing writes to it meanwhile.
        let journey = unsafe { &*journey };
        if QUEUED.insert(&QueuedKey { owner: id, number: BY_BUFFER }, journey, u64::from(BPF_ANY)).is_err() {
            lost(LOST_QUEUED);
        }
    }
    let _ = PACKETS.remove(id);
    // SAFETY: as above.
    let waiting = unsafe {
        count_queued(socket);
        add_u64(&raw mut (*socket).payload, payload);
        (*socket).payload
    };
    fill(sk, socket, waiting);
}

/// A datagram has been read, known by its buffer.
#[inline(always)]
pub fn datagram_read(skb: *const u8) {
    let id = skb as u64;
    let key = QueuedKey { owner: id, number: BY_BUFFER };
    if let Some(journey) = QUEUED.get_ptr_mut(&key) {
        hit(point::UDP_READ);
        finish(journey, now());
        let _ = QUEUED.remove(&key);
    } else if let Some(journey) = PACKETS.get_ptr_mut(id) {
        // Read on another CPU before this one has told that it is on the queue: it was there for next to no time.
        hit(point::UDP_READ);
        let now = now();
        advance(journey, STAGE_QUEUED, now);
        finish(journey, now);
        let _ = PACKETS.remove(id);
    }
}

/// A buffer is freed: if it is a datagram's on a queue, that has been read.
#[inline(always)]
pub fn datagram_consumed(skb: *const u8) {
    let key = QueuedKey { owner: skb as u64, number: BY_BUFFER };
    if let Some(journey) = QUEUED.get_ptr_mut(&key) {
        hit(point::UDP_READ);
        finish(journey, now());
        let _ = QUEUED.remove(&key);
    }
}

/// A datagram has been read, known by its socket: it was the oldest.
#[inline(always)]
pub fn oldest_datagram_read(sk: *const u8) {
    let id = sk as u64;
    if field::<u16>(sk, offset!(sock_protocol)) != UDP || !control(CONTROL_READ_BY_SOCKET) {
        return;
    }
    let Some(socket) = SOCKETS.get_ptr_mut(id) else { return };
    // SAFETY: a map's value, valid until the program ends.
    let (head, tail) = unsafe { ((*socket).head, (*socket).tail) };
    if head >= tail {
        return;
    }
    // SAFETY: as above.
    unsafe { (*socket).head = head + 1 };
    let key = QueuedKey { owner: id, number: head };
    if let Some(journey) = QUEUED.get_ptr_mut(&key) {
        hit(point::UDP_READ);
        finish(journey, now());
        let _ = QUEUED.remove(&key);
    }
}

/// The application has read up to the socket's `copied_seq`.
#[inline(always)]
pub fn segments_read(sk: *const u8) {
    let id = sk as u64;
    let Some(socket) = SOCKETS.get_ptr_mut(id) else { return };
    let (now, copied) = (now(), field(sk, offset!(tcp_copied_seq)));
    for _ in 0..MOST_AT_ONCE {
        // SAFETY: a map's value, valid until the program ends; the kernel holds the socket's lock.
        let (owner, head, mid, tail) = unsafe { ((*socket).address, (*socket).head, (*socket).mid, (*socket).tail) };
        if head >= tail {
            break;
        }
        let key = QueuedKey { owner, number: head };
        if let Some(journey) = QUEUED.get_ptr_mut(&key) {
            // SAFETY: as above.
            if after(unsafe { (*journey).end_seq }, copied) {
                break;
            }
            latency_segment_read(owner, head, now);
        }
        // SAFETY: as above.
        unsafe {
            (*socket).head = head + 1;
            if mid <= head {
                (*socket).mid = head + 1;
            }
        }
    }
}

/// A packet's way ends at its reader.
#[inline(always)]
fn finish(journey: *mut Journey, now: u64) {
    advance(journey, STAGE_READ, now);
    // SAFETY: maps' values, valid until the program ends.
    unsafe {
        let Some(socket) = SOCKETS.get_ptr_mut((*journey).socket) else { return };
        if (*journey).kind == KIND_UDP {
            add_u64(&raw mut (*socket).payload, u64::from((*journey).payload).wrapping_neg());
        }
        let key = (*socket).queue;
        if let Some(queue) = QUEUES.get_ptr_mut(&key) {
            add_u64(&raw mut (*queue).read, 1);
        }
    }
}

/// Nobody will read this packet.
#[inline(always)]
pub fn forget_packet(skb: *const u8) {
    let id = skb as u64;
    let _ = PACKETS.remove(id);
    let key = QueuedKey { owner: id, number: BY_BUFFER };
    let Some(journey) = QUEUED.get_ptr(&key) else { return };
    // SAFETY: maps' values, valid until the program ends.
    unsafe {
        if let Some(socket) = SOCKETS.get_ptr_mut((*journey).socket) {
            add_u64(&raw mut (*socket).payload, u64::from((*journey).payload).wrapping_neg());
        }
    }
    let _ = QUEUED.remove(&key);
}

/// A TCP socket is closed: what is on its queue stays unread, and its address will be another's.
#[inline(always)]
pub fn forget_socket(sk: *const u8) {
    let id = sk as u64;
    let Some(socket) = SOCKETS.get_ptr(id) else { return };
    // SAFETY: a map's value, valid until the program ends.
    let (head, tail) = unsafe { ((*socket).head, (*socket).tail) };
    for behind in 0..u64::from(MOST_AT_ONCE) {
        if head + behind >= tail {
            break;
        }
        let _ = QUEUED.remove(&QueuedKey { owner: id, number: head + behind });
    }
    let _ = SOCKETS.remove(id);
}

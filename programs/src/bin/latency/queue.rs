//! Sockets as they are reported: by local endpoint, with what was queued, read and refused, and how full the queue got.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use bpflab_programs::atomic::add_u64;
use bpflab_programs::latency::{Queue, QueueKey, Socket};
use bpflab_programs::packet::{FAMILY_IPV4, FAMILY_IPV6};

use crate::fields::{field, netns_of_socket, offset};
use crate::{NETNS, QUEUES, SOCKETS};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Counts a packet that is on the queue now.
///
/// # Safety
/// `socket` points to a value of `SOCKETS`.
#[inline(always)]
pub unsafe fn count_queued(socket: *const Socket) {
    // SAFETY: the caller's; and a map's value, valid until the program ends.
    unsafe {
        let key = (*socket).queue;
        if let Some(queue) = QUEUES.get_ptr_mut(&key) {
            add_u64(&raw mut (*queue).queued, 1);
        }
    }
}

/// A socket's queue had no room for a packet.
#[inline(always)]
pub fn refused(sk: *const u8) {
    let Some(socket) = socket(sk) else { return };
    // SAFETY: maps' values, valid until the program ends.
    unsafe {
        let key = (*socket).queue;
        if let Some(queue) = QUEUES.get_ptr_mut(&key) {
            add_u64(&raw mut (*queue).refused, 1);
        }
    }
}

/// Takes down how full the queue is.
#[inline(always)]
pub fn fill(sk: *const u8, socket: *mut Socket, payload: u64) {
    let memory = u64::from(field::<u32>(sk, offset!(sock_rmem)));
    let limit = u64::from(field::<u32>(sk, offset!(sock_rcvbuf)));
    // SAFETY: maps' values, valid until the program ends.
    unsafe {
        let key = (*socket).queue;
        let Some(queue) = QUEUES.get_ptr_mut(&key) else { return };
        if payload > (*queue).max_payload {
            (*queue).max_payload = payload;
        }
        if memory > (*queue).max_memory {
            (*queue).max_memory = memory;
            (*queue).limit = limit;
        }
    }
}

/// The entry of a watched socket; made if there is none, or if its address was another's before.
#[inline(always)]
pub fn socket(sk: *const u8) -> Option<*mut Socket> {
    let id = sk as u64;
    let queue = queue_key(sk)?;
    let remote_port = u64::from(u16::from_be(field(sk, offset!(sock_dport))));
    if let Some(known) = SOCKETS.get_ptr_mut(id) {
        // SAFETY: a map's value, valid until the program ends.
        let known_as = unsafe { &*known };
        if known_as.queue == queue && known_as.remote_port == remote_port {
            return Some(known);
        }
    }
    if QUEUES.get_ptr(&queue).is_none() {
        let none = Queue { queued: 0, read: 0, refused: 0, max_payload: 0, max_memory: 0, limit: 0 };
        let _ = QUEUES.insert(&queue, &none, u64::from(BPF_NOEXIST));
        QUEUES.get_ptr(&queue)?;
    }
    let socket = Socket { queue, address: id, payload: 0, head: 0, mid: 0, tail: 0, remote_port };
    let _ = SOCKETS.insert(id, &socket, u64::from(BPF_ANY));
    SOCKETS.get_ptr_mut(id)
}

/// What a socket is reported by; nothing if it is not watched or not of IP.
#[inline(always)]
fn queue_key(sk: *const u8) -> Option<QueueKey> {
    let netns = netns_of_socket(sk);
    NETNS.get_ptr(netns)?;
    let mut key = QueueKey {
        address: [0; 16],
        netns,
        port: field(sk, offset!(sock_num)),
        family: 0,
        proto: field::<u16>(sk, offset!(sock_protocol)) as u8,
    };
    match field::<u16>(sk, offset!(sock_family)) {
        AF_INET => {
            key.family = FAMILY_IPV4;
            let address: [u8; 4] = field(sk, offset!(sock_saddr));
            key.address[..4].copy_from_slice(&address);
        }
        AF_INET6 => {
            key.family = FAMILY_IPV6;
            key.address = field(sk, offset!(sock_saddr6));
        }
        _ => return None,
    }
    Some(key)
}

//! Recognises DNS, HTTP/1.x and TLS and hands the bytes of their messages to userspace.
//!
//! A TCP connection is followed (`STREAMS`) from the segment that is recognised on; everything both sides send then
//! goes to the ring, until userspace or the program itself says that it is enough. Segments that overtake the first one
//! of a connection whose SYN was seen (`STARTS`) are handed over undecided.
//!
//! All other packets leave early: without payload right after the parser, otherwise after one look-up and a look at
//! their first 16 bytes.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use core::ptr::addr_of_mut;

use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use bpflab_programs::bound::{forget, one_to, zero};
use bpflab_programs::clock::now_skb;
use bpflab_programs::packet::{
    ACK, FAMILY_IPV4, FAMILY_IPV6, FIN, FRAGMENT_FIRST, FRAGMENT_LATER, FlowKey, Packet, RST, SYN,
};
use bpflab_programs::parse::parse_skb;
use bpflab_programs::protocols::{
    CHUNK, DNS, ENDED, Event, HTTP, LOST as LOST_KINDS, LOST_EVENTS, LOST_STREAMS, MAX_CHUNKS, MAX_DNS_PORTS,
    MAX_STREAMS, NOTE_ENDED, NOTE_FORGET, NOTE_START, PREFIX, RING_BYTES, Recognised, START_SLOTS, Start, Stream, TLS,
    UNDECIDED, UNDECIDED_BYTES, is_application_data, is_dns_header, recognise,
};

bpflab_programs::clock!();

/// Ports of DNS over UDP and TCP; the first 0 ends the list.
#[unsafe(no_mangle)]
static DNS_PORTS: Global<[u16; MAX_DNS_PORTS]> = Global::new([53, 0, 0, 0, 0, 0, 0, 0]);

/// Payload for userspace, each record an [`Event`] with the bytes after it.
#[btf_map]
static EVENTS: RingBuf<Event, RING_BYTES> = RingBuf::new();

/// Connections that are followed. Memory is taken per connection, not for the most there may be.
#[btf_map]
static STREAMS: HashMap<FlowKey, Stream, MAX_STREAMS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Handshakes seen lately.
#[btf_map]
static STARTS: Array<Start, START_SLOTS> = Array::new();

/// What did not fit, by `LOST_*`.
#[btf_map]
static LOST: PerCpuArray<u64, LOST_KINDS> = PerCpuArray::new();

const TCP: u8 = 6;
const UDP: u8 = 17;
/// How far ahead of the first byte a segment may be and still be one that overtook it.
const OVERTAKE: u32 = 1 << 20;

const MAY_BEGIN: u8 = Recognised::Short as u8;
const HTTP_BEGINS: u8 = Recognised::Http as u8;
const TLS_BEGINS: u8 = Recognised::Tls as u8;

/// A record of the ring with room for `N` bytes; the sizes are few, because the verifier wants constants.
#[repr(C)]
struct Record<const N: usize> {
    event: Event,
    bytes: [u8; N],
}

/// What is to be done with a packet that may be of interest; `event` describes it.
enum Act {
    /// Nothing.
    Leave,
    /// Hand it over; it belongs to no connection.
    Hand,
    /// Hand it over and keep account of its connection.
    HandOf(*mut Stream),
    /// Keep account only.
    Account(*mut Stream),
}

/// Sees each packet once, at the ingress of every interface of the device under test, and lets it pass.
#[classifier]
pub fn protocols_ingress(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let mut packet = Packet::default();
    parse_skb(skb, &mut packet);
    if !is_candidate(&packet) {
        // Not TC_ACT_OK, which would end the chain of filters.
        return TC_ACT_UNSPEC;
    }
    let mut event = describe(skb, &packet);
    let offset = u32::from(packet.payload_offset);
    let act =
        if packet.proto == UDP { datagram(skb, &mut event, offset, &packet) } else { segment(skb, &mut event, offset) };
    let (stream, wanted) = match act {
        Act::Leave => return TC_ACT_UNSPEC,
        Act::Hand => (None, true),
        Act::HandOf(stream) => (Some(stream), true),
        Act::Account(stream) => (Some(stream), false),
    };
    let (flags, key) = (event.tcp_flags, event.key);
    let handed = !wanted || hand(skb, &mut event, offset);
    if let Some(stream) = stream {
        account(&key, flags, usize::from(event.direction), stream, handed);
    }
    TC_ACT_UNSPEC
}

/// The length of the frame.
#[inline(always)]
fn frame_len(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context of the running program.
    unsafe { (*skb).len }
}

/// What the payload is, as the number of a [`Recognised`].
#[inline(always)]
fn kind(skb: *mut __sk_buff, bytes: &[u8; PREFIX], len: u32) -> u8 {
    forget(recognise(bytes, len) as u64, u64::from(frame_len(skb))) as u8
}

/// Whether a packet may be of interest by its headers alone.
#[inline(always)]
fn is_candidate(packet: &Packet) -> bool {
    let is_ip = packet.family == FAMILY_IPV4 || packet.family == FAMILY_IPV6;
    if !is_ip || packet.payload_offset == 0 || packet.fragment == FRAGMENT_LATER {
        return false;
    }
    match packet.proto {
        TCP => packet.payload_len > 0 || packet.tcp_flags & (SYN | FIN | RST) != 0,
        UDP => packet.payload_len >= 12 && is_dns_port(packet.src_port, packet.dst_port),
        _ => false,
    }
}

#[inline(always)]
fn is_dns_port(a: u16, b: u16) -> bool {
    let ports = DNS_PORTS.load();
    for port in ports {
        if port == 0 {
            return false;
        }
        if port == a || port == b {
            return true;
        }
    }
    false
}

/// Counts something that did not fit.
#[inline(always)]
fn lost(kind: u32) {
    if let Some(count) = LOST.get_ptr_mut(kind) {
        // SAFETY: this processor's own element.
        unsafe { *count += 1 };
    }
}

/// A packet as an event, its captured length held to what the frame has.
#[inline(always)]
fn describe(skb: *mut __sk_buff, packet: &Packet) -> Event {
    let (key, direction) = packet.flow();
    let in_frame = frame_len(skb).saturating_sub(u32::from(packet.payload_offset));
    let payload_len = packet.payload_len;
    Event {
        key,
        time_ns: 0,
        seq: packet.seq.wrapping_add(u32::from(packet.tcp_flags & SYN != 0)),
        ack: packet.ack,
        payload_len,
        captured_len: if payload_len < in_frame { payload_len } else { in_frame },
        start: 0,
        lost: 0,
        direction: direction as u8 & 1,
        tcp_flags: packet.tcp_flags,
        protocol: UNDECIDED,
        notes: 0,
        reserved: 0,
    }
}

/// The first bytes of the payload, zeros after its end, and how many they are.
#[inline(always)]
fn prefix(skb: *mut __sk_buff, event: &Event, offset: u32) -> ([u8; PREFIX], u32) {
    let mut words = [zero(); PREFIX / 8];
    if event.captured_len == 0 {
        return (bytes_of(words), 0);
    }
    let captured = if event.captured_len < PREFIX as u32 { event.captured_len } else { PREFIX as u32 };
    let len = one_to::<{ PREFIX as u32 }>(u64::from(captured));
    // SAFETY: there is room for `len` bytes. Where it fails, they stay zero.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, words.as_mut_ptr().cast(), len) };
    (bytes_of(words), len)
}

#[inline(always)]
fn bytes_of(words: [u64; PREFIX / 8]) -> [u8; PREFIX] {
    // SAFETY: the same bytes, any value of which is valid.
    unsafe { core::mem::transmute(words) }
}

/// A datagram from or to a DNS port.
#[inline(always)]
fn datagram(skb: *mut __sk_buff, event: &mut Event, offset: u32, packet: &Packet) -> Act {
    let (bytes, len) = prefix(skb, event, offset);
    if !is_dns_header(&bytes, len) {
        return Act::Leave;
    }
    if packet.fragment == FRAGMENT_FIRST {
        // The rest of the datagram is in fragments that nobody puts together here; its length is in the UDP header.
        let mut field = [0_u8; 2];
        // SAFETY: room for two bytes. Where it fails, the length is 0 and the IP length stands.
        unsafe {
            bpf_skb_load_bytes(skb.cast(), u32::from(packet.l4_offset) + 4, field.as_mut_ptr().cast(), 2);
        }
        let whole = u32::from(u16::from_be_bytes(field)).saturating_sub(8);
        if whole > event.payload_len {
            event.payload_len = whole;
        }
    }
    event.seq = 0;
    event.ack = 0;
    event.tcp_flags = 0;
    event.protocol = DNS;
    Act::Hand
}

/// A TCP segment with payload, SYN, FIN or RST.
#[inline(always)]
fn segment(skb: *mut __sk_buff, event: &mut Event, offset: u32) -> Act {
    let is_syn = event.tcp_flags & SYN != 0;
    let (index, tag) = slot(&event.key);
    let Some(start) = STARTS.get_ptr_mut(index) else { return Act::Leave };
    // SAFETY: an element of the map. Another processor may write it at the same time; the worst that can come of that
    // is a start that belongs to no segment. `followed` is only set between one SYN and the next.
    let start = unsafe { &mut *start };
    let mut stream = None;
    if is_syn || start.tag != tag || start.followed != 0 {
        stream = STREAMS.get_ptr_mut(&event.key);
    }
    if is_syn {
        note_start(event, start, tag);
        if let Some(old) = stream {
            if event.tcp_flags & ACK == 0 && is_other(event, old) {
                let _ = STREAMS.remove(&event.key);
                stream = None;
                if event.payload_len == 0 {
                    event.notes = NOTE_START;
                    event.start = event.seq;
                    return Act::Hand;
                }
            } else {
                start.followed = 1;
            }
        }
    }
    let is_empty = event.payload_len == 0;
    match stream {
        Some(stream) if is_empty => plain(event, stream),
        None if is_empty => Act::Leave,
        _ => {
            let (bytes, len) = prefix(skb, event, offset);
            match stream {
                Some(stream) => follow(event, stream, &bytes, len, kind(skb, &bytes, len)),
                None => begin(event, start, tag, kind(skb, &bytes, len)),
            }
        }
    }
}

/// A hash of the flow, for `STARTS` only: an index and a tag.
#[inline(always)]
fn slot(key: &FlowKey) -> (u32, u32) {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = core::ptr::from_ref(key).cast::<u64>();
    let mut hash = 0_u64;
    let mut index = 0;
    while index < size_of::<FlowKey>() / 8 {
        // SAFETY: the key is 48 bytes, aligned to 8, without padding.
        let word = unsafe { *words.add(index) };
        hash = (hash ^ word).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
        index += 1;
    }
    (hash as u32 & (START_SLOTS as u32 - 1), (hash >> 32) as u32)
}

/// One of a pair of numbers, by direction.
#[inline(always)]
fn pick(pair: [u32; 2], direction: u8) -> u32 {
    if direction == 0 { pair[0] } else { pair[1] }
}

/// Sets one of a pair of numbers.
#[inline(always)]
fn put_in(pair: &mut [u32; 2], direction: u8, value: u32) {
    if direction == 0 {
        pair[0] = value;
    } else {
        pair[1] = value;
    }
}

/// Notes where a direction begins.
#[inline(always)]
fn note_start(event: &Event, start: &mut Start, tag: u32) {
    let bit = 1 << event.direction;
    let is_answer = event.tcp_flags & ACK != 0;
    let is_again = start.known & bit != 0 && pick(start.start, event.direction) == event.seq;
    if start.tag != tag || !(is_answer || is_again) {
        let zero = zero() as u32;
        *start = Start { tag, known: zero, start: [zero; 2], followed: zero, reserved: zero };
    }
    start.known |= bit;
    put_in(&mut start.start, event.direction, event.seq);
}

/// Whether a SYN belongs to another connection than `stream`.
#[inline(always)]
fn is_other(event: &Event, stream: *mut Stream) -> bool {
    // SAFETY: an element of the map, see `follow`.
    let stream = unsafe { &*stream };
    stream.known & 1 << event.direction == 0 || pick(stream.start, event.direction) != event.seq
}

/// Decides whether a connection is to be followed from this segment on.
#[inline(always)]
fn begin(event: &mut Event, start: &mut Start, tag: u32, kind: u8) -> Act {
    let (direction, other) = (event.direction, event.direction ^ 1);
    let (bit, other_bit) = (1_u32 << direction, 1_u32 << other);
    let mut stream = Stream { next: [event.seq; 2], ..Stream::default() };
    let mut early = false;
    if start.tag == tag {
        let first = pick(start.start, direction);
        let ahead = event.seq.wrapping_sub(first);
        let is_known = start.known & bit != 0;
        let unseen = start.known & bit << 2 == 0;
        if is_known && (unseen || ahead == 0) && ahead < OVERTAKE {
            stream.known |= bit as u8;
            put_in(&mut stream.start, direction, first);
            put_in(&mut stream.next, direction, first);
            // It overtook the first segment, or is the first and too short to tell.
            early = unseen && (ahead != 0 || kind == MAY_BEGIN);
        }
        if start.known & other_bit != 0 && start.known & other_bit << 2 == 0 {
            let first = pick(start.start, other);
            stream.known |= other_bit as u8;
            put_in(&mut stream.start, other, first);
            put_in(&mut stream.next, other, first);
        }
        start.known |= bit << 2;
    }
    stream.protocol = if is_dns_port(event.key.a_port, event.key.b_port) {
        DNS
    } else {
        match kind {
            HTTP_BEGINS => HTTP,
            TLS_BEGINS => TLS,
            _ if early => UNDECIDED,
            _ => return Act::Leave,
        }
    };
    if STREAMS.insert(&event.key, &stream, BPF_ANY.into()).is_err() {
        lost(LOST_STREAMS);
        return Act::Leave;
    }
    if start.tag == tag {
        start.followed = 1;
    }
    match STREAMS.get_ptr_mut(&event.key) {
        Some(stream) => plain(event, stream),
        None => Act::Leave,
    }
}

/// A segment with payload of a connection that is followed already.
#[inline(always)]
fn follow(event: &mut Event, pointer: *mut Stream, bytes: &[u8; PREFIX], len: u32, kind: u8) -> Act {
    // SAFETY: an element of the map. The two directions may come in on different processors: each writes its own half
    // of the arrays, and what is shared (`protocol`, `fins`, `lost`) is at worst written a packet later.
    let stream = unsafe { &mut *pointer };
    let direction = event.direction;
    let is_first = stream.known & 1 << direction != 0 && pick(stream.start, direction) == event.seq;
    if stream.protocol == UNDECIDED && is_first {
        match kind {
            HTTP_BEGINS => stream.protocol = HTTP,
            TLS_BEGINS => stream.protocol = TLS,
            MAY_BEGIN => {}
            _ => {
                event.notes = NOTE_FORGET;
                event.payload_len = 0;
                event.captured_len = 0;
                let _ = STREAMS.remove(&event.key);
                return Act::Hand;
            }
        }
    }
    let bounded = stream.protocol == UNDECIDED || stream.protocol == TLS;
    let spent = bounded && pick(stream.handed, direction) > UNDECIDED_BYTES;
    if spent || (stream.protocol == TLS && is_past_hellos(event, stream, bytes, len)) {
        event.notes = NOTE_ENDED;
        event.protocol = stream.protocol;
        event.payload_len = 0;
        event.captured_len = 0;
        stream.protocol = ENDED;
        return Act::HandOf(pointer);
    }
    plain(event, pointer)
}

/// Whether application data begins with this segment: it looks like such a record, comes in order, and both sides have
/// sent something before it.
#[inline(always)]
fn is_past_hellos(event: &Event, stream: &Stream, bytes: &[u8; PREFIX], len: u32) -> bool {
    let both = stream.handed[0] != 0 && stream.handed[1] != 0;
    both && pick(stream.next, event.direction) == event.seq && is_application_data(bytes, len)
}

/// Any segment of a connection that is followed, with nothing to decide.
#[inline(always)]
fn plain(event: &mut Event, pointer: *mut Stream) -> Act {
    // SAFETY: as in `follow`.
    let stream = unsafe { &mut *pointer };
    if stream.protocol == ENDED {
        return Act::Account(pointer);
    }
    let direction = event.direction;
    if stream.known & 1 << direction != 0 {
        event.notes |= NOTE_START;
        event.start = pick(stream.start, direction);
    }
    event.protocol = stream.protocol;
    event.lost = stream.lost;
    if pick(stream.next, direction) == event.seq {
        put_in(&mut stream.next, direction, event.seq.wrapping_add(event.payload_len));
    }
    let handed = pick(stream.handed, direction).saturating_add(event.payload_len);
    put_in(&mut stream.handed, direction, handed);
    Act::HandOf(pointer)
}

/// Keeps account of a connection after one of its segments; `handed` says that the ring took it.
#[inline(always)]
fn account(key: &FlowKey, flags: u8, direction: usize, stream: *mut Stream, handed: bool) {
    // SAFETY: as in `follow`.
    let stream = unsafe { &mut *stream };
    if !handed {
        stream.lost += 1;
    }
    if flags & FIN != 0 {
        stream.fins |= 1 << (direction & 1);
    }
    // An entry that knows of a lost event stays, so that userspace learns of it.
    if handed && (flags & RST != 0 || stream.fins == 3) {
        let _ = STREAMS.remove(key);
    }
}

/// Puts a packet into the ring, in parts if it is long. False if a part did not fit.
#[inline(always)]
fn hand(skb: *mut __sk_buff, event: &mut Event, mut offset: u32) -> bool {
    event.time_ns = now_skb(skb, CLOCK_SOURCE.load(), &CLOCK);
    let noise = u64::from(frame_len(skb));
    event.start = forget(u64::from(event.start), noise) as u32;
    event.lost = forget(u64::from(event.lost), noise) as u32;
    event.tcp_flags = forget(u64::from(event.tcp_flags), noise) as u8;
    event.protocol = forget(u64::from(event.protocol), noise) as u8;
    event.notes = forget(u64::from(event.notes), noise) as u8;
    event.payload_len = forget(u64::from(event.payload_len), noise) as u32;
    event.captured_len = forget(u64::from(event.captured_len), noise) as u32;
    event.direction = forget(u64::from(event.direction), noise) as u8 & 1;
    let (flags, mut payload_len, mut captured_len) = (event.tcp_flags, event.payload_len, event.captured_len);
    for _ in 0..MAX_CHUNKS - 1 {
        if captured_len <= CHUNK as u32 {
            break;
        }
        event.payload_len = CHUNK as u32;
        event.captured_len = CHUNK as u32;
        event.tcp_flags &= !(FIN | RST);
        if !put::<CHUNK, { CHUNK as u32 }>(skb, event, offset) {
            return false;
        }
        offset += CHUNK as u32;
        event.seq = event.seq.wrapping_add(CHUNK as u32);
        payload_len -= CHUNK as u32;
        captured_len -= CHUNK as u32;
    }
    event.tcp_flags = flags;
    event.payload_len = payload_len;
    event.captured_len = if captured_len < CHUNK as u32 { captured_len } else { CHUNK as u32 };
    match event.captured_len {
        0..=104 => put::<104, 104>(skb, event, offset),
        105..=552 => put::<552, 552>(skb, event, offset),
        553..=1512 => put::<1512, 1512>(skb, event, offset),
        _ => put::<CHUNK, { CHUNK as u32 }>(skb, event, offset),
    }
}

/// Puts one record with room for `N` bytes into the ring. The reader polls, so nobody is woken.
#[inline(always)]
fn put<const N: usize, const SIZE: u32>(skb: *mut __sk_buff, event: &Event, offset: u32) -> bool {
    let Some(mut record) = EVENTS.reserve_untyped::<Record<N>>(0) else {
        lost(LOST_EVENTS);
        return false;
    };
    let target = record.as_mut_ptr();
    // SAFETY: a record of that type was reserved.
    unsafe { addr_of_mut!((*target).event).write(*event) };
    if event.captured_len != 0 {
        let len = one_to::<SIZE>(u64::from(event.captured_len));
        // SAFETY: room for `N` bytes, and `len` is no more.
        let failed = unsafe { bpf_skb_load_bytes(skb.cast(), offset, addr_of_mut!((*target).bytes).cast(), len) != 0 };
        if failed {
            // Nothing of it can be read: all of it is cut.
            // SAFETY: as above.
            unsafe { addr_of_mut!((*target).event.captured_len).write(0) };
        }
    }
    record.submit(BPF_RB_NO_WAKEUP.into());
    true
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

//! Counts the packets that the kernel drops in the network namespaces of a run.
//!
//! The tracepoint `skb:kfree_skb` has two arguments before 5.17, then the reason, then (6.11) the receiving socket.
//! An access to an absent argument is refused by the verifier, so each is behind a read-only flag, whose branch the
//! verifier prunes. Fields of kernel structs are read by helper at offsets that userspace takes from BTF.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros emit functions without the comments of those they wrap")]

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel, generated};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use bpflab_programs::atomic::add_u64;
use bpflab_programs::bound::forget;
use bpflab_programs::drops::{
    DropCount, DropKey, LOST_FULL, LOST_KINDS, LOST_UNATTRIBUTED, Layout, MAX_DROPS, MAX_NETNS,
};
use bpflab_programs::packet::{FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, NO_VLAN};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021AD: u16 = 0x88a8;
const ETH_HLEN: u32 = 14;
/// `sk_buff.mac_header` while there is none.
const NO_HEADER: u16 = 0xffff;
/// VLAN tags that may stand in the data.
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers that are followed.
const MAX_EXTENSIONS: u32 = 4;
/// Inode numbers of namespaces are above this (`PROC_DYNAMIC_FIRST` and the fixed ones just below it). `skb->dev`
/// shares its place with other data while a packet is queued in a socket; what that leads to is told by this.
const LOWEST_INUM: u32 = 0xe000_0000;

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
/// What was not counted in `DROPS`, by `LOST_*`.
#[btf_map]
static LOST: Array<u64, LOST_KINDS> = Array::new();

/// Accounts for one dropped packet.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let (skb, location) = (ctx.arg::<*const u8>(0), ctx.arg::<u64>(1));
    let mut reason = 0;
    if HAS_REASON.load() != 0 {
        reason = ctx.arg::<u32>(2);
        let [not_dropped, consumed] = NO_DROPS.load();
        if reason == not_dropped || reason == consumed {
            return 0;
        }
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
            count(&key, bytes);
        }
    } else if key.family == FAMILY_IPV4 || key.family == FAMILY_IPV6 {
        lose(LOST_UNATTRIBUTED);
    }
    0
}

/// A key of which only these fields are known.
#[inline(always)]
fn new_key(location: u64, reason: u32, netns: u32) -> DropKey {
    // Unknown to the verifier, like what will be written over them.
    let zeros = forget(0, location);
    let [a, b, c, d, e, f, ..] = zeros.to_ne_bytes();
    // SAFETY: the same bytes, any value of which is valid.
    let address = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([zeros; 2]) };
    DropKey {
        location,
        reason,
        netns,
        src: address,
        dst: address,
        src_port: zeros as u16,
        dst_port: zeros as u16,
        ethertype: zeros as u16,
        vlan: NO_VLAN,
        family: zeros as u8,
        proto: zeros as u8,
        reserved: [a, b, c, d, e, f],
    }
}

/// Reads a field of a struct behind `base`; zero if that address cannot be read.
///
/// The verifier lets a typed pointer move by a small offset only, and may know the offset merely as some 32-bit
/// number; no field used here lies beyond a page of the start.
#[inline(always)]
fn field<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    at(base.wrapping_add((offset & 0xfff) as usize))
}

/// Reads kernel memory; zero if that address cannot be read.
///
/// Without a look at the helper's result, which would double the verifier's paths for each field: where the helper
/// fails, it fills the destination with zeros (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c).
#[inline(always)]
fn at<T: Copy + Default>(address: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: room for a `T`, which is an integer here, and is written in any case; the helper checks the address.
    unsafe {
        generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast());
        value.assume_init()
    }
}

/// Inode number of the namespace that dropped the packet; 0 if it cannot be told.
///
/// The receiving socket is certain. `skb->dev` is absent in TCP and overwritten in queues of sockets; then the owning
/// socket (of a packet under way out), then the device of its route tell.
#[inline(always)]
fn netns(skb: *const u8, rx_sk: *const u8, layout: &Layout) -> u32 {
    let of_socket = |sk: *const u8| inum(field(sk, layout.sock_net), layout);
    let of_device = |dev: *const u8| inum(at(dev.wrapping_add(layout.dev_net as usize)), layout);
    if !rx_sk.is_null() {
        let found = of_socket(rx_sk);
        if found != 0 {
            return found;
        }
    }
    let found = of_device(pointer(field(skb, layout.skb_dev)));
    if found != 0 {
        return found;
    }
    let found = of_socket(pointer(field(skb, layout.skb_sk)));
    if found != 0 {
        return found;
    }
    // The lowest bit says that the route is not counted as a reference (SKB_DST_NOREF).
    let dst = pointer(field::<usize>(skb, layout.skb_dst) & !1);
    of_device(pointer(at(dst.wrapping_add(layout.dst_dev as usize))))
}

#[inline(always)]
fn pointer(address: usize) -> *const u8 {
    address as *const u8
}

#[inline(always)]
fn inum(net: usize, layout: &Layout) -> u32 {
    if net == 0 {
        return 0;
    }
    let inum: u32 = at(pointer(net).wrapping_add(layout.net_inum as usize));
    if inum >= LOWEST_INUM { inum } else { 0 }
}

/// The linear part of a packet's buffer.
#[derive(Clone, Copy)]
struct Buffer {
    head: *const u8,
    tail: u32,
}

impl Buffer {
    /// Reads at an offset from the start of the buffer; nothing if that is not all within the packet's linear part.
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        if offset + size_of::<T>() as u32 > self.tail {
            return None;
        }
        // SAFETY: the helper checks the address and fails on a bad one.
        unsafe { bpf_probe_read_kernel(self.head.wrapping_add(offset as usize).cast::<T>()) }.ok()
    }

    #[inline(always)]
    fn read_u16(self, offset: u32) -> Option<u16> {
        self.read(offset).map(u16::from_be_bytes)
    }
}

/// Fills in what the packet's headers say, and returns its length from the first header known.
#[inline(always)]
fn dissect(skb: *const u8, layout: &Layout, key: &mut DropKey) -> u64 {
    let head: usize = field(skb, layout.skb_head);
    let data: usize = field(skb, layout.skb_data);
    let len: u32 = field(skb, layout.skb_len);
    let mac: u16 = field(skb, layout.skb_mac_header);
    let network: u16 = field(skb, layout.skb_network_header);
    let buffer = Buffer { head: pointer(head), tail: field(skb, layout.skb_tail) };
    let tci: u16 = field(skb, layout.skb_vlan_tci);
    let present: u32 = field(skb, layout.skb_vlan_present);
    if present & layout.vlan_present_mask != 0 {
        key.vlan = tci & 0x0fff;
    }
    key.ethertype = u16::from_be(field(skb, layout.skb_protocol));

    let mac_set = mac != NO_HEADER && network != mac;
    // Before the first layer has looked at it, a packet has no network header, but its Ethernet header may be known.
    let behind_mac = u32::from(mac) + ETH_HLEN;
    let mut l3 = if network != 0 || !mac_set { u32::from(network) } else { behind_mac };
    if key.ethertype == ETH_P_8021Q || key.ethertype == ETH_P_8021AD {
        // A raw socket's packet has its network header behind the tags already (packet_parse_headers).
        l3 = untag(buffer, if mac_set { behind_mac } else { l3 }, key);
    }
    l3 = forget(l3.into(), key.location) as u32;
    key.vlan = forget(key.vlan.into(), key.location) as u16;
    key.ethertype = forget(key.ethertype.into(), key.location) as u16;
    if l3 != 0 {
        network_layer(buffer, l3, key);
    }
    if key.family == 0
        && mac_set
        && let Some([dst, src]) = buffer.read::<[[u8; 6]; 2]>(u32::from(mac))
    {
        copy(&mut key.src, &src);
        copy(&mut key.dst, &dst);
    }
    let start = if mac_set { mac } else { network };
    let behind = (data as u64).wrapping_sub(head as u64).wrapping_sub(u64::from(start));
    // Negative while a header is still to be pushed in front.
    if behind < 0x1_0000 { u64::from(len) + behind } else { u64::from(len) }
}

/// Steps over VLAN tags in the data; returns where the next header starts.
#[inline(always)]
fn untag(buffer: Buffer, mut l3: u32, key: &mut DropKey) -> u32 {
    for _ in 0..MAX_TAGS {
        if key.ethertype != ETH_P_8021Q && key.ethertype != ETH_P_8021AD {
            break;
        }
        let (Some(tci), Some(ethertype)) = (buffer.read_u16(l3), buffer.read_u16(l3 + 2)) else { break };
        if key.vlan == NO_VLAN {
            key.vlan = tci & 0x0fff;
        }
        key.ethertype = ethertype;
        l3 += 4;
    }
    l3
}

#[inline(always)]
fn network_layer(buffer: Buffer, l3: u32, key: &mut DropKey) {
    let Some([first]) = buffer.read::<[u8; 1]>(l3) else { return };
    // A packet on its way out has its headers before it has an ethertype.
    let guessed = key.ethertype == 0;
    if (key.ethertype == ETH_P_IP || guessed) && first >> 4 == 4 && first & 0xf >= 5 {
        ipv4(buffer, l3, key);
    } else if (key.ethertype == ETH_P_IPV6 || guessed) && first >> 4 == 6 {
        ipv6(buffer, l3, key);
    } else if key.ethertype == ETH_P_ARP
        && let (Some(sender), Some(target)) = (buffer.read::<[u8; 4]>(l3 + 14), buffer.read::<[u8; 4]>(l3 + 24))
    {
        // RFC 826 for Ethernet and IPv4: sender's protocol address at 14, target's at 24.
        key.family = FAMILY_ARP;
        copy(&mut key.src, &sender);
        copy(&mut key.dst, &target);
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn ipv4(buffer: Buffer, l3: u32, key: &mut DropKey) {
    let Some(header) = buffer.read::<[u8; 20]>(l3) else { return };
    key.family = FAMILY_IPV4;
    key.ethertype = ETH_P_IP;
    key.proto = header[9];
    key.src[..4].copy_from_slice(&header[12..16]);
    key.dst[..4].copy_from_slice(&header[16..20]);
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if !later_fragment {
        ports(buffer, l3 + u32::from(header[0] & 0xf) * 4, key);
    }
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn ipv6(buffer: Buffer, l3: u32, key: &mut DropKey) {
    let Some(header) = buffer.read::<[u8; 40]>(l3) else { return };
    key.family = FAMILY_IPV6;
    key.ethertype = ETH_P_IPV6;
    key.src.copy_from_slice(&header[8..24]);
    key.dst.copy_from_slice(&header[24..40]);
    key.proto = header[6];
    let mut l4 = l3 + 40;
    for _ in 0..MAX_EXTENSIONS {
        // Hop-by-hop options, routing, fragment, authentication, destination options.
        let extension = matches!(key.proto, 0 | 43 | 44 | 51 | 60);
        if !extension {
            break;
        }
        let Some([next, len, high, low]) = buffer.read::<[u8; 4]>(l4) else { return };
        let (is_fragment, is_authentication) = (key.proto == 44, key.proto == 51);
        key.proto = next;
        if is_fragment {
            if u16::from_be_bytes([high, low]) >> 3 != 0 {
                return;
            }
            l4 += 8;
        } else if is_authentication {
            // RFC 4302 section 2.2: in words of 4 bytes, minus 2.
            l4 += (u32::from(len) + 2) * 4;
        } else {
            l4 += (u32::from(len) + 1) * 8;
        }
        l4 = forget(l4.into(), key.location) as u32;
        key.proto = forget(key.proto.into(), key.location) as u8;
    }
    ports(buffer, l4, key);
}

/// TCP, UDP and SCTP start with both ports.
#[inline(always)]
fn ports(buffer: Buffer, l4: u32, key: &mut DropKey) {
    if !matches!(key.proto, 6 | 17 | 132) {
        return;
    }
    if let Some([a, b, c, d]) = buffer.read::<[u8; 4]>(l4) {
        key.src_port = u16::from_be_bytes([a, b]);
        key.dst_port = u16::from_be_bytes([c, d]);
    }
}

#[inline(always)]
fn copy<const N: usize>(to: &mut [u8; 16], from: &[u8; N]) {
    const { assert!(N <= 16) };
    to[..N].copy_from_slice(from);
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

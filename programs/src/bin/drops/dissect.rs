//! What the headers of a packet say, wherever in the kernel it was given up.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use bpflab_programs::bound::forget;
use bpflab_programs::drops::{DropKey, Layout};
use bpflab_programs::packet::{FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, NO_VLAN};

use crate::fields::{field, pointer};

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

/// A key of which only these fields are known.
#[inline(always)]
pub fn new_key(location: u64, reason: u32, netns: u32) -> DropKey {
    // Unknown to the verifier, like what will be written over them.
    let zeros = forget(0, location);
    let [cause, a, b, c, d, e, ..] = zeros.to_ne_bytes();
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
        cause,
        reserved: [a, b, c, d, e],
    }
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
pub fn dissect(skb: *const u8, layout: &Layout, key: &mut DropKey) -> u64 {
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

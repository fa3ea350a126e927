//! A packet's flow and payload, from the headers in its buffer, as the driver hands it over.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use bpflab_programs::latency::{Journey, KIND_OTHER, KIND_TCP, KIND_TCP_CONTROL, KIND_UDP};
use bpflab_programs::packet::{FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, FAMILY_OTHER, NO_VLAN, Packet};

use crate::fields::{field, offset};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021AD: u16 = 0x88a8;
/// VLAN tags that may stand in the data.
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers that are followed.
const MAX_EXTENSIONS: u32 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

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
}

/// Fills in flow, direction, kind, payload and sequence number. The buffer's data begin at the network header.
#[inline(always)]
pub fn dissect(skb: *const u8, journey: &mut Journey) {
    let head: usize = field(skb, offset!(skb_head));
    let data: usize = field(skb, offset!(skb_data));
    let len: u32 = field(skb, offset!(skb_len));
    let buffer = Buffer { head: head as *const u8, tail: field(skb, offset!(skb_tail)) };
    let mut packet = Packet { vlan: NO_VLAN, inner_vlan: NO_VLAN, ..Packet::default() };
    packet.ethertype = u16::from_be(field(skb, offset!(skb_protocol)));
    let present: u32 = field(skb, offset!(skb_vlan_present));
    if present & offset!(vlan_present_mask) != 0 {
        packet.vlan = field::<u16>(skb, offset!(skb_vlan_tci)) & 0x0fff;
    }
    let start = (data.wrapping_sub(head)) as u32 & 0xffff;
    let l3 = untag(buffer, start, &mut packet);
    // Trailing padding of a short frame counts only where no header tells the length.
    let rest = len.wrapping_sub(l3 - start);
    if packet.ethertype == ETH_P_IP {
        ipv4(buffer, l3, rest, &mut packet);
    } else if packet.ethertype == ETH_P_IPV6 {
        ipv6(buffer, l3, rest, &mut packet);
    } else if packet.ethertype == ETH_P_ARP {
        arp(buffer, l3, &mut packet);
    }
    if packet.family == FAMILY_OTHER {
        let mac = u32::from(field::<u16>(skb, offset!(skb_mac_header)));
        if let Some([to, from]) = buffer.read::<[[u8; 6]; 2]>(mac) {
            packet.src[..6].copy_from_slice(&from);
            packet.dst[..6].copy_from_slice(&to);
        }
    }
    journey.kind = match (packet.l4_offset, packet.proto, packet.payload_len) {
        (0, ..) => KIND_OTHER,
        (_, UDP, _) => KIND_UDP,
        (_, _, 0) => KIND_TCP_CONTROL,
        _ => KIND_TCP,
    };
    journey.payload = packet.payload_len;
    journey.end_seq = packet.seq.wrapping_add(packet.payload_len);
    let (flow, direction) = packet.flow();
    journey.flow = flow;
    journey.direction = direction as u8;
}

/// Steps over VLAN tags in the data; returns where the next header starts.
#[inline(always)]
fn untag(buffer: Buffer, mut l3: u32, packet: &mut Packet) -> u32 {
    for _ in 0..MAX_TAGS {
        if packet.ethertype != ETH_P_8021Q && packet.ethertype != ETH_P_8021AD {
            break;
        }
        let Some([high, low, type_high, type_low]) = buffer.read::<[u8; 4]>(l3) else { break };
        let vlan = u16::from_be_bytes([high, low]) & 0x0fff;
        if packet.vlan == NO_VLAN {
            packet.vlan = vlan;
        } else {
            packet.inner_vlan = vlan;
        }
        packet.ethertype = u16::from_be_bytes([type_high, type_low]);
        l3 += 4;
    }
    l3
}

/// RFC 826 for Ethernet and IPv4: the sender's protocol address is at 14, the target's at 24.
#[inline(always)]
fn arp(buffer: Buffer, l3: u32, packet: &mut Packet) {
    if let (Some(sender), Some(target)) = (buffer.read::<[u8; 4]>(l3 + 14), buffer.read::<[u8; 4]>(l3 + 24)) {
        packet.family = FAMILY_ARP;
        packet.src[..4].copy_from_slice(&sender);
        packet.dst[..4].copy_from_slice(&target);
    }
}

/// RFC 791 section 3.1. `rest` is the number of bytes from `l3` to the end of the frame.
#[inline(always)]
fn ipv4(buffer: Buffer, l3: u32, rest: u32, packet: &mut Packet) {
    let Some(header) = buffer.read::<[u8; 20]>(l3) else { return };
    packet.family = FAMILY_IPV4;
    packet.proto = header[9];
    packet.src[..4].copy_from_slice(&header[12..16]);
    packet.dst[..4].copy_from_slice(&header[16..20]);
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    // A packet of over 64 KB that the stack itself has put together has none.
    let total = if total == 0 { rest } else { total };
    let header_len = u32::from(header[0] & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if !later_fragment {
        transport(buffer, l3 + header_len, total.wrapping_sub(header_len), packet);
    }
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn ipv6(buffer: Buffer, l3: u32, rest: u32, packet: &mut Packet) {
    let Some(header) = buffer.read::<[u8; 40]>(l3) else { return };
    packet.family = FAMILY_IPV6;
    packet.src.copy_from_slice(&header[8..24]);
    packet.dst.copy_from_slice(&header[24..40]);
    packet.proto = header[6];
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let end = l3 + if payload == 0 { rest } else { payload + 40 };
    let mut l4 = l3 + 40;
    for _ in 0..MAX_EXTENSIONS {
        // Hop-by-hop options, routing, fragment, authentication, destination options.
        if !matches!(packet.proto, 0 | 43 | 44 | 51 | 60) {
            break;
        }
        let Some([next, len, high, low]) = buffer.read::<[u8; 4]>(l4) else { return };
        let (is_fragment, is_authentication) = (packet.proto == 44, packet.proto == 51);
        packet.proto = next;
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
    }
    transport(buffer, l4, end.wrapping_sub(l4), packet);
}

/// `len` is the number of bytes from the transport header to the end of the packet.
#[inline(always)]
fn transport(buffer: Buffer, l4: u32, len: u32, packet: &mut Packet) {
    let header_len = if packet.proto == TCP {
        let Some(header) = buffer.read::<[u8; 20]>(l4) else { return };
        packet.src_port = u16::from_be_bytes([header[0], header[1]]);
        packet.dst_port = u16::from_be_bytes([header[2], header[3]]);
        packet.seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        u32::from(header[12] >> 4) * 4
    } else if packet.proto == UDP {
        let Some(header) = buffer.read::<[u8; 8]>(l4) else { return };
        packet.src_port = u16::from_be_bytes([header[0], header[1]]);
        packet.dst_port = u16::from_be_bytes([header[2], header[3]]);
        8
    } else {
        return;
    };
    packet.l4_offset = 1;
    packet.payload_len = if len > header_len { len - header_len } else { 0 };
}

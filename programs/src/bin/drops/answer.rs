//! ICMP errors that the device under test sends, read off the frames that leave it.
//!
//! The kernel has a tracepoint for them, `icmp:icmp_send`, but old kernels do not (5.10), and it is for IPv4 alone; a
//! frame that leaves looks the same on every kernel, and what leaves is what was answered, whatever a rate limit or a rule did to it
//! before. Errors that are merely forwarded have come in by an interface, which the buffer remembers.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::programs::TcContext;
use bpflab_programs::atomic::add_u64;
use bpflab_programs::bound::forget;
use bpflab_programs::drops::{AnswerKey, LOST_ANSWERS};
use bpflab_programs::packet::{FAMILY_IPV4, FAMILY_IPV6};

use crate::{ANSWERS, lose};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021AD: u16 = 0x88a8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// VLAN tags that may stand in the data.
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers of the quoted packet that are followed.
const MAX_EXTENSIONS: u32 = 4;
/// An ICMP error's own header, before the packet that it quotes (RFC 792, RFC 4443 section 3).
const ERROR_HEADER: u32 = 8;

/// Counts the frame if it is an ICMP error that was made here.
#[inline(always)]
pub fn look(ctx: &TcContext) -> Option<()> {
    // SAFETY: the context of the running program.
    let (came_by, noise) = unsafe { ((*ctx.skb.skb).ingress_ifindex, u64::from((*ctx.skb.skb).len)) };
    if came_by != 0 {
        return None;
    }
    let l3 = network_header(ctx)?;
    let mut key = AnswerKey::default();
    let quoted = match ctx.load::<u8>(l3).ok()? >> 4 {
        4 => error4(ctx, l3, &mut key)?,
        6 => error6(ctx, l3, &mut key)?,
        _ => return None,
    };
    match ctx.load::<u8>(quoted).ok()? >> 4 {
        4 => quoted4(ctx, quoted, &mut key, noise)?,
        6 => quoted6(ctx, quoted, &mut key, noise)?,
        _ => return None,
    }
    count(&key);
    Some(())
}

/// Where the network header starts: behind the tags that stand in the data.
#[inline(always)]
fn network_header(ctx: &TcContext) -> Option<usize> {
    let mut at = 12;
    for _ in 0..MAX_TAGS {
        let ethertype = u16::from_be(ctx.load(at).ok()?);
        if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
            break;
        }
        at += 4;
    }
    let ethertype = u16::from_be(ctx.load(at).ok()?);
    (ethertype == ETH_P_IP || ethertype == ETH_P_IPV6).then_some(at + 2)
}

/// Type and code of an IPv4 error (RFC 792); returns where the quoted packet starts.
#[inline(always)]
fn error4(ctx: &TcContext, l3: usize, key: &mut AnswerKey) -> Option<usize> {
    let header: [u8; 20] = ctx.load(l3).ok()?;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[9] != ICMP || later_fragment {
        return None;
    }
    let icmp = l3 + usize::from(header[0] & 0xf) * 4;
    let [kind, code] = ctx.load::<[u8; 2]>(icmp).ok()?;
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem: those that quote a packet.
    if !matches!(kind, 3 | 4 | 5 | 11 | 12) {
        return None;
    }
    (key.kind, key.code) = (kind, code);
    Some(icmp + ERROR_HEADER as usize)
}

/// Type and code of an IPv6 error (RFC 4443 section 2.1: types below 128 are errors). The kernel puts no extension
/// headers before its own.
#[inline(always)]
fn error6(ctx: &TcContext, l3: usize, key: &mut AnswerKey) -> Option<usize> {
    if ctx.load::<u8>(l3 + 6).ok()? != ICMPV6 {
        return None;
    }
    let [kind, code] = ctx.load::<[u8; 2]>(l3 + 40).ok()?;
    if !matches!(kind, 1..=4) {
        return None;
    }
    (key.kind, key.code) = (kind, code);
    Some(l3 + 40 + ERROR_HEADER as usize)
}

#[inline(always)]
fn quoted4(ctx: &TcContext, l3: usize, key: &mut AnswerKey, noise: u64) -> Option<()> {
    let header: [u8; 20] = ctx.load(l3).ok()?;
    key.family = FAMILY_IPV4;
    key.proto = header[9];
    key.src[..4].copy_from_slice(&header[12..16]);
    key.dst[..4].copy_from_slice(&header[16..20]);
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if !later_fragment {
        ports(ctx, l3 + usize::from(header[0] & 0xf) * 4, key, noise);
    }
    Some(())
}

/// As for a dropped packet, through the extension headers of RFC 8200 section 4.
#[inline(always)]
fn quoted6(ctx: &TcContext, l3: usize, key: &mut AnswerKey, noise: u64) -> Option<()> {
    let header: [u8; 40] = ctx.load(l3).ok()?;
    key.family = FAMILY_IPV6;
    key.src.copy_from_slice(&header[8..24]);
    key.dst.copy_from_slice(&header[24..40]);
    let mut proto = header[6];
    let mut l4 = l3 + 40;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(proto, 0 | 43 | 44 | 51 | 60) {
            break;
        }
        let Ok([next, len, high, low]) = ctx.load::<[u8; 4]>(l4) else { break };
        let step = match proto {
            44 => 8,
            // RFC 4302 section 2.2: in words of 4 bytes, minus 2.
            51 => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        let later_fragment = proto == 44 && u16::from_be_bytes([high, low]) >> 3 != 0;
        proto = forget(next.into(), noise) as u8;
        if later_fragment {
            key.proto = proto;
            return Some(());
        }
        l4 = forget((l4 + step) as u64, noise) as usize & 0xffff;
    }
    key.proto = proto;
    ports(ctx, l4, key, noise);
    Some(())
}

/// TCP, UDP and SCTP start with both ports; an error quotes at least these (RFC 792: 64 bits of the data).
#[inline(always)]
fn ports(ctx: &TcContext, l4: usize, key: &mut AnswerKey, noise: u64) {
    if !matches!(key.proto, 6 | 17 | 132) {
        return;
    }
    if let Ok([a, b, c, d]) = ctx.load::<[u8; 4]>(l4) {
        key.src_port = forget(u16::from_be_bytes([a, b]).into(), noise) as u16;
        key.dst_port = forget(u16::from_be_bytes([c, d]).into(), noise) as u16;
    }
}

#[inline(always)]
fn count(key: &AnswerKey) {
    if add(key) {
        return;
    }
    if ANSWERS.insert(key, &1, u64::from(BPF_NOEXIST)).is_err() && !add(key) {
        lose(LOST_ANSWERS);
    }
}

#[inline(always)]
fn add(key: &AnswerKey) -> bool {
    let Some(count) = ANSWERS.get_ptr_mut(key) else { return false };
    // SAFETY: the map's values are 8-byte aligned and live as long as the program.
    unsafe { add_u64(count, 1) };
    true
}

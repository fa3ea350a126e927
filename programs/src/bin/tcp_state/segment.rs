//! One segment: what the analysis needs of its headers, timestamps included.

use core::arch::asm;

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use bpflab_programs::bound::one_to;
use bpflab_programs::packet::{FIN, Packet, SYN};

/// TCP header without options.
const HEADER: usize = 20;
/// End of option list (RFC 9293 section 3.1).
const END: u8 = 0;
/// No operation.
const NOP: u8 = 1;
/// Timestamps (RFC 7323 section 3.2): kind 8, length 10, TSval, TSecr.
const TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LEN: usize = 10;
/// The layout that RFC 7323 appendix A recommends and every stack uses: two NOPs, kind, length.
const ALIGNED: u32 = 0x0101_080a;
/// Longest options (RFC 9293 section 3.1: a header of 15 words).
const MAX_OPTIONS: usize = 40;

/// Room for the options, and for reads at the last offset that a 6-bit number can express.
#[btf_map]
static OPTIONS: PerCpuArray<[u8; 80], 1> = PerCpuArray::new();

/// What the analysis needs to know of a segment.
pub struct Segment {
    /// When it was seen, ns.
    pub now: u64,
    /// Sequence number of its first byte, or of its SYN.
    pub seq: u32,
    /// Acknowledgement number, valid with ACK.
    pub ack: u32,
    /// Payload bytes.
    pub payload: u32,
    /// Sequence numbers that it takes: payload, SYN and FIN.
    pub len: u32,
    /// TSval, valid with `has_ts`.
    pub tsval: u32,
    /// TSecr, valid with `has_ts`.
    pub tsecr: u32,
    /// Window, not scaled.
    pub window: u16,
    /// TCP flags.
    pub flags: u8,
    /// Whether there are timestamps.
    pub has_ts: bool,
    /// Bits of which the verifier knows nothing, see [`Segment::settle`].
    unknown: u64,
}

impl Segment {
    /// Takes what is needed from the parsed headers and reads the timestamps.
    #[inline(always)]
    pub fn new(ctx: &TcContext, packet: &Packet, now: u64) -> Self {
        let flags = packet.tcp_flags;
        let mut segment = Self {
            now,
            seq: packet.seq,
            ack: packet.ack,
            payload: packet.payload_len,
            len: packet.payload_len + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0),
            tsval: 0,
            tsecr: 0,
            window: packet.window,
            flags,
            has_ts: false,
            unknown: u64::from(packet.seq) << 32 | u64::from(packet.ack),
        };
        let offset = u32::from(packet.l4_offset) + HEADER as u32;
        let len = usize::from(packet.tcp_header_len).wrapping_sub(HEADER);
        // The option and the padding that follows from its length take 12 bytes at least.
        if len >= 12 {
            segment.timestamps(ctx, offset, len);
        }
        segment.now = segment.settle(now);
        segment.has_ts = segment.settle(segment.has_ts.into()) != 0;
        segment.tsval = segment.settle(segment.tsval.into()) as u32;
        segment.tsecr = segment.settle(segment.tsecr.into()) as u32;
        segment
    }

    /// The same value, of which the verifier knows nothing: paths that meet again look alike to it from here on, and
    /// are walked once. It does not see that the two operations cancel.
    #[inline(always)]
    pub fn settle(&self, mut value: u64) -> u64 {
        // SAFETY: arithmetic only.
        unsafe {
            asm!(
                "{value} ^= {unknown}",
                "{value} ^= {unknown}",
                value = inout(reg) value,
                unknown = in(reg) self.unknown,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }

    /// Whether any of `flags` is set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    #[inline(always)]
    fn timestamps(&mut self, ctx: &TcContext, offset: u32, len: usize) {
        if let Some([first, tsval, tsecr]) = three_words(ctx, offset)
            && first == ALIGNED
        {
            (self.tsval, self.tsecr, self.has_ts) = (tsval, tsecr, true);
            return;
        }
        let Some(options) = OPTIONS.get_ptr_mut(0) else { return };
        let len = one_to::<64>(len as u64) as usize;
        // SAFETY: the kernel checks the range in the packet; `len` is at most 64 and the destination has 80 bytes.
        if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, options.cast(), len as u32) } != 0 {
            return;
        }
        // SAFETY: this CPU's own element.
        self.search(unsafe { &*options }, len);
    }

    /// Walks the options one by one; a length that makes no sense ends the walk.
    #[inline(always)]
    fn search(&mut self, options: &[u8; 80], len: usize) {
        let mut at = 0;
        for _ in 0..MAX_OPTIONS {
            at = masked::<63>(at as u64);
            if at >= len {
                return;
            }
            // SAFETY: `at` is below 64, and 80 bytes are there.
            let (kind, option) = unsafe { (*options.as_ptr().add(at), *options.as_ptr().add(at + 1)) };
            let option = usize::from(option);
            match kind {
                END => return,
                NOP => at += 1,
                TIMESTAMPS if option == TIMESTAMPS_LEN && at + TIMESTAMPS_LEN <= len => {
                    // SAFETY: as above, 63 + 10 is below 80.
                    unsafe {
                        let value = options.as_ptr().add(at + 2);
                        self.tsval = u32::from_be(value.cast::<u32>().read_unaligned());
                        self.tsecr = u32::from_be(value.add(4).cast::<u32>().read_unaligned());
                    }
                    self.has_ts = true;
                    return;
                }
                _ if option < 2 => return,
                _ => at += option,
            }
        }
    }
}

/// Three big-endian words of the packet at `offset`, if they can be read directly.
///
/// By assembly, because a Rust read of a misaligned integer is compiled for BPF to one load per byte.
#[inline(always)]
fn three_words(ctx: &TcContext, offset: u32) -> Option<[u32; 3]> {
    let mut pointer = ctx.data();
    // SAFETY: arithmetic only: a bound for the offset that the optimiser cannot find superfluous.
    unsafe {
        asm!(
            "{offset} &= 0x7fff",
            "{pointer} += {offset}",
            offset = inout(reg) u64::from(offset) => _,
            pointer = inout(reg) pointer,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    if pointer + 12 > ctx.data_end() {
        return None;
    }
    let (first, second, third): (u64, u64, u64);
    // SAFETY: the 12 bytes are in the packet by the comparison above.
    unsafe {
        asm!(
            "{first} = *(u32 *)({pointer} + 0)",
            "{second} = *(u32 *)({pointer} + 4)",
            "{third} = *(u32 *)({pointer} + 8)",
            first = out(reg) first,
            second = out(reg) second,
            third = lateout(reg) third,
            pointer = in(reg) pointer,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    Some([u32::from_be(first as u32), u32::from_be(second as u32), u32::from_be(third as u32)])
}

/// `value & MASK`, by an instruction that the optimiser cannot find superfluous: the verifier does not.
#[inline(always)]
pub fn masked<const MASK: u64>(mut value: u64) -> usize {
    // SAFETY: arithmetic only.
    unsafe {
        asm!(
            "{value} &= {mask}",
            value = inout(reg) value,
            mask = const MASK,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value as usize
}

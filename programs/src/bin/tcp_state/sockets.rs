//! The kernel's own sockets: each change of state, for the network namespaces that are watched.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_buf};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use bpflab_programs::bound::zero;
use bpflab_programs::tcp_state::{KIND_TRANSITION, LOST_EVENTS, MAX_HOSTS, SockOffsets, Transition};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`; the tracepoint also fires for DCCP, SCTP and MPTCP.
const TCP: u16 = 6;

/// Network namespaces to look at, by inode number; the value is of no account.
#[btf_map]
static NETNS: HashMap<u32, u32, MAX_HOSTS> = HashMap::new();

/// Where the fields are in this kernel's structures.
#[unsafe(no_mangle)]
static SOCK: Global<SockOffsets> = Global::new(SockOffsets {
    net: 0,
    inum: 0,
    family: 0,
    num: 0,
    sport: 0,
    dport: 0,
    rcv_saddr: 0,
    daddr: 0,
    v6_rcv_saddr: 0,
    v6_daddr: 0,
    protocol: 0,
});

/// Reports one change of state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn sock_state(ctx: BtfTracePointContext) -> i32 {
    report(&ctx);
    0
}

#[inline(always)]
fn report(ctx: &BtfTracePointContext) -> Option<()> {
    let offsets = SOCK.load();
    let sock: *const u8 = ctx.arg(0);
    let net: *const u8 = read(sock, offsets.net)?;
    let netns: u32 = read(net, offsets.inum)?;
    NETNS.get_ptr(netns)?;
    if read::<u16>(sock, offsets.protocol)? != TCP {
        return None;
    }
    let mut event = Transition {
        kind: KIND_TRANSITION,
        netns,
        old: ctx.arg::<u32>(1) as u16,
        new: ctx.arg::<u32>(2) as u16,
        local_port: local_port(sock, &offsets)?,
        remote_port: u16::from_be(read(sock, offsets.dport)?),
        local: no_address(),
        remote: no_address(),
        family: read(sock, offsets.family)?,
        reserved: 0,
    };
    if event.family == AF_INET {
        address(sock, offsets.rcv_saddr, event.local.first_chunk_mut::<4>()?)?;
        address(sock, offsets.daddr, event.remote.first_chunk_mut::<4>()?)?;
    } else if event.family == AF_INET6 {
        address(sock, offsets.v6_rcv_saddr, &mut event.local)?;
        address(sock, offsets.v6_daddr, &mut event.remote)?;
    } else {
        return None;
    }
    if crate::EVENTS.output_untyped::<Transition>(&event, 0).is_err() {
        crate::lost(LOST_EVENTS, 1);
    }
    Some(())
}

/// Sixteen zeros.
#[inline(always)]
fn no_address() -> [u8; 16] {
    // SAFETY: the same bytes, any value of which is valid.
    unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([zero(); 2]) }
}

/// The port that the socket is bound to, or was: `skc_num` is cleared before the last step is reported.
#[inline(always)]
fn local_port(sock: *const u8, offsets: &SockOffsets) -> Option<u16> {
    match read::<u16>(sock, offsets.sport)? {
        0 => read(sock, offsets.num),
        port => Some(u16::from_be(port)),
    }
}

#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and reports a fault as an error.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn address<const N: usize>(sock: *const u8, offset: u32, into: &mut [u8; N]) -> Option<()> {
    // SAFETY: as in `read`.
    unsafe { bpf_probe_read_kernel_buf(sock.wrapping_add(offset as usize), into) }.ok()
}

//! `flows`: per-flow packets and bytes, malformed packets, and what each hook saw.

use crate::packet::FlowKey;
use crate::pod;

/// Entries of `FLOWS`; a flow beyond them is counted in `LOST`.
pub const MAX_FLOWS: usize = 131_072;

/// Entries of `FRAGMENTS`: fragmented datagrams under way. The oldest give way.
pub const MAX_FRAGMENTED: usize = 4096;

/// Value of `FLOWS`, keyed by [`crate::packet::FlowKey`]; index 0 of an array is the direction a to b, 1 is b to a.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Packets per direction.
    pub packets: [u64; 2],
    /// Bytes per direction: Ethernet header and VLAN tags included, frame check sequence not.
    pub bytes: [u64; 2],
    /// Time of the packet that made the entry, ns of the object's clock.
    pub first_ns: u64,
    /// The latest time of a packet; a capture's times may go backwards.
    pub last_ns: u64,
    /// Fragments of either direction.
    pub fragments: u32,
    /// All TCP flags seen, per direction.
    pub tcp_flags: [u8; 2],
    /// `ENCAP_*` of the first tunnelled packet, 0 if none.
    pub encap: u8,
    /// Direction of the first packet: 0 if a sent it, 1 if b did.
    pub first_direction: u8,
}

/// Key of `FRAGMENTS`: what fragments of one datagram have in common.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address as in [`crate::packet::Packet::src`].
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Identification.
    pub id: u32,
    /// Outer VLAN identifier or `NO_VLAN`.
    pub vlan: u16,
    /// `FAMILY_*`.
    pub family: u8,
    /// IP protocol for IPv4 (RFC 791 section 3.2), 0 for IPv6, which leaves it out (RFC 8200 section 4.5).
    pub proto: u8,
}

/// Value of `FRAGMENTS`: the flow of the first fragment, which alone has the ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentOwner {
    /// The flow.
    pub flow: FlowKey,
    /// `A_TO_B` or `B_TO_A`.
    pub direction: u64,
}

/// Index of `HOOKS`: XDP.
pub const HOOK_XDP: u32 = 0;
/// Index of `HOOKS`: tc ingress.
pub const HOOK_TC_INGRESS: u32 = 1;
/// Index of `HOOKS`: tc egress.
pub const HOOK_TC_EGRESS: u32 = 2;
/// Entries of `HOOKS`.
pub const HOOKS: usize = 3;

/// Value of `HOOKS`: what one hook saw (per-CPU).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, counted as in [`Flow::bytes`].
    pub bytes: u64,
}

const _: () = assert!(size_of::<Flow>() == 56);
const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<FragmentOwner>() == 56);
pod!(Flow, FragmentKey, FragmentOwner, HookCount);

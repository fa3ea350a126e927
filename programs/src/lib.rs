//! Types shared by the eBPF objects of bpflab and their readers in userspace, and the code shared
//! by the objects themselves.
//!
//! Each object under `src/bin` has one module here that holds its map keys, map values and events.
//! All of them are `repr(C)` without implicit padding, hold fixed-width integers only and carry no
//! logic but constructors and names: rendering belongs to userspace.
//!
//! Integers are in host byte order unless a field says otherwise; addresses are stored as they
//! stand in the packet.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod drops;
pub mod flows;
pub mod latency;
pub mod ledger;
pub mod packet;
pub mod parser;
pub mod protocols;
pub mod replayer;
pub mod sockets;
pub mod stamp;
pub mod tcp_state;

#[cfg(feature = "ebpf")]
pub mod atomic;
#[cfg(feature = "ebpf")]
pub mod bound;
#[cfg(feature = "ebpf")]
pub mod clock;
#[cfg(feature = "ebpf")]
pub mod parse;

/// Marks the shared types as plain old data for aya's typed maps.
macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)`, `Copy`, has no implicit padding and is valid for every bit pattern.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )+
    };
}
pub(crate) use pod;

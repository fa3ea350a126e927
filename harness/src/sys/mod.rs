//! Everything unsafe: system calls that no library wraps, and memory shared with the kernel.
//!
//! The rest of the crate is safe code; a new unsafe block belongs here, with its reason.
#![allow(unsafe_code, reason = "this module is the crate's only place for it")]

mod attach;
mod bpf;
mod detach;
mod element;
mod epoll;
mod ethtool;
mod info;
#[cfg(feature = "libbpf")]
mod libbpf;
mod load;
mod machine;
mod map;
mod memory;
mod mount;
mod packet;
mod ring;
mod statistics;
mod thread;

use std::io;

pub use attach::{
    PerfEvent, TcDirection, TcFilter, TcxPosition, attach_perf_event, attach_socket_filter, link_tcx,
    link_to_descriptor, open_perf_event, open_raw_tracepoint,
};
pub use bpf::{
    ProgramKind, TestRun, attach_tracing, link_to_interface, load_trivial_program, send_live, test_run, test_run_live,
    test_run_with_context,
};
pub use detach::detach;
pub use element::{Batches, MapHandle};
pub use epoll::{Epoll, allow_open_files};
pub use ethtool::{
    EthtoolFeatures, EthtoolStrings, ethtool_features, ethtool_statistics, ethtool_strings, set_ethtool_features,
};
pub use info::{MapInfo, MapSpec, btf_by_id, create_map, map_by_id, map_info, map_kind, program_name};
#[cfg(feature = "libbpf")]
pub use libbpf::{LibbpfCode, LibbpfError, LibbpfMap, LibbpfObject, LibbpfProgram};
pub use load::{InstructionRecords, LOG_STATISTICS, ProgramLoad, load_btf, load_program};
pub use machine::{end_with_parent, lift_memlock, reseed_random, set_clock, signal_group, signal_process, try_kvm};
pub use map::{delete_all, zero_array, zero_per_cpu_array};
pub use memory::{MappedArray, bytes_of, read_pod};
pub use mount::with_private_mount;
pub use packet::{
    SEND_BATCH, packet_receiver, packet_sender, queued_packet_sender, receive_frame, send_data_with_syn, send_frames,
    set_receive_buffer,
};
pub use ring::{PacketRing, RingPacket};
pub use statistics::{enable_statistics, program_runs};
pub use thread::{
    Pinned, Urgent, enter_netns, monotonic_ns, sleep_until, unshare_network, wait_for_softirqs, wait_readable,
};

/// The error of a system call that returned a negative number.
fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

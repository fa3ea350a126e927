//! What every program costs per packet, by the kernel's own measure.

use std::error::Error;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::HashMap;
use bpflab::hook::HookKind;
use bpflab::object::Clock;
use bpflab::suite::{self, Observer, Programs as _};
use bpflab::sys;
use etherparse::PacketBuilder;

use crate::Effort;
use crate::report::{Report, median};

/// Runs between two looks at the rings, as often as lockstep mode looks: events then have room, and what is measured
/// is what a program does for its reader, not what it does when that does not read.
const RUNS: u32 = 64;
/// Groups of runs of an XDP program. Each repeated test-run of one has the kernel change its XDP dispatcher and wait
/// for an RCU grace period (`bpf_prog_change_xdp`, net/bpf/test_run.c), so they are few; no XDP program here has events.
const XDP_GROUPS: u32 = 8;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];

/// A query for `example.com`, type A (RFC 1035, section 4.1).
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

/// A frame with what the table calls it.
type Named = (&'static str, Vec<u8>);

/// A connection in its middle, as it is for most packets of a capture.
fn packets() -> Result<[Named; 3], Box<dyn Error>> {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let tcp = |sequence| ethernet().ipv4(CLIENT, SERVER, 64).tcp(40_000, 8_080, sequence, 64_000).ack(7_000);
    let (mut data, mut ack, mut query) = (Vec::new(), Vec::new(), Vec::new());
    tcp(1_000).psh().write(&mut data, &[b'x'; 1_000])?;
    tcp(2_000).write(&mut ack, &[])?;
    ethernet().ipv4(CLIENT, SERVER, 64).udp(40_001, 53).write(&mut query, QUERY)?;
    Ok([("tcp_data", data), ("tcp_ack", ack), ("udp_dns", query)])
}

/// Mean ns of a run over `frame`: the median over groups of runs.
fn cost(
    program: &OwnedFd,
    frame: &[u8],
    (groups, runs): (u32, u32),
    analyzers: &mut [Box<dyn Observer>],
) -> Result<f64, Box<dyn Error>> {
    let mut durations = Vec::new();
    for _ in 0..groups {
        durations.push(f64::from(sys::test_run(program.as_fd(), frame, None, runs)?.duration_ns));
        suite::drain(analyzers)?;
    }
    Ok(median(&durations))
}

/// Prints and records a row per program.
pub fn run(report: &mut Report, effort: Effort) -> Result<(), Box<dyn Error>> {
    let mut baseline = super::lockstep::baseline()?;
    let mut programs = Vec::new();
    for program in ["empty", "empty_tc", "one_lookup"] {
        programs.push((program.to_owned(), program != "empty_tc", baseline.load(program, None)?.fd));
    }
    let count = baseline.ebpf.map_mut("COUNT").ok_or("object baseline has no map COUNT")?;
    HashMap::<_, u32, u64>::try_from(count)?.insert(0, 0, 0)?;
    let mut analyzers = super::lockstep::analyzers(Clock::Virtual)?;
    for analyzer in &mut analyzers {
        for attach in analyzer.attaches().into_iter().filter(|attach| attach.hook.kind.is_on_path()) {
            let loaded = analyzer.programs().load(&attach.program, None)?;
            programs.push((attach.program, attach.hook.kind == HookKind::Xdp, loaded.fd));
        }
        analyzer.set_clock(1_700_000_000_000_000_000);
    }
    report.heading(&format!(
        "2. Programs: ns per packet as measured by BPF_PROG_TEST_RUN, {} runs each, median of groups",
        effort.runs
    ))?;
    let packets = packets()?;
    let names = packets.iter().map(|(name, frame)| format!("{:>18}", format!("{name} {} B", frame.len())));
    report.line(&format!("  {:<22}{}", "", names.collect::<String>()))?;
    for (program, is_xdp, fd) in &programs {
        let groups = if *is_xdp { XDP_GROUPS } else { effort.runs.div_ceil(RUNS) };
        let mut row = format!("  {program:<22}");
        for (packet, frame) in &packets {
            let cost = cost(fd, frame, (groups, effort.runs.div_ceil(groups)), &mut analyzers)?;
            row.push_str(&format!("{cost:>18.0}"));
            report.value(&format!("ns_{program}_{packet}"), cost);
        }
        report.line(&row)?;
    }
    Ok(())
}

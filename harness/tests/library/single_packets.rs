// A unit test of an XDP program: single packets, their verdicts, and what each changed in the maps.

use std::net::Ipv4Addr;

use bpflab::lab::{self, EbpfObject as _, LabError, Subject, Verdict};
use etherparse::PacketBuilder;
use serde::Deserialize;
use serde_json::json;

/// A row of the map `sources`; its type in the object is `struct traffic`.
#[derive(Debug, PartialEq, Deserialize)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

/// `door.bpf.c` drops UDP to blocked ports and counts everything else by source.
fn door() -> Result<Subject, LabError> {
    Ok(Subject::open(lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/door.bpf.c"))?)?)
}

/// A datagram of 14 + 20 + 8 + 4 = 46 bytes.
fn datagram(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(4000, port).write(&mut frame, b"ping").unwrap();
    frame
}

#[test]
fn a_blocked_port_drops_and_counts() -> Result<(), LabError> {
    let mut door = door()?;
    door.typed_map("blocked")?.set(53, 0)?;

    let run = door.run_packet("door", datagram(53))?;
    assert_eq!(run.verdict, Verdict::XdpDrop);
    assert_eq!(run.maps.len(), 1, "nothing else changed: {run}");
    assert_eq!(run.maps[0].map, "blocked");
    assert_eq!((&run.maps[0].before, &run.maps[0].after), (&Some(json!(0)), &Some(json!(1))));
    Ok(())
}

#[test]
fn any_other_packet_passes_unchanged_and_counts_for_its_source() -> Result<(), LabError> {
    let mut door = door()?;
    for number in 1..=2 {
        let run = door.run_packet("door", datagram(53))?;
        assert_eq!(run.verdict, Verdict::XdpPass);
        assert_eq!(run.output, datagram(53));
        assert_eq!(run.changes_of("sources").count(), 1, "packet {number}");
    }
    // The key's type is __be32: as a number it is read in network order.
    let sources = door.typed_map("sources")?.rows::<u32, Traffic>()?;
    assert_eq!(sources, [(Ipv4Addr::new(192, 0, 2, 1).to_bits(), Traffic { packets: 2, bytes: 92 })]);
    Ok(())
}

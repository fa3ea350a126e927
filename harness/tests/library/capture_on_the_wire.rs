// A capture, played over real links through a tc program that the test has loaded by aya itself.

use std::collections::BTreeMap;

use bpflab::lab::{self, Hook, Lab, NamedEbpf, presets};
use bpflab::require;
use bpflab::rows::{Format, Hints};
use serde::Deserialize;

/// An event of the ring `openings`; its type in the object is `struct opening`.
#[derive(Debug, PartialEq, Deserialize)]
struct Opening {
    from: String,
    port: u16,
}

#[test]
fn the_lookout_tells_of_each_connection_that_is_opened() -> Result<(), Box<dyn std::error::Error>> {
    require!("mode:wire");
    // The object as the test has it from its own build; `lookout.bpf.c` sends an event for each TCP SYN.
    let elf = std::fs::read(lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/lookout.bpf.c"))?)?;
    let ebpf = aya::Ebpf::load(&elf)?;
    let mut lookout = NamedEbpf::new("lookout", &elf, ebpf)?;

    // client - device under test - server; the program runs where packets from the client come in.
    let mut lab = Lab::wire(&presets::bridge())?;
    lab.attach(&mut lookout, "lookout", Hook::tc_ingress().at("dut.eth0"))?;
    // Its maps and events are part of the outcome, with addresses as such.
    let formats = ["event.from", "event.to"].map(|path| (path.to_owned(), Format::Ipv4));
    let hints = Hints { format: formats.into(), ..Hints::default() };
    lab.observe_with(&lookout, &BTreeMap::from([("openings".to_owned(), hints)]))?;
    let outcome = lab.replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../pcaps/http-keepalive.pcap"))?;

    assert_eq!(outcome.ledger().delivered, outcome.ledger().offered);
    let opened: Vec<Opening> = outcome.events("openings")?;
    assert_eq!(opened, [Opening { from: "10.66.0.1".to_owned(), port: 80 }]);
    // aya's own typed maps are at hand as ever.
    let by_port: aya::maps::HashMap<_, u16, u64> = aya::maps::HashMap::try_from(lookout.map("by_port").unwrap())?;
    assert_eq!(by_port.get(&80, 0)?, 1);

    // The whole of it as a text that is the same on every kernel; `assert_snapshot!(outcome)` would keep it in a file.
    insta::assert_snapshot!(outcome, @r"
    ledger
      offered 20 = delivered 20 + dropped 0 + consumed 0 + unaccounted 0
    objects
      lookout
        program lookout (tc-ingress at dut.eth0)
        map .bss (array)
          unused   -> 0x0
        map by_port (hash)
          80       -> 1
        events openings
          from=10.66.0.1 to=10.66.0.2 port=80 number=1
    ");
    Ok(())
}

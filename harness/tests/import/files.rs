//! Which packets are written, to which files, and what is left where something is wrong.

use std::path::Path;

use bpflab::capture::{End, Reader};
use bpflab::import::anonymise::{Tuple, tuples};
use bpflab::import::{ImportError, Split};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Folder, frames, pcap, pcaps, plan, run};

#[test]
fn flows_times_and_limits_select() {
    let folder = Folder::new();
    let input = pcap("http-keepalive.pcap");
    let mut of_flow = plan(&input, folder.path("flow.pcapng"));
    of_flow.selection.flows = vec!["10.66.0.1:*-10.66.0.2:80".parse().unwrap()];
    let report = run(&of_flow).unwrap();
    assert_eq!((report.packets.written, report.packets.other_flows), (18, 2), "all but ARP");
    let mut early = plan(&input, folder.path("early.pcapng"));
    early.selection.to = Some("+0".parse().unwrap());
    assert_eq!(run(&early).unwrap().packets.written, 1, "the first packet's own time");
    let mut late = plan(&input, folder.path("late.pcapng"));
    late.selection.from = Some("+1h".parse().unwrap());
    assert!(matches!(run(&late), Err(ImportError::Nothing { read: 20, .. })));
    let mut few = plan(&input, folder.path("few.pcapng"));
    few.selection.limit = Some(3);
    let report = run(&few).unwrap();
    assert_eq!((report.packets.written, report.packets.beyond_limit), (3, 17));
    assert!(!folder.names().iter().any(|name| name.starts_with("late")));
}

#[test]
fn a_flow_takes_its_later_fragments_with_it() {
    let folder = Folder::new();
    let input = pcap("ping-fragments.pcap");
    // By addresses alone, which stand in all fragments, it is known how many packets the flow has.
    let ends = ["10.66.0.1", "10.66.0.2"].map(|address| address.parse::<std::net::IpAddr>().unwrap());
    let own = |tuple: &Tuple| ends.contains(&tuple.source.ip()) && ends.contains(&tuple.destination.ip());
    let all: Vec<Tuple> = frames(&input).iter().flat_map(|frame| tuples(frame)).filter(own).collect();
    assert!(all.iter().any(|tuple| tuple.fragment.is_some()), "the capture has fragments");
    let mut of_flow = plan(&input, folder.path("out.pcapng"));
    of_flow.selection.flows = vec!["10.66.0.1-10.66.0.2".parse().unwrap()];
    let report = run(&of_flow).unwrap();
    assert_eq!(report.packets.written, all.len() as u64);
}

#[test]
fn a_split_loses_no_packet() {
    for (split, least) in [("flow", 2), ("size=1000", 3), ("time=0.001", 1)] {
        let folder = Folder::new();
        let mut parts = plan(&pcap("http-keepalive.pcap"), folder.path("part.pcapng"));
        parts.split = split.parse().unwrap();
        let report = run(&parts).unwrap();
        assert!(report.files.len() >= least, "{split}: {} files", report.files.len());
        assert_eq!(report.files.iter().map(|file| file.packets).sum::<u64>(), 20, "{split}");
        let names: Vec<String> = folder.names();
        assert_eq!(names.len(), 2 * report.files.len(), "a table of provenance beside each: {names:?}");
        for file in &report.files {
            let table = std::fs::read_to_string(file.path.with_extension("provenance.toml")).unwrap();
            let table: toml::Table = table.parse().unwrap();
            assert_eq!(table["provenance"]["sha256"].as_str(), Some(file.sha256.as_str()));
            assert!(table["provenance"]["scrubbed"].as_str().unwrap().contains("Crypto-PAn"));
        }
    }
    let folder = Folder::new();
    let mut many = plan(&pcap("retransmit.pcap"), folder.path("part.pcapng"));
    many.split = Split::Time(1000);
    let end = run(&many);
    assert!(end.is_ok() || matches!(end, Err(ImportError::TooManyFiles)));
    assert_eq!(folder.names().is_empty(), end.is_err(), "all files or none");
}

#[test]
fn the_input_and_what_exists_are_safe() {
    let folder = Folder::new();
    let copy = folder.path("incident.pcap");
    std::fs::copy(pcap("http-keepalive.pcap"), &copy).unwrap();
    std::os::unix::fs::symlink(&copy, folder.path("link.pcap")).unwrap();
    let before = std::fs::read(&copy).unwrap();
    for output in ["incident.pcap", "link.pcap"] {
        let mut onto = plan(&copy, folder.path(output));
        onto.force = true;
        assert!(matches!(run(&onto), Err(ImportError::OverInput { .. })), "{output}");
    }
    std::fs::write(folder.path("taken.pcapng"), "mine").unwrap();
    let taken = plan(&copy, folder.path("taken.pcapng"));
    assert!(matches!(run(&taken), Err(ImportError::Exists { .. })));
    assert_eq!(std::fs::read(folder.path("taken.pcapng")).unwrap(), b"mine");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    assert_eq!(folder.names(), ["incident.pcap", "link.pcap", "taken.pcapng"]);
}

fn packets(path: &Path) -> u64 {
    let mut reader = Reader::open(path).unwrap();
    while reader.next_packet().unwrap().is_some() {}
    assert_eq!(reader.end(), Some(&End::Complete));
    reader.packets()
}

/// Captures with bytes changed, cut and swapped: an import or an error, never a panic or a part of a file.
#[test]
fn damaged_captures_leave_a_whole_file_or_none() {
    let mut random = SmallRng::seed_from_u64(11);
    let folder = Folder::new();
    let input = folder.path("damaged");
    for path in pcaps() {
        let original = std::fs::read(&path).unwrap();
        for round in 0..12 {
            let mut bytes = original.clone();
            for _ in 0..random.random_range(1..40) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            if round % 4 == 0 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            std::fs::write(&input, &bytes).unwrap();
            let output = folder.path("out.pcapng");
            match run(&plan(&input, output.clone())) {
                Ok(report) => {
                    assert_eq!(folder.names(), ["damaged", "out.pcapng", "out.provenance.toml"]);
                    assert_eq!(packets(&output), report.packets.written);
                    std::fs::remove_file(&output).unwrap();
                    std::fs::remove_file(folder.path("out.provenance.toml")).unwrap();
                }
                Err(_) => assert_eq!(folder.names(), ["damaged"]),
            }
        }
    }
}

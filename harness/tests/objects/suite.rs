//! The suite's own objects as anybody's: read by their types, they say what the suite's reader says.

use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frames, Options, Survey};
use bpflab::hook::HookKind;
use bpflab::lockstep;
use bpflab::object::Clock;
use bpflab::object::suite::FLOWS;
use bpflab::observation::Observation;
use bpflab::rows::{Format, Hints, MapRows};
use bpflab::subject::{AttachSetup, Setup, SubjectObserver};
use bpflab::suite::Observer;
use bpflab::suite::flows::{Flows, FlowsSettings};
use serde_json::Value;

use crate::support::repository;

/// Runs the packets of a capture through an observer, and has it say what it saw.
fn observe(observer: Box<dyn Observer>, capture: &str) -> Observation {
    let path = repository("pcaps").join(capture);
    let options = Options::default();
    let survey = Survey::of(&path, &options).unwrap();
    let mut frames = Frames::open(&path, &options, &survey).unwrap();
    let mut observers = [observer];
    let stop = AtomicBool::new(false);
    lockstep::replay(&mut observers, &mut |frame| frames.next_into(frame), &stop, &mut |_| {}).unwrap();
    let mut observation = Observation::default();
    observers[0].finish(survey.first_ns.unwrap(), &mut observation).unwrap();
    observation
}

fn foreign(capture: &str) -> Observation {
    let attach =
        |program: &str, hook| AttachSetup { program: program.to_owned(), hook: Some(hook), ..AttachSetup::default() };
    // Either family's address in 16 bytes, which no type says.
    let addresses = ["key.a", "key.b"].map(|path| (path.to_owned(), Format::Ip));
    let hints = Hints { format: addresses.into(), ..Hints::default() };
    let setup = Setup {
        rows: [("FLOWS".to_owned(), hints)].into(),
        attach: vec![
            attach("flows_xdp", HookKind::Xdp),
            attach("flows_ingress", HookKind::TcIngress),
            attach("flows_egress", HookKind::TcEgress),
        ],
        ..Setup::default()
    };
    observe(Box::new(SubjectObserver::new(&setup, FLOWS, "flows", Clock::Virtual).unwrap()), capture)
}

fn map<'a>(observation: &'a Observation, name: &str) -> &'a MapRows {
    let maps = &observation.objects[0].maps;
    maps.iter().find(|map| map.map == name).unwrap_or_else(|| panic!("no map {name} in {maps:#?}"))
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {path} in {value:#}"))
}

#[test]
fn typed_rows_and_the_suites_reader_agree() {
    for capture in ["dns-answers.pcap", "retransmit.pcap", "http-ipv6.pcap", "ping-fragments.pcap", "qinq.pcap"] {
        let own = observe(Box::new(Flows::load(Clock::Virtual, &FlowsSettings::default()).unwrap()), capture);
        let rows = foreign(capture);
        let flows = map(&rows, "FLOWS");
        assert!(flows.typed, "{flows:#?}");
        // Packets and bytes of both directions, without regard to which sent first: the numbers of a flow are its own.
        let mut by_rows: Vec<[u64; 4]> = flows
            .rows
            .iter()
            .map(|row| {
                let first = number(&row.value, "/first_direction");
                let (a, b) = (first, 1 - first);
                ["packets", "bytes"].map(|name| [a, b].map(|at| number(&row.value, &format!("/{name}/{at}"))))
            })
            .map(|[packets, bytes]| [packets[0], packets[1], bytes[0], bytes[1]])
            .collect();
        let mut by_reader: Vec<[u64; 4]> = own
            .flows
            .iter()
            .map(|flow| [flow.packets.a_to_b, flow.packets.b_to_a, flow.bytes.a_to_b, flow.bytes.b_to_a])
            .collect();
        by_rows.sort_unstable();
        by_reader.sort_unstable();
        assert!(!by_reader.is_empty());
        assert_eq!(by_rows, by_reader, "{capture}");
        // Hooks are elements of a per-CPU array in the order of the reader's list, summed.
        let hooks = map(&rows, "HOOKS");
        let by_rows: Vec<[u64; 2]> =
            hooks.rows.iter().map(|row| [number(&row.value, "/packets"), number(&row.value, "/bytes")]).collect();
        let by_reader: Vec<[u64; 2]> = own.hooks.iter().map(|hook| [hook.packets, hook.bytes]).collect();
        assert_eq!(by_rows, by_reader, "{capture}");
    }
}

#[test]
fn addresses_of_typed_rows_are_those_of_the_capture() {
    let rows = foreign("retransmit.pcap");
    let text = bpflab::rows::render(map(&rows, "FLOWS"));
    assert!(text.contains("a=10.66.0.1 b=10.66.0.2"), "{text}");
    let text = bpflab::rows::render(map(&foreign("http-ipv6.pcap"), "FLOWS"));
    assert!(text.contains("a=fd66::1 b=fd66::2"), "{text}");
}

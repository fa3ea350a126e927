//! The suite says of an imported capture what it said of the original, but for names and addresses.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bpflab::capture::Options;
use bpflab::live::LiveOptions;
use bpflab::object::Clock;
use bpflab::observation::Observation;
use bpflab::pool::Pool;
use bpflab::run::{Plan as Replay, run_with};
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::topology::TopologyChoice;
use bpflab::wire::Speed;
use serde_json::{Value, json};

use super::{Folder, pcaps, plan, run};

fn observe(pool: &Pool, capture: &Path) -> Observation {
    let replay = Replay {
        capture: capture.to_owned(),
        options: Options::default(),
        mode: Some(Mode::Lockstep),
        programs: Programs::default(),
        topology: TopologyChoice::default(),
        speed: Speed::Top,
        clock: Clock::Virtual,
        artefacts: None,
        record: None,
        live: LiveOptions::default(),
        apps: Vec::new(),
        engine: bpflab::wire::EngineChoice::Auto,
    };
    run_with(pool, &replay, &AtomicBool::new(false), &mut |_| ()).unwrap().observation
}

/// Everything but names and addresses. Flows are sorted: where one sorts depends on its addresses.
fn shape(observation: &Observation) -> Value {
    let mut flows: Vec<String> = observation
        .flows
        .iter()
        .map(|flow| {
            let ends = [flow.packets.a_to_b, flow.packets.b_to_a, flow.bytes.a_to_b, flow.bytes.b_to_a];
            format!("{} {ends:?} {:?} {} {:?}", flow.proto, flow.vlans, flow.fragments, flow.encapsulation)
        })
        .collect();
    flows.sort();
    let tcp = observation.tcp.as_ref().map(|tcp| {
        let connections: Vec<Value> = tcp
            .connections
            .iter()
            .map(|one| {
                json!([
                    one.state,
                    one.payload.a_to_b,
                    one.payload.b_to_a,
                    one.retransmissions.a_to_b,
                    one.rtt_to_server
                ])
            })
            .collect();
        json!([tcp.syn, tcp.rst, tcp.fin, tcp.retransmissions, tcp.out_of_order, tcp.duplicate_acks, connections])
    });
    let http: Vec<Value> = observation
        .http
        .iter()
        .map(|one| {
            json!([
                one.method,
                one.status,
                one.path.len(),
                one.host.as_ref().map(String::len),
                one.latency_us,
                one.pipelined
            ])
        })
        .collect();
    let dns: Vec<Value> = observation
        .dns
        .iter()
        .map(|one| {
            json!([one.kind, one.rcode, one.name.len(), one.answers, one.truncated, one.edns_size, one.latency_us])
        })
        .collect();
    let tls: Vec<Value> = observation
        .tls
        .iter()
        .map(|one| {
            json!([one.sni.as_ref().map(String::len), one.alpn, one.version, one.cipher, one.latency_us, one.retried])
        })
        .collect();
    json!({
        "ledger": observation.ledger, "hooks": observation.hooks.iter().map(|hook| hook.packets).collect::<Vec<_>>(),
        "flows": flows, "tcp": tcp, "malformed": observation.malformed, "http": http, "dns": dns, "tls": tls,
    })
}

#[test]
fn every_capture_says_the_same_after_its_import() {
    let (folder, pool) = (Folder::new(), Pool::default());
    let (mut http, mut dns, mut tls) = (0, 0, 0);
    for path in pcaps() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let output = folder.path(&format!("{name}.pcapng"));
        run(&plan(&path, output.clone())).unwrap();
        let (before, after) = (observe(&pool, &path), observe(&pool, &output));
        assert_eq!(shape(&before), shape(&after), "{name}");
        http += after.http.len();
        dns += after.dns.len();
        tls += after.tls.len();
    }
    assert!(http > 10 && dns > 5 && tls > 1, "there were exchanges to compare: {http}, {dns}, {tls}");
}

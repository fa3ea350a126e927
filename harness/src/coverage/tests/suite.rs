//! The suite's programs on the running kernel, as they are and with probes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::super::{Counting, ProbeKind, ProgramCoverage, Report};
use super::loading::Source;
use crate::capture::{Frame, Frames, Options, Survey};
use crate::object::cost::Code;
use crate::object::{Clock, suite};
use crate::observation::Observation;
use crate::suite::flows::Flows;
use crate::suite::protocols::Protocols;
use crate::suite::tcp_state::TcpState;
use crate::suite::{Analyzer, Hook, cost};
use crate::sys;

/// Programs of the suite that run over packets, each of which must be among those that load.
const PACKET_PROGRAMS: [&str; 4] = ["flows_xdp", "flows_ingress", "tcp_state_ingress", "protocols_ingress"];

#[test]
fn the_verifier_takes_every_program_with_probes_that_it_takes_without() {
    let mut seen = Vec::new();
    cost::each(&mut |object_name, elf, object, targets| {
        let code = Code::relocated(object, elf).unwrap();
        let mut names: Vec<&String> = code.parsed.programs.keys().collect();
        names.sort_unstable();
        for name in names {
            let source = Source::of(&code, name, targets);
            let plain = match source.load() {
                Ok(plain) => plain,
                Err(why) => {
                    println!("{object_name}/{name}: not taken without probes: {}", why.lines().next().unwrap_or(""));
                    continue;
                }
            };
            let probed =
                source.load_probed(Some(&plain.depths), Counting::Atomic).unwrap_or_else(|why| panic!("{name}: {why}"));
            let instrumented = &probed.instrumented;
            let flags = instrumented.probes.iter().filter(|probe| probe.kind == ProbeKind::Flag).count();
            println!(
                "{object_name}/{name}: {} -> {} instructions, {} probes, {flags} flags, {} spilling, {} without; verifier {} -> {}, stack {} -> {}",
                source.instructions.len(),
                instrumented.instructions.len(),
                instrumented.probes.len(),
                instrumented.spilling,
                instrumented.unprobed.len(),
                plain.statistics.instructions,
                probed.loaded.statistics.instructions,
                plain.statistics.stack_bytes,
                probed.loaded.statistics.stack_bytes,
            );
            assert_eq!(flags + instrumented.unprobed.len(), 0, "{name}: every block is counted");
            // Nothing is spilled where nothing is known of the stack; what is left to count is still taken.
            let unmeasured = source.load_probed(None, Counting::Plain).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(unmeasured.instrumented.spilling, 0);
            assert!(unmeasured.instrumented.probes.len() * 10 >= instrumented.probes.len() * 9, "{name}");
            seen.push(name.clone());
        }
    });
    for program in PACKET_PROGRAMS {
        assert!(seen.iter().any(|name| name == program), "{program} is not among {seen:?}");
    }
}

fn captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_capture = |path: &PathBuf| path.extension().is_some_and(|end| end == "pcap" || end == "pcapng");
    let mut captures: Vec<PathBuf> = files.filter(is_capture).collect();
    captures.sort();
    captures
}

fn frames(capture: &Path) -> Vec<Frame> {
    let options = Options::default();
    let survey = Survey::of(capture, &options).unwrap();
    let mut all = Frames::open(capture, &options, &survey).unwrap();
    let (mut frames, mut frame) = (Vec::new(), Frame::default());
    while all.next_into(&mut frame).unwrap() {
        frames.push(frame.clone());
    }
    frames
}

/// What became of each frame: its verdict and the packet that came out, or the kernel's error.
type Outcome = Vec<Result<(u32, Vec<u8>), i32>>;

fn run(analyzer: &mut dyn Analyzer, program: &OwnedFd, frames: &[Frame]) -> (Outcome, String) {
    let mut outcome = Outcome::new();
    for frame in frames {
        analyzer.object().set_clock(frame.time_ns);
        let mut out = vec![0; 1 << 16];
        let run = sys::test_run(program.as_fd(), &frame.data, Some(&mut out), 1);
        outcome.push(run.map_err(|error| error.raw_os_error().unwrap()).map(|run| {
            out.truncate(run.len_out as usize);
            (run.verdict, out)
        }));
        analyzer.drain().unwrap();
    }
    let mut observation = Observation::default();
    analyzer.finish(frames.first().map_or(0, |frame| frame.time_ns), &mut observation).unwrap();
    (outcome, serde_json::to_string(&observation).unwrap())
}

type Load = fn() -> Box<dyn Analyzer>;

/// The analyzers whose programs see packets, at the clock of the frames.
const ANALYZERS: [(&str, &[u8], Load); 3] = [
    ("flows", suite::FLOWS, || Box::new(Flows::load(Clock::Virtual, &Default::default()).unwrap())),
    ("tcp_state", suite::TCP_STATE, || Box::new(TcpState::load(Clock::Virtual, &Default::default()).unwrap())),
    ("protocols", suite::PROTOCOLS, || Box::new(Protocols::load(Clock::Virtual, &Default::default()).unwrap())),
];

/// Mean time of a run, ns, over every fortieth frame that the kernel takes.
fn mean_ns(program: &OwnedFd, captures: &[Vec<Frame>]) -> u32 {
    let runs = captures.iter().flatten().step_by(40);
    let runs = runs.filter_map(|frame| sys::test_run(program.as_fd(), &frame.data, None, 1000).ok());
    let times: Vec<u32> = runs.map(|run| run.duration_ns).collect();
    times.iter().sum::<u32>() / times.len() as u32
}

/// Both ways of a branch are as many as the entries of its block.
fn check_branches(coverage: &ProgramCoverage) {
    for branch in &coverage.branches {
        let block = coverage.blocks.iter().rfind(|block| block.span.first <= branch.instruction).unwrap();
        if let (Some(taken), Some(not_taken)) = (branch.taken, branch.not_taken) {
            assert_eq!(Some(taken + not_taken), block.hits, "{branch:?}");
        }
    }
}

#[test]
fn programs_with_probes_answer_the_same_for_every_capture() {
    let captures: Vec<Vec<Frame>> = captures().iter().map(|path| frames(path)).collect();
    let all: usize = captures.iter().map(Vec::len).sum();
    assert!(captures.len() > 20 && all > 500, "{} captures of {all} frames", captures.len());
    let mut report = Report::default();
    for (name, elf, load) in ANALYZERS {
        let mut pair = [load(), load()];
        let programs: Vec<&str> = pair[0]
            .programs()
            .iter()
            .filter_map(|(program, hook)| match hook {
                Hook::Xdp | Hook::TcIngress | Hook::TcEgress => Some(*program),
                Hook::Tracepoint(_) => None,
            })
            .collect();
        let codes = [0, 1].map(|at| Code::relocated(pair[at].object(), elf).unwrap());
        for program in programs {
            let plain = Source::of(&codes[0], program, &[]).load().unwrap();
            let source = Source::of(&codes[1], program, &[]);
            let probed = source
                .load_probed(Some(&plain.depths), Counting::Atomic)
                .unwrap_or_else(|why| panic!("{program}: {why}"));
            let (mut runs, mut before) = (0, probed.map.read().unwrap());
            for frames in &captures {
                let [one, two] = &mut pair;
                let expected = run(one.as_mut(), &plain.fd, frames);
                let found = run(two.as_mut(), &probed.loaded.fd, frames);
                assert!(expected == found, "{program} differs: {:?} {:?}", expected.1, found.1);
                let now = probed.map.read().unwrap();
                let ran = expected.0.iter().filter(|outcome| outcome.is_ok()).count() as u64;
                let coverage = probed.layout.coverage(&now.since(&before));
                assert_eq!(coverage.runs(), Some(ran), "the start is passed once a packet");
                check_branches(&coverage);
                report.add(coverage).unwrap();
                (runs, before) = (runs + ran, now);
                one.reset().unwrap();
                two.reset().unwrap();
            }
            let sum = report.programs.iter().find(|of| of.program == program).unwrap();
            assert_eq!(sum.runs(), Some(runs), "the sum of all captures");
            let direct = probed.layout.coverage(&before);
            assert_eq!((sum.reached, &sum.lines, &sum.blocks), (direct.reached, &direct.lines, &direct.blocks));
            // What is behind a constant global is never reached: of `flows` at tc almost all, by its settings.
            let little = if program.starts_with("flows_") && program != "flows_xdp" { 100 } else { 2 };
            assert!(sum.reached * little > sum.instructions, "{program}: {} of {}", sum.reached, sum.instructions);
            let quick = source.load_probed(Some(&plain.depths), Counting::Plain).unwrap();
            println!(
                "{name}/{program}: {} of {} instructions, lines {:?}, branches {:?}, ns a packet {}, atomic {}, plain {}",
                sum.reached,
                sum.instructions,
                sum.line_totals(),
                sum.branch_totals(),
                mean_ns(&plain.fd, &captures),
                mean_ns(&probed.loaded.fd, &captures),
                mean_ns(&quick.loaded.fd, &captures),
            );
            pair.iter_mut().for_each(|analyzer| analyzer.reset().unwrap());
        }
    }
}

//! Programs in C as clang compiles them, on the running kernel.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use aya::maps::{Array, ProgramArray};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::{Counting, ProbeKind, ProgramCoverage};
use super::loading::{Probed, Source};
use crate::kernel;
use crate::kernel::probe::Version;
use crate::object::cost::Code;
use crate::object::{LoadOptions, Object};
use crate::sys;

const PROGRAMS: [&str; 9] =
    ["loops", "callback", "subprograms", "switched", "crowded", "full", "tailing", "tailed", "far"];

fn compiled() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("programs.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/coverage/tests/programs.c");
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-Wno-visibility", "-c"]).arg(source).arg("-o").arg(&object);
    assert!(clang.status().expect("clang is needed to compile programs.c").success());
    std::fs::read(object).unwrap()
}

/// The object, with `tailed` in the map of programs.
fn object(elf: &[u8]) -> Object {
    let mut object = Object::load("programs", elf, &LoadOptions::default()).unwrap();
    let tailed = object.load_program("tailed", None).unwrap();
    let mut next = ProgramArray::try_from(object.ebpf.map_mut("NEXT").unwrap()).unwrap();
    next.set(0, &tailed, 0).unwrap();
    object
}

fn is_at_least(major: u32, minor: u32) -> bool {
    Version::of_release(&kernel::release()).unwrap().against(&Version::series(major, minor)).is_ge()
}

/// 300 packets of 14 to 120 bytes.
fn packets() -> Vec<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(1);
    let packet = |rng: &mut SmallRng| -> Vec<u8> {
        let len = rng.random_range(14..=120);
        // Small numbers: the programs compare them with small numbers.
        (0..len).map(|_| if rng.random() { rng.random_range(0..4) } else { rng.random() }).collect()
    };
    (0..300).map(|_| packet(&mut rng)).collect()
}

/// What came of each packet, and what the object's map holds then.
fn run(object: &Object, program: &OwnedFd) -> (Vec<(u32, Vec<u8>)>, Vec<u64>) {
    let outcomes = packets().into_iter().map(|packet| {
        let mut out = vec![0; 4096];
        let run = sys::test_run(program.as_fd(), &packet, Some(&mut out), 1).unwrap();
        out.truncate(run.len_out as usize);
        (run.verdict, out)
    });
    let outcomes = outcomes.collect();
    let results: Array<_, u64> = object.typed_map("RESULTS").unwrap();
    (outcomes, results.iter().map(Result::unwrap).collect())
}

/// Runs a program plain and with probes; gives what was covered, and the map.
fn compare(elf: &[u8], program: &str, counting: Counting) -> (ProgramCoverage, Probed, Vec<u64>) {
    let pair = [object(elf), object(elf)];
    let codes = [0, 1].map(|at| Code::relocated(&pair[at], elf).unwrap());
    let plain = Source::of(&codes[0], program, &[]).load().unwrap_or_else(|why| panic!("{program}: {why}"));
    let probed = Source::of(&codes[1], program, &[]).load_probed(Some(&plain.depths), counting);
    let probed = probed.unwrap_or_else(|why| panic!("{program} with probes: {why}"));
    let expected = run(&pair[0], &plain.fd);
    assert_eq!(run(&pair[1], &probed.loaded.fd), expected, "{program}");
    let coverage = probed.layout.coverage(&probed.map.read().unwrap());
    assert_eq!(coverage.runs(), Some(300), "{program}");
    println!(
        "{program}: {} -> {} instructions, {} probes, {} spilling, {} jumps lengthened, verifier {} -> {}",
        coverage.instructions,
        probed.instrumented.instructions.len(),
        probed.instrumented.probes.len(),
        probed.instrumented.spilling,
        probed.instrumented.lengthened,
        plain.statistics.instructions,
        probed.loaded.statistics.instructions,
    );
    (coverage, probed, expected.1)
}

#[test]
fn compiled_programs_do_the_same_with_probes() {
    let elf = compiled();
    for program in PROGRAMS {
        // bpf_loop came with 5.17 (e6f2dd0f8067), the jumps that `far` needs with 6.6.
        let since = match program {
            "callback" => (5, 17),
            "far" => (6, 6),
            _ => (5, 10),
        };
        if !is_at_least(since.0, since.1) {
            continue;
        }
        for counting in [Counting::Atomic, Counting::Plain] {
            let (coverage, probed, _) = compare(&elf, program, counting);
            let probes = &probed.instrumented.probes;
            assert!(probes.iter().all(|probe| probe.kind == ProbeKind::Count), "{program}");
            assert_eq!(probed.instrumented.unprobed, [], "{program}");
            assert!(coverage.reached > 0 && probed.map.is_mapped(), "{program}");
            match program {
                "full" => assert!(probed.instrumented.spilling > 0),
                "far" => assert!(probed.instrumented.lengthened > 0),
                _ => {}
            }
        }
    }
}

#[test]
fn without_long_jumps_a_program_that_needs_them_is_refused() {
    let elf = compiled();
    let object = object(&elf);
    let code = Code::relocated(&object, &elf).unwrap();
    let source = Source::of(&code, "far", &[]);
    let error = source.instrumented(false).unwrap_err().to_string();
    assert!(error.contains("with probes it jumps too far"), "{error}");
}

#[test]
fn lines_and_branches_have_the_numbers_that_the_packets_have() {
    let elf = compiled();
    let (coverage, ..) = compare(&elf, "loops", Counting::Atomic);
    // Of each packet the first 40 bytes, of which it may have less.
    let seen: Vec<u8> =
        packets().iter().flat_map(|packet| packet.iter().take(40).copied().collect::<Vec<_>>()).collect();
    let odd = seen.iter().filter(|byte| *byte & 1 == 1).count() as u64;
    let bytes = seen.len() as u64;
    let line = |text: &str| coverage.lines.iter().find(|line| line.text.trim() == text).unwrap();
    assert_eq!(line("sum += data[i] & 1 ?").hits, Some(bytes));
    assert!(line("sum += data[i] & 1 ?").file.ends_with("programs.c"));
    // The end of a short packet is found once more than it has bytes.
    let short = packets().iter().filter(|packet| packet.len() < 40).count() as u64;
    assert_eq!(line("if (data + i + 1 > end)").hits, Some(bytes + short));
    assert_eq!(line("return sum & 1 ? 1 : 2;").hits, Some(300));
    let ways = [Some(odd), Some(bytes - odd)];
    let is_split = |taken: [Option<u64>; 2]| taken == ways || taken == [ways[1], ways[0]];
    let split = coverage.branches.iter().find(|branch| is_split([branch.taken, branch.not_taken]));
    assert!(split.is_some(), "{odd} of {bytes} in {:?}", coverage.branches);
}

#[test]
fn what_follows_a_tail_call_counts_only_where_that_failed() {
    let elf = compiled();
    let (coverage, _, results) = compare(&elf, "tailing", Counting::Atomic);
    // There is a program for even lengths alone.
    let odd = packets().iter().filter(|packet| packet.len() % 2 == 1).count() as u64;
    assert_eq!((results[8], results[9], results[10]), (300, odd, 300 - odd));
    let line = coverage.lines.iter().find(|line| line.text.trim() == "return 1;").unwrap();
    assert_eq!(line.hits, Some(odd));
}

#[test]
fn functions_have_names_and_entries() {
    let elf = compiled();
    let (coverage, _, _) = compare(&elf, "subprograms", Counting::Plain);
    let hits = |name: &str| coverage.functions.iter().find(|function| function.name == name).unwrap().hits;
    // The program calls `global` once, which calls `mixed` once, and `mixed` once itself.
    assert_eq!((hits("subprograms"), hits("global"), hits("mixed")), (Some(300), Some(300), Some(600)));
}

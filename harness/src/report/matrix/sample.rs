//! A small result with everything that a page must show, for the tests of the pages.

use crate::record::{
    DeclaredVariant, FailureKind, GuestFailure, GuestTimes, KernelRun, MATRIX_VERSION, Matrix, Outcome, ProgramCost,
    Record,
};
use crate::report::KernelSummary;
use crate::scenario::Mode;

/// The trials of [`matrix`], in the order of its pages.
pub const TRIALS: [&str; 6] = [
    "flows/counted [lockstep]",
    "drops/no-socket [wire]",
    "tcp/window [wire]",
    "tcp/new-probe [lockstep]",
    "tcp/breaks [wire]",
    "tcp/later [wire]",
];

/// What all kernels say in `drops/no-socket`, unless declared otherwise.
pub const BASE: &str = "ledger\n  offered 2 = delivered 1 + dropped 1\ndrops\n  NO_SOCKET on server: udp x 1\n";

/// What the old ones say.
pub const OLD: &str = "ledger\n  offered 2 = delivered 1 + dropped 1\ndrops\n  udp_queue_rcv_skb on server: udp x 1\n";

/// Three kernels: on the oldest one trial is unsupported and one ends in a panic, so that the last has no record; the
/// two older ones have a declared difference and a failure in common; the newest one passes but for a rise in cost.
pub fn matrix() -> Matrix {
    let (old, middle, new) = ("5.10.0-46-amd64", "6.1.0-50-amd64", "7.3.4-amd64");
    let mut oldest = kernel("5.10", old, vec![passed(0, old), differs(old), failed(old), unsupported(old)]);
    oldest.failures.push(panic());
    let mut six = kernel("6.1", middle, vec![passed(0, middle), differs(middle), failed(middle)]);
    six.records.extend((3..6).map(|trial| passed(trial, middle)));
    let mut newest = kernel("7.3", new, (0..6).map(|trial| passed(trial, new)).collect());
    newest.costs = vec![cost("flows", "flows_xdp", 1_300), cost("flows", "flows_tc", 900)];
    newest.cost_rises = vec!["flows/flows_xdp takes 1300 instructions, 30 % more than the committed 1000".to_owned()];
    six.costs = vec![cost("flows", "flows_xdp", 1_000)];
    Matrix { version: MATRIX_VERSION, kernels: vec![oldest, six, newest], problems: Vec::new(), wall_s: 83.25 }
}

/// A guest that panicked during `tcp/breaks [wire]`.
pub fn panic() -> GuestFailure {
    GuestFailure {
        kind: FailureKind::Panic,
        trial: Some(TRIALS[4].to_owned()),
        message: "Kernel panic - not syncing: sysrq triggered crash".to_owned(),
        console: [
            "[    9.1] sysrq: Trigger a crash",
            "[    9.2] Kernel panic - not syncing",
            "[    9.3] ---[ end ]---",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

/// A kernel that ran `records`.
pub fn kernel(name: &str, release: &str, records: Vec<Record>) -> KernelRun {
    KernelRun {
        name: name.to_owned(),
        release: release.to_owned(),
        version: format!("{}-1", release.split('-').next().unwrap_or_default()),
        sha256: "ab".repeat(32),
        runner: "vng".to_owned(),
        acceleration: "emulation: /dev/kvm is not there".to_owned(),
        guests: vec![GuestTimes { boot_s: 5.5, trials_s: 60.25, exit_s: 0.4 }],
        records,
        ..KernelRun::default()
    }
}

/// The trial at that place in [`TRIALS`], passed.
pub fn passed(trial: usize, release: &str) -> Record {
    let (scenario, mode) = TRIALS[trial].split_once(' ').unwrap();
    let mode = if mode == "[wire]" { Mode::Wire } else { Mode::Lockstep };
    let kernel = KernelSummary { release: release.to_owned(), machine: "x86_64".to_owned() };
    let mut record = Record::new(scenario, mode, kernel);
    record.result = Outcome::Passed;
    record.duration_ms = 120;
    record.snapshot = Some(BASE.to_owned());
    record
}

fn differs(release: &str) -> Record {
    let mut record = passed(1, release);
    record.result = Outcome::Differs;
    record.snapshot = Some(OLD.to_owned());
    record.base = Some(BASE.to_owned());
    record.variant = Some(DeclaredVariant {
        name: "before-6.2".to_owned(),
        kernel: "<6.2".to_owned(),
        reason: "reasons came with commit c504e5c2f964".to_owned(),
    });
    record
}

fn failed(release: &str) -> Record {
    let mut record = passed(2, release);
    record.result = Outcome::Failed;
    record.base = Some(BASE.to_owned());
    record.snapshot = Some(BASE.replace("x 1", "x 2"));
    record.reasons = vec![
        "drops.0.packets: expected 1, found 2".to_owned(),
        "--- snapshot\n+++ this run\n@@ -4 +4 @@\n-  NO_SOCKET on server: udp x 1\n+  NO_SOCKET on server: udp x 2\n"
            .to_owned(),
    ];
    record
}

fn unsupported(release: &str) -> Record {
    let mut record = passed(3, release);
    record.result = Outcome::Unsupported;
    record.snapshot = None;
    record.reasons = vec![format!("kernel >=6.1: this is {release}")];
    record
}

fn cost(object: &str, program: &str, instructions: u64) -> ProgramCost {
    ProgramCost {
        object: object.to_owned(),
        program: program.to_owned(),
        instructions,
        stack_bytes: 208,
        load_us: 4_200,
        reason: None,
    }
}

/// What a guest might say to break a page.
pub const HOSTILE: &str =
    "]]></script><script>alert(1)</script>\u{1b}[2J\u{1b}]0;title\u{7}\u{0}\u{b}\r\n&amp;\"' onload=x {{grid}}";

/// Puts [`HOSTILE`] wherever a text comes from a guest, a scenario or a file, and makes a name of 2,000 letters.
pub fn make_hostile(matrix: &mut Matrix) {
    let long = format!("tcp/{}", "x".repeat(2_000));
    for run in &mut matrix.kernels {
        run.records[1].scenario = format!("drops/{HOSTILE}");
        run.records[2].scenario.clone_from(&long);
    }
    let run = &mut matrix.kernels[0];
    run.name = HOSTILE.to_owned();
    run.release = HOSTILE.to_owned();
    run.acceleration = HOSTILE.to_owned();
    run.cost_rises = vec![HOSTILE.to_owned()];
    let refused = ProgramCost { reason: Some(HOSTILE.to_owned()), ..cost(HOSTILE, "refused", 0) };
    run.costs = vec![cost(HOSTILE, HOSTILE, 1), refused];
    run.failures[0].message = HOSTILE.to_owned();
    run.failures[0].console = vec![HOSTILE.to_owned()];
    for record in &mut run.records {
        record.reasons = record.reasons.iter().map(|_| HOSTILE.to_owned()).collect();
        record.snapshot = record.snapshot.as_ref().map(|_| format!("ledger\n  {HOSTILE}\n"));
    }
    run.records[1].variant =
        Some(DeclaredVariant { name: HOSTILE.to_owned(), kernel: HOSTILE.to_owned(), reason: HOSTILE.to_owned() });
    matrix.problems = vec![HOSTILE.to_owned()];
}

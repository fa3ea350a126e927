//! Objects that are made from their source, before guests that have no compiler are started.

use std::path::Path;

use crate::support::Lab;

const SCENARIO: &str = "purpose = \"p\"
[[traffic.frames]]
hex = \"020000000002020000000001 88b5 0000\"
[[programs.objects]]
object = \"one.bpf.o\"
";

fn lab(source: &str) -> Lab {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.path().join("scenarios/own")).unwrap();
    lab.write("scenarios/own/one.toml", SCENARIO.as_bytes());
    lab.write("scenarios/own/one.bpf.c", source.as_bytes());
    lab
}

const MATRIX: [&str; 5] = ["matrix", "--scenarios", "scenarios", "--kernel", "5.10"];

#[test]
fn a_source_with_errors_costs_no_guest() {
    let lab = lab("int one(");
    lab.bpflab(MATRIX).refused(&["cannot compile", "one.bpf.c", "error: "]);
}

#[test]
fn a_missing_compiler_is_named_with_its_package() {
    let lab = lab("int one;");
    let ended = lab.bpflab_with_path(Path::new("/nonexistent"), MATRIX);
    assert_eq!(ended.code, Some(69), "{}", ended.err);
    assert!(ended.err.contains("`apt install clang`"), "{}", ended.err);
    // Here it is a tool that the scenario needs and the machine lacks.
    let ended = lab.bpflab_with_path(Path::new("/nonexistent"), ["run", "--scenarios", "scenarios"]);
    assert!(ended.out.contains("unsupported") && ended.out.contains("clang"), "{}{}", ended.out, ended.err);
}

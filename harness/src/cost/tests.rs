use std::collections::BTreeSet;

use super::*;

fn cost(object: &str, program: &str, instructions: u64, stack_bytes: u32) -> ProgramCost {
    let (object, program) = (object.to_owned(), program.to_owned());
    ProgramCost { object, program, instructions, stack_bytes, load_us: 7, reason: None }
}

fn refused(object: &str, program: &str) -> ProgramCost {
    ProgramCost { reason: Some("no fentry".to_owned()), ..cost(object, program, 0, 0) }
}

fn figures(kernel: &str, costs: &[ProgramCost]) -> Figures {
    let mut figures = Figures::default();
    figures.accept(kernel, costs);
    figures
}

#[test]
fn a_fifth_more_is_allowed_and_not_one_above() {
    // 120 % of 1000 is 1200; of 333, 399.6; of 0, 0.
    for (measured, committed, rises) in [
        (1_200, 1_000, false),
        (1_201, 1_000, true),
        (399, 333, false),
        (400, 333, true),
        (10, 1_000, false),
        (0, 0, false),
        (1, 0, true),
        (u64::MAX, u64::MAX, false),
        (u64::MAX, 1, true),
    ] {
        assert_eq!(is_rise(measured, committed), rises, "{measured} against {committed}");
    }
}

#[test]
fn a_rise_names_program_kernel_and_both_numbers() {
    let figures = figures("6.1", &[cost("flows", "flows_xdp", 1_000, 100), cost("flows", "tiny", 5, 0)]);
    assert_eq!(figures.rises("6.1", &[cost("flows", "flows_xdp", 1_200, 120), cost("flows", "tiny", 6, 0)]), [""; 0]);
    assert_eq!(
        figures.rises("6.1", &[cost("flows", "flows_xdp", 1_300, 121), cost("flows", "tiny", 5, 8)]),
        [
            "flows/flows_xdp takes 1300 instructions on 6.1, 30 % more than the committed 1000",
            "flows/flows_xdp takes 121 bytes of stack on 6.1, 21 % more than the committed 100",
            "flows/tiny takes 8 bytes of stack on 6.1, more than the committed 0",
        ]
    );
}

#[test]
fn programs_and_figures_must_match() {
    let figures = figures("6.1", &[cost("a", "kept", 9, 0), cost("a", "gone", 9, 0), cost("a", "broken", 9, 0)]);
    let measured = [cost("a", "kept", 9, 0), refused("a", "broken"), refused("a", "never"), cost("b", "new", 7, 16)];
    assert_eq!(
        figures.rises("6.1", &measured),
        [
            "a/broken has a committed cost on 6.1, and was not measured there: no fentry",
            "b/new has no committed cost on 6.1, where it takes 7 instructions and 16 bytes of stack: `bpflab matrix \
             --accept-costs --kernel 6.1` commits it",
            "a/gone has a committed cost on 6.1, and there is no such program: `bpflab matrix --accept-costs --kernel \
             6.1` removes it",
        ]
    );
    assert_eq!(
        figures.rises("6.2", &measured),
        [
            "no cost is committed for 6.2, where 2 programs were measured: `bpflab matrix --accept-costs --kernel 6.2` does"
        ]
    );
}

#[test]
fn what_is_accepted_is_read_back_and_rises_nowhere() {
    let measured = [cost("flows", "flows_xdp", 8_509, 336), cost("drops", "kfree \"skb\".s", 4_793, 312)];
    let mut figures = figures("6.1", &[cost("gone", "gone", 1, 1)]);
    figures.accept("5.10", &[cost("flows", "flows_xdp", 1, 2)]);
    figures.accept("6.1", &measured);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("costs.toml");
    figures.write(&path).unwrap();
    let read = Figures::read(&path).unwrap();
    assert_eq!(read, figures);
    assert_eq!(read.rises("6.1", &measured), [""; 0]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.strip_prefix(HEADER).unwrap(),
        "\n[\"5.10\".flows]\nflows_xdp = { instructions = 1, stack_bytes = 2 }\n\n[\"6.1\".drops]\n'kfree \"skb\".s' = \
         { instructions = 4793, stack_bytes = 312 }\n\n[\"6.1\".flows]\nflows_xdp = { instructions = 8509, stack_bytes \
         = 336 }\n",
        "5.10 is left alone, 6.1 replaced"
    );
    assert_eq!(read.to_text(), text);
}

#[test]
fn a_file_that_is_wrong_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("costs.toml");
    assert_eq!(Figures::read(&path).unwrap(), Figures::default());
    std::fs::write(&path, "[\"6.1\".flows]\nflows_xdp = { instructions = 1, stack = 2 }\n").unwrap();
    let error = Figures::read(&path).unwrap_err().to_string();
    assert!(error.contains("costs.toml:2:") && error.contains("unknown field `stack`"), "{error}");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(matches!(Figures::read(&folder.path().join("folder")), Err(FiguresError::Read { .. })));
    assert!(matches!(Figures::default().write(&folder.path().join("no/costs.toml")), Err(FiguresError::Write { .. })));
}

#[test]
fn only_kernels_with_measured_costs_are_judged() {
    let mut matrix = crate::report::matrix::sample::matrix();
    for run in &mut matrix.kernels {
        run.cost_rises.clear();
    }
    Figures::default().judge(&mut matrix);
    let rises: Vec<usize> = matrix.kernels.iter().map(|run| run.cost_rises.len()).collect();
    assert_eq!(rises, [0, 1, 1]);
}

#[test]
fn the_committed_file_has_the_kernels_of_the_list_and_the_programs_of_the_suite() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = repository.join("vm/costs.toml");
    let figures = Figures::read(&path).unwrap();
    assert_eq!(figures.to_text(), std::fs::read_to_string(&path).unwrap(), "as it would be written");
    let list = crate::vm::kernels::KernelList::read(&repository.join("vm/kernels.toml")).unwrap();
    let mut names: Vec<&String> = list.kernels.iter().map(|kernel| &kernel.name).collect();
    names.sort_unstable();
    assert_eq!(figures.kernels.keys().collect::<Vec<_>>(), names);
    // No kernel takes every program; each is taken by one at least.
    let committed: BTreeSet<(&str, &str)> = figures
        .kernels
        .values()
        .flatten()
        .flat_map(|(object, programs)| programs.keys().map(|program| (object.as_str(), program.as_str())))
        .collect();
    let costs = crate::suite::cost::costs();
    let names = costs.iter().map(|cost| (cost.object.as_str(), cost.program.as_str()));
    assert_eq!(committed, names.collect());
}

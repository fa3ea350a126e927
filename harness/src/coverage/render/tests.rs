use super::*;
use crate::coverage::{BlockCoverage, FunctionCoverage, LineCoverage, Span};

fn span(first: u32, len: u32) -> Span {
    Span { first, len }
}

fn line(number: u32, text: &str, spans: &[Span]) -> LineCoverage {
    let (file, text) = ("src/a.c".to_owned(), text.to_owned());
    LineCoverage { file, line: number, text, spans: spans.to_vec(), ..LineCoverage::default() }
}

/// Ten instructions in three blocks: a condition, what follows it in 7 of 10 runs, and a line that is never reached.
/// Line 4 is half in a block that is reached.
fn program(object: &str, hits: [Option<u64>; 3]) -> ProgramCoverage {
    let spans = [span(0, 4), span(4, 3), span(7, 3)];
    let block = |(span, hits): (Span, Option<u64>)| BlockCoverage { span, hits, exact: true };
    let function = FunctionCoverage {
        name: "entry<a, b>".to_owned(),
        span: span(0, 10),
        file: Some("src/a.c".to_owned()),
        line: Some(2),
        ..FunctionCoverage::default()
    };
    let branch = |taken, not_taken| BranchCoverage {
        instruction: 3,
        file: Some("src/a.c".to_owned()),
        line: Some(2),
        taken,
        not_taken,
    };
    let mut program = ProgramCoverage {
        object: object.to_owned(),
        digest: "abc".to_owned(),
        program: "entry".to_owned(),
        instructions: 10,
        reached: 0,
        blocks: spans.into_iter().zip(hits).map(block).collect(),
        lines: vec![
            line(2, "  if (x)", &spans[..1]),
            line(4, "    y();", &[span(4, 3), span(7, 1)]),
            line(7, "  z();", &[span(8, 1)]),
            line(8, "  return 0;", &[span(9, 1)]),
        ],
        functions: vec![function],
        branches: vec![branch(hits[2], hits[1]), branch(None, hits[1])],
    };
    program.settle();
    program
}

fn report() -> Report {
    let mut report = Report::default();
    report.add(program("one", [Some(10), Some(7), Some(0)])).unwrap();
    report
}

#[test]
fn a_summary_says_what_was_never_reached() {
    assert_eq!(
        summary(&report()),
        "one/entry  runs 10, instructions 7 of 10 (70.0 %), lines 2 of 4 (50.0 %), branches 2 of 4 (50.0 %)\n  \
         never reached: src/a.c 7-8\n"
    );
}

#[test]
fn what_is_not_known_is_said() {
    let mut report = Report::default();
    let mut unknown = program("one", [Some(10), None, Some(1)]);
    unknown.blocks[2].exact = false;
    report.add(unknown).unwrap();
    let text = summary(&report);
    assert!(text.contains("  not known: 1 of 3 blocks have no probe\n"), "{text}");
    assert!(text.contains("  not counted: of 1 of 3 blocks only whether they were reached\n"), "{text}");
}

#[test]
fn source_comes_from_the_object_or_from_the_file_if_that_is_the_same() {
    let of_object = "src/a.c
         10:    2:   if (x)
        ...
         7*:    4:     y();
        ...
      #####:    7:   z();
      #####:    8:   return 0;
\n";
    assert_eq!(annotated(&report(), &|_| None), of_object);
    let file = "int f() {\n\tif (x)\n//\n  y();\n\n\n z();\n return 0;\n}\n";
    let whole = annotated(&report(), &|name| (name == "src/a.c").then(|| file.to_owned()));
    assert!(whole.starts_with("src/a.c\n          -:    1: int f() {\n         10:    2: \tif (x)\n"), "{whole}");
    assert_eq!(whole.lines().count(), 1 + 9 + 1);
    let changed = annotated(&report(), &|_| Some(file.replace("y()", "x()")));
    assert_eq!(changed, of_object.replacen("src/a.c", "src/a.c (the file has changed since)", 1));
}

#[test]
fn a_tracefile_has_the_sums_of_all_programs() {
    let mut report = report();
    report.add(program("two", [Some(1), Some(0), Some(1)])).unwrap();
    let expected = "TN:a_1
SF:src/a.c
FN:2,entry<a; b>
FNDA:11,entry<a; b>
FNF:1
FNH:1
BRDA:2,0,0,0
BRDA:2,0,1,7
BRDA:2,1,0,1
BRDA:2,1,1,0
BRF:4
BRH:2
DA:2,11
DA:4,8
DA:7,1
DA:8,1
LF:4
LH:4
end_of_record
";
    assert_eq!(lcov(&report, "a_1, -"), expected);
    // A jump that was never come to.
    let mut report = Report::default();
    report.add(program("one", [Some(0), Some(0), Some(0)])).unwrap();
    assert!(lcov(&report, "").contains("BRDA:2,0,0,-\nBRDA:2,0,1,-\nBRF:2\nBRH:0\n"));
}

#[test]
fn json_is_read_back_and_another_version_is_refused() {
    let report = report();
    let text = json(&report);
    assert_eq!(from_json(&text).unwrap(), report);
    let other = text.replacen("\"version\": 1", "\"version\": 9", 1);
    assert_eq!(
        from_json(&other).unwrap_err().to_string(),
        format!("cannot read a coverage report of version 9: this is version {VERSION}")
    );
    assert!(matches!(from_json("{}"), Err(JsonError::Form(_))));
    assert!(matches!(from_json("no"), Err(JsonError::Form(_))));
}

#[test]
fn runs_of_the_same_program_add_up_and_other_code_is_refused() {
    let mut report = report();
    report.add(program("one", [Some(5), Some(1), Some(4)])).unwrap();
    report.add(program("a", [Some(1), Some(1), Some(1)])).unwrap();
    let names: Vec<&str> = report.programs.iter().map(|program| program.object.as_str()).collect();
    assert_eq!(names, ["a", "one"]);
    let sum = &report.programs[1];
    assert_eq!((sum.runs(), sum.reached, sum.branches[0].taken, sum.branches[1].taken), (Some(15), 10, Some(4), None));
    let before = report.clone();
    let mut other = program("one", [Some(1), Some(1), Some(1)]);
    other.blocks.pop();
    let error = report.add(other).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot add up the coverage of program entry of object one: its code was not the same in both runs"
    );
    assert_eq!(report, before);
}

#[test]
fn names_of_objects_end_no_lines() {
    let mut report = report();
    report.programs[0].object = "a\nb".to_owned();
    report.programs[0].lines.iter_mut().for_each(|line| line.file = "x\nSF:y".to_owned());
    assert!(summary(&report).starts_with("a?b/entry"));
    assert!(lcov(&report, "t").contains("SF:x?SF:y\n"));
    report.retain_files(&|file| file != "x\nSF:y");
    assert_eq!(lcov(&report, "t"), "");
}

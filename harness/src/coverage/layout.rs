//! Where things stand in a program: its blocks, functions and lines by the plain program's instructions, with their
//! names.

use super::instrument::{Branch, Edge, Instrumented, Probe, ProbeKind, Span, index};
use super::report::{BlockCoverage, BranchCoverage, FunctionCoverage, LineCoverage, ProgramCoverage};
use super::{FuncInfo, Hits, LineInfo};
use crate::kernel::btf::Btf;

/// A source line of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    file: String,
    number: u32,
    text: String,
    spans: Vec<Span>,
}

/// A function of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    name: String,
    span: Span,
}

/// All that the coverage of one program needs but the counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    object: String,
    digest: String,
    program: String,
    instructions: u32,
    functions: Vec<Function>,
    lines: Vec<Line>,
    probes: Vec<Probe>,
    unprobed: Vec<Span>,
    branches: Vec<Branch>,
}

/// What a program is known by: runs of the same program add up.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Name of its object.
    pub object: &'a str,
    /// A hash of the object's bytes.
    pub digest: &'a str,
    /// Its name in the object.
    pub program: &'a str,
}

impl Layout {
    /// Puts together what is known of a program.
    ///
    /// `instructions` are how many the plain program has; `functions` and `lines` are the plain program's records, as
    /// they were given to [`super::instrument`], and `types` the object's BTF, to which they refer. Without it functions
    /// are named after the program and their place in it, and there are no lines.
    #[must_use]
    pub fn new(
        identity: Identity<'_>,
        instructions: usize,
        functions: &[FuncInfo],
        lines: &[LineInfo],
        types: Option<&Btf>,
        instrumented: &Instrumented,
    ) -> Self {
        let ends = |starts: &[u32], at: usize| starts.get(at + 1).copied().unwrap_or(index(instructions));
        let starts = &instrumented.starts;
        let named = |(at, start): (usize, &u32)| {
            let known = functions.iter().find(|function| function.insn_off == *start);
            let name =
                known.zip(types).and_then(|(function, types)| Some(types.string(types.ty(function.type_id)?.name)));
            let name = match name {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ if *start == 0 => identity.program.to_owned(),
                _ => format!("{}+{start}", identity.program),
            };
            Function { name, span: Span { first: *start, len: ends(starts, at).saturating_sub(*start) } }
        };
        Self {
            object: identity.object.to_owned(),
            digest: identity.digest.to_owned(),
            program: identity.program.to_owned(),
            instructions: index(instructions),
            functions: starts.iter().enumerate().map(named).collect(),
            lines: types.map(|types| spell(lines, types, starts, index(instructions))).unwrap_or_default(),
            probes: instrumented.probes.clone(),
            unprobed: instrumented.unprobed.clone(),
            branches: instrumented.branches.clone(),
        }
    }

    /// The program's coverage by what was counted.
    #[must_use]
    pub fn coverage(&self, hits: &Hits) -> ProgramCoverage {
        let mut blocks: Vec<BlockCoverage> = Vec::with_capacity(self.probes.len() + self.unprobed.len());
        for Probe { slot, first, len, kind } in &self.probes {
            let span = Span { first: *first, len: *len };
            blocks.push(BlockCoverage { span, hits: Some(hits.of(*slot)), exact: *kind == ProbeKind::Count });
        }
        blocks.extend(self.unprobed.iter().map(|span| BlockCoverage { span: *span, hits: None, exact: false }));
        blocks.sort_unstable_by_key(|block| block.span.first);
        let line = |line: &Line| LineCoverage {
            file: line.file.clone(),
            line: line.number,
            text: line.text.clone(),
            spans: line.spans.clone(),
            ..LineCoverage::default()
        };
        let mut coverage = ProgramCoverage {
            object: self.object.clone(),
            digest: self.digest.clone(),
            program: self.program.clone(),
            instructions: self.instructions,
            reached: 0,
            lines: self.lines.iter().map(line).collect(),
            functions: self.functions.iter().map(|function| self.function(function)).collect(),
            branches: self.branches.iter().map(|branch| self.branch(branch, &blocks)).collect(),
            blocks,
        };
        coverage.settle();
        coverage
    }

    fn function(&self, function: &Function) -> FunctionCoverage {
        let declared = self.line_of(function.span.first);
        FunctionCoverage {
            name: function.name.clone(),
            span: function.span,
            file: declared.map(|line| line.file.clone()),
            line: declared.map(|line| line.number),
            ..FunctionCoverage::default()
        }
    }

    fn line_of(&self, instruction: u32) -> Option<&Line> {
        let holds = |span: &Span| (span.first..span.first.saturating_add(span.len)).contains(&instruction);
        self.lines.iter().find(|line| line.spans.iter().any(holds))
    }

    /// How often each way of a branch was taken: the count of the block that it leads to, where no other way leads
    /// there; else what the other way leaves of the branch's own count.
    fn branch(&self, branch: &Branch, blocks: &[BlockCoverage]) -> BranchCoverage {
        let counted = |first: u32| {
            let found = blocks.binary_search_by_key(&first, |block| block.span.first).ok()?;
            Some(&blocks[found]).filter(|block| block.exact)?.hits
        };
        let all = counted(branch.block);
        let known = |edge: Edge| if edge.only { counted(edge.to) } else { None };
        let (taken, not_taken) = (known(branch.taken), known(branch.not_taken));
        let rest = |other: Option<u64>| Some(all?.saturating_sub(other?));
        let nothing = all.filter(|all| *all == 0);
        let line = self.line_of(branch.instruction);
        BranchCoverage {
            instruction: branch.instruction,
            file: line.map(|line| line.file.clone()),
            line: line.map(|line| line.number),
            taken: taken.or(rest(not_taken)).or(nothing),
            not_taken: not_taken.or(rest(taken)).or(nothing),
        }
    }
}

/// Lines with their texts and the instructions of each, by file and number. A line's record counts up to the next one or
/// the end of its function.
fn spell(records: &[LineInfo], types: &Btf, starts: &[u32], end: u32) -> Vec<Line> {
    let mut lines: std::collections::BTreeMap<(&str, u32), Line> = std::collections::BTreeMap::new();
    for (nth, record) in records.iter().enumerate() {
        let next = records.get(nth + 1).map_or(end, |next| next.insn_off);
        let function_end = starts.iter().copied().find(|start| *start > record.insn_off).unwrap_or(end);
        let span = Span { first: record.insn_off, len: next.min(function_end).saturating_sub(record.insn_off) };
        let (file, number) = (types.string(record.file_name_off), record.line_col >> 10);
        // Line 0 is what the compiler says of code that belongs to no line.
        if number == 0 || file.is_empty() {
            continue;
        }
        let line = lines.entry((file, number)).or_insert_with(|| Line {
            file: file.to_owned(),
            number,
            text: types.string(record.line_off).trim_end().to_owned(),
            spans: Vec::new(),
        });
        match line.spans.last_mut() {
            Some(last) if last.first + last.len == span.first => last.len += span.len,
            _ => line.spans.push(span),
        }
    }
    lines.into_values().collect()
}

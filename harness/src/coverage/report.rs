//! What was reached of programs, added up over runs, scenarios, modes and kernels.

use serde::{Deserialize, Serialize};

use super::instrument::Span;

/// Version of the JSON that a [`Report`] is written as. It rises when something that was there is gone or means
/// something else.
pub const VERSION: u32 = 1;

/// A basic block and how often it was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCoverage {
    /// Its instructions.
    #[serde(flatten)]
    pub span: Span,
    /// How often it was entered; nothing for a block that could have no probe.
    pub hits: Option<u64>,
    /// Whether `hits` is a count; else only that it is not 0 says something.
    pub exact: bool,
}

/// A source line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCoverage {
    /// The file as the compiler names it.
    pub file: String,
    /// The line's number, from 1.
    pub line: u32,
    /// Its text as the compiler read it; may be empty.
    pub text: String,
    /// How often the most frequent of its blocks was entered: a line that was inlined in several places, or whose
    /// condition is asked again and again, has several. Nothing if none of its blocks has a probe.
    pub hits: Option<u64>,
    /// Its instructions.
    pub instructions: u32,
    /// How many of them were reached.
    pub reached: u32,
    /// Where they are in the program.
    pub spans: Vec<Span>,
}

/// A function of the bytecode: what the compiler inlined is part of its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCoverage {
    /// Its name.
    pub name: String,
    /// Its instructions.
    #[serde(flatten)]
    pub span: Span,
    /// The file of its first instruction.
    pub file: Option<String>,
    /// The line of its first instruction.
    pub line: Option<u32>,
    /// How often it was entered.
    pub hits: Option<u64>,
    /// How many of its instructions were reached.
    pub reached: u32,
}

/// A conditional jump. Nothing stands for a number that the blocks' counts do not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchCoverage {
    /// Index of the jump.
    pub instruction: u32,
    /// Its file.
    pub file: Option<String>,
    /// Its line.
    pub line: Option<u32>,
    /// How often it jumped.
    pub taken: Option<u64>,
    /// How often it did not.
    pub not_taken: Option<u64>,
}

/// What was reached of one program. Instructions are those of the program as its object has it, counted as slots of 8
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCoverage {
    /// Name of its object.
    pub object: String,
    /// Hash of the object.
    pub digest: String,
    /// Its name.
    pub program: String,
    /// Its instructions, those of the functions that it calls included.
    pub instructions: u32,
    /// How many of them were reached.
    pub reached: u32,
    /// Its blocks, in order.
    pub blocks: Vec<BlockCoverage>,
    /// Its lines, by file and number.
    pub lines: Vec<LineCoverage>,
    /// Its functions, in order; the first is the program itself.
    pub functions: Vec<FunctionCoverage>,
    /// Its conditional jumps, in order.
    pub branches: Vec<BranchCoverage>,
}

/// Two coverages that are said to be of the same program, and are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot add up the coverage of program {program} of object {object}: its code was not the same in both runs")]
pub struct MergeError {
    /// Name of the object.
    pub object: String,
    /// Name of the program.
    pub program: String,
}

/// The sum of two counts, of which both must be known.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a?.saturating_add(b?))
}

/// The sum of two counts of a block that was counted on one kernel and could not be on another.
fn sum_known(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    sum(a, b).or(a).or(b)
}

impl ProgramCoverage {
    /// How often the program was run; nothing if its start has no probe.
    #[must_use]
    pub fn runs(&self) -> Option<u64> {
        self.blocks.first().and_then(|block| block.hits)
    }

    /// How many lines it has, and how many of them were reached.
    #[must_use]
    pub fn line_totals(&self) -> (usize, usize) {
        (self.lines.len(), self.lines.iter().filter(|line| line.reached > 0).count())
    }

    /// How many ways its conditional jumps have, and how many of them were taken.
    #[must_use]
    pub fn branch_totals(&self) -> (usize, usize) {
        let ways = self.branches.iter().flat_map(|branch| [branch.taken, branch.not_taken]);
        (self.branches.len() * 2, ways.filter(|way| way.is_some_and(|taken| taken > 0)).count())
    }

    /// Adds another run of the same program.
    ///
    /// # Errors
    /// [`MergeError`] if its code differs; then nothing is added.
    pub fn add(&mut self, other: &Self) -> Result<(), MergeError> {
        let same_code = self.instructions == other.instructions
            && self.blocks.iter().map(|block| block.span).eq(other.blocks.iter().map(|block| block.span))
            && self
                .branches
                .iter()
                .map(|branch| branch.instruction)
                .eq(other.branches.iter().map(|branch| branch.instruction));
        if !same_code {
            return Err(MergeError { object: self.object.clone(), program: self.program.clone() });
        }
        for (block, other) in self.blocks.iter_mut().zip(&other.blocks) {
            block.hits = sum_known(block.hits, other.hits);
            block.exact &= other.exact;
        }
        for (branch, other) in self.branches.iter_mut().zip(&other.branches) {
            branch.taken = sum(branch.taken, other.taken);
            branch.not_taken = sum(branch.not_taken, other.not_taken);
        }
        self.settle();
        Ok(())
    }

    /// Works out what follows from the blocks.
    pub(super) fn settle(&mut self) {
        let Self { blocks, lines, functions, .. } = self;
        let whole = Span { first: 0, len: self.instructions };
        self.reached = reached(blocks, whole).0;
        for line in lines {
            line.instructions = line.spans.iter().map(|span| span.len).sum();
            let found = line.spans.iter().map(|span| reached(blocks, *span));
            (line.reached, line.hits) =
                found.fold((0, None), |(all, most), (reached, hits)| (all + reached, most.max(hits)));
        }
        for function in functions {
            function.reached = reached(blocks, function.span).0;
            function.hits = reached(blocks, Span { len: 1, ..function.span }).1;
        }
    }
}

/// How many instructions of a span were reached, and the count of its most frequent block.
fn reached(blocks: &[BlockCoverage], span: Span) -> (u32, Option<u64>) {
    let end = |span: Span| span.first.saturating_add(span.len);
    let start = blocks.partition_point(|block| end(block.span) <= span.first);
    let inside = blocks[start..].iter().take_while(|block| block.span.first < end(span));
    inside.fold((0, None), |(reached, most), block| {
        let len = end(block.span).min(end(span)) - block.span.first.max(span.first);
        let was = block.hits.is_some_and(|hits| hits > 0);
        (reached + if was { len } else { 0 }, most.max(block.hits))
    })
}

/// The coverage of programs, one entry for each, by object and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of objects, programs and hashes.
    pub programs: Vec<ProgramCoverage>,
}

impl Report {
    /// Adds what a run reached: to what there is of the same program of the same object, by its hash, else as an entry
    /// of its own.
    ///
    /// # Errors
    /// [`MergeError`] if the hash is the same and the code is not; then nothing is added.
    pub fn add(&mut self, program: ProgramCoverage) -> Result<(), MergeError> {
        let key = |of: &ProgramCoverage| (of.object.clone(), of.program.clone(), of.digest.clone());
        match self.programs.binary_search_by_key(&key(&program), key) {
            Ok(found) => self.programs[found].add(&program),
            Err(place) => {
                self.programs.insert(place, program);
                Ok(())
            }
        }
    }

    /// Leaves out the lines of files that `keep` does not want, such as those of a language's own library.
    pub fn retain_files(&mut self, keep: &dyn Fn(&str) -> bool) {
        for program in &mut self.programs {
            program.lines.retain(|line| keep(&line.file));
        }
    }
}

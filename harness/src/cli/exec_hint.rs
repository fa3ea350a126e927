//! What a command that failed in a guest may have missed there, told from what it wrote.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::vm::protocol::GuestCommand;
use crate::vm::runner::Runner;

/// Bytes of the end of what it wrote that are looked at.
const LOOKED_AT: usize = 64 << 10;
/// Files that are named at most.
const NAMED: usize = 5;

/// The end of what a command wrote, and what it had.
pub struct Heard {
    runner: Runner,
    folder: PathBuf,
    had: Vec<PathBuf>,
    end: Vec<u8>,
}

impl Heard {
    /// Nothing yet.
    pub fn new(runner: Runner, with: &[PathBuf], command: &GuestCommand) -> Self {
        let with = with.iter().filter_map(|path| std::path::absolute(path).ok());
        let arguments = command.arguments.iter().map(|argument| command.folder.join(argument));
        let had = with.chain(arguments).chain([command.program.clone()]).collect();
        Self { runner, folder: command.folder.clone(), had, end: Vec::new() }
    }

    /// Takes in what it wrote.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(bytes);
        // Rarely, so that not each piece moves all.
        if self.end.len() > 2 * LOOKED_AT {
            self.end.drain(..self.end.len() - LOOKED_AT);
        }
    }

    /// A sentence for each thing that may have been missing.
    pub fn hints(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.end);
        let mut hints = Vec::new();
        if self.runner == Runner::Fast && (text.contains("No such file") || text.contains("not found")) {
            let missing = self.missing(&text);
            let which = if missing.is_empty() {
                "what it did not find may be a file of this machine".to_owned()
            } else {
                format!("this machine has {}, the guest has not", missing.join(", "))
            };
            hints.push(format!(
                "{which}: a fast guest has the command with its libraries and what --with names; --runner vng shows all \
                 files of this machine"
            ));
        }
        if text.contains("Read-only file system") {
            let where_to = match self.runner {
                Runner::Vng => "/tmp and the folder that --dir names",
                Runner::Fast => "/tmp",
            };
            hints.push(format!("in this guest a command can write to {where_to}; the rest is read-only"));
        }
        hints
    }

    /// Files that `text` names and this machine has, but those that the guest has, too.
    fn missing(&self, text: &str) -> Vec<String> {
        let text = console::strip_ansi_codes(text);
        let apart = |letter: char| letter.is_whitespace() || "\"'`()[]{},;:=<>".contains(letter);
        let words: BTreeSet<&str> = text.split(apart).filter(|word| word.contains(['/', '.'])).collect();
        let is_missing = |word: &&str| {
            let path = self.folder.join(word);
            let named = word.contains('/') && path.is_dir() && path.components().count() > 2;
            (path.is_file() || named) && !self.had.iter().any(|had| path.starts_with(had))
        };
        // Sources of the command itself are named by its panics.
        let is_source = |word: &&str| Path::new(word).extension().is_some_and(|extension| extension == "rs");
        words.into_iter().filter(|word| !is_source(word)).filter(is_missing).take(NAMED).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(runner: Runner, folder: &Path, text: &str) -> Vec<String> {
        let command = GuestCommand { program: "/bin/sh".into(), folder: folder.into(), ..GuestCommand::default() };
        let mut heard = Heard::new(runner, &[folder.join("given")], &command);
        heard.push(text.as_bytes());
        heard.hints()
    }

    #[test]
    fn files_that_this_machine_has_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["data.bin", "given", "lib.rs"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let text =
            "panicked at lib.rs:3: cannot open `data.bin`, \u{1b}[1mgiven\u{1b}[0m, no.bin: No such file or directory";
        let hints = heard(Runner::Fast, folder.path(), text);
        assert!(hints[0].starts_with("this machine has data.bin, the guest has not: "), "{hints:?}");
        assert!(heard(Runner::Vng, folder.path(), text).is_empty());
        assert!(heard(Runner::Fast, folder.path(), "data.bin").is_empty());
        let hints = heard(Runner::Fast, folder.path(), "sh: 1: ip: not found");
        assert!(hints[0].starts_with("what it did not find may be"), "{hints:?}");
    }

    #[test]
    fn what_may_be_written_to_is_said() {
        let text = "Os { code: 30, kind: ReadOnlyFilesystem, message: \"Read-only file system\" }";
        let folder = Path::new("/");
        assert!(heard(Runner::Vng, folder, text)[0].contains("/tmp and the folder that --dir names"));
        assert!(heard(Runner::Fast, folder, text)[0].contains("write to /tmp; the rest"));
    }
}

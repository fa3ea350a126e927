//! Objects compiled from C, captures, and the command.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpflab::subject::source;
use serde_json::Value;
use tempfile::TempDir;

/// Before every source: what each needs.
const HEAD: &str = "#include <linux/bpf.h>\n#include <linux/pkt_cls.h>\n#include <bpf/bpf_helpers.h>\n";
/// Behind every source that does not have its own.
const LICENSE: &str = "char LICENSE[] SEC(\"license\") = \"Dual MIT/GPL\";\n";

/// A working directory, and the command in it.
pub struct Lab(TempDir);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Seven DNS queries with their answers, and an ARP request with its: 16 packets, 8 from each side.
pub fn capture() -> PathBuf {
    repository("pcaps/dns-answers.pcap")
}

/// Compiles a C source. A machine without a compiler fails the tests: what they are about is objects of clang.
#[track_caller]
fn compile(source: &Path, object: &Path) {
    if let Err(error) = source::compile(source, object) {
        panic!("{error}: install clang and libbpf-dev, as ci/setup does");
    }
}

impl Lab {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// An object of a C source: the usual headers are put before it, a licence behind it.
    #[track_caller]
    pub fn object(&self, name: &str, source: &str) -> PathBuf {
        self.unlicensed(name, &format!("{source}\n{LICENSE}"))
    }

    /// As [`Lab::object`], without a licence.
    #[track_caller]
    pub fn unlicensed(&self, name: &str, source: &str) -> PathBuf {
        let source = self.write(&format!("{name}.bpf.c"), format!("{HEAD}{source}").as_bytes());
        let object = source.with_extension("o");
        compile(&source, &object);
        // A test may damage the object, and nobody must make it anew.
        std::fs::remove_file(source).unwrap();
        object
    }

    /// An object of a C source of the repository.
    #[track_caller]
    pub fn of_repository(&self, source: &str) -> PathBuf {
        let source = repository(source);
        let object = self.path().join(source.with_extension("o").file_name().unwrap());
        compile(&source, &object);
        object
    }

    /// Runs `bpflab` with `args` to its end.
    pub fn bpflab<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        self.run(Command::new(env!("CARGO_BIN_EXE_bpflab")).args(args))
    }

    /// The same with programs of one folder.
    pub fn bpflab_with_path<A: AsRef<OsStr>>(&self, path: &Path, args: impl IntoIterator<Item = A>) -> Ended {
        self.run(Command::new(env!("CARGO_BIN_EXE_bpflab")).args(args).env("PATH", path))
    }

    fn run(&self, command: &mut Command) -> Ended {
        let output = command.current_dir(self.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("everything printed is UTF-8");
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// `bpflab inspect OBJECT`.
    pub fn inspect(&self, object: &Path) -> Ended {
        self.bpflab(["inspect".as_ref(), object.as_os_str()])
    }

    /// `bpflab replay` of [`capture`] with an object, quietly.
    pub fn replay(&self, object: &Path, args: &[&str]) -> Ended {
        let capture = capture();
        let head =
            ["replay".as_ref(), capture.as_os_str(), "--quiet".as_ref(), "--object".as_ref(), object.as_os_str()];
        self.bpflab(head.into_iter().chain(args.iter().map(OsStr::new)))
    }
}

impl Ended {
    /// The document of `--json`.
    #[track_caller]
    pub fn document(&self) -> Value {
        assert!(matches!(self.code, Some(0 | 1)), "exit {:?}: {}", self.code, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out))
    }

    /// Invalid input: exit code 2, and a message with all of `parts`.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        parts.iter().for_each(|part| assert!(self.err.contains(part), "no `{part}` in: {}", self.err));
    }

    /// Exit code `code`, and all of `parts` on standard output.
    #[track_caller]
    pub fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        parts.iter().for_each(|part| assert!(self.out.contains(part), "no `{part}` in:\n{}", self.out));
    }
}

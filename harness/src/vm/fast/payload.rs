//! What a run brings along, as a file system on a disk: each file under the path that it has here.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempPath;

use super::super::kernels::Tool;
use super::super::runner::{Needs, Runner, RunnerError, Setting, failed};
use crate::kernel::probe::tools;

/// Bytes of the disk. A saved guest knows its size, so it is always the same; what is not used takes no room.
pub const DISK_BYTES: u64 = 1 << 30;
/// How long a file system may take to make.
const LIMIT: Duration = Duration::from_secs(120);
/// ext4 without what a disk that is never written needs; every kernel that can read ext4 reads it.
const FEATURES: &str = "^has_journal,^metadata_csum,^64bit,^resize_inode";

/// Makes the disk of all guests of a run in `folder`: the binary with its libraries, the scenarios, and what they need.
///
/// It is gone with what is returned.
pub fn build(setting: &Setting, needs: &Needs, folder: &Path) -> Result<TempPath, RunnerError> {
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let staged = tempfile::Builder::new().prefix("payload").tempdir_in(folder).map_err(failed(folder))?;
    let mut files = BTreeSet::from([setting.binary.clone()]);
    files.extend(libraries(&setting.binary)?);
    for tool in &needs.tools {
        // A scenario whose tool is missing is unsupported, and says so itself.
        if let Some(tool) = tools::find(tool) {
            files.extend(libraries(&tool)?);
            files.insert(tool);
        }
    }
    for program in &needs.programs {
        files.extend(with_interpreters(program)?);
    }
    for file in needs.files.iter().map(|file| plain(file)) {
        if file.is_dir() { walk(&file, &mut files)? } else { files.extend([file]) }
    }
    if let Some(scenarios) = &setting.scenarios {
        walk(scenarios, &mut files)?;
    }
    for file in &files {
        stage(file, staged.path())?;
    }
    for folder in &needs.folders {
        let folder = below(staged.path(), folder);
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    }
    let image = TempPath::try_from_path(std::path::absolute(folder.join("payload.img")).map_err(failed(folder))?);
    let image = image.map_err(failed(folder))?;
    file_system(staged.path(), &image, DISK_BYTES)?;
    Ok(image)
}

/// Makes a file system of `bytes` in file `image` with what is in folder `from`.
pub fn file_system(from: &Path, image: &Path, bytes: u64) -> Result<(), RunnerError> {
    // mke2fs would ask whether to overwrite one.
    let _ = std::fs::remove_file(image);
    let file = std::fs::File::create(image).map_err(failed(image))?;
    file.set_len(bytes).map_err(failed(image))?;
    let doing = format!("make a file system of {} with {}", image.display(), from.display());
    let tool = Tool { name: "mke2fs", doing, limit: LIMIT, fills: image, path: None };
    let options = ["-q", "-F", "-t", "ext4", "-m", "0", "-O", FEATURES, "-E", "nodiscard,root_owner=0:0", "-d"];
    tool.must(tool.command()?.args(options).arg(from).arg(image))?;
    Ok(())
}

/// The libraries that a program needs, its interpreter included, as the dynamic linker finds them; none for a script
/// or a program that needs none.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, RunnerError> {
    let ldd = Runner::Fast.tool("ldd")?;
    let output =
        Command::new(&ldd).arg(program).output().map_err(|source| RunnerError::Start { program: ldd, source })?;
    // `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`; what is not found or only in memory has no path.
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// A program with its libraries, or a script with its interpreter, and that one's.
fn with_interpreters(program: &Path) -> Result<Vec<PathBuf>, RunnerError> {
    let mut files = vec![program.to_owned()];
    files.extend(libraries(program)?);
    for interpreter in interpreters(program) {
        files.extend(libraries(&interpreter)?);
        files.push(interpreter);
    }
    Ok(files)
}

/// What the first line of a script calls; with `env` also what that calls. Nothing for other files.
fn interpreters(program: &Path) -> Vec<PathBuf> {
    /// The kernel reads no more of a first line (`include/uapi/linux/binfmts.h`).
    const BINPRM_BUF_SIZE: u64 = 256;
    let mut start = Vec::new();
    let read = std::fs::File::open(program).and_then(|file| file.take(BINPRM_BUF_SIZE).read_to_end(&mut start));
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!").filter(|_| read.is_ok()) else { return Vec::new() };
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let Some(interpreter) = words.next().map(PathBuf::from).filter(|path| path.exists()) else { return Vec::new() };
    let called = words.find(|word| !word.starts_with('-')).filter(|_| interpreter.ends_with("env"));
    [interpreter].into_iter().chain(called.and_then(tools::find)).collect()
}

/// All files at and below `folder`.
fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), RunnerError> {
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

/// Puts `file` below `root`, under its own path.
fn stage(file: &Path, root: &Path) -> Result<(), RunnerError> {
    let to = below(root, file);
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    // The file itself where links point to it elsewhere, and no copy where a name is enough.
    let real = file.canonicalize().map_err(failed(file))?;
    if std::fs::hard_link(&real, &to).is_err() {
        std::fs::copy(&real, &to).map_err(failed(file))?;
    }
    Ok(())
}

/// `path`, which is absolute, below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The path without `..`, which a guest could only follow if all that is on the way were there.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_bring_their_interpreters() {
        let folder = tempfile::tempdir().unwrap();
        let script = |text: &[u8]| {
            let path = folder.path().join("script");
            std::fs::write(&path, text).unwrap();
            interpreters(&path)
        };
        assert_eq!(script(b"#!/bin/sh -e\ntrue\n"), [Path::new("/bin/sh")]);
        assert_eq!(script(b"#! /usr/bin/env -S sh -e\n")[1].file_name(), Some("sh".as_ref()));
        for other in [&b""[..], b"#!", b"#!\xff\n", b"#!/no/such\n", b"\x7fELF\x02#!/bin/sh\n"] {
            assert!(script(other).is_empty(), "{other:?}");
        }
        assert!(interpreters(&folder.path().join("nowhere")).is_empty());
    }
}

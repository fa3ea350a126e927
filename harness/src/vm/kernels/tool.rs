//! Running programs: with a deadline, line by line, and with their complaints kept.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::KernelError;
use crate::kernel::probe::tools;

/// Lines kept of a program's complaints.
const KEPT: usize = 12;
/// What programs and the kernel say when a disk is full.
const FULL: [&str; 3] = ["No space left on device", "enough free space", "Disk quota exceeded"];

/// How to get each program that is called.
const GET: [(&str, &str); 7] = [
    ("apt-get", "Debian packages need apt: use a Debian system, or give the kernel as `image`"),
    ("apt-cache", "Debian packages need apt: use a Debian system, or give the kernel as `image`"),
    ("dpkg-deb", "`apt install dpkg`"),
    ("depmod", "`apt install kmod`"),
    ("mke2fs", "`apt install e2fsprogs`"),
    ("vng", "`pip install virtme-ng`, or ci/setup"),
    ("", "install it"),
];

/// One run of a program.
pub struct Tool<'a> {
    /// Its name.
    pub name: &'static str,
    /// What it is to do, as in "could not ...".
    pub doing: String,
    /// How long it may take.
    pub limit: Duration,
    /// The folder it fills.
    pub fills: &'a Path,
    /// Folders to look for it; those of this process if none are given.
    pub path: Option<&'a str>,
}

/// How a program ended.
pub struct Ended {
    /// Whether it says it did what it was to do.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// The last lines of standard error.
    pub err: String,
}

enum Said {
    Out(String),
    Err(String),
}

impl Tool<'_> {
    /// The program with no arguments, speaking English.
    ///
    /// # Errors
    /// [`KernelError::ToolMissing`].
    pub fn command(&self) -> Result<Command, KernelError> {
        let found = match self.path {
            None => tools::find(self.name),
            Some(path) => tools::find_in(self.name, std::env::split_paths(path)),
        };
        let Some(program) = found else {
            let get = GET.iter().find(|(tool, _)| [self.name, ""].contains(tool)).map_or("", |(_, get)| get);
            return Err(KernelError::ToolMissing { tool: self.name, get });
        };
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// Runs `command` to its end, with each line of its standard output given to `line` as it comes.
    ///
    /// # Errors
    /// [`KernelError::Start`], [`KernelError::Slow`], [`KernelError::DiskFull`].
    pub fn run(&self, command: &mut Command, line: &mut dyn FnMut(&str)) -> Result<Ended, KernelError> {
        let start = |source| KernelError::Start { tool: self.name, source };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let deadline = Instant::now() + self.limit;
        let mut child = command.spawn().map_err(start)?;
        let (sender, receiver) = mpsc::channel();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            listen(out, sender.clone(), Said::Out);
            listen(err, sender, Said::Err);
        }
        let (mut out, mut err) = (String::new(), Vec::new());
        loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Said::Out(text)) => {
                    line(&text);
                    out.push_str(&text);
                    out.push('\n');
                }
                Ok(Said::Err(text)) => err.push(text),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    // It may have ended in this moment; then there is nothing to end.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(KernelError::Slow { tool: self.name, doing: self.doing.clone(), limit: self.limit });
                }
            }
        }
        let success = child.wait().map_err(start)?.success();
        let err = err[err.len().saturating_sub(KEPT)..].join("\n");
        if !success && FULL.iter().any(|full| err.contains(full)) {
            return Err(KernelError::DiskFull { folder: self.fills.to_owned(), doing: self.doing.clone() });
        }
        Ok(Ended { success, out, err })
    }

    /// Runs `command`, which must do what it is to do, and returns its standard output.
    ///
    /// # Errors
    /// Those of [`Self::run`], and [`KernelError::Tool`].
    pub fn must(&self, command: &mut Command) -> Result<String, KernelError> {
        let ended = self.run(command, &mut |_| {})?;
        if ended.success { Ok(ended.out) } else { Err(self.failed(&ended.err)) }
    }

    /// The failure that has no other name.
    pub fn failed(&self, err: &str) -> KernelError {
        KernelError::Tool { tool: self.name, doing: self.doing.clone(), said: one_line(err) }
    }
}

/// A program's complaints in one line, without apt's marks and its summary of them.
pub fn one_line(text: &str) -> String {
    let plain = |line: &'_ str| line.trim().trim_start_matches("E: ").trim_start_matches("W: ").to_owned();
    let speaks = |line: &String| !line.is_empty() && !line.starts_with("Some index files failed");
    let lines: Vec<String> = text.lines().map(plain).filter(speaks).collect();
    if lines.is_empty() { "it does not say why".to_owned() } else { lines.join("; ") }
}

/// Sends each line of a pipe until it closes. The thread ends with the pipe's last writer.
fn listen(pipe: impl Read + Send + 'static, sender: Sender<Said>, wrap: fn(String) -> Said) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(wrap(text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(limit: Duration) -> Tool<'static> {
        Tool { name: "sh", doing: "do this".to_owned(), limit, fills: Path::new("/f"), path: None }
    }

    fn shell(script: &str, limit: Duration) -> Result<String, KernelError> {
        let tool = tool(limit);
        tool.must(tool.command().unwrap().args(["-c", script]))
    }

    #[test]
    fn output_complaints_and_full_disks_are_told_apart() {
        let limit = Duration::from_secs(20);
        assert_eq!(shell("echo a; echo b", limit).unwrap(), "a\nb\n");
        let error = shell("echo one >&2; echo two >&2; exit 1", limit).unwrap_err().to_string();
        assert_eq!(error, "sh could not do this: one; two");
        let error = shell("echo 'write: No space left on device' >&2; exit 1", limit).unwrap_err();
        assert!(matches!(error, KernelError::DiskFull { .. }), "{error}");
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let begun = Instant::now();
        let error = shell("exec sleep 600", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, KernelError::Slow { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_missing_program_is_named_with_how_to_get_it() {
        let tool = Tool { name: "depmod", path: Some("/nonexistent"), ..tool(Duration::ZERO) };
        assert_eq!(tool.command().unwrap_err().to_string(), "no program depmod in PATH: `apt install kmod`");
    }
}

//! The file system of the kernel's tracer: numbers of tracepoints, and what programs print.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// Where it is mounted, if it is.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Runs `work` with the folder that the tracer's file system is mounted on: the usual one, or one that only this call
/// sees.
fn with_root<R: Send>(work: impl FnOnce(&Path) -> io::Result<R> + Send) -> io::Result<R> {
    match MOUNTED.iter().map(Path::new).find(|root| root.join("events").is_dir()) {
        Some(root) => work(root),
        None => sys::with_private_mount("tracefs", work),
    }
}

/// The number of a tracepoint, `category/name`.
///
/// # Errors
/// `NotFound` for a tracepoint that the kernel does not have, or where there is no tracer.
pub fn tracepoint(at: &str) -> io::Result<u64> {
    let is_name =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let named = at.split_once('/').is_some_and(|(category, name)| is_name(category) && is_name(name));
    if !named {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{at} is not `category/name` of a tracepoint"),
        ));
    }
    with_root(|root| {
        let text = fs::read_to_string(root.join("events").join(at).join("id"))
            .map_err(|error| io::Error::new(error.kind(), format!("the kernel has no tracepoint {at}: {error}")))?;
        text.trim().parse().map_err(io::Error::other)
    })
}

/// Most bytes of printed text that are kept.
const MOST: usize = 1 << 20;

/// What programs print by `bpf_printk` while this lives, into a buffer of the lab's own: nothing is taken from others who
/// read the tracer. Which program a line is of the kernel does not say.
#[derive(Debug)]
pub struct Printed {
    name: String,
    pipe: File,
    text: Vec<u8>,
    /// Bytes of the text that [`Printed::news`] has told.
    told: usize,
}

impl Printed {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the kernel has no tracer, or no events of `bpf_trace_printk` (since 5.9: ac5a72ea5c89).
    pub fn listen() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bpflab-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let pipe = with_root(|root| {
            let folder = root.join("instances").join(&name);
            fs::create_dir(&folder)?;
            let open = || {
                fs::write(folder.join("events/bpf_trace/bpf_trace_printk/enable"), "1")?;
                fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(folder.join("trace_pipe"))
            };
            open().inspect_err(|_| drop(fs::remove_dir(&folder)))
        })?;
        Ok(Self { name, pipe, text: Vec::new(), told: 0 })
    }

    /// Takes in what has been printed since.
    pub fn drain(&mut self) {
        let mut chunk = [0; 4096];
        while self.text.len() < MOST {
            // Nothing there is an error of a pipe that does not wait.
            match self.pipe.read(&mut chunk) {
                Ok(len @ 1..) => self.text.extend_from_slice(&chunk[..len]),
                _ => break,
            }
        }
    }

    /// The whole lines that were taken in since the last call.
    pub(crate) fn news(&mut self) -> Vec<String> {
        let new = &self.text[self.told..];
        let len = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = said(&new[..len]);
        self.told += len;
        lines
    }

    /// The lines, without what the tracer puts before them.
    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        self.drain();
        said(&self.text)
    }
}

fn said(text: &[u8]) -> Vec<String> {
    let said = |line: &str| line.split_once("bpf_trace_printk: ").map(|(_, said)| said.to_owned());
    String::from_utf8_lossy(text).lines().filter_map(said).collect()
}

impl Drop for Printed {
    fn drop(&mut self) {
        // An instance that is being read cannot be removed.
        if let Ok(null) = File::open("/dev/null") {
            self.pipe = null;
        }
        let folder = PathBuf::from("instances").join(&self.name);
        let _ = with_root(|root| fs::remove_dir(root.join(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracepoints_have_numbers_and_unknown_ones_are_named() {
        assert!(tracepoint("net/netif_receive_skb").unwrap() > 0);
        assert!(tracepoint("net/no_such").unwrap_err().to_string().contains("no tracepoint net/no_such"));
        assert!(tracepoint("../../etc/passwd").is_err());
    }

    #[test]
    fn nothing_is_left_of_a_listener() {
        let printed = Printed::listen().unwrap();
        let name = printed.name.clone();
        assert!(with_root(|root| Ok(root.join("instances").join(&name).exists())).unwrap());
        drop(printed);
        assert!(!with_root(|root| Ok(root.join("instances").join(&name).exists())).unwrap());
    }
}

//! What the lab and a guest say to each other: a request as a JSON file, and messages as JSON lines.
//!
//! The messages are a stream, so that a guest that dies has told all it knew; the last one says how many records there
//! were. A stream without it is a failure, whatever it held.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::kernel::probe::Lacks;
use crate::record::{ProgramCost, Record};
use crate::report::KernelSummary;
pub use crate::scenario::trial::TrialName;

/// Version of both directions; lab and guest are the same binary, so another one is a mistake of the set-up.
pub const PROTOCOL_VERSION: u32 = 2;

/// What a guest is to do. Paths are the guest's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Folder of the scenarios; empty if there are none.
    pub scenarios: PathBuf,
    /// Where failed trials leave what they offered and received.
    pub artefacts: PathBuf,
    /// Whether artefacts are sent as messages, because nobody sees the guest's folders.
    pub send_artefacts: bool,
    /// The trials, in their order: scenarios, and tests of [`Self::binaries`].
    pub trials: Vec<TrialName>,
    /// Test binaries that trials name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binaries: Vec<TestBinary>,
    /// A command to run before the trials, most often in place of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<GuestCommand>,
    /// Features that the kernel was built without, as the list of kernels says; it must have all others.
    pub lacks: Lacks,
    /// Whether the verifier cost of the suite's programs is measured first.
    pub costs: bool,
    /// What the clock is set to, ns since the UNIX epoch: a restored guest's stands where it was saved.
    pub time_ns: Option<u64>,
    /// What the random numbers start from, hexadecimal: a restored guest's are those of every other restored one.
    pub seed: Option<String>,
    /// A mishap to bring about, for the lab's own tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mishap: Option<Mishap>,
}

/// A command as a guest runs it: as root, with nothing to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCommand {
    /// The program, absolute.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working folder, absolute.
    pub folder: PathBuf,
    /// After so many milliseconds it is killed.
    pub limit_ms: u64,
}

/// A program that answers to the options of Rust's test harness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestBinary {
    /// What stands before the slash in the names of its tests; no other binary of the request has it.
    pub name: String,
    /// How it is called, but for the options that choose a test; the limit is each test's.
    pub command: GuestCommand,
}

/// Where a command writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It was killed when its time was over.
    TimedOut,
    /// There is no such program, or it needs an interpreter that is not there.
    NotFound(String),
    /// It could not be started for another reason.
    NotStarted(String),
}

/// Mishaps that a guest can be made to suffer, after its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mishap {
    /// The kernel panics.
    Panic,
    /// The guest says nothing any more.
    Silence,
    /// The guest ends without its final message.
    Quit,
    /// The guest says something that is no message.
    Babble,
}

/// What a guest says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// It came so far.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// Its kernel.
        kernel: KernelSummary,
    },
    /// What the suite's programs cost its verifier.
    Costs {
        /// One entry per program.
        programs: Vec<ProgramCost>,
    },
    /// A trial begins.
    Started {
        /// Which.
        trial: TrialName,
    },
    /// A trial ended.
    Record {
        /// How.
        record: Box<Record>,
    },
    /// The command wrote something.
    Output {
        /// Where to.
        stream: Stream,
        /// What, base64.
        content: String,
    },
    /// The command ended.
    Ended {
        /// How.
        ending: Ending,
    },
    /// A file that a failed trial left.
    Artefact {
        /// Which trial's, as the name of a folder.
        folder: String,
        /// Its name.
        name: String,
        /// What is in it, base64.
        content: String,
    },
    /// All trials have ended.
    Done {
        /// How many records there were.
        records: u64,
    },
}

impl Message {
    /// Writes the message as one line.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        // In one call where the system allows: a guest may die between two.
        out.write_all(&line)?;
        out.flush()
    }
}

/// Cuts a stream into lines and lines into messages.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// Bytes of them that were given as messages.
    taken: usize,
}

/// Bytes that a line may have: more is no message, and must not fill the memory.
const LONGEST_LINE: usize = 64 << 20;

impl Lines {
    /// Takes in `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..std::mem::take(&mut self.taken));
        self.pending.extend_from_slice(bytes);
    }
}

/// The messages that are complete; a line that is no message, as a sentence, in its place.
impl Iterator for Lines {
    type Item = Result<Message, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = &self.pending[self.taken..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                let is_endless = rest.len() > LONGEST_LINE;
                return is_endless.then(|| Err(format!("the guest wrote a line of more than {LONGEST_LINE} bytes")));
            };
            let line = &rest[..length];
            self.taken += length + 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(serde_json::from_slice(line).map_err(|error| complaint(line, &error)));
            }
        }
    }
}

fn complaint(line: &[u8], error: &serde_json::Error) -> String {
    let shown: String = String::from_utf8_lossy(line).chars().take(120).flat_map(char::escape_default).collect();
    format!("the guest wrote what is no message ({error}): {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Mode;

    #[test]
    fn messages_are_cut_from_a_stream_wherever_it_is_torn() {
        let mut stream = Vec::new();
        let trial = TrialName { scenario: "dns/answers".to_owned(), mode: Some(Mode::Wire) };
        Message::Started { trial }.write(&mut stream).unwrap();
        Message::Done { records: 1 }.write(&mut stream).unwrap();
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                lines.push(part);
                seen.extend(lines.by_ref().map(Result::unwrap));
            }
            assert!(matches!(&seen[..], [Message::Started { .. }, Message::Done { records: 1 }]), "cut at {cut}");
        }
    }

    #[test]
    fn commands_keep_every_byte_in_one_line() {
        use std::os::unix::ffi::OsStringExt as _;
        let command = GuestCommand {
            program: "/bin/true".into(),
            arguments: vec![OsString::from_vec(b"a\xff\n'\"".to_vec()), OsString::new()],
            environment: vec![("NAME".into(), OsString::from_vec(vec![0xfe]))],
            folder: "/".into(),
            limit_ms: 1,
        };
        let request = Request { version: PROTOCOL_VERSION, command: Some(command), ..Request::default() };
        let text = serde_json::to_string(&request).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn what_is_no_message_is_shown() {
        let read = |text: &[u8]| {
            let mut lines = Lines::default();
            lines.push(text);
            lines.collect::<Vec<_>>()
        };
        let error = read(b"\x1b[0mlogin:\n")[0].clone().unwrap_err();
        assert!(error.contains("login:") && !error.contains('\x1b'), "{error}");
        assert!(read(b"{\"message\":\"done\"}\n")[0].as_ref().unwrap_err().contains("records"));
        // What came before it, in the same breath, is a message all the same.
        let both = read(b"{\"message\":\"done\",\"records\":1}\nlogin:\n");
        assert!(matches!(&both[..], [Ok(Message::Done { records: 1 }), Err(_)]), "{both:?}");
    }
}

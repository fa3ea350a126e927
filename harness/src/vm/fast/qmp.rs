//! QEMU's machine protocol, as much of it as saving a guest takes
//! (<https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::process::ProcessGroup;

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its socket is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A connection, ready for commands.
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket at `path`, which `qemu` makes some time after its start.
    pub fn connect(path: &Path, qemu: &mut ProcessGroup) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline || !matches!(qemu.ended(), Ok(None)) => return Err(error),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        // Its greeting.
        monitor.line()?;
        monitor.call("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Leaves memory that is in a file out of states: it is there already.
    pub fn leave_memory_out(&mut self) -> io::Result<()> {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        self.call("migrate-set-capabilities", &json!({ "capabilities": [capability] })).map(drop)
    }

    /// Calls `command` and gives what it returns.
    pub fn call(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        self.stream.get_mut().write_all(text.as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let said = error["desc"].as_str().unwrap_or("no description");
                return Err(io::Error::other(format!("{command}: {said}")));
            }
            // Anything else is an event.
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

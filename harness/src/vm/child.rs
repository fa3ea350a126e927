//! Runs a command for somebody else, who sees what it writes while it runs: in a guest a command or a test, on this
//! machine a test binary that is asked for its tests.

use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use super::protocol::{Ending, GuestCommand, Stream};

/// Pieces that may wait to be taken: a command that writes faster waits.
const PIECES: usize = 16;
/// Bytes of the largest piece.
const PIECE: usize = 16 << 10;
/// After a command's end, what it started may still hold its output open: how long nothing must come.
const AFTER_END: Duration = Duration::from_millis(100);
/// After a command's end, how long something may come.
const LONGEST_AFTER_END: Duration = Duration::from_secs(2);

/// Whether a command's two outputs can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// They can; their order cannot.
    Apart,
    /// They cannot: all is in the order in which it was written, as [`Stream::Out`].
    Together,
}

enum Event {
    Output(Stream, Vec<u8>),
    Closed,
    Ended(io::Result<ExitStatus>),
}

/// Runs `command` to its end, or until its time is over, and gives what it writes to `on`. Its process group ends with it.
///
/// # Errors
/// That of `on`; the command is killed then.
pub fn run(
    command: &GuestCommand,
    streams: Streams,
    on: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
) -> io::Result<Ending> {
    let deadline = Instant::now() + Duration::from_millis(command.limit_ms);
    let (child, outputs) = match start(command, streams) {
        Ok(started) => started,
        Err(ending) => return Ok(ending),
    };
    let group = Group(i32::try_from(child.id()).unwrap_or_default());
    let (send, events) = mpsc::sync_channel(PIECES);
    let mut open = outputs.len();
    for (stream, output) in outputs {
        let send = send.clone();
        std::thread::spawn(move || pass_on(stream, output, &send));
    }
    std::thread::spawn(move || wait(child, &send));
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match event {
            Event::Output(stream, bytes) => on(stream, &bytes)?,
            Event::Closed => open -= 1,
            Event::Ended(status) => {
                drain(&events, open, on)?;
                return Ok(status.map_or_else(|error| Ending::NotStarted(error.to_string()), ending));
            }
        }
        // One that writes all the time never lets the wait itself run out.
        if Instant::now() >= deadline {
            break;
        }
    }
    drop(group);
    drain(&events, open, on)?;
    Ok(Ending::TimedOut)
}

/// A process group that is killed when this is dropped.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        crate::sys::signal_group(self.0, libc::SIGKILL);
    }
}

type Outputs = Vec<(Stream, PipeReader)>;

fn start(command: &GuestCommand, streams: Streams) -> Result<(Child, Outputs), Ending> {
    let not_started = |error: io::Error| Ending::NotStarted(error.to_string());
    if !command.folder.is_dir() {
        return Err(Ending::NotStarted(format!("there is no folder {}", command.folder.display())));
    }
    let mut process = Command::new(&command.program);
    process.args(&command.arguments).current_dir(&command.folder).stdin(Stdio::null()).process_group(0);
    process.env_clear().envs(command.environment.iter().map(|(name, value)| (name, value)));
    let (reader, writer) = io::pipe().map_err(not_started)?;
    let mut outputs = vec![(Stream::Out, reader)];
    match streams {
        Streams::Together => {
            process.stderr(writer.try_clone().map_err(not_started)?).stdout(writer);
        }
        Streams::Apart => {
            let (reader, other) = io::pipe().map_err(not_started)?;
            outputs.push((Stream::Err, reader));
            process.stdout(writer).stderr(other);
        }
    }
    let child = process.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Ending::NotFound(error.to_string()),
        _ => not_started(error),
    })?;
    Ok((child, outputs))
}

fn pass_on(stream: Stream, mut output: PipeReader, send: &SyncSender<Event>) {
    let mut buffer = vec![0; PIECE];
    loop {
        match output.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            // Nobody listens any more.
            Ok(count) if send.send(Event::Output(stream, buffer[..count].to_vec())).is_err() => return,
            Ok(_) => {}
        }
    }
    let _ = send.send(Event::Closed);
}

fn wait(mut child: Child, send: &SyncSender<Event>) {
    let _ = send.send(Event::Ended(child.wait()));
}

/// Takes what a command wrote before its end: until its outputs are closed, or nothing comes any more.
fn drain(
    events: &Receiver<Event>,
    mut open: usize,
    on: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let end = Instant::now() + LONGEST_AFTER_END;
    while open > 0 && Instant::now() < end {
        match events.recv_timeout(AFTER_END) {
            Ok(Event::Output(stream, bytes)) => on(stream, &bytes)?,
            Ok(Event::Closed) => open -= 1,
            Ok(Event::Ended(_)) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Signalled(signal),
        (None, None) => Ending::NotStarted(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, streams: Streams, limit_ms: u64) -> (Ending, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let command = GuestCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("WORD".into(), "said".into())],
            folder: "/".into(),
            limit_ms,
        };
        let ending = run(&command, streams, &mut |stream, bytes| {
            if stream == Stream::Out {
                out.extend_from_slice(bytes)
            } else {
                err.extend_from_slice(bytes)
            }
            Ok(())
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ending.unwrap(), text(out), text(err))
    }

    /// Longer than any of these commands takes on a busy machine.
    const LONG: u64 = 60_000;

    #[test]
    fn outputs_and_endings_are_passed_on() {
        let script = "pwd; echo $WORD; echo no >&2; exit 7";
        let said = (Ending::Exited(7), "/\nsaid\n".to_owned(), "no\n".to_owned());
        assert_eq!(shell(script, Streams::Apart, LONG), said);
        assert_eq!(shell("echo a; echo b >&2; echo c", Streams::Together, LONG).1, "a\nb\nc\n");
        assert_eq!(shell("kill -SEGV $$", Streams::Apart, LONG).0, Ending::Signalled(libc::SIGSEGV));
        // 1 MB is more than pipes and pieces hold.
        let many = shell("head -c 1000000 /dev/zero | tr '\\0' x", Streams::Together, LONG);
        assert_eq!((many.0, many.1.len()), (Ending::Exited(0), 1_000_000));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_even_if_it_writes_all_the_time() {
        assert_eq!(shell("echo begun; sleep 100", Streams::Apart, 300), {
            (Ending::TimedOut, "begun\n".to_owned(), String::new())
        });
        assert_eq!(shell("yes", Streams::Together, 300).0, Ending::TimedOut);
    }

    #[test]
    fn what_a_command_leaves_running_does_not_hold_it_up() {
        let start = Instant::now();
        let (ending, out, _) = shell("sleep 100 & echo done", Streams::Apart, LONG);
        assert_eq!((ending, out.as_str()), (Ending::Exited(0), "done\n"));
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn what_cannot_be_started_says_why() {
        let start = |program: &str, folder: &str| {
            let (program, folder) = (program.into(), folder.into());
            let command = GuestCommand { program, folder, limit_ms: LONG, ..GuestCommand::default() };
            run(&command, Streams::Apart, &mut |_, _| Ok(())).unwrap()
        };
        assert!(matches!(start("/no/such", "/"), Ending::NotFound(_)));
        assert!(matches!(start("/etc/passwd", "/"), Ending::NotStarted(why) if why.contains("denied")));
        assert!(
            matches!(start("/bin/true", "/no/such"), Ending::NotStarted(why) if why.contains("no folder /no/such"))
        );
    }

    #[test]
    fn who_does_not_listen_ends_the_command() {
        let command = GuestCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), "yes".into()],
            folder: "/".into(),
            limit_ms: LONG,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        };
        let start = Instant::now();
        assert!(run(&command, Streams::Apart, &mut |_, _| Err(io::ErrorKind::BrokenPipe.into())).is_err());
        assert!(start.elapsed() < Duration::from_secs(50));
    }
}

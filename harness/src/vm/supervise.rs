//! Watches one guest from its start to its end, whatever that end is.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::console::Console;
use super::process::ProcessGroup;
use super::protocol::{Ending, Lines, Message, PROTOCOL_VERSION, TrialName};
use crate::record::{FailureKind, GuestFailure, GuestTimes, Outcome, ProgramCost, Record};

/// How often the guest's streams are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After a panic the kernel still prints where it was.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A started guest.
pub struct Guest {
    /// Its processes.
    pub processes: ProcessGroup,
    /// What its kernel prints; `Ok(0)` and `WouldBlock` mean that there is nothing more at the moment.
    pub console: Box<dyn Read + Send>,
    /// Its messages; as `console`.
    pub messages: Box<dyn Read + Send>,
    /// When it was started.
    pub started: Instant,
    /// Whether it ends by itself after its last message, and is worth waiting for.
    pub shuts_down: bool,
    /// Where its processes keep files of their own; removed after them.
    pub own: Option<tempfile::TempDir>,
}

/// How long a guest may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until its first message.
    pub boot: Duration,
    /// Between two messages.
    pub silence: Duration,
    /// From its last message to the end of its processes.
    pub exit: Duration,
}

/// What came of a guest.
#[derive(Debug, Default)]
pub struct Life {
    /// `uname -r`, if it said so.
    pub release: Option<String>,
    /// Records, in their order.
    pub records: Vec<Record>,
    /// Verifier costs, if they were asked for.
    pub costs: Vec<ProgramCost>,
    /// How the command ended, if there was one and it did.
    pub ending: Option<Ending>,
    /// What went wrong with the guest itself.
    pub failures: Vec<GuestFailure>,
    /// The trial that was running when it ended.
    pub interrupted_trial: Option<TrialName>,
    /// Whether it said that it was done, with as many records as came.
    pub done: bool,
    /// How long it took.
    pub times: GuestTimes,
}

/// Reads the guest's streams until it is done, dead or overdue; `on` is told each message.
pub fn supervise(mut guest: Guest, limits: &Limits, stop: &AtomicBool, on: &mut dyn FnMut(&Message)) -> Life {
    let mut watch = Watch::new(guest.started);
    let end = watch.until_end(&mut guest, limits, stop, on);
    let last = watch.heard;
    if matches!(end, End::Done) && guest.shuts_down {
        guest.processes.wait_until(last + limits.exit);
    }
    guest.processes.end();
    let signs = watch.read_console(&mut guest);
    watch.note(signs, None);
    watch.life.times.exit_s = last.elapsed().as_secs_f64();
    watch.judge(&end);
    watch.life
}

/// Why the watch ended.
enum End {
    Done,
    Died(String),
    Overdue(Duration),
    Broken(String),
    Stopped,
}

struct Watch {
    life: Life,
    console: Console,
    lines: Lines,
    running: Option<TrialName>,
    /// The first trial that the messages of one look started.
    first_started: Option<TrialName>,
    greeted: Option<Instant>,
    /// When the last message came.
    heard: Instant,
    started: Instant,
    panicked: Option<Instant>,
    buffer: Vec<u8>,
}

impl Watch {
    fn new(started: Instant) -> Self {
        Self {
            life: Life::default(),
            console: Console::default(),
            lines: Lines::default(),
            running: None,
            first_started: None,
            greeted: None,
            heard: started,
            started,
            panicked: None,
            buffer: vec![0; 64 << 10],
        }
    }

    fn until_end(
        &mut self,
        guest: &mut Guest,
        limits: &Limits,
        stop: &AtomicBool,
        on: &mut dyn FnMut(&Message),
    ) -> End {
        loop {
            // Looked at before the streams: what a process wrote before its end is still read.
            let ended = guest.processes.ended();
            let running = self.running.clone();
            let signs = self.read_console(guest);
            // What was on the console when it was read came after the messages that are read only now, if at all: the
            // trial that was running is known, or the first that these messages start.
            self.first_started = None;
            let heard = self.read_messages(guest, on);
            let trial = running.or_else(|| self.first_started.take());
            self.note(signs, trial);
            match heard {
                Err(sentence) => return End::Broken(sentence),
                Ok(true) => return End::Done,
                Ok(false) => {}
            }
            match ended {
                Ok(None) => {}
                Ok(Some(status)) => return End::Died(format!("the runner ended ({status})")),
                Err(error) => return End::Died(format!("the runner's end is not known: {error}")),
            }
            if stop.load(Ordering::Relaxed) {
                return End::Stopped;
            }
            if self.panicked.is_some_and(|at| at.elapsed() > LAST_WORDS) {
                return End::Died("the kernel panicked".to_owned());
            }
            let limit = if self.greeted.is_some() { limits.silence } else { limits.boot };
            if self.heard.elapsed() > limit {
                return End::Overdue(limit);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What the console says went wrong, since it was last read.
    fn read_console(&mut self, guest: &mut Guest) -> Vec<(FailureKind, String)> {
        let mut signs = Vec::new();
        while let Ok(count @ 1..) = guest.console.read(&mut self.buffer) {
            signs.extend(self.console.take(&self.buffer[..count]));
        }
        signs
    }

    /// Keeps `signs` as failures, of `trial` or of the one that is running.
    fn note(&mut self, signs: Vec<(FailureKind, String)>, trial: Option<TrialName>) {
        let trial = trial.or_else(|| self.running.clone()).map(|trial| trial.to_string());
        for (kind, message) in signs {
            if kind == FailureKind::Panic {
                self.panicked.get_or_insert_with(Instant::now);
            }
            // One mishap prints many lines; the first names it.
            if !self.life.failures.iter().any(|failure| failure.kind == kind) {
                self.life.failures.push(GuestFailure { kind, trial: trial.clone(), message, console: Vec::new() });
            }
        }
    }

    /// Whether the guest is done.
    fn read_messages(&mut self, guest: &mut Guest, on: &mut dyn FnMut(&Message)) -> Result<bool, String> {
        loop {
            let count = match guest.messages.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(format!("cannot read the guest's messages: {error}")),
            };
            self.lines.push(&self.buffer[..count]);
            while let Some(message) = self.lines.next() {
                let message = message?;
                self.heard = Instant::now();
                on(&message);
                if self.hear(message)? {
                    return Ok(true);
                }
            }
        }
    }

    fn hear(&mut self, message: Message) -> Result<bool, String> {
        match message {
            Message::Hello { version, .. } if version != PROTOCOL_VERSION => {
                return Err(format!("the guest speaks version {version} of the protocol, the lab {PROTOCOL_VERSION}"));
            }
            Message::Hello { kernel, .. } => {
                self.life.release = Some(kernel.release);
                self.life.times.boot_s = self.started.elapsed().as_secs_f64();
                self.greeted = Some(Instant::now());
            }
            Message::Costs { programs } => self.life.costs = programs,
            // Whoever listens keeps it.
            Message::Artefact { .. } | Message::Output { .. } => {}
            Message::Ended { ending } => self.life.ending = Some(ending),
            Message::Started { trial } => {
                self.first_started.get_or_insert_with(|| trial.clone());
                self.running = Some(trial);
            }
            Message::Record { record } => {
                self.running = None;
                self.life.records.push(*record);
                self.life.times.trials_s = self.greeted.map_or(0.0, |at| at.elapsed().as_secs_f64());
            }
            Message::Done { records } if records == self.life.records.len() as u64 => {
                self.life.done = true;
                return Ok(true);
            }
            Message::Done { records } => {
                let came = self.life.records.len();
                return Err(format!("the guest says it made {records} records, {came} came"));
            }
        }
        Ok(false)
    }

    fn fail(&mut self, kind: FailureKind, message: String) {
        let trial = self.running.as_ref().map(ToString::to_string);
        self.life.failures.push(GuestFailure { kind, trial, message, console: Vec::new() });
    }

    /// Names the end, and keeps the console's tail with each failure.
    fn judge(&mut self, end: &End) {
        self.life.interrupted_trial = self.running.clone();
        let explained = self.life.failures.iter().any(|failure| failure.kind == FailureKind::Panic);
        match end {
            End::Done => {}
            End::Broken(sentence) => self.fail(FailureKind::Protocol, sentence.clone()),
            End::Stopped => self.fail(FailureKind::Interrupted, "the run was interrupted".to_owned()),
            End::Died(_) if explained => {}
            End::Died(how) if self.greeted.is_none() => {
                self.fail(FailureKind::NoBoot, format!("{how} before the guest said anything"));
            }
            End::Died(how) => self.fail(FailureKind::EndedEarly, format!("{how} without the final record")),
            End::Overdue(limit) if self.greeted.is_none() => {
                self.fail(FailureKind::NoBoot, format!("no message in {} s", limit.as_secs()));
            }
            End::Overdue(limit) => self.fail(FailureKind::TimedOut, format!("no message for {} s", limit.as_secs())),
        }
        let tail = self.console.tail();
        for failure in &mut self.life.failures {
            failure.console.clone_from(&tail);
        }
        // What a kernel with a bug in it says is no pass, whatever it says.
        for failure in &self.life.failures {
            for record in &mut self.life.records {
                if failure.trial.as_deref() == Some(record.trial().as_str()) {
                    record.result = Outcome::LabFailure;
                    record.reasons.push(format!("{}: {}", failure.kind.text(), failure.message));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::Command;

    use crate::report::KernelSummary;
    use crate::scenario::Mode;

    const LIMITS: Limits =
        Limits { boot: Duration::from_secs(20), silence: Duration::from_secs(20), exit: Duration::from_secs(20) };

    /// A shell that plays the guest: `script` finds the files `$MESSAGES` and `$CONSOLE` to append to.
    fn watch(script: &str, limits: &Limits) -> Life {
        let folder = tempfile::tempdir().unwrap();
        let (console, messages) = (folder.path().join("console"), folder.path().join("messages"));
        for file in [&console, &messages] {
            std::fs::File::create(file).unwrap();
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("CONSOLE", &console).env("MESSAGES", &messages);
        let guest = Guest {
            processes: ProcessGroup::start(&mut command, &log).unwrap(),
            console: Box::new(std::fs::File::open(&console).unwrap()),
            messages: Box::new(std::fs::File::open(&messages).unwrap()),
            started: Instant::now(),
            shuts_down: true,
            own: None,
        };
        supervise(guest, limits, &AtomicBool::new(false), &mut |_| ())
    }

    fn line(message: &Message) -> String {
        let mut bytes = Vec::new();
        message.write(&mut bytes).unwrap();
        bytes.flush().unwrap();
        format!("printf '%s' '{}' >> $MESSAGES\nprintf '\\n' >> $MESSAGES\n", String::from_utf8(bytes).unwrap().trim())
    }

    fn kernel() -> KernelSummary {
        KernelSummary { release: "6.1.0".to_owned(), machine: "x86_64".to_owned() }
    }

    fn hello() -> String {
        line(&Message::Hello { version: PROTOCOL_VERSION, kernel: kernel() })
    }

    fn started() -> String {
        line(&Message::Started { trial: TrialName { scenario: "dns/answers".to_owned(), mode: Some(Mode::Wire) } })
    }

    fn record() -> String {
        let record = Record { result: Outcome::Passed, ..Record::new("dns/answers", Mode::Wire, kernel()) };
        line(&Message::Record { record: Box::new(record) })
    }

    fn kinds(life: &Life) -> Vec<FailureKind> {
        life.failures.iter().map(|failure| failure.kind).collect()
    }

    #[test]
    fn a_guest_that_says_it_is_done_is_done() {
        let life = watch(&(hello() + &started() + &record() + &line(&Message::Done { records: 1 })), &LIMITS);
        assert!(life.done && life.failures.is_empty(), "{:?}", life.failures);
        assert_eq!(life.release.as_deref(), Some("6.1.0"));
        assert_eq!(life.records[0].result, Outcome::Passed);
    }

    #[test]
    fn a_panic_is_named_with_its_trial_and_the_console() {
        let panic = "echo '[ 1.0] Kernel panic - not syncing: sysrq' >> $CONSOLE\nsleep 100\n";
        let life = watch(&(hello() + &started() + panic), &LIMITS);
        assert_eq!(kinds(&life), [FailureKind::Panic]);
        assert_eq!(life.failures[0].trial.as_deref(), Some("dns/answers [wire]"));
        assert_eq!(life.failures[0].console, ["[ 1.0] Kernel panic - not syncing: sysrq"]);
        assert_eq!(life.interrupted_trial.map(|trial| trial.scenario).as_deref(), Some("dns/answers"));
        assert!(!life.done);
    }

    #[test]
    fn a_trial_during_which_the_kernel_stalled_has_not_passed() {
        let stall = "echo 'rcu: INFO: rcu_sched self-detected stall on CPU' >> $CONSOLE\nsleep 0.2\n";
        let script = hello() + &started() + stall + &record() + &line(&Message::Done { records: 1 });
        let life = watch(&script, &LIMITS);
        assert_eq!(kinds(&life), [FailureKind::RcuStall]);
        assert_eq!(life.records[0].result, Outcome::LabFailure);
        assert!(life.done, "the other trials are not lost");
    }

    #[test]
    fn silence_is_a_time_out_and_before_the_first_message_no_boot() {
        let limits = Limits { boot: Duration::from_millis(300), silence: Duration::from_millis(300), ..LIMITS };
        assert_eq!(kinds(&watch("sleep 100", &limits)), [FailureKind::NoBoot]);
        let late = Limits { boot: LIMITS.boot, ..limits };
        let life = watch(&(hello() + &started() + "sleep 100\n"), &late);
        assert_eq!(kinds(&life), [FailureKind::TimedOut]);
        assert!(life.interrupted_trial.is_some());
    }

    #[test]
    fn an_end_without_the_final_record_is_a_failure() {
        assert_eq!(kinds(&watch("exit 3", &LIMITS)), [FailureKind::NoBoot]);
        let life = watch(&(hello() + &started() + &record()), &LIMITS);
        assert_eq!(kinds(&life), [FailureKind::EndedEarly]);
        assert_eq!(life.records.len(), 1, "what came is kept");
    }

    #[test]
    fn broken_messages_and_wrong_counts_are_failures() {
        assert_eq!(kinds(&watch(&(hello() + "echo login: >> $MESSAGES\n"), &LIMITS)), [FailureKind::Protocol]);
        let life = watch(&(hello() + &line(&Message::Done { records: 7 })), &LIMITS);
        assert_eq!(life.failures[0].message, "the guest says it made 7 records, 0 came");
        let other = line(&Message::Hello { version: 99, kernel: kernel() });
        assert_eq!(kinds(&watch(&other, &LIMITS)), [FailureKind::Protocol]);
    }
}

//! Real applications as traffic: servers and clients on the hosts of a network.
//!
//! Servers are started in their order, each when the one before is ready; then the clients, one after the other or
//! together; the run ends when all clients have ended, and the servers are stopped. Nothing is waited for by time alone:
//! a server is ready when the kernel lists its port, when it has written a text, or when it has ended.
//!
//! A process runs in its host's network namespace, in a process group of its own, in a private folder that is gone
//! afterwards. Whatever happens, it ends: its group is killed, then every process that is left in the hosts'
//! namespaces; and should this process die, the kernel kills it.

mod output;
mod ports;
mod process;
mod spec;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::topology::{Host, Network, TopologyError};
use process::{Prepared, Running};

pub use output::KEPT;
pub use spec::{AppRole, AppSpec, Proto, Ready, StopSignal, address, problem_alone, problem_beside, problems};

/// How often processes and ports are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a server may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long killed processes may take to be gone.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// Why applications could not be played.
#[derive(Debug, thiserror::Error)]
pub enum AppsError {
    /// The description is wrong.
    #[error("invalid applications: {}", problems.join("; "))]
    Invalid {
        /// At least one.
        problems: Vec<String>,
    },
    /// Its private folder or one of its files could not be written.
    #[error("cannot write {} of application {app}", path.display())]
    Folder {
        /// The application.
        app: String,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no such user.
    #[error("cannot start application {app}: this machine has no user {user}")]
    User {
        /// The application.
        app: String,
        /// The user that it is to run as.
        user: String,
    },
    /// The process could not be started.
    #[error("cannot start application {app} ({program})")]
    Start {
        /// The application.
        app: String,
        /// Its program.
        program: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A server ended although it was needed.
    #[error("application {app} ended {when} ({how}); the end of its output:\n{words}")]
    Early {
        /// The application.
        app: String,
        /// `before it was ready`, `while clients ran`.
        when: &'static str,
        /// Its exit code or signal.
        how: String,
        /// The end of its output.
        words: String,
    },
    /// A server was never ready.
    #[error("application {app} was not ready after {limit_s} s: {wanted}; the end of its output:\n{words}")]
    NeverReady {
        /// The application.
        app: String,
        /// Its deadline, seconds.
        limit_s: u32,
        /// What was waited for.
        wanted: String,
        /// The end of its output.
        words: String,
    },
    /// A host's ports could not be listed.
    #[error("cannot list the ports of host {host}")]
    Ports {
        /// The host.
        host: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A host is missing.
    #[error(transparent)]
    Network(#[from] TopologyError),
}

/// What became of one application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppOutcome {
    /// Its name.
    pub name: String,
    /// The host that it ran on.
    pub host: String,
    /// Its command, words not filled in.
    pub command: String,
    /// `exit code 0`, `killed by signal 9`.
    pub end: String,
    /// Until it was ready, ms; of clients nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// From its start to its end, ms.
    pub duration_ms: u64,
    /// Bytes that it wrote; at most [`KEPT`] of each output are kept.
    pub output_bytes: u64,
    /// What is wrong with its end, with the end of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What became of all applications, in the order of their description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppsOutcome {
    /// Each.
    pub apps: Vec<AppOutcome>,
    /// Whether the run was stopped from outside.
    pub interrupted: bool,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// How far applications have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// This one was started.
    Started(&'a str),
    /// This server is ready.
    Ready(&'a str),
    /// This one has ended.
    Ended(&'a str),
    /// Nothing new; said every few milliseconds.
    Waiting,
}

/// Plays applications on a network: writes their files, starts servers and clients, waits for the clients' end. Outputs
/// are kept in `folder`, as `NAME.out` and `NAME.err`. `on_progress` is called every few milliseconds. `stop` ends all.
///
/// # Errors
/// A server that is not ready in time or ends early, what cannot be started, and errors of `on_progress`; a client that
/// ends otherwise than expected is none, but a problem in the outcome. Whatever is returned, no process is left.
pub fn play<E: From<AppsError>>(
    network: &Network,
    specs: &[AppSpec],
    folder: &Path,
    stop: &AtomicBool,
    on_progress: &mut dyn FnMut(Progress<'_>) -> Result<(), E>,
) -> Result<AppsOutcome, E> {
    let mut stage = Stage::set(network, specs, folder, stop, spec::problem_alone(specs))?;
    let played = stage.start_servers(on_progress).and_then(|()| stage.play_clients(on_progress));
    stage.end();
    played?;
    Ok(stage.finish())
}

/// Servers that run beside something else.
pub struct Servers<'a>(Stage<'a>);

impl<'a> Servers<'a> {
    /// Starts them, one after the other, each when the one before is ready; otherwise as [`play`].
    ///
    /// # Errors
    /// As [`play`].
    pub fn start<E: From<AppsError>>(
        network: &'a Network,
        specs: &'a [AppSpec],
        folder: &Path,
        stop: &'a AtomicBool,
        on_progress: &mut dyn FnMut(Progress<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut servers = Self(Stage::set(network, specs, folder, stop, spec::problem_beside(specs))?);
        servers.0.start_servers(on_progress)?;
        Ok(servers)
    }

    /// Ends them. One that had ended by itself before has a problem.
    #[must_use]
    pub fn end(mut self) -> AppsOutcome {
        let early = self.0.early();
        self.0.end();
        let mut outcome = self.0.finish();
        for (name, how, words) in early {
            if let Some(app) = outcome.apps.iter_mut().find(|app| app.name == name) {
                let text = format!("ended while it was needed ({how}); the end of its output:\n{words}");
                app.problem.get_or_insert(text);
            }
        }
        outcome
    }
}

/// A folder that every user can look into, since applications may run as others.
fn private_folder() -> Result<tempfile::TempDir, AppsError> {
    let failed = |source| AppsError::Folder { app: "(all)".to_owned(), path: std::env::temp_dir(), source };
    let folder = tempfile::Builder::new().prefix("bpflab-apps-").tempdir().map_err(failed)?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(folder)
}

struct Stage<'a> {
    network: &'a Network,
    specs: &'a [AppSpec],
    outputs: PathBuf,
    private: tempfile::TempDir,
    stop: &'a AtomicBool,
    /// By position in `specs`, in the order of their start.
    running: Vec<(usize, Running)>,
    ready_ms: Vec<Option<u64>>,
    outcome: AppsOutcome,
}

type OnProgress<'a, E> = &'a mut dyn FnMut(Progress<'_>) -> Result<(), E>;

impl<'a> Stage<'a> {
    fn set(
        network: &'a Network,
        specs: &'a [AppSpec],
        outputs: &Path,
        stop: &'a AtomicBool,
        problem: Option<String>,
    ) -> Result<Self, AppsError> {
        let problems: Vec<String> = spec::problems(specs, network.topology()).into_iter().chain(problem).collect();
        if !problems.is_empty() {
            return Err(AppsError::Invalid { problems });
        }
        let failed = |source| AppsError::Folder { app: "(all)".to_owned(), path: outputs.to_owned(), source };
        std::fs::create_dir_all(outputs).map_err(failed)?;
        Ok(Self {
            network,
            specs,
            outputs: outputs.to_owned(),
            private: private_folder()?,
            stop,
            running: Vec::new(),
            ready_ms: vec![None; specs.len()],
            outcome: AppsOutcome::default(),
        })
    }

    /// Positions of the applications of a role.
    fn of_role(&self, role: AppRole) -> Vec<usize> {
        (0..self.specs.len()).filter(|index| self.specs[*index].role == role).collect()
    }

    fn start_servers<E: From<AppsError>>(&mut self, on_progress: OnProgress<'_, E>) -> Result<(), E> {
        for index in self.of_role(AppRole::Server) {
            self.start(index)?;
            on_progress(Progress::Started(&self.specs[index].name))?;
            self.wait_ready(index, on_progress)?;
            if self.is_stopped() {
                return Ok(());
            }
            on_progress(Progress::Ready(&self.specs[index].name))?;
        }
        Ok(())
    }

    fn play_clients<E: From<AppsError>>(&mut self, on_progress: OnProgress<'_, E>) -> Result<(), E> {
        let clients = self.of_role(AppRole::Client);
        // A client and those that start together with it.
        let mut from = 0;
        if self.is_stopped() {
            return Ok(());
        }
        while from < clients.len() {
            let count = 1 + clients[from + 1..].iter().take_while(|index| self.specs[**index].together).count();
            let together = &clients[from..from + count];
            for &index in together {
                self.start(index)?;
                on_progress(Progress::Started(&self.specs[index].name))?;
            }
            self.wait_ended(together, on_progress)?;
            if self.is_stopped() {
                return Ok(());
            }
            from += count;
        }
        Ok(())
    }

    /// Whether nothing more is to be done.
    fn is_stopped(&mut self) -> bool {
        self.outcome.interrupted |= self.stop.load(Ordering::Relaxed);
        self.outcome.interrupted
    }

    fn host(&self, index: usize) -> Result<&Host, AppsError> {
        Ok(self.network.host(&self.specs[index].host)?)
    }

    fn start(&mut self, index: usize) -> Result<(), AppsError> {
        let app = &self.specs[index];
        let private = self.private.path();
        let dir_of = |name: &str| Some(private.join(name).display().to_string());
        let topology = self.network.topology();
        let fill = |text: &str| spec::fill(text, &|word| spec::value(word, topology, &app.name, &dir_of));
        let prepared = Prepared::new(app, &fill, &private.join(&app.name), &self.outputs)?;
        let running = prepared.start(self.host(index)?)?;
        self.running.push((index, running));
        Ok(())
    }

    fn of(&mut self, index: usize) -> Option<&mut Running> {
        self.running.iter_mut().find(|(of, _)| *of == index).map(|(_, running)| running)
    }

    fn wait_ready<E: From<AppsError>>(&mut self, index: usize, on_progress: OnProgress<'_, E>) -> Result<(), E> {
        let app = &self.specs[index];
        let deadline = Instant::now() + Duration::from_secs(app.timeout_s.into());
        loop {
            let is_ready = self.is_ready(index)?;
            let Some(running) = self.of(index) else { return Ok(()) };
            let ended = running.ended();
            if is_ready && (ended.is_none() || app.ready.exit) {
                let since = running.since.elapsed();
                self.ready_ms[index] = Some(millis(since));
                return Ok(());
            }
            if let Some((status, _)) = ended {
                let (how, words) = (end_text(status), running.words());
                return Err(AppsError::Early { app: app.name.clone(), when: "before it was ready", how, words }.into());
            }
            if self.is_stopped() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.never_ready(index).into());
            }
            on_progress(Progress::Waiting)?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn is_ready(&mut self, index: usize) -> Result<bool, AppsError> {
        let app = &self.specs[index];
        if let Some(port) = app.ready.port {
            let proto = app.ready.proto;
            let open = self.host(index)?.run(move || ports::is_open(proto, port));
            return open.map_err(|source| AppsError::Ports { host: app.host.clone(), source });
        }
        let Some(running) = self.of(index) else { return Ok(false) };
        if app.ready.output.is_some() {
            return Ok(running.found());
        }
        Ok(running.ended().is_some_and(|(status, _)| status.code() == Some(app.exit_code)))
    }

    fn never_ready(&mut self, index: usize) -> AppsError {
        let app = &self.specs[index];
        let wanted = match (&app.ready.port, &app.ready.output) {
            (Some(port), _) => {
                format!("no socket of {:?} port {port} on host {}", app.ready.proto, app.host).to_lowercase()
            }
            (None, Some(text)) => format!("`{text}` was not written"),
            (None, None) => "it did not end".to_owned(),
        };
        let words = self.of(index).map_or_else(String::new, |running| running.words());
        AppsError::NeverReady { app: app.name.clone(), limit_s: app.timeout_s, wanted, words }
    }

    /// Waits for clients; one whose time is over is killed, which shows in the outcome.
    fn wait_ended<E: From<AppsError>>(&mut self, clients: &[usize], on_progress: OnProgress<'_, E>) -> Result<(), E> {
        let mut open = clients.to_vec();
        loop {
            for index in std::mem::take(&mut open) {
                let app = &self.specs[index];
                let Some(running) = self.of(index) else { continue };
                if running.ended().is_some() {
                    on_progress(Progress::Ended(&app.name))?;
                } else if running.since.elapsed() >= Duration::from_secs(app.timeout_s.into()) {
                    running.kill();
                    let words = running.words();
                    let problem = format!("did not end within {} s; the end of its output:\n{words}", app.timeout_s);
                    self.outcome.apps.push(AppOutcome {
                        name: app.name.clone(),
                        problem: Some(problem),
                        ..<_>::default()
                    });
                } else {
                    open.push(index);
                }
            }
            if open.is_empty() || self.is_stopped() {
                return Ok(());
            }
            self.servers_live()?;
            on_progress(Progress::Waiting)?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A server that is gone before its clients is why they fail.
    fn servers_live(&mut self) -> Result<(), AppsError> {
        match self.early().pop() {
            Some((app, how, words)) => Err(AppsError::Early { app, when: "while clients ran", how, words }),
            None => Ok(()),
        }
    }

    /// Servers that have ended by themselves: name, exit, last words.
    fn early(&mut self) -> Vec<(String, String, String)> {
        let mut early = Vec::new();
        for (index, running) in &mut self.running {
            let app = &self.specs[*index];
            if app.role == AppRole::Server
                && !app.ready.exit
                && let Some((status, _)) = running.ended()
            {
                early.push((app.name.clone(), end_text(status), running.words()));
            }
        }
        early
    }

    /// Ends what runs: servers by their signals, the last first, then whatever is left.
    fn end(&mut self) {
        for (index, running) in self.running.iter_mut().rev() {
            if running.ended().is_none() {
                running.signal(self.specs[*index].stop.number());
                let deadline = Instant::now() + STOP_LIMIT;
                while running.ended().is_none() && Instant::now() < deadline {
                    std::thread::sleep(LOOK_EVERY);
                }
                if running.ended().is_none() {
                    self.outcome.notes.push(format!("application {} had to be killed", running.name));
                }
            }
            running.kill();
        }
        let hosts = self.network.hosts().iter().filter(|_| !self.running.is_empty());
        for host in hosts {
            let left = process::sweep(host, SWEEP_LIMIT);
            if left > 0 {
                self.outcome.notes.push(format!("{left} processes on host {} could not be killed", host.name()));
            }
        }
        for (_, running) in &self.running {
            running.wait_output();
        }
    }

    /// The outcome, once nothing runs any more.
    fn finish(mut self) -> AppsOutcome {
        let late = std::mem::take(&mut self.outcome.apps);
        self.running.sort_by_key(|(index, _)| *index);
        for (index, mut running) in std::mem::take(&mut self.running) {
            let app = &self.specs[index];
            let Some((status, took)) = running.ended() else { continue };
            let by_itself = app.role == AppRole::Client || app.ready.exit;
            let is_wrong = by_itself && status.code() != Some(app.exit_code) && !self.outcome.interrupted;
            let timed_out = late.iter().find(|one| one.name == app.name).and_then(|one| one.problem.clone());
            let wrong = || {
                let (how, wanted) = (end_text(status), app.exit_code);
                format!("ended with {how}, not {wanted}; the end of its output:\n{}", running.words())
            };
            self.outcome.apps.push(AppOutcome {
                name: app.name.clone(),
                host: app.host.clone(),
                command: app.command.join(" "),
                end: end_text(status),
                ready_ms: self.ready_ms[index],
                duration_ms: millis(took),
                output_bytes: running.bytes(),
                problem: timed_out.or_else(|| is_wrong.then(wrong)),
            });
            if running.bytes() > KEPT {
                self.outcome.notes.push(format!(
                    "application {} wrote {} bytes; of each output {KEPT} are kept",
                    app.name,
                    running.bytes()
                ));
            }
        }
        std::mem::take(&mut self.outcome)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Only a panic comes here with anything running.
        self.end();
    }
}

fn end_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

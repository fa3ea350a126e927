//! One application's process: started on its host, watched, ended with all that it has started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::AppsError;
use super::output::{self, Output};
use super::spec::AppSpec;
use crate::kernel::probe::tools;
use crate::sys;
use crate::topology::Host;

/// What an application inherits as `PATH`: nothing of this process's own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the last output of an application may take to come after its end.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// An application with all words filled in, ready to start.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    input: Option<PathBuf>,
    dir: PathBuf,
    user: Option<User>,
    /// Files of its two outputs.
    outputs: [PathBuf; 2],
    wanted: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Prepared {
    /// Writes the private folder `dir`; outputs go to files in `outputs`.
    pub(super) fn new(
        app: &AppSpec,
        fill: &dyn Fn(&str) -> Result<String, String>,
        dir: &Path,
        outputs: &Path,
    ) -> Result<Self, AppsError> {
        let fill = |text: &str| {
            fill(text).map_err(|problem| AppsError::Invalid {
                problems: vec![format!("application '{}': {problem}", app.name)],
            })
        };
        let user = app.user.as_deref().map(|name| user(&app.name, name)).transpose()?;
        let failed = |path: &Path| {
            let (app, path) = (app.name.clone(), path.to_owned());
            move |source| AppsError::Folder { app, path, source }
        };
        let own = |path: &Path| match user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        };
        std::fs::create_dir_all(dir).and_then(|()| own(dir)).map_err(failed(dir))?;
        // What others may read, other applications and users may need to; what is secret (keys) must be the owner's.
        for (file, text) in &app.files {
            let path = dir.join(file);
            let text = fill(text)?;
            write_below(dir, &path, &text, &own).map_err(failed(&path))?;
        }
        let input = app.input.as_ref().map(|text| {
            let path = outputs.join(format!("{}.in", app.name));
            std::fs::write(&path, fill(text)?).map_err(failed(&path))?;
            Ok::<_, AppsError>(path)
        });
        let [program, arguments @ ..] = &app.command[..] else {
            return Err(AppsError::Invalid { problems: vec![format!("application '{}' has no command", app.name)] });
        };
        let program = fill(program)?;
        Ok(Self {
            name: app.name.clone(),
            program: tools::find(&program).unwrap_or_else(|| program.into()),
            arguments: arguments.iter().map(|text| fill(text)).collect::<Result<_, _>>()?,
            env: app
                .env
                .iter()
                .map(|(name, text)| Ok((name.clone(), fill(text)?)))
                .collect::<Result<_, AppsError>>()?,
            input: input.transpose()?,
            dir: dir.to_owned(),
            user,
            outputs: ["out", "err"].map(|kind| outputs.join(format!("{}.{kind}", app.name))),
            wanted: app.ready.output.clone(),
        })
    }

    /// Starts it on `host`.
    pub(super) fn start(self, host: &Host) -> Result<Running, AppsError> {
        let name = self.name.clone();
        let program = self.program.display().to_string();
        // The host's thread starts it, so that it is in the host's namespace, and dies with that thread.
        let started = host.run(move || self.spawn());
        started.map_err(|source| AppsError::Start { app: name, program, source })
    }

    fn spawn(self) -> io::Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.dir).process_group(0).env_clear();
        command.env("PATH", PATH).env("HOME", &self.dir).env("LANG", "C.UTF-8").env("TZ", "UTC").envs(&self.env);
        command.stdin(self.input.as_ref().map(File::open).transpose()?.map_or_else(Stdio::null, Stdio::from));
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        command.stdout(out_end).stderr(err_end);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        sys::end_with_parent(&mut command);
        let [out_file, err_file] = self.outputs.each_ref().map(|path| output::file(path));
        let outputs =
            [Output::keep(out, out_file?, self.wanted.clone())?, Output::keep(err, err_file?, self.wanted.clone())?];
        let child = command.spawn()?;
        // The command holds this process's copies of the pipes' ends.
        drop(command);
        Ok(Running { name: self.name, child, outputs, since: Instant::now(), ended: None })
    }
}

/// Writes a file and makes the folders on the way to it.
fn write_below(dir: &Path, path: &Path, text: &str, own: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut folders: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| *folder != dir).collect();
    folders.reverse();
    for folder in folders {
        std::fs::create_dir_all(folder)?;
        own(folder)?;
    }
    std::fs::write(path, text)?;
    // A script can be run.
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    own(path)
}

/// A user of this machine, by `/etc/passwd`.
fn user(app: &str, name: &str) -> Result<User, AppsError> {
    let missing = || AppsError::User { app: app.to_owned(), user: name.to_owned() };
    let table = std::fs::read_to_string("/etc/passwd").map_err(|_| missing())?;
    let line = table.lines().find(|line| line.split(':').next() == Some(name)).ok_or_else(missing)?;
    let number = |field| line.split(':').nth(field).and_then(|text| text.parse().ok());
    number(2).zip(number(3)).map(|(uid, gid)| User { uid, gid }).ok_or_else(missing)
}

/// An application that was started. Dropping it kills its process group.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: String,
    child: Child,
    outputs: [Output; 2],
    pub(super) since: Instant,
    ended: Option<(ExitStatus, Duration)>,
}

impl Running {
    /// How it ended and how long it ran, if it has.
    pub(super) fn ended(&mut self) -> Option<(ExitStatus, Duration)> {
        if self.ended.is_none()
            // Without a child to wait for (which cannot be) it would never end.
            && let Some(status) = self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)))
        {
            self.ended = Some((status, self.since.elapsed()));
        }
        self.ended
    }

    /// Whether it has written what it is waited for.
    pub(super) fn found(&self) -> bool {
        self.outputs.iter().any(Output::found)
    }

    /// Bytes that it wrote.
    pub(super) fn bytes(&self) -> u64 {
        self.outputs.iter().map(Output::bytes).sum()
    }

    /// Asks it and what it started to end.
    pub(super) fn signal(&self, signal: i32) {
        // A process that was waited for has no number any more.
        if self.ended.is_none() {
            sys::signal_group(i32::try_from(self.child.id()).unwrap_or_default(), signal);
        }
    }

    /// The end of what it wrote, for an error; waits until that is there.
    pub(super) fn words(&self) -> String {
        let deadline = Instant::now() + LAST_OUTPUT;
        let tails: Vec<String> = (self.outputs.iter())
            .map(|output| {
                if self.ended.is_some() {
                    output.wait_closed(deadline.saturating_duration_since(Instant::now()));
                }
                output.tail()
            })
            .filter(|tail| !tail.is_empty())
            .collect();
        if tails.is_empty() { "it wrote nothing".to_owned() } else { tails.join("\n") }
    }

    /// Waits for the end of its output, which others may hold.
    pub(super) fn wait_output(&self) {
        let deadline = Instant::now() + LAST_OUTPUT;
        for output in &self.outputs {
            output.wait_closed(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Kills it and its group, and waits for its end.
    pub(super) fn kill(&mut self) {
        // The group outlives its first process while others are in it, and its number is not given to anybody else
        // before that one is waited for.
        if self.ended().is_none() {
            self.signal(libc::SIGKILL);
            if let Ok(status) = self.child.wait() {
                self.ended = Some((status, self.since.elapsed()));
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills every process in the network namespace of a host: what an application has put into groups or sessions of its
/// own. Says how many there were when it gives up, which takes processes that cannot be killed.
pub(super) fn sweep(host: &Host, limit: Duration) -> usize {
    let wanted = format!("net:[{}]", host.netns_inode());
    let deadline = Instant::now() + limit;
    loop {
        let found = processes_in(&wanted);
        for pid in &found {
            sys::signal_process(*pid, libc::SIGKILL);
        }
        if found.is_empty() || Instant::now() >= deadline {
            return found.len();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Numbers of the processes in a network namespace, this one and dead ones left out.
fn processes_in(namespace: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        // A process that is only waited for has no namespaces any more: the link cannot be read.
        .filter(|pid| *pid != own)
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.as_os_str() == namespace))
        .collect()
}

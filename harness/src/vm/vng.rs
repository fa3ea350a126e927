//! Guests by virtme-ng: the guest's root is this machine's, read-only, and what it writes elsewhere is gone with it.
//! Messages come back as a file in a folder that is shared for writing.
//!
//! virtme-ng's exit code and standard output are not relied on: both pass through ports that a guest without udev does
//! not find. What counts are the messages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::kernels::Image;
use super::kvm::Acceleration;
use super::process::ProcessGroup;
use super::protocol::Request;
use super::runner::{Runner, RunnerError, Setting, failed, make, open, quoted, write};
use super::supervise::Guest;

/// Folders that the guest covers with empty ones of its own.
const COVERED: [&str; 5] = ["/tmp", "/run", "/var/tmp", "/var/log", "/var/cache"];

/// Starts a guest; see [`Runner::start`].
pub(super) fn start(image: &Image, request: &Request, setting: &Setting, folder: &Path) -> Result<Guest, RunnerError> {
    let program = Runner::Vng.tool("vng")?;
    let artefacts = folder.join("artefacts");
    std::fs::create_dir_all(&artefacts).map_err(|source| RunnerError::Folder { path: artefacts.clone(), source })?;
    let request = Request { scenarios: setting.scenarios.clone().unwrap_or_default(), artefacts, ..request.clone() };
    let request_file = folder.join("request.json");
    write(&request_file, &serde_json::to_vec_pretty(&request).unwrap_or_default())?;
    let messages = folder.join("messages.jsonl");
    make(&messages)?;
    let shown = shown(setting, folder);
    let share = Share::of(setting, &shown, folder)?;
    let line = command_line(setting, folder, &request_file, &messages, &share);
    let log_path = folder.join("console.log");
    let log = make(&log_path)?;
    let mut command = Command::new(&program);
    // virtme-ng leaves its own files behind when it is ended from outside.
    let own = tempfile::tempdir().map_err(|source| RunnerError::Folder { path: std::env::temp_dir(), source })?;
    command.args(arguments(image, setting, folder, &shown, &share, line)).env("PATH", path()).env("TMPDIR", own.path());
    let started = Instant::now();
    let processes = ProcessGroup::start(&mut command, &log).map_err(|source| RunnerError::Start { program, source })?;
    Ok(Guest {
        processes,
        console: Box::new(open(log_path)?),
        messages: Box::new(open(messages)?),
        started,
        // What it wrote is here as soon as it has written it, so an orderly end would only take time.
        shuts_down: false,
        own: Some(own),
    })
}

/// The folder that a guest may write to, if there is one.
#[derive(Default)]
struct Share {
    /// Option of virtme-ng.
    option: Option<String>,
    /// What the guest's shell does first.
    line: String,
}

impl Share {
    /// virtme-ng mounts folders for writing before those that are only shown. So a share that lies in one of the latter
    /// is mounted in `folder`, the guest's own, and put in its place there.
    fn of(setting: &Setting, shown: &[&Path], folder: &Path) -> Result<Self, RunnerError> {
        let Some(share) = &setting.share else { return Ok(Self::default()) };
        if !shown.iter().any(|shown| share.starts_with(shown)) {
            return Ok(Self { option: Some(format!("--rwdir={}", share.display())), line: String::new() });
        }
        let at = folder.join("share");
        std::fs::create_dir_all(&at).map_err(failed(&at))?;
        Ok(Self {
            option: Some(format!("--rwdir={}={}", at.display(), share.display())),
            line: format!("mount --bind {} {} && ", quoted(&at), quoted(share)),
        })
    }
}

/// What the guest's shell runs.
fn command_line(setting: &Setting, folder: &Path, request: &Path, messages: &Path, share: &Share) -> String {
    format!(
        "{}exec {} guest {} {} >{} 2>&1 </dev/null",
        share.line,
        quoted(&setting.binary),
        quoted(request),
        quoted(messages),
        quoted(&folder.join("guest.log"))
    )
}

fn arguments(
    image: &Image,
    setting: &Setting,
    folder: &Path,
    shown: &[&Path],
    share: &Share,
    line: String,
) -> Vec<String> {
    let mut arguments: Vec<String> = ["--verbose", "--user", "root", "--cwd", "/"].map(str::to_owned).to_vec();
    arguments.extend(["--cpus".to_owned(), setting.cpus.to_string()]);
    arguments.extend(["--memory".to_owned(), format!("{}M", setting.memory_mib)]);
    arguments.extend(["--run".to_owned(), image.vmlinuz.display().to_string()]);
    // Notices and what is worse: each letter on an emulated console takes its time.
    arguments.extend(["--append", "loglevel=6"].map(str::to_owned));
    arguments.push(format!("--rwdir={}", folder.display()));
    if let Acceleration::Emulation(_) = setting.acceleration {
        arguments.push("--disable-kvm".to_owned());
        arguments.push(format!("--qemu-opts=-cpu {}", setting.acceleration.processor()));
    }
    arguments.extend(share.option.clone());
    arguments.extend(shown.iter().map(|shown| format!("--rodir={}", shown.display())));
    arguments.extend(["--exec".to_owned(), line]);
    arguments
}

/// Folders that the guest would cover: each once, and none that another one contains.
fn shown<'a>(setting: &'a Setting, folder: &Path) -> Vec<&'a Path> {
    let scenarios_and_captures = setting.scenarios.as_deref().and_then(Path::parent);
    let own = [setting.binary.parent(), scenarios_and_captures].into_iter().flatten();
    let mut wanted: Vec<&Path> = own.chain(setting.shown.iter().map(PathBuf::as_path)).collect();
    // A folder comes before all that are in it.
    wanted.sort_unstable();
    let mut shown: Vec<&Path> = Vec::new();
    for one in wanted {
        let is_covered = COVERED.iter().any(|covered| one.starts_with(covered));
        let is_shared = setting.share.as_ref().is_some_and(|share| one.starts_with(share));
        let has_it = shown.iter().any(|other| one.starts_with(other));
        if is_covered && !has_it && !folder.starts_with(one) && !is_shared {
            shown.push(one);
        }
    }
    shown
}

/// Where virtme-ng finds QEMU, virtiofsd and depmod: not all of them are in everybody's `PATH`.
fn path() -> std::ffi::OsString {
    let here = std::env::var_os("PATH").unwrap_or_default();
    let found = Runner::Vng.tools().iter().filter_map(|tool| Runner::Vng.tool(tool).ok());
    let folders = found.filter_map(|file| file.parent().map(Path::to_owned));
    let all: Vec<PathBuf> = std::env::split_paths(&here).chain(folders).collect();
    std::env::join_paths(all).unwrap_or(here)
}

//! `bpflab exec`: any command in a guest, as if it ran here; also as cargo's runner.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tempfile::TempDir;

use super::args::ExecArgs;
use super::exec_hint::Heard;
use super::guests::{self, BOOT_LIMIT};
use super::{Exit, Failure, kernels};
use crate::invoker;
use crate::kernel::probe::tools;
use crate::vm::exec::Exec;
use crate::vm::kernels::{Cache, Image, Step, lab_cache};
use crate::vm::protocol::{Ending, GuestCommand, Stream};
use crate::vm::runner::{Needs, Setting};
use crate::vm::supervise::Life;

/// The exit codes that are not the command's own, as shells, `env(1)` and `timeout(1)` have them.
mod code {
    pub const TIMED_OUT: u8 = 124;
    pub const NOT_STARTED: u8 = 126;
    pub const NOT_FOUND: u8 = 127;
    /// The number of a signal is added.
    pub const SIGNAL: u8 = 128;
}

/// Lines of a dead guest's console that are shown.
const LAST_WORDS: usize = 20;
/// What a run that was killed left is not in use any more after so long.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);

/// Runs the command and gives its exit code.
pub fn exec(args: &ExecArgs) -> Result<ExitCode, Failure> {
    let [name, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure { exit: Exit::Invalid, message: "there is no command".to_owned() });
    };
    let Some(program) = find(name) else {
        eprintln!("bpflab: {}: command not found", name.display());
        return Ok(ExitCode::from(code::NOT_FOUND));
    };
    // Test runners ask for the list of tests before they run any: that needs no other kernel, and so no guest.
    if arguments.iter().any(|argument| argument == "--list") {
        let error = std::process::Command::new(&program).args(arguments).exec();
        eprintln!("bpflab: {}: {error}", program.display());
        return Ok(ExitCode::from(code::NOT_STARTED));
    }
    guests::in_text(&program)?;
    let folder = guests::working_folder()?;
    let command = GuestCommand {
        program,
        arguments: arguments.to_vec(),
        environment: guests::environment(&args.bring.env, &folder)?,
        folder,
        limit_ms: args.timeout.saturating_mul(1_000),
    };
    let needs = needs(args, &command)?;
    let share = guests::share(args.runner, &args.bring)?;
    let image = image(args)?;
    let cache = lab_cache().map_err(|error| kernels::failure(&error))?;
    let folder = run_folder(&cache)?;
    let setting = setting(args, &needs, share, cache, folder.path())?;
    in_guest(args, &image, setting, command, folder.path())
}

/// The program as the guest is to find it: absolute.
fn find(name: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 || name.as_encoded_bytes().contains(&b'/') {
        return std::path::absolute(name).ok().filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    tools::find_in(&name.to_string_lossy(), std::env::split_paths(&path))
}

fn image(args: &ExecArgs) -> Result<Image, Failure> {
    let list = guests::list_or_own(&args.kernels)?;
    let kernel = list.named(&args.kernel).map_err(|error| kernels::failure(&error))?;
    args.runner.check().map_err(|error| Failure::unavailable(&error))?;
    let cache = Cache::open().map_err(|error| kernels::failure(&error))?;
    // That it is there is no news: the command may be one of hundreds.
    let tells = |step: &Step<'_>| !args.quiet && !matches!(step, Step::Cached { .. });
    let target = guests::target(kernel, &cache, args.mirror.as_deref(), &tells);
    target.image.map_err(|message| Failure { exit: Exit::Unavailable, message })
}

/// Where the guest's files are kept meanwhile; gone with what is returned.
///
/// In the cache, since a guest by virtme-ng covers the folders for temporary files.
fn run_folder(cache: &Path) -> Result<TempDir, Failure> {
    let unavailable = |error: io::Error| Failure::unavailable(&error);
    let all = cache.join("exec");
    if !all.is_dir() {
        std::fs::create_dir_all(&all).map_err(unavailable)?;
        // While it is empty: what runs put in it may be other names of this machine's files.
        invoker::give(&all, invoker::owner());
    }
    for entry in std::fs::read_dir(&all).map_err(unavailable)?.flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|changed| changed.elapsed().ok());
        if age.is_some_and(|age| age > LEFTOVER) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    tempfile::tempdir_in(&all).map_err(unavailable)
}

fn needs(args: &ExecArgs, command: &GuestCommand) -> Result<Needs, Failure> {
    let mut needs =
        guests::needs(std::slice::from_ref(&command.program), &command.folder, &command.environment, &args.bring)?;
    // Files that the command is told of by its arguments.
    let named = command.arguments.iter().map(|argument| command.folder.join(argument));
    needs.files.extend(named.filter(|path| path.is_file()));
    Ok(needs)
}

fn setting(
    args: &ExecArgs,
    needs: &Needs,
    share: Option<PathBuf>,
    cache: PathBuf,
    folder: &Path,
) -> Result<Setting, Failure> {
    let binary = std::env::current_exe().map_err(|error| Failure::unavailable(&error))?;
    let mut setting = Setting {
        memory_mib: args.memory,
        cpus: args.cpus,
        acceleration: guests::acceleration(args.runner, args.no_kvm, &cache)?,
        binary,
        scenarios: None,
        shown: Vec::new(),
        share,
        cache,
        payload: None,
    };
    guests::show(&mut setting, needs);
    args.runner.prepare(&mut setting, needs, folder).map_err(|error| Failure::unavailable(&error))?;
    Ok(setting)
}

fn in_guest(
    args: &ExecArgs,
    image: &Image,
    setting: Setting,
    command: GuestCommand,
    folder: &Path,
) -> Result<ExitCode, Failure> {
    let stop = super::signals::stop_flag();
    let mut heard = Heard::new(args.runner, &args.bring.with, &command);
    let mut broken = false;
    let mut exec = Exec { image, runner: args.runner, setting, command, boot: BOOT_LIMIT, folder };
    let life = exec.run(stop, &mut |stream, bytes| {
        heard.push(bytes);
        let passed_on = pass_on(stream, bytes);
        broken |= passed_on.is_err();
        passed_on
    });
    let life = life.map_err(|error| Failure::unavailable(&error))?;
    if broken {
        // Who reads no further ends the command, as the kernel would have.
        return Ok(ExitCode::from(code::SIGNAL + 13));
    }
    let code = exit_code(&life, &args.command[0], args.timeout);
    if code != 0 {
        heard.hints().iter().for_each(|hint| eprintln!("bpflab: note: {hint}"));
    }
    Ok(ExitCode::from(code))
}

fn pass_on(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Out => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Stream::Err => io::stderr().lock().write_all(bytes),
    }
}

/// The exit code for what became of the command and its guest; says what is not the command's own.
fn exit_code(life: &Life, name: &OsString, timeout: u64) -> u8 {
    for failure in &life.failures {
        eprintln!("bpflab: {}: {}", failure.kind.text(), failure.message);
    }
    if let Some(failure) = life.failures.first() {
        let skipped = failure.console.len().saturating_sub(LAST_WORDS);
        failure.console[skipped..].iter().for_each(|line| eprintln!("bpflab:   | {line}"));
    }
    let name = name.display();
    let code = match &life.ending {
        Some(Ending::Exited(code)) => u8::try_from(*code).unwrap_or(u8::MAX),
        Some(Ending::Signalled(signal)) => {
            let text = signal_hook::low_level::signal_name(*signal).unwrap_or("a signal");
            eprintln!("bpflab: {name}: ended by {text}");
            u8::try_from(*signal).map_or(u8::MAX, |signal| code::SIGNAL.saturating_add(signal))
        }
        Some(Ending::TimedOut) => {
            eprintln!("bpflab: {name}: did not end in {timeout} s (--timeout)");
            code::TIMED_OUT
        }
        Some(Ending::NotFound(why)) => {
            eprintln!("bpflab: {name}: not found in the guest: {why}");
            code::NOT_FOUND
        }
        Some(Ending::NotStarted(why)) => {
            eprintln!("bpflab: {name}: cannot be started in the guest: {why}");
            code::NOT_STARTED
        }
        None if super::signals::stop_flag().load(std::sync::atomic::Ordering::Relaxed) => code::SIGNAL + 2,
        None => Exit::Unavailable as u8,
    };
    // What a command says on a kernel with a bug in it is no success.
    if code == 0 && !life.failures.is_empty() { Exit::Unavailable as u8 } else { code }
}

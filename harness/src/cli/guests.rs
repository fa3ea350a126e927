//! What the commands that start guests have in common: kernels, acceleration, and what a command brings into a guest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{BringArgs, KERNELS};
use super::{Exit, Failure, KernelProgress, chain, kernels};
use crate::vm::kernels::{Cache, Kernel, KernelList, Step};
use crate::vm::kvm::{self, Acceleration};
use crate::vm::matrix::Target;
use crate::vm::runner::{Needs, Runner, Setting};

/// Emulated guests boot in 5 s on an idle machine; a busy one may take many times as long.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Variables that commands in guests have from here, by the starts of their names: those of cargo, its test runners,
/// and what tests themselves read.
const HANDED_ON: [&str; 4] = ["CARGO_", "NEXTEST", "RUST_", "INSTA_"];
/// And these.
const HANDED_ON_TOO: [&str; 9] =
    ["CARGO", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "NO_COLOR", "OUT_DIR", "PATH", "TERM", "TZ"];
/// What they never have: `CARGO_REGISTRY_TOKEN` and its like.
const KEPT_BACK: &str = "_TOKEN";
/// Files that nearly every program with names of users, hosts or services reads.
const COMMON: [&str; 7] = [
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
];

/// The list in `file`; where that is the default and not there, the list that this binary was built with.
pub fn list_or_own(file: &Path) -> Result<KernelList, Failure> {
    let own = file == Path::new(KERNELS) && !file.exists();
    if own { Ok(KernelList::built_in()) } else { KernelList::read(file).map_err(|error| kernels::failure(&error)) }
}

/// Gets a kernel, and tells of the steps that `tells` chooses. One that cannot be had is a failure of its own and keeps
/// no other from running.
pub fn target(kernel: &Kernel, cache: &Cache, mirror: Option<&str>, tells: &dyn Fn(&Step<'_>) -> bool) -> Target {
    let mut progress = None;
    let image = cache.ensure(kernel, mirror, &mut |step| {
        if tells(&step) {
            progress.get_or_insert_with(|| KernelProgress::new(&kernel.name)).step(&step);
        }
    });
    if let Some(progress) = &mut progress {
        progress.finish();
    }
    Target { name: kernel.name.clone(), lacks: kernel.lacks.clone(), image: image.map_err(|error| chain(&error)) }
}

/// How guests of `runner` run on this machine.
pub fn acceleration(runner: Runner, no_kvm: bool, cache: &Path) -> Result<Acceleration, Failure> {
    if no_kvm {
        return Ok(Acceleration::Emulation("--no-kvm".to_owned()));
    }
    let qemu = runner.tool("qemu-system-x86_64").map_err(|error| Failure::unavailable(&error))?;
    Ok(kvm::acceleration(cache, &qemu))
}

/// The working folder of commands in guests: that of this one.
pub fn working_folder() -> Result<PathBuf, Failure> {
    let folder = std::env::current_dir().map_err(|error| Failure::unavailable(&error))?;
    in_text(&folder)?;
    Ok(folder)
}

/// Requests are JSON, which has no name that is no text.
pub fn in_text(path: &Path) -> Result<(), Failure> {
    let message = || format!("{} is no UTF-8, so a guest cannot be told of it", path.display());
    path.to_str().map(drop).ok_or_else(|| Failure { exit: Exit::Invalid, message: message() })
}

/// The environment of commands in guests: what is handed on from here, and what `--env` says.
pub fn environment(said: &[String], folder: &Path) -> Result<Vec<(OsString, OsString)>, Failure> {
    let is_handed_on = |name: &str| {
        (HANDED_ON_TOO.contains(&name) || HANDED_ON.iter().any(|start| name.starts_with(start)))
            && !name.ends_with(KEPT_BACK)
    };
    let own = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_handed_on));
    let mut all: Vec<(OsString, OsString)> = own.collect();
    all.push(("HOME".into(), "/root".into()));
    // In a fast guest there is a link on the way to it.
    all.push(("PWD".into(), folder.into()));
    for text in said {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, OsString::from(value)),
            None => (text.as_str(), std::env::var_os(text).unwrap_or_default()),
        };
        if name.is_empty() {
            let message = format!("`--env {text}` names no variable: NAME=VALUE, or NAME for this machine's value");
            return Err(Failure { exit: Exit::Invalid, message });
        }
        all.retain(|(other, _)| other != name);
        all.push((name.into(), value));
    }
    Ok(all)
}

/// What a command needs in a guest: itself, what it is told of, and its folder.
pub fn needs(
    programs: &[PathBuf],
    folder: &Path,
    environment: &[(OsString, OsString)],
    bring: &BringArgs,
) -> Result<Needs, Failure> {
    let mut needs = Needs { folders: vec![folder.to_owned(), "/root".into()], ..Needs::default() };
    needs.programs.extend_from_slice(programs);
    for with in &bring.with {
        let file = std::path::absolute(with).map_err(|error| Failure::invalid(&error))?;
        let program = crate::kernel::probe::tools::find(&with.to_string_lossy());
        match (file.exists(), program) {
            // Its libraries, if it needs any.
            (true, _) if file.is_file() => needs.programs.push(file),
            (true, _) => needs.files.push(file),
            (false, Some(program)) if with.components().count() == 1 => needs.programs.push(program),
            _ => {
                let message = format!("`--with {}` is neither a file nor a program in PATH", with.display());
                return Err(Failure { exit: Exit::Invalid, message });
            }
        }
    }
    // `CARGO_BIN_EXE_name`, `NEXTEST_BIN_EXE_name`: programs that tests call.
    let called = environment.iter().filter(|(name, _)| name.to_string_lossy().contains("_BIN_EXE_"));
    needs.programs.extend(called.map(|(_, value)| PathBuf::from(value)).filter(|file| file.is_file()));
    needs.files.extend(COMMON.iter().map(PathBuf::from).filter(|file| file.is_file()));
    Ok(needs)
}

/// Shows a guest all that `needs` names.
pub fn show(setting: &mut Setting, needs: &Needs) {
    let folders = needs.folders.iter().chain(needs.files.iter().filter(|file| file.is_dir()));
    setting.shown.extend(folders.cloned());
    for file in needs.programs.iter().chain(&needs.files) {
        let real = file.canonicalize();
        setting.shown.extend(
            [Some(file), real.as_ref().ok()].into_iter().flatten().filter_map(|file| file.parent()).map(Path::to_owned),
        );
    }
}

/// The folder that guests may write to, if there is one.
pub fn share(runner: Runner, bring: &BringArgs) -> Result<Option<PathBuf>, Failure> {
    let invalid = |message: String| Failure { exit: Exit::Invalid, message };
    let Some(folder) = &bring.dir else { return Ok(None) };
    if runner == Runner::Fast {
        return Err(invalid("--dir needs the vng runner: a guest of the fast one shares no folder".to_owned()));
    }
    let failed = |error: std::io::Error| invalid(format!("--dir {}: {error}", folder.display()));
    let whole = folder.canonicalize().map_err(failed)?;
    if !whole.is_dir() {
        return Err(invalid(format!("--dir {} is no folder", folder.display())));
    }
    in_text(&whole)?;
    Ok(Some(whole))
}

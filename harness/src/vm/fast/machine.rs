//! The virtual machine: the same for the guest that is saved and for those that are restored from it, or QEMU refuses.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::super::kernels::Image;
use super::super::process::ProcessGroup;
use super::super::runner::{Runner, RunnerError, Setting};

/// Name of the port; `vm/init` looks for it.
const PORT: &str = "bpflab";
/// The kernel's command line: its warnings on the console, and an end instead of a standstill.
pub const COMMAND_LINE: &str = "console=ttyS0 loglevel=6 panic=-1 random.trust_cpu=on";

/// The files behind a machine's disks, and what it boots with.
pub struct Disks {
    /// The initial file system.
    pub initramfs: PathBuf,
    /// The kernel's modules.
    pub modules: PathBuf,
    /// What a run brings along.
    pub payload: PathBuf,
    /// The guest's memory, and whether the guest changes the file or a copy of its own.
    pub memory: (PathBuf, Memory),
}

/// What becomes of what a guest writes to its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It is in the file: of a guest that is to be saved.
    Kept,
    /// Only the guest itself sees it; what it does not write it has in common with all others.
    Own,
}

/// QEMU with everything but its streams; the console goes to file `console`.
pub fn command(image: &Image, setting: &Setting, disks: &Disks, console: &Path) -> Result<Command, RunnerError> {
    let mut command = Command::new(Runner::Fast.tool("qemu-system-x86_64")?);
    command.args(fixed(setting));
    let (file, memory) = &disks.memory;
    let share = if *memory == Memory::Kept { "on" } else { "off" };
    let options = format!(",id=ram,size={}M,share={share}", setting.memory_mib);
    command.arg("-object").arg(with_option("memory-backend-file,mem-path=", file, &options));
    command.arg("-kernel").arg(&image.vmlinuz).arg("-initrd").arg(&disks.initramfs).args(["-append", COMMAND_LINE]);
    for (id, file) in [("modules", &disks.modules), ("payload", &disks.payload)] {
        // Several guests read one file.
        let options = format!(",if=none,id={id},format=raw,readonly=on,file.locking=off");
        command.arg("-drive").arg(with_option("file=", file, &options));
        command.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
    }
    command.arg("-chardev").arg(with_option("file,id=console,path=", console, "")).args(["-serial", "chardev:console"]);
    command.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=port,signal=off"]);
    command.args(["-device", &format!("virtserialport,chardev=port,name={PORT}")]);
    Ok(command)
}

/// Lets QEMU's monitor be connected to, by the socket in the folder that is returned: a socket's path must be short.
pub fn monitored(command: &mut Command) -> Result<TempDir, RunnerError> {
    let folder = tempfile::tempdir().map_err(|source| RunnerError::Folder { path: std::env::temp_dir(), source })?;
    command.arg("-qmp").arg(with_option("unix:", &socket(&folder), ",server=on,wait=off"));
    Ok(folder)
}

/// The monitor's socket in `folder`.
pub fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("qmp")
}

/// What is the same whatever the files are; part of a saved state's key.
pub fn fixed(setting: &Setting) -> Vec<String> {
    let mut fixed: Vec<String> =
        ["-nodefaults", "-display", "none", "-no-reboot", "-M", "q35,memory-backend=ram"].map(str::to_owned).to_vec();
    let acceleration = &setting.acceleration;
    for (option, value) in [
        ("-smp", setting.cpus.to_string()),
        ("-accel", acceleration.name().to_owned()),
        ("-cpu", acceleration.processor().to_owned()),
        ("-m", setting.memory_mib.to_string()),
    ] {
        fixed.extend([option.to_owned(), value]);
    }
    fixed
}

/// `NAME=PATH` as QEMU reads it: a comma in a path is written twice.
fn with_option(name: &str, path: &Path, more: &str) -> OsString {
    let mut text = OsString::from(name);
    match path.to_str() {
        Some(path) => text.push(path.replace(',', ",,")),
        None => text.push(path),
    }
    text.push(more);
    text
}

/// Starts the machine: `lines` come in by its port, and what goes out by it goes to `out`.
pub fn start(command: &mut Command, out: File, lines: Vec<u8>, log: &File) -> Result<ProcessGroup, RunnerError> {
    let program = PathBuf::from(command.get_program());
    ProcessGroup::start_with(command, lines, out, log).map_err(|source| RunnerError::Start { program, source })
}

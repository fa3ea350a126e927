//! Whether guests may use the processor's own virtualisation. `/dev/kvm` may be there and of no use (nested machines,
//! containers), so it is tried: a boot sector that does nothing but tell QEMU to end, with the processor model that
//! guests get.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::ProcessGroup;

/// Emulation takes half a second for the trial; what takes ten times as long is no help.
const LONGEST_TRIAL: Duration = Duration::from_secs(5);
/// `mov dx, 0xf4; mov al, 0x10; out dx, al; hlt; jmp $`: writes to the port of QEMU's `isa-debug-exit`.
const BOOT_CODE: [u8; 9] = [0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd];
/// QEMU's exit code for what the boot sector writes: `value << 1 | 1`.
const EXIT_CODE: i32 = 0x10 << 1 | 1;

/// How guests run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acceleration {
    /// By the processor.
    Kvm,
    /// By QEMU's emulation, and why.
    Emulation(String),
}

impl Acceleration {
    /// The processor model that guests get.
    ///
    /// With QEMU 7.2's emulation a kernel crashes now and then right behind `cmpxchg16b` if the model has it, and
    /// memory protection keys are slow.
    #[must_use]
    pub const fn processor(&self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Emulation(_) => "max,-pku,-cx16",
        }
    }

    /// What QEMU's `-accel` takes.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation(_) => "tcg",
        }
    }
}

impl std::fmt::Display for Acceleration {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kvm => out.write_str("kvm"),
            Self::Emulation(why) => write!(out, "emulation ({why})"),
        }
    }
}

/// What a trial said, and where it holds: on this boot of the machine, with this QEMU.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    qemu: String,
    acceleration: Acceleration,
}

/// Tries KVM once per boot of the machine and remembers the answer in folder `cache`.
#[must_use]
pub fn acceleration(cache: &Path, qemu: &Path) -> Acceleration {
    let file = cache.join("kvm.json");
    let (boot, qemu_name) = (boot_id(), identity(qemu));
    let known = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = known.filter(|known| known.boot == boot && known.qemu == qemu_name) {
        return known.acceleration;
    }
    let acceleration = match try_kvm(qemu) {
        Ok(()) => Acceleration::Kvm,
        Err(why) => Acceleration::Emulation(why),
    };
    remember(cache, &Remembered { boot, qemu: qemu_name, acceleration: acceleration.clone() });
    acceleration
}

/// Remembers that KVM, which passed its trial, could not run a guest after all.
pub fn give_up(cache: &Path, qemu: &Path, why: &str) -> Acceleration {
    let acceleration = Acceleration::Emulation(why.to_owned());
    remember(cache, &Remembered { boot: boot_id(), qemu: identity(qemu), acceleration: acceleration.clone() });
    acceleration
}

/// A cache that cannot be written costs a trial in each run, nothing else.
fn remember(cache: &Path, what: &Remembered) {
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(cache)?;
        let mut file = tempfile::NamedTempFile::new_in(cache)?;
        serde_json::to_writer(file.as_file_mut(), what)?;
        file.persist(cache.join("kvm.json"))?;
        Ok(())
    };
    let _ = write();
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A program by path, size and time of change: cheaper than asking it for its version.
pub(super) fn identity(program: &Path) -> String {
    let meta = std::fs::metadata(program).ok();
    let changed = meta.as_ref().and_then(|meta| meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok());
    format!(
        "{} {} {}",
        program.display(),
        meta.map_or(0, |meta| meta.len()),
        changed.map_or(0, |since| since.as_secs())
    )
}

fn try_kvm(qemu: &Path) -> Result<(), String> {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("there is no /dev/kvm".to_owned());
        }
        Err(error) => return Err(format!("/dev/kvm cannot be opened: {error}; add yourself to group kvm")),
    }
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a folder for the trial of KVM: {error}"))?;
    let (image, log) = (folder.path().join("boot.img"), folder.path().join("log"));
    let mut sector = [0; 512];
    sector[..BOOT_CODE.len()].copy_from_slice(&BOOT_CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let start = || -> std::io::Result<ProcessGroup> {
        std::fs::write(&image, sector)?;
        let mut command = Command::new(qemu);
        command
            .args(["-accel", "kvm", "-cpu", Acceleration::Kvm.processor(), "-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-m", "32", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive"])
            .arg(format!("file={},format=raw,if=ide", image.display()))
            .stderr(Stdio::null());
        ProcessGroup::start(&mut command, &std::fs::File::create(&log)?)
    };
    let mut trial = start().map_err(|error| format!("cannot start {}: {error}", qemu.display()))?;
    if !trial.wait_until(Instant::now() + LONGEST_TRIAL) {
        return Err(format!("/dev/kvm opens, but a guest of 9 bytes did not end in {} s", LONGEST_TRIAL.as_secs()));
    }
    match trial.ended() {
        Ok(Some(status)) if status.code() == Some(EXIT_CODE) => Ok(()),
        _ => {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().find(|line| line.contains("error")).or_else(|| said.lines().last()).unwrap_or("");
            Err(format!("/dev/kvm opens, but runs no guest: {last}"))
        }
    }
}

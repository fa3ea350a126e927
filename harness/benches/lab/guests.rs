//! What a guest costs before its first trial and after its last: virtme-ng with the lab's request, virtme-ng with
//! `true`, and a restored guest, on the oldest and the newest kernel in the cache.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bpflab::scenario::trial::Trial;
use bpflab::vm::kernels::{Cache, Image, KernelList, State, lab_cache};
use bpflab::vm::kvm;
use bpflab::vm::protocol::{PROTOCOL_VERSION, Request, TrialName};
use bpflab::vm::runner::{Needs, Runner, Setting};
use bpflab::vm::supervise::{Limits, supervise};

use crate::report::{Report, median};

/// The trial that each guest runs; what it takes is not counted.
const SCENARIO: &str = "dns/answers";
/// Memory of each guest, MiB.
const MEMORY_MIB: u32 = 1024;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// A restored guest's first trial begins within this time, seconds.
const RESTORE_TARGET_S: f64 = 0.5;

/// Prints and records the comparison.
pub fn run(report: &mut Report, rounds: usize) -> Result<(), Box<dyn Error>> {
    report.heading("5. Guests: seconds from the start to the first trial and from the last trial to the end")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let list = KernelList::read(&root.join("vm/kernels.toml"))?;
    let cache = Cache::open()?;
    let cached: Vec<String> = cache
        .list(&list)
        .into_iter()
        .filter(|row| matches!(row.state, State::Cached { .. } | State::Local { .. }))
        .map(|row| row.name)
        .collect();
    let (Some(oldest), Some(newest)) = (cached.first(), cached.last()) else {
        return Ok(report.line("  left out: no kernel is in the cache (`bpflab kernels fetch`)")?);
    };
    for runner in [Runner::Vng, Runner::Fast] {
        if let Err(error) = runner.check() {
            return Ok(report.line(&format!("  left out: {error}"))?);
        }
    }
    let names = if oldest == newest { vec![oldest.clone()] } else { vec![oldest.clone(), newest.clone()] };
    let folder = tempfile::tempdir_in(root.join("target"))?;
    let bench = Bench::new(&root, folder.path())?;
    for kernel in list.select(&names)? {
        let image = cache.ensure(kernel, None, &mut |_| ())?;
        bench.kernel(report, &image, rounds)?;
    }
    Ok(())
}

struct Bench<'a> {
    setting: Setting,
    trials: Vec<TrialName>,
    folder: &'a Path,
}

impl<'a> Bench<'a> {
    fn new(root: &Path, folder: &'a Path) -> Result<Self, Box<dyn Error>> {
        let scenarios = root.join("scenarios");
        let mut trials = Trial::all(&scenarios)?;
        trials.retain(|trial| trial.found.name == SCENARIO);
        let cache = lab_cache()?;
        let qemu = Runner::Fast.tool("qemu-system-x86_64")?;
        // The benchmark itself cannot serve a guest; the binary is built beside it.
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_bpflab"));
        let acceleration = kvm::acceleration(&cache, &qemu);
        let mut setting = Setting {
            memory_mib: MEMORY_MIB,
            cpus: std::num::NonZero::<u32>::MIN,
            acceleration,
            binary,
            scenarios: Some(scenarios),
            shown: Vec::new(),
            share: None,
            cache,
            payload: None,
        };
        Runner::Fast.prepare(&mut setting, &Needs::of(&trials), folder)?;
        let trials = trials.iter().map(|trial| TrialName { scenario: SCENARIO.to_owned(), mode: Some(trial.mode) });
        Ok(Self { setting, trials: trials.take(1).collect(), folder })
    }

    fn kernel(&self, report: &mut Report, image: &Image, rounds: usize) -> Result<(), Box<dyn Error>> {
        // The first restored guest is booted and saved.
        self.guest(Runner::Fast, image)?;
        let (mut plain, mut vng, mut fast) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            plain.push(self.plain(image)?);
            vng.push(self.guest(Runner::Vng, image)?);
            fast.push(self.guest(Runner::Fast, image)?);
        }
        let name = &image.name;
        report.line(&format!(
            "  {name}: vng -- true {:.2}, vng runner {:.2}, fast runner {:.3} (medians of {rounds})",
            median(&plain),
            median(&vng),
            median(&fast)
        ))?;
        for (what, values) in [("true", &plain), ("vng", &vng), ("fast", &fast)] {
            report.value(&format!("guest_{what}_{name}_s"), values.clone());
        }
        let over = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a / b).collect() };
        report.ratio(&format!("guest_true_over_vng_{name}"), "vng -- true / vng runner", &over(&plain, &vng), 1.0)?;
        report.ratio(&format!("guest_vng_over_fast_{name}"), "vng runner / fast runner", &over(&vng, &fast), 10.0)?;
        let within: Vec<f64> = fast.iter().map(|seconds| RESTORE_TARGET_S / seconds).collect();
        report.ratio(&format!("guest_fast_{name}"), "0.5 s / fast runner", &within, 1.0)?;
        Ok(())
    }

    /// Seconds that a guest takes beside its trial.
    fn guest(&self, runner: Runner, image: &Image) -> Result<f64, Box<dyn Error>> {
        let request = Request { version: PROTOCOL_VERSION, trials: self.trials.clone(), ..Request::default() };
        let folder = tempfile::tempdir_in(self.folder)?;
        let limits = Limits { boot: LIMIT, silence: LIMIT, exit: LIMIT };
        let stop = AtomicBool::new(false);
        let guest = runner.start(image, &request, &self.setting, folder.path(), &stop)?;
        let life = supervise(guest, &limits, &stop, &mut |_| ());
        match (life.done, life.failures.first()) {
            (true, None) => Ok(life.times.boot_s + life.times.exit_s),
            (_, failure) => Err(format!("a guest failed: {failure:?}").into()),
        }
    }

    /// Seconds of virtme-ng with the same machine and nothing to do.
    fn plain(&self, image: &Image) -> Result<f64, Box<dyn Error>> {
        let mut command = Command::new(Runner::Vng.tool("vng")?);
        command.args(["--user", "root", "--cpus", "1", "--memory", &format!("{MEMORY_MIB}M"), "--cwd", "/", "--run"]);
        command.arg(&image.vmlinuz);
        if self.setting.acceleration.name() == "tcg" {
            let processor = self.setting.acceleration.processor();
            command.args(["--disable-kvm", &format!("--qemu-opts=-cpu {processor}")]);
        }
        let start = Instant::now();
        // Its exit code is 255 where the guest has no udev, whatever happened.
        let quiet = command.args(["--exec", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

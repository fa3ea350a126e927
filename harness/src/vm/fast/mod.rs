//! Guests that are not booted: a kernel is booted once, its state saved, and each guest restored from that.
//!
//! QEMU is run directly. The state is saved when the guest has come to the point where it waits for its request
//! (`vm/init`); what a run brings along - the binary, the libraries and tools that it needs, scenarios, captures - is a
//! file system on a disk that the saved guest has never looked at. Request and messages pass through one port, which
//! QEMU connects to its own standard input and output.
//!
//! Restored guests are the same guest again and again: same time, same random numbers. The request says both anew, and
//! the binary sets them first.

mod boot;
mod initramfs;
mod machine;
mod payload;
mod qmp;
mod saved;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::machine::Memory;
pub(super) use self::payload::build as payload;
pub(super) use self::saved::Saved;
pub use self::saved::prune;
use super::kernels::Image;
use super::protocol::Request;
use super::runner::{RunnerError, Setting, make, open, write};
use super::supervise::Guest;

/// Folder of saved guests in the lab's cache.
pub(super) const GUESTS: &str = "guests";

/// Where a restored guest, whose root is in its memory, puts artefacts before it sends them.
const ARTEFACTS: &str = "/run/artefacts";

/// Starts a guest; see [`Runner::start`].
pub(super) fn start(
    image: &Image,
    request: &Request,
    setting: &Setting,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<Guest, RunnerError> {
    let payload = setting.payload.as_ref().ok_or(RunnerError::NoPayload)?;
    let saved = Saved::ensure(image, setting, folder, stop)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = Request {
        scenarios: setting.scenarios.clone().unwrap_or_default(),
        artefacts: ARTEFACTS.into(),
        send_artefacts: true,
        time_ns: u64::try_from(since_epoch.as_nanos()).ok(),
        seed: Some(format!("{:032x}", SmallRng::from_os_rng().random::<u128>())),
        ..request.clone()
    };
    write(&folder.join("request.json"), &serde_json::to_vec_pretty(&request).unwrap_or_default())?;
    let (messages, console) = (folder.join("messages.jsonl"), folder.join("console.log"));
    let (out, log) = (make(&messages)?, make(&folder.join("qemu.log"))?);
    make(&console)?;
    let mut command = machine::command(image, setting, &saved.disks(payload, Memory::Own), &console)?;
    command.args(["-incoming", "defer"]);
    let own = machine::monitored(&mut command)?;
    let lines = format!("{}\n{}\n", setting.binary.display(), serde_json::to_string(&request).unwrap_or_default());
    let started = Instant::now();
    let mut processes = machine::start(&mut command, out, lines.into_bytes(), &log)?;
    // If that fails, the guest does not say a word, and why is in QEMU's log.
    let _ = saved.restore(&machine::socket(&own), &mut processes);
    Ok(Guest {
        processes,
        console: Box::new(open(console)?),
        messages: Box::new(open(messages)?),
        started,
        // Nothing of it is kept, so it need not end in an orderly way.
        shuts_down: false,
        own: Some(own),
    })
}

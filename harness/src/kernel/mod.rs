//! The running kernel: its release, its types, its symbols, and what it can do.

pub mod btf;
pub mod nft;
pub mod probe;
pub mod reasons;
pub mod symbols;
pub mod tracefs;

use std::sync::{Once, OnceLock};

use btf::BtfError;
use probe::Version;

/// Release of the running kernel, as `uname -r` prints it.
#[must_use]
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The kernel's types in the form that aya takes, read at the first call and kept for the life of the process.
///
/// # Errors
/// [`BtfError::Missing`] where the kernel shows none, [`BtfError::Loader`] where aya cannot read them.
pub fn aya_btf() -> Result<&'static aya::Btf, BtfError> {
    static BTF: OnceLock<aya::Btf> = OnceLock::new();
    if let Some(btf) = BTF.get() {
        return Ok(btf);
    }
    let btf = aya::Btf::from_sys_fs().map_err(|error| match error {
        aya::BtfError::FileError { error, .. } => BtfError::Missing(error),
        other => BtfError::Loader(Box::new(other)),
    })?;
    Ok(BTF.get_or_init(|| btf))
}

/// Whether maps and programs count as locked memory, whose limit is 64 KiB or 8 MiB by default: before 5.11
/// (d5299b67dd59).
#[must_use]
pub fn counts_locked_memory() -> bool {
    Version::of_release(&release()).is_some_and(|kernel| kernel.against(&Version::series(5, 11)).is_lt())
}

/// Makes room for maps of any size, where the kernel limits them; called before each map is made.
///
/// Where the limit cannot be lifted, the kernel refuses the map, which is reported then.
pub fn make_room_for_maps() {
    static LIFT: Once = Once::new();
    LIFT.call_once(|| {
        if counts_locked_memory() {
            let _ = crate::sys::lift_memlock();
        }
    });
}

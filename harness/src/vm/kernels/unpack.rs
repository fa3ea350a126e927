//! From packages to a kernel that can be booted: `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE` with its index,
//! which is the layout of an installed system, and so one that virtme-ng understands.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tool::Tool;
use super::{Host, KernelError, bzimage};

/// How long unpacking a package may take, and indexing the modules.
const UNPACK: Duration = Duration::from_secs(300);
const INDEX: Duration = Duration::from_secs(120);

/// A kernel in a folder of its own.
#[derive(Debug)]
pub struct Unpacked {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The bootable image, from the folder on.
    pub vmlinuz: PathBuf,
    /// The modules, from the folder on.
    pub modules: PathBuf,
}

/// Unpacks packages into `tree`, one over the other.
///
/// # Errors
/// [`KernelError::DiskFull`], [`KernelError::Tool`].
pub fn unpack(debs: &[PathBuf], tree: &Path, host: &Host) -> Result<(), KernelError> {
    for deb in debs {
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = host.path.as_deref();
        let tool = Tool { name: "dpkg-deb", doing: format!("unpack {name}"), limit: UNPACK, fills: tree, path };
        tool.must(tool.command()?.arg("-x").arg(deb).arg(tree))?;
    }
    Ok(())
}

/// Moves image, modules and configuration from the unpacked packages of `origin` in `tree` to `entry`, and indexes the
/// modules. Both layouts are known: the image in `boot`, and beside its modules.
///
/// # Errors
/// [`KernelError::NoImage`], [`KernelError::NoModules`], those of writing.
pub fn arrange(tree: &Path, entry: &Path, origin: &str, host: &Host) -> Result<Unpacked, KernelError> {
    let image = find_image(tree).ok_or_else(|| KernelError::NoImage {
        origin: origin.to_owned(),
        reason: "it has neither boot/vmlinuz-* nor lib/modules/*/vmlinuz".to_owned(),
    })?;
    let release = bzimage::release(&image)?;
    let modules = ["usr/lib/modules", "lib/modules"].map(|folder| tree.join(folder).join(&release));
    let modules =
        modules.into_iter().find(|folder| folder.join("kernel").is_dir()).ok_or_else(|| KernelError::NoModules {
            release: release.clone(),
            origin: origin.to_owned(),
            reason: "neither its packages nor those they need have lib/modules/*/kernel; choose another package"
                .to_owned(),
        })?;
    let to_image = PathBuf::from(format!("boot/vmlinuz-{release}"));
    let to_modules = Path::new("lib/modules").join(&release);
    move_to(&image, &entry.join(&to_image))?;
    for config in [tree.join(format!("boot/config-{release}")), modules.join("config")] {
        if config.is_file() {
            move_to(&config, &entry.join(format!("boot/config-{release}")))?;
        }
    }
    // Links to a source tree that is not there, and a symbol table nobody reads.
    for name in ["build", "source", "System.map"] {
        let _ = fs::remove_file(modules.join(name));
    }
    move_to(&modules, &entry.join(&to_modules))?;
    index(entry, &release, host)?;
    Ok(Unpacked { release, vmlinuz: to_image, modules: to_modules })
}

/// Makes `modules.dep` and its like.
fn index(entry: &Path, release: &str, host: &Host) -> Result<(), KernelError> {
    let (doing, path) = (format!("index the modules of {release}"), host.path.as_deref());
    let tool = Tool { name: "depmod", doing, limit: INDEX, fills: entry, path };
    let mut command = tool.command()?;
    command.arg("-b").arg(entry);
    tool.must(command.arg(release))?;
    let made = entry.join("lib/modules").join(release).join("modules.dep");
    if fs::metadata(&made).is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    // depmod warns of a module that it cannot read, and goes on.
    Err(tool.failed(&format!("{} is missing or empty", made.display())))
}

fn find_image(tree: &Path) -> Option<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let in_boot = files(tree.join("boot"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    let beside = ["usr/lib/modules", "lib/modules"]
        .into_iter()
        .flat_map(|folder| files(tree.join(folder)))
        .map(|folder| folder.join("vmlinuz"));
    let mut found: Vec<PathBuf> = in_boot.chain(beside).filter(|path| path.is_file()).collect();
    found.sort();
    found.into_iter().next()
}

fn move_to(from: &Path, to: &Path) -> Result<(), KernelError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(KernelError::writing(folder))?;
    }
    fs::rename(from, to).map_err(KernelError::writing(to))
}

//! The initial file system of a guest: a shell, `vm/init`, and the modules without which there are no disks and no port.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use cpio::newc::{Builder, ModeFileType, trailer};

use super::super::kernels::Image;
use super::super::runner::{Runner, RunnerError};
use super::payload::libraries;

/// The guest's first process.
pub const INIT: &str = include_str!("../../../../vm/init");
/// Modules that the guest needs before it can read its disks.
const FIRST: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

/// Writes the initial file system of kernel `image` to `out`.
pub fn write(image: &Image, out: &Path) -> Result<(), RunnerError> {
    let mut files = vec![("init".to_owned(), INIT.as_bytes().to_vec()), ("base/busybox".to_owned(), busybox()?)];
    let mut order = String::new();
    match &image.modules {
        Some(modules) => {
            for path in first_modules(modules)? {
                let name = plain_name(&path);
                order.push_str(&name);
                order.push('\n');
                files.push((format!("base/{name}"), unpacked(&modules.join(&path))?));
            }
        }
        None => files.push(("base/built-in".to_owned(), Vec::new())),
    }
    files.push(("base/order".to_owned(), order.into_bytes()));
    archive(&files, out).map_err(|source| RunnerError::Folder { path: out.to_owned(), source })
}

fn archive(files: &[(String, Vec<u8>)], out: &Path) -> io::Result<()> {
    let mut out = io::BufWriter::new(File::create(out)?);
    for folder in ["base", "dev"] {
        Builder::new(folder).mode(0o755).set_mode_file_type(ModeFileType::Directory).write(&mut out, 0).finish()?;
    }
    // The kernel opens it for the first process before that has mounted anything.
    let console = Builder::new("dev/console").mode(0o600).set_mode_file_type(ModeFileType::Char);
    console.rdev_major(5).rdev_minor(1).write(&mut out, 0).finish()?;
    for (name, bytes) in files {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let file = Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Regular);
        let mut file = file.write(&mut out, size);
        file.write_all(bytes)?;
        file.finish()?;
    }
    trailer(&mut out)?;
    out.flush()
}

/// The shell, which must need no library: there is none in the initial file system.
fn busybox() -> Result<Vec<u8>, RunnerError> {
    let path = Runner::Fast.tool("busybox")?;
    if !libraries(&path)?.is_empty() {
        return Err(RunnerError::NotStatic { path });
    }
    std::fs::read(&path).map_err(|source| RunnerError::Folder { path, source })
}

/// The modules of [`FIRST`] with all they need, in the order of loading: paths from the folder of modules on.
fn first_modules(modules: &Path) -> Result<Vec<PathBuf>, RunnerError> {
    let file = modules.join("modules.dep");
    let text = std::fs::read_to_string(&file).map_err(|source| RunnerError::Folder { path: file.clone(), source })?;
    Ok(in_order(&text, &FIRST))
}

/// `modules.dep` has a line for each module: its path, a colon, and what it needs, the innermost last. A module that
/// has no line is built in.
fn in_order(dep: &str, names: &[&str]) -> Vec<PathBuf> {
    let mut order: Vec<PathBuf> = Vec::new();
    for name in names {
        let line = dep.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| is_module(path, name));
        let Some((path, needs)) = line else { continue };
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == Path::new(path)) {
                order.push(path.into());
            }
        }
    }
    order
}

/// Modules are named with `_` and `-` alike.
fn is_module(path: &str, name: &str) -> bool {
    plain_name(Path::new(path)).trim_end_matches(".ko").replace('-', "_") == name
}

/// `NAME.ko`, whatever it is packed with.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split_once(".ko").map_or(name.to_string(), |(stem, _)| format!("{stem}.ko"))
}

/// A module's bytes, unpacked: the kernel of a guest may not be able to.
fn unpacked(path: &Path) -> Result<Vec<u8>, RunnerError> {
    let failed = |source| RunnerError::Folder { path: path.to_owned(), source };
    let name = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).map_err(failed),
    };
    let output = Command::new(Runner::Fast.tool(name)?).args(["-d", "-c"]).arg(path).output().map_err(failed)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dep = "kernel/a/virtio_pci.ko: kernel/v/virtio_ring.ko kernel/v/virtio.ko\n\
                   kernel/v/virtio.ko:\nkernel/v/virtio_ring.ko: kernel/v/virtio.ko\n\
                   kernel/b/virtio-blk.ko.xz: kernel/v/virtio_ring.ko kernel/v/virtio.ko\n";
        let order = in_order(dep, &["virtio_pci", "virtio_blk", "ext4"]);
        let names: Vec<String> = order.iter().map(|path| plain_name(path)).collect();
        assert_eq!(names, ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "virtio-blk.ko"]);
    }
}

//! Kernels that are on this machine already: nothing is fetched and nothing is kept.

use std::path::{Path, PathBuf};

use super::entry::sha256;
use super::{Host, Image, KernelError, bzimage};

/// The kernel in `vmlinuz`, with `modules` or without any.
///
/// # Errors
/// [`KernelError::NoImage`], [`KernelError::NoModules`], [`KernelError::Read`].
pub fn image(name: &str, vmlinuz: &Path, modules: Option<&Path>) -> Result<Image, KernelError> {
    let origin = vmlinuz.display().to_string();
    if !vmlinuz.is_file() {
        return Err(KernelError::NoImage { origin, reason: "there is no such file".to_owned() });
    }
    let release = bzimage::release(vmlinuz)?;
    if let Some(folder) = modules {
        let reason = if !folder.is_dir() {
            Some(format!("there is no folder {}", folder.display()))
        } else if !folder.ends_with(&release) {
            Some(format!("{} belongs to another kernel: its modules are in lib/modules/{release}", folder.display()))
        } else if !folder.join("modules.dep").is_file() {
            Some(format!(
                "{} has no modules.dep: run `depmod -b BASE {release}`, BASE holding lib/modules",
                folder.display()
            ))
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(KernelError::NoModules { release, origin, reason });
        }
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(KernelError::reading(path));
    Ok(Image {
        name: name.to_owned(),
        version: format!("file {origin}"),
        sha256: sha256(vmlinuz)?,
        vmlinuz: absolute(vmlinuz)?,
        modules: modules.map(absolute).transpose()?,
        release,
    })
}

/// The kernel called `release`, which this machine runs.
///
/// # Errors
/// [`KernelError::NoImage`] where the machine does not keep what it runs, as guests do not; those of [`image`].
pub fn running(name: &str, release: &str, host: &Host) -> Result<Image, KernelError> {
    let modules = host.root.join("lib/modules").join(release);
    let places: [PathBuf; 2] = [host.root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let Some(vmlinuz) = places.iter().find(|path| path.is_file()) else {
        return Err(KernelError::NoImage {
            origin: format!("the running kernel {release}"),
            reason: format!(
                "neither {} nor {} is there; give its files as `image`",
                places[0].display(),
                places[1].display()
            ),
        });
    };
    let image = image(name, vmlinuz, Some(&modules))?;
    Ok(Image { version: format!("running {release}"), ..image })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A root with a kernel of release 6.9.0, its modules and their index.
    fn root() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::create_dir_all(root.join("lib/modules/6.9.0")).unwrap();
        fs::write(root.join("boot/vmlinuz-6.9.0"), bzimage::image_of("6.9.0")).unwrap();
        fs::write(root.join("lib/modules/6.9.0/modules.dep"), "kernel/veth.ko:\n").unwrap();
        (folder, Host { root, ..Host::default() })
    }

    #[test]
    fn the_running_kernel_is_found_in_either_place() {
        let (_folder, host) = root();
        let found = running("here", "6.9.0", &host).unwrap();
        assert_eq!((found.release.as_str(), found.version.as_str()), ("6.9.0", "running 6.9.0"));
        fs::rename(host.root.join("boot/vmlinuz-6.9.0"), host.root.join("lib/modules/6.9.0/vmlinuz")).unwrap();
        assert!(running("here", "6.9.0", &host).unwrap().vmlinuz.ends_with("6.9.0/vmlinuz"));
        let error = running("here", "6.8.0", &host).unwrap_err().to_string();
        assert!(error.contains("boot/vmlinuz-6.8.0") && error.contains("give its files as `image`"), "{error}");
    }

    #[test]
    fn an_image_without_its_modules_is_refused_with_what_to_do() {
        let (_folder, host) = root();
        let vmlinuz = host.root.join("boot/vmlinuz-6.9.0");
        assert_eq!(image("a", &vmlinuz, None).unwrap().modules, None);
        let refused = |modules: &str, part: &str| {
            let error = image("a", &vmlinuz, Some(&host.root.join(modules))).unwrap_err();
            assert!(matches!(error, KernelError::NoModules { .. }) && error.to_string().contains(part), "{error}");
        };
        refused("lib/modules/6.8.0", "there is no folder");
        refused("boot", "belongs to another kernel");
        fs::remove_file(host.root.join("lib/modules/6.9.0/modules.dep")).unwrap();
        refused("lib/modules/6.9.0", "run `depmod");
        fs::write(&vmlinuz, "#!/bin/sh").unwrap();
        assert!(matches!(image("a", &vmlinuz, None), Err(KernelError::NoImage { .. })));
    }
}

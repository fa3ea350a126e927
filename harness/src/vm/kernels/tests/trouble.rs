//! What is wrong is named, within bounded time, and leaves the cache sound.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::cache::Cache;
use super::super::{Kernel, KernelError};
use super::repository::{Contents, Repository, SUITE, debian, kernel, names};

const RELEASE: &str = "6.1.0-1-amd64";

/// A mirror with one whole kernel.
fn published(contents: &Contents<'_>) -> Repository {
    let repository = Repository::new();
    repository.add("linux-image-6.1.0-1-amd64", "6.1.9-1", contents);
    repository.publish();
    repository
}

/// The error of getting the kernel. No kernel and no working folder may be left.
#[track_caller]
fn refused(cache: &Cache, kernel: &Kernel, mirror: &str) -> KernelError {
    let error = cache.ensure(kernel, Some(mirror), &mut |_| {}).expect_err("the kernel came");
    assert_eq!(names(&cache.root().join("entries")), [""; 0], "{error}");
    assert_eq!(names(&cache.root().join("work")), [""; 0], "{error}");
    error
}

#[test]
fn an_unknown_suite_and_a_package_that_is_not_there_are_input() {
    let repository = published(&Contents::whole(RELEASE));
    let error = refused(&repository.cache(), &debian("trail", "linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(&error, KernelError::UnknownSuite { suite, .. } if suite == "trail"), "{error}");
    assert!(error.is_input());
    let error = refused(&repository.cache(), &kernel("linux-image-6.2.*-amd64"), &repository.url());
    let expected = "no package `linux-image-6.2.*-amd64` in trial; they have linux-image-6.1.0-1-amd64";
    assert_eq!(error.to_string(), expected);
    assert!(error.is_input());
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.0-1-amd64=7"), &repository.url());
    assert!(matches!(error, KernelError::NoPackage { .. }), "{error}");
}

#[test]
fn a_mirror_that_is_not_there_or_silent_is_named_in_time() {
    let repository = Repository::new();
    let mut cache = repository.cache();
    cache.host.timeout = Duration::from_secs(1);
    // A port that was just free refuses; one that nobody accepts on takes the request and keeps silent.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [free, silent.local_addr().unwrap()] {
        let (url, begun) = (format!("http://{address}/debian"), Instant::now());
        let error = refused(&cache, &kernel("linux-image-6.1.*"), &url);
        assert!(matches!(&error, KernelError::MirrorSilent { mirror, .. } if *mirror == url), "{error}");
        assert!(!error.is_input());
        // One second of silence, twice; the rest is for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(60), "took {:?}", begun.elapsed());
    }
    let error = cache.ensure(&kernel("linux-image-6.1.*"), None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, KernelError::NoMirror), "{error}");
}

#[test]
fn a_package_that_is_not_the_signed_one_is_thrown_away() {
    let repository = published(&Contents::whole(RELEASE));
    let deb = repository.path("debian/pool/linux-image-6.1.0-1-amd64_6.1.9-1_amd64.deb");
    let mut bytes = fs::read(&deb).unwrap();
    let last = bytes.len() - 600;
    bytes[last] ^= 1;
    fs::write(&deb, bytes).unwrap();
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(error, KernelError::Checksum { .. }), "{error}");
}

#[test]
fn lists_that_nobody_trusted_has_signed_are_refused() {
    let repository = published(&Contents::whole(RELEASE));
    let ring = repository.path("keys/debian-archive-trial.gpg");
    // Only a retired key is left: it is no more trusted than none.
    fs::rename(&ring, repository.path("keys/debian-archive-removed-keys.gpg")).unwrap();
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(error, KernelError::Signature { .. }), "{error}");
    // Nor are lists without any signature.
    fs::remove_file(repository.path("debian/dists").join(SUITE).join("InRelease")).unwrap();
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(error, KernelError::Signature { .. }), "{error}");
}

#[test]
fn a_package_that_left_the_mirror_is_looked_for_in_new_lists() {
    let repository = published(&Contents::whole(RELEASE));
    let (cache, url) = (repository.cache(), repository.url());
    cache.ensure(&kernel("linux-image-6.1.*-amd64"), Some(&url), &mut |_| {}).unwrap();
    cache.prune(&super::super::KernelList { kernels: vec![kernel("other")] }, false).unwrap();
    repository.remove("linux-image-6.1.0-1-amd64", "6.1.9-1");
    repository.add("linux-image-6.1.0-2-amd64", "6.1.10-1", &Contents::whole("6.1.0-2-amd64"));
    repository.publish();
    let image = cache.ensure(&kernel("linux-image-6.1.*-amd64"), Some(&url), &mut |_| {}).unwrap();
    assert_eq!(image.release, "6.1.0-2-amd64");
}

#[test]
fn a_package_without_image_or_without_modules_is_refused() {
    let repository = published(&Contents::default().with("usr/share/doc/x", b"x".to_vec()));
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(error, KernelError::NoImage { .. }), "{error}");
    let mut contents = Contents::whole(RELEASE);
    contents.files.retain(|(name, _)| !name.contains("modules"));
    let repository = published(&contents);
    let error = refused(&repository.cache(), &kernel("linux-image-6.1.*-amd64"), &repository.url());
    assert!(matches!(&error, KernelError::NoModules { release, .. } if release == RELEASE), "{error}");
    assert!(error.is_input());
}

/// A file system of a given size on a folder, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(folder: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder).status();
        assert!(status.unwrap().success(), "a tmpfs can be mounted");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The package's 6 MB and the less than 4 MB that apt keeps of these lists fit into the first size, but not what is in the package beside
/// them; into the second, not the package; into the third, nothing.
#[test]
fn a_full_disk_is_named_whichever_step_fills_it() {
    let repository = published(&Contents::whole(RELEASE).with("boot/filler", vec![7; 6 << 20]));
    for (size, step) in [("10m", "unpack linux-image"), ("4m", "download packages"), ("16k", "")] {
        let small = Small::mount(repository.path(&format!("cache-{size}")), size);
        let cache = Cache::at(small.0.join("kernels"), repository.host(), None);
        let error = refused(&cache, &kernel("linux-image-6.1.*-amd64"), &repository.url());
        assert!(matches!(&error, KernelError::DiskFull { doing, .. } if doing.starts_with(step)), "{size}: {error}");
        assert!(error.to_string().contains("make room"), "{error}");
    }
}

#[test]
fn each_program_that_is_missing_is_named_with_how_to_get_it() {
    let repository = published(&Contents::whole(RELEASE));
    let tools = repository.path("tools");
    fs::create_dir(&tools).unwrap();
    let mut cache = repository.cache();
    cache.host.path = Some(tools.display().to_string());
    for tool in ["apt-get", "apt-cache", "dpkg-deb", "depmod"] {
        let error = refused(&cache, &kernel("linux-image-6.1.*-amd64"), &repository.url());
        assert!(
            matches!(&error, KernelError::ToolMissing { tool: missing, .. } if *missing == tool),
            "{tool}: {error}"
        );
        let found = ["/usr/bin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(tool));
        let found = found.into_iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(found, tools.join(tool)).unwrap();
    }
    cache.ensure(&kernel("linux-image-6.1.*-amd64"), Some(&repository.url()), &mut |_| {}).unwrap();
}

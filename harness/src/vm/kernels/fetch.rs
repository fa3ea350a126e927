//! Fetching: into a working folder, then by one rename into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::apt::{Apt, Package};
use super::entry::{Entry, File, Origin, sha256};
use super::lock::Lock;
use super::mirror::{Mirror, codename};
use super::tool::Tool;
use super::{Cache, KernelError, Step, unpack};
use crate::invoker;

/// How long virtme-ng may take to fetch a kernel.
const UPSTREAM: Duration = Duration::from_secs(1800);

/// A working folder under its lock: emptied at the start, removed at the end.
struct Work<'a> {
    cache: &'a Cache,
    folder: PathBuf,
    _lock: Lock,
}

impl<'a> Work<'a> {
    fn begin(cache: &'a Cache, key: &str, step: &mut dyn FnMut(Step<'_>)) -> Result<Self, KernelError> {
        let lock = Lock::take(&cache.lock(key), step)?;
        let folder = cache.work(key);
        remove(&folder)?;
        fs::create_dir_all(&folder).map_err(KernelError::writing(&folder))?;
        Ok(Self { cache, folder, _lock: lock })
    }

    fn make(&self, name: &str) -> Result<PathBuf, KernelError> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).map_err(KernelError::writing(&path))?;
        Ok(path)
    }

    /// The cache's own entry of that origin if it is whole. A damaged one is removed.
    fn present(&self, origin: &Origin, step: &mut dyn FnMut(Step<'_>)) -> Result<Option<Entry>, KernelError> {
        let folder = self.cache.entries_folder().join(origin.id());
        if let Some(entry) = Entry::read(&folder) {
            match entry.damage() {
                None => return Ok(Some(entry)),
                Some(reason) => step(Step::Damaged { version: &origin.to_string(), reason: &reason }),
            }
        }
        if folder.exists() {
            // Out of the way in one step, so that nobody meets it half removed.
            let aside = self.folder.join("damaged");
            fs::rename(&folder, &aside).map_err(KernelError::writing(&folder))?;
            remove(&aside)?;
        }
        Ok(None)
    }

    /// Makes an entry of the packages unpacked in `tree`.
    fn install(&self, tree: &Path, origin: Origin, files: Vec<File>) -> Result<Entry, KernelError> {
        let made = self.make("entry")?;
        let unpacked = unpack::arrange(tree, &made, &origin.to_string(), &self.cache.host)?;
        let place = self.cache.entries_folder().join(origin.id());
        let entry = Entry::record(&made, origin, unpacked, files)?;
        self.cache.give(&made);
        let entries = self.cache.entries_folder();
        fs::create_dir_all(&entries).map_err(KernelError::writing(entries))?;
        fs::rename(&made, &place).map_err(KernelError::writing(&place))?;
        Ok(entry.moved(place))
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // What cannot be removed now, the next process under this lock removes.
        let _ = remove(&self.folder);
        self.cache.give_folders();
    }
}

/// Removes a folder with all that is in it, if it is there.
pub fn remove(folder: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(KernelError::writing(folder)(error)),
        _ => Ok(()),
    }
}

/// The newest Debian package of `suites` that `package` means, by lists younger than `age`.
pub fn debian(
    cache: &Cache,
    suites: &[String],
    package: &str,
    mirror: Option<&str>,
    age: Duration,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Entry, KernelError> {
    let host = &cache.host;
    let mirror = match mirror {
        Some(url) => Mirror::at(url)?,
        None => Mirror::of_host(&host.apt, &codename(&fs::read_to_string(&host.os_release).unwrap_or_default()))?,
    };
    let key = suites.join("+");
    let work = Work::begin(cache, &key, step)?;
    // Lists of another mirror lie elsewhere.
    let urls = format!("{:x}", Sha256::digest(format!("{} {}", mirror.main, mirror.security)));
    let lists = cache.root.join("apt").join(super::entry::file_name(&format!("{key}-{}", &urls[..12])));
    let apt = Apt::new(lists.clone(), &mirror, suites, host)?;
    let fetched = apt.update(age, step)?;
    let result = match newest(&work, &apt, suites, package, step) {
        // The mirror has moved on since the lists came.
        Err(KernelError::Gone { .. } | KernelError::NoPackage { .. }) if !fetched => {
            apt.update(Duration::ZERO, step)?;
            newest(&work, &apt, suites, package, step)
        }
        result => result,
    };
    cache.give(&lists);
    result
}

fn newest(
    work: &Work<'_>,
    apt: &Apt<'_>,
    suites: &[String],
    package: &str,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Entry, KernelError> {
    let packages = apt.newest(package)?;
    let Package { name, version, .. } = packages[0].clone();
    let origin = Origin::Debian { suites: suites.to_vec(), package: name, version };
    if let Some(entry) = work.present(&origin, step)? {
        step(Step::Cached { version: &origin.to_string() });
        return Ok(entry);
    }
    step(Step::Resolved { version: &origin.to_string() });
    let debs = work.make("debs")?;
    apt.download(&packages, &debs, step)?;
    let files = checked(&debs, &packages, apt.url())?;
    step(Step::Unpack);
    let tree = work.make("tree")?;
    let paths: Vec<PathBuf> = files.iter().map(|file| debs.join(&file.name)).collect();
    unpack::unpack(&paths, &tree, &work.cache.host)?;
    work.install(&tree, origin, files)
}

/// The files in `folder`, each of which must have a sum of the lists, and each sum a file.
fn checked(folder: &Path, packages: &[Package], mirror: &str) -> Result<Vec<File>, KernelError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(KernelError::reading(folder))? {
        let entry = entry.map_err(KernelError::reading(folder))?;
        files.push(File { name: entry.file_name().to_string_lossy().into_owned(), sha256: sha256(&entry.path())? });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let stray = files.iter().find(|file| packages.iter().all(|package| package.sha256 != file.sha256));
    let lacking = packages.iter().find(|package| files.iter().all(|file| package.sha256 != file.sha256));
    let said = match (stray, lacking) {
        (None, None) => return Ok(files),
        (Some(file), _) => format!("{} has the sha256 {}, which the lists do not name", file.name, file.sha256),
        (None, Some(package)) => format!("{} {} did not come", package.name, package.version),
    };
    // On a full disk apt cuts what it copies from a mirror in a folder, and does not say so.
    room(folder)?;
    Err(KernelError::Checksum { mirror: mirror.to_owned(), said })
}

/// Whether anything more can be written into `folder`, which packages come to.
fn room(folder: &Path) -> Result<(), KernelError> {
    let path = folder.join("room");
    let written = fs::write(&path, vec![0; 1 << 16]);
    let _ = fs::remove_file(&path);
    written.map_err(|source| match KernelError::writing(&path)(source) {
        KernelError::DiskFull { folder, .. } => KernelError::DiskFull { folder, doing: "download packages".to_owned() },
        error => error,
    })
}

/// An upstream release, as virtme-ng fetches it. virtme-ng takes what an interrupted run of it left for whole, and checks
/// no sums; so it works in a home folder of its own, and only what it says it finished is taken.
pub fn upstream(cache: &Cache, version: &str, step: &mut dyn FnMut(Step<'_>)) -> Result<Entry, KernelError> {
    let origin = Origin::Upstream { version: version.to_owned() };
    let work = Work::begin(cache, &origin.id(), step)?;
    if let Some(entry) = work.present(&origin, step)? {
        step(Step::Cached { version: &origin.to_string() });
        return Ok(entry);
    }
    step(Step::Resolved { version: &origin.to_string() });
    let home = work.make("home")?;
    let tool = Tool {
        name: "vng",
        doing: format!("fetch kernel {version}"),
        limit: UPSTREAM,
        fills: &home,
        path: cache.host.path.as_deref(),
    };
    let mut command = tool.command()?;
    command.args(["-r", version, "--dry-run"]).env("HOME", &home).current_dir(&home);
    // Where virtme-ng itself is installed must not move with the home folder.
    for (name, folder) in [("PYTHONUSERBASE", ".local"), ("PYENV_ROOT", ".pyenv")] {
        if let (None, Some(real)) = (std::env::var_os(name), invoker::home()) {
            command.env(name, real.join(folder));
        }
    }
    tool.must(&mut command)?;
    step(Step::Unpack);
    let tree = home.join(".cache/virtme-ng").join(version).join("amd64");
    let mut files = Vec::new();
    for path in fs::read_dir(&tree).map_err(KernelError::reading(&tree))?.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "deb") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(File { name, sha256: sha256(&path)? });
        }
    }
    work.install(&tree, origin, files)
}

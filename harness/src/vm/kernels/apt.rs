//! apt, with a configuration of its own: lists, archives, sources and keys all lie in one folder of the cache, and
//! nothing of this machine's package management is read (but how to reach the network) or written.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::mirror::{Mirror, paragraphs};
use super::tool::{Tool, one_line};
use super::{Host, KernelError, Step, version};

/// How long lists may take to come, and packages.
const UPDATE: Duration = Duration::from_secs(180);
const DOWNLOAD: Duration = Duration::from_secs(1800);
/// How long a question to the lists may take: the largest suite has 70,000 packages.
const ASK: Duration = Duration::from_secs(60);
/// Written when the lists have come; its age is theirs.
const STAMP: &str = "updated";
/// This machine's settings that are kept: proxies and the like, and what it makes of a wrong clock.
const KEPT: [&str; 5] =
    ["Acquire::http::", "Acquire::https::", "Acquire::ForceIPv", "Acquire::Check-", "Acquire::Max-ValidTime"];

/// Some suites of one mirror.
pub struct Apt<'a> {
    /// Holds everything.
    root: PathBuf,
    mirror: &'a Mirror,
    suites: &'a [String],
    host: &'a Host,
}

/// A package of the suites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Length of its file in bytes.
    pub size: u64,
    /// Checksum of its file, in hexadecimal, from the signed lists.
    pub sha256: String,
    /// What it needs in exactly its own version: the other parts of the same kernel.
    parts: Vec<String>,
}

impl<'a> Apt<'a> {
    /// Prepares the folder.
    ///
    /// # Errors
    /// [`KernelError::Write`], [`KernelError::Path`].
    pub fn new(root: PathBuf, mirror: &'a Mirror, suites: &'a [String], host: &'a Host) -> Result<Self, KernelError> {
        if root.to_string_lossy().contains(['"', '\n', '\\', ';']) {
            return Err(KernelError::Path { path: root });
        }
        let apt = Self { root, mirror, suites, host };
        for folder in ["lists/partial", "archives/partial", "etc/none", "etc/keys"] {
            let path = apt.root.join(folder);
            std::fs::create_dir_all(&path).map_err(KernelError::writing(path))?;
        }
        apt.write("status", "")?;
        let sources = suites.iter().fold(String::new(), |mut text, suite| {
            let _ = writeln!(text, "deb [arch=amd64] {} {suite} main", mirror.of_suite(suite));
            text
        });
        apt.write("etc/sources.list", &sources)?;
        apt.copy_keys()?;
        apt.write("apt.conf", &apt.configuration())?;
        Ok(apt)
    }

    /// Base URL of the first suite.
    pub fn url(&self) -> &str {
        self.suites.first().map_or(&self.mirror.main, |suite| self.mirror.of_suite(suite))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), KernelError> {
        let path = self.root.join(name);
        std::fs::write(&path, text).map_err(KernelError::writing(path))
    }

    /// Debian's keys, of all releases: a suite older or newer than this machine's is signed by others than its own.
    /// Retired keys are left out.
    fn copy_keys(&self) -> Result<(), KernelError> {
        let listed = std::fs::read_dir(&self.host.keyrings).into_iter().flatten().flatten().map(|entry| entry.path());
        let debian = listed.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("debian-archive-") && !name.contains("removed")
        });
        for path in debian.chain(self.mirror.keyrings.iter().cloned()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".gpg") || name.ends_with(".asc") {
                let copy = self.root.join("etc/keys").join(name);
                // apt says which key is missing, should one not be readable.
                let _ = std::fs::copy(path, copy);
            }
        }
        Ok(())
    }

    /// `Dir::Etc::parts` and `Dir::Etc::main` are this folder's own, so no hook of the machine's configuration runs.
    /// Passwords for mirrors stay where apt has them.
    fn configuration(&self) -> String {
        let (root, apt) = (self.root.display(), self.host.apt.display());
        let timeout = self.host.timeout.as_secs().max(1);
        let mut text = self.network();
        let _ = write!(
            text,
            r#"Dir::State "{root}/";
Dir::State::lists "{root}/lists/";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}/";
Dir::Cache::archives "{root}/archives/";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}/";
Dir::Etc "{root}/etc/";
Dir::Etc::main "none.conf";
Dir::Etc::parts "none";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::Etc::preferences "none.pref";
Dir::Etc::preferencesparts "none";
Dir::Etc::trusted "{root}/etc/none.gpg";
Dir::Etc::trustedparts "{root}/etc/keys/";
Dir::Etc::netrc "{apt}/auth.conf";
Dir::Etc::netrcparts "{apt}/auth.conf.d/";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "{timeout}";
Acquire::https::Timeout "{timeout}";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
"#
        );
        text
    }

    /// The lines of this machine's configuration that say how to reach the network.
    fn network(&self) -> String {
        let tool = self.tool("apt-config", "show its configuration", ASK);
        let dump = tool.command().and_then(|mut command| tool.must(command.args(["dump", "Acquire"])));
        // Without apt-config, apt's defaults serve.
        let dump = dump.unwrap_or_default();
        let kept = dump.lines().filter(|line| KEPT.iter().any(|start| line.starts_with(start)));
        kept.fold(String::new(), |text, line| text + line + "\n")
    }

    fn tool(&self, name: &'static str, doing: &str, limit: Duration) -> Tool<'_> {
        Tool { name, doing: doing.to_owned(), limit, fills: &self.root, path: self.host.path.as_deref() }
    }

    fn command(&self, tool: &Tool<'_>) -> Result<Command, KernelError> {
        let mut command = tool.command()?;
        command.env("APT_CONFIG", self.root.join("apt.conf"));
        Ok(command)
    }

    /// Fetches the lists unless they are younger than `age`; says whether it did.
    ///
    /// # Errors
    /// See [`KernelError`]: mirror, suite, signature, checksum, disk.
    pub fn update(&self, age: Duration, step: &mut dyn FnMut(Step<'_>)) -> Result<bool, KernelError> {
        let stamp = self.root.join(STAMP);
        let written = std::fs::metadata(&stamp).and_then(|meta| meta.modified());
        // A stamp of the future has no age.
        let young = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|old| old < age);
        if young {
            return Ok(false);
        }
        let _ = std::fs::remove_file(&stamp);
        step(Step::Lists { mirror: &self.mirror.main, suites: self.suites });
        let tool = self.tool("apt-get", "fetch the lists of packages", UPDATE);
        let ended = tool.run(self.command(&tool)?.args(["update", "-qq"]), &mut |_| {})?;
        if !ended.success {
            return Err(self.explain(&tool, &ended.err));
        }
        self.write(STAMP, "")?;
        Ok(true)
    }

    /// From apt's words to what is wrong.
    fn explain(&self, tool: &Tool<'_>, err: &str) -> KernelError {
        let has = |words: &[&str]| words.iter().any(|word| err.contains(word));
        let suite = self.suites.iter().find(|suite| err.contains(&format!(" {suite} Release' does not have")));
        let silent = self.suites.iter().find(|suite| err.contains(&format!("/dists/{suite}/")));
        let url = suite.or(silent).map_or(self.mirror.main.as_str(), |suite| self.mirror.of_suite(suite));
        let (mirror, said) = (url.to_owned(), one_line(err));
        if let Some(suite) = suite {
            KernelError::UnknownSuite { mirror, suite: suite.clone() }
        } else if has(&[
            "Hash Sum mismatch",
            "unexpected size",
            "Hashes of expected file",
            "Clearsigned file isn't valid",
        ]) {
            KernelError::Checksum { mirror, said }
        } else if has(&["NO_PUBKEY", "is not signed", "signatures were invalid", "GPG error"]) {
            KernelError::Signature { mirror, said }
        } else if has(&["404 ", "File not found"]) {
            KernelError::Gone { mirror, said }
        } else if has(&["Failed to fetch", "Could not connect", "Could not resolve", "timed out"]) {
            KernelError::MirrorSilent { mirror, said }
        } else {
            tool.failed(err)
        }
    }

    /// The newest package of that name, pattern, or `NAME=VERSION`, and behind it the other parts of the same kernel.
    ///
    /// # Errors
    /// [`KernelError::NoPackage`].
    pub fn newest(&self, package: &str) -> Result<Vec<Package>, KernelError> {
        let (pattern, pinned) =
            package.split_once('=').map_or((package, None), |(name, version)| (name, Some(version)));
        let names = self.names(pattern)?;
        let mut found = self.show(&names)?;
        found.retain(|package| pinned.is_none_or(|version| version == package.version));
        let newest =
            found.into_iter().max_by(|a, b| version::compare(&a.version, &b.version).then_with(|| a.name.cmp(&b.name)));
        let image = newest.ok_or_else(|| self.none(package, pattern))?;
        let mut packages = vec![image];
        let mut next = 0;
        while let Some(package) = packages.get(next) {
            let version = package.version.clone();
            let known = |name: &&String| !packages.iter().any(|package| package.name == **name);
            let parts: Vec<String> = package.parts.iter().filter(known).cloned().collect();
            packages.extend(self.show(&parts)?.into_iter().filter(|part| part.version == version));
            next += 1;
        }
        Ok(packages)
    }

    /// Names that `pattern` matches.
    fn names(&self, pattern: &str) -> Result<Vec<String>, KernelError> {
        // The list's reader has refused what is not a pattern; what it let through matches at least itself.
        let matches = glob::Pattern::new(pattern);
        let fixed = pattern.split(['*', '?', '[']).next().unwrap_or_default();
        let tool = self.tool("apt-cache", "name the packages of the lists", ASK);
        let out = tool.must(self.command(&tool)?.args(["pkgnames", fixed]))?;
        let fits = |name: &&str| matches.as_ref().map_or(*name == pattern, |matches| matches.matches(name));
        Ok(out.lines().filter(fits).map(str::to_owned).collect())
    }

    /// All versions of the packages.
    fn show(&self, names: &[String]) -> Result<Vec<Package>, KernelError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let tool = self.tool("apt-cache", "describe packages", ASK);
        // Names that others depend on need not exist; then there is less, or nothing, to show.
        let ended = tool.run(self.command(&tool)?.args(["show", "--"]).args(names), &mut |_| {})?;
        Ok(packages(&ended.out))
    }

    /// Names what there is instead.
    fn none(&self, package: &str, pattern: &str) -> KernelError {
        let start = pattern.find(|c: char| c.is_ascii_digit() || "*?[".contains(c)).unwrap_or(pattern.len());
        let flavour = pattern.rsplit(['*', ']', '?']).next().unwrap_or_default();
        let mut others = self.names(&format!("{}*{flavour}", &pattern[..start])).unwrap_or_default();
        others.sort_by(|a, b| version::compare(b, a));
        others.truncate(5);
        let near = if others.is_empty() { String::new() } else { format!("; they have {}", others.join(", ")) };
        KernelError::NoPackage { package: package.to_owned(), suites: self.suites.join(", "), near }
    }

    /// Downloads packages into `folder`. apt checks each against the signed lists.
    ///
    /// # Errors
    /// See [`KernelError`]: mirror, checksum, disk.
    pub fn download(
        &self,
        packages: &[Package],
        folder: &Path,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), KernelError> {
        let bytes = packages.iter().map(|package| package.size).sum();
        let tool = Tool { fills: folder, ..self.tool("apt-get", "download packages", DOWNLOAD) };
        let mut command = self.command(&tool)?;
        command.current_dir(folder).args(["-qq", "-o", "APT::Status-Fd=1", "download"]);
        command.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        let ended = tool.run(&mut command, &mut |line| {
            if let Some(done) = percent(line) {
                step(Step::Download { percent: done, bytes });
            }
        })?;
        if ended.success { Ok(()) } else { Err(self.explain(&tool, &ended.err)) }
    }
}

/// `dlstatus:FILE:PERCENT:TEXT` (`README.progress-reporting` of apt).
fn percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

/// Reads what `apt-cache show` prints.
fn packages(text: &str) -> Vec<Package> {
    let read = |paragraph: Vec<(String, String)>| {
        let field = |name: &str| paragraph.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        let version = field("Version")?.to_owned();
        let depends = [field("Pre-Depends"), field("Depends")].into_iter().flatten().flat_map(|list| list.split(','));
        let parts = depends.filter_map(|clause| exactly(clause, &version)).collect();
        Some(Package {
            name: field("Package")?.to_owned(),
            size: field("Size")?.parse().ok()?,
            sha256: field("SHA256")?.to_lowercase(),
            version,
            parts,
        })
    };
    paragraphs(text).into_iter().filter_map(read).collect()
}

/// The name in a dependency such as `linux-modules-7.3.4-amd64 (= 7.3.4-1)`, if that is the version.
fn exactly(clause: &str, version: &str) -> Option<String> {
    let (name, rest) = clause.trim().split_once(' ')?;
    let wanted = rest.trim().strip_prefix("(=")?.strip_suffix(')')?.trim();
    (wanted == version).then(|| name.split(':').next().unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_split_kernel_are_what_it_needs_in_its_own_version() {
        let text = "Package: linux-image-7.3.4-cloud-amd64\nVersion: 7.3.4-1\nSize: 1928\nSHA256: 4545CD\n\
            Pre-Depends: linux-base (>= 4.17~)\n\
            Depends: dracut | initramfs-tools (>= 0.120), linux-binary-7.3.4-cloud-amd64 (= 7.3.4-1),\n \
            linux-modules-7.3.4-cloud-amd64:amd64 (= 7.3.4-1), other (= 1.0)\nDescription: x\n more: here\n\n\
            Package: without-size\nVersion: 1\n";
        let packages = packages(text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].parts, ["linux-binary-7.3.4-cloud-amd64", "linux-modules-7.3.4-cloud-amd64"]);
        assert_eq!((packages[0].size, packages[0].sha256.as_str()), (1928, "4545cd"));
    }

    #[test]
    fn progress_is_read_from_apts_status_lines() {
        assert_eq!(percent("dlstatus:1:12.5:Retrieving file 1 of 3"), Some(12.5));
        assert_eq!(percent("pmstatus:x:1:y"), None);
    }
}

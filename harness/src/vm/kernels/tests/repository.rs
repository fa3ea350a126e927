//! A mirror in a folder: packages, lists, and a signature by a key that only this test trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::bzimage::image_of;
use super::super::cache::Cache;
use super::super::entry::sha256;
use super::super::{Host, Kernel, Source};
use crate::kernel::probe::Lacks;

/// The suite of all tests.
pub const SUITE: &str = "trial";

/// A mirror, a cache and a key, all removed with it.
pub struct Repository {
    folder: tempfile::TempDir,
}

/// What a package holds and needs.
#[derive(Default)]
pub struct Contents<'a> {
    pub files: Vec<(String, Vec<u8>)>,
    pub depends: &'a str,
}

impl Contents<'_> {
    /// A whole kernel in one package: image in `boot`, one module, documentation.
    pub fn whole(release: &str) -> Self {
        Self::default()
            .with(&format!("boot/vmlinuz-{release}"), image_of(release))
            .with(&format!("boot/config-{release}"), b"CONFIG_VETH=m\n".to_vec())
            .with(&format!("lib/modules/{release}/kernel/veth.ko"), Vec::new())
            .with("usr/share/doc/copyright", b"text".to_vec())
    }

    pub fn with(mut self, name: &str, contents: Vec<u8>) -> Self {
        self.files.push((name.to_owned(), contents));
        self
    }
}

impl Repository {
    /// An empty mirror with its key.
    pub fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["debian/pool", "keys", "gpg", "etc"] {
            fs::create_dir_all(repository.path(folder)).unwrap();
        }
        repository.make_key();
        repository
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("file:{}", self.path("debian").display())
    }

    /// Another key under the name that is trusted.
    pub fn make_key(&self) {
        let user = "trial <trial@bpflab.example>";
        let made = ["--batch", "--yes", "--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"];
        self.gpg(made.map(str::to_owned).as_ref());
        let ring = self.path("keys/debian-archive-trial.gpg").display().to_string();
        self.gpg(["--batch", "--yes", "--export", "--output", &ring].map(str::to_owned).as_ref());
    }

    fn gpg(&self, args: &[String]) {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.path("gpg")).args(args).stdin(Stdio::null());
        let output = command.output().expect("these tests sign with gpg: `apt install gpg gpg-agent`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Adds a package. `publish` makes it known.
    pub fn add(&self, name: &str, version: &str, contents: &Contents<'_>) {
        let tree = tempfile::tempdir_in(self.folder.path()).unwrap();
        for (name, contents) in &contents.files {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let mut control = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n");
        control += "Maintainer: trial <trial@bpflab.example>\nDescription: trial\n";
        if !contents.depends.is_empty() {
            control += &format!("Depends: {}\n", contents.depends);
        }
        fs::create_dir(tree.path().join("DEBIAN")).unwrap();
        fs::write(tree.path().join("DEBIAN/control"), &control).unwrap();
        let pool = self.path("debian/pool").join(format!("{name}_{version}_amd64.deb"));
        // Temporary folders are closed to others; dpkg-deb refuses to ship such a root.
        let mut build = Command::new("sh");
        build.args(["-c", "chmod 755 \"$0\" && dpkg-deb -Znone --root-owner-group -b \"$0\" \"$1\""]);
        let output = build.arg(tree.path()).arg(&pool).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(pool.with_extension("control"), control).unwrap();
    }

    pub fn remove(&self, name: &str, version: &str) {
        for extension in ["deb", "control"] {
            fs::remove_file(self.path("debian/pool").join(format!("{name}_{version}_amd64.{extension}"))).unwrap();
        }
    }

    /// Writes and signs the lists of what is in the pool now.
    pub fn publish(&self) {
        let mut packages = String::new();
        for path in fs::read_dir(self.path("debian/pool")).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "deb") {
                let control = fs::read_to_string(path.with_extension("control")).unwrap();
                let (size, sum) = (fs::metadata(&path).unwrap().len(), sha256(&path).unwrap());
                let file = path.file_name().unwrap().to_string_lossy().into_owned();
                packages += &format!("{control}Filename: pool/{file}\nSize: {size}\nSHA256: {sum}\n\n");
            }
        }
        let suite = self.path("debian/dists").join(SUITE);
        let list = suite.join("main/binary-amd64/Packages");
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        fs::write(&list, &packages).unwrap();
        // apt takes lists of no date for new ones.
        let release = format!(
            "Suite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nComponents: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n\
             SHA256:\n {} {} main/binary-amd64/Packages\n",
            sha256(&list).unwrap(),
            packages.len()
        );
        fs::write(suite.join("Release"), release).unwrap();
        let [release, signed] = ["Release", "InRelease"].map(|name| suite.join(name).display().to_string());
        let sign = ["--batch", "--yes", "--passphrase", "", "--clearsign", "--output", &signed, &release];
        self.gpg(sign.map(str::to_owned).as_ref());
    }

    /// A machine that trusts the key, and has sources that name no mirror.
    pub fn host(&self) -> Host {
        Host { apt: self.path("etc"), keyrings: self.path("keys"), ..Host::default() }
    }

    pub fn cache(&self) -> Cache {
        Cache::at(self.path("cache"), self.host(), None)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // gpg leaves its agent behind.
        let mut end = Command::new("gpgconf");
        let _ = end.arg("--homedir").arg(self.path("gpg")).args(["--kill", "all"]).output();
    }
}

/// A kernel of the suite.
pub fn kernel(package: &str) -> Kernel {
    debian(SUITE, package)
}

/// A kernel of any suite.
pub fn debian(suite: &str, package: &str) -> Kernel {
    let source = Source::Debian { suites: vec![suite.to_owned()], package: package.to_owned() };
    Kernel { name: "k".to_owned(), source, lacks: Lacks::new() }
}

/// Names of what is in a folder; nothing if there is none.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

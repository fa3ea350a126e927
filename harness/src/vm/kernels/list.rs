//! The list of kernels: one TOML file that says which kernels there are and where each comes from.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::KernelError;
use crate::kernel::probe::{FEATURES, Feature, Lacks};
use crate::scenario::hint::{self, Complaint};

/// The kernels that scenarios run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelList {
    /// In the file's order, which is the order of every table; names are unique.
    pub kernels: Vec<Kernel>,
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What people call it: `6.12`, `rc`. Letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// Features that it was built without, each with the reason: those that a build decides about and that it should
    /// have by its release.
    pub lacks: Lacks,
}

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian packages.
    Debian {
        /// Suites, e.g. `trixie-backports`; the newest package of all of them counts.
        suites: Vec<String>,
        /// Name of the image package, or a pattern (`*`, `?`, `[0-9]`) whose newest match is taken; with `=VERSION`
        /// behind it, exactly that version.
        package: String,
    },
    /// Files of this machine.
    Image {
        /// The bootable image.
        vmlinuz: PathBuf,
        /// Its `lib/modules/RELEASE`; none if all that guests need is built in.
        modules: Option<PathBuf>,
    },
    /// An upstream release, e.g. `v6.14`, that virtme-ng fetches by itself.
    Upstream {
        /// Its tag.
        version: String,
    },
    /// The kernel of this machine.
    Running,
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Debian { suites, package } => write!(out, "{package} of {}", suites.join(", ")),
            Self::Image { vmlinuz, .. } => write!(out, "{}", vmlinuz.display()),
            Self::Upstream { version } => write!(out, "upstream {version}"),
            Self::Running => out.write_str("this machine's"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernel: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    debian: Option<Debian>,
    image: Option<Image>,
    upstream: Option<String>,
    running: Option<bool>,
    #[serde(default)]
    lacks: Lacks,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Debian {
    suites: Vec<String>,
    package: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    vmlinuz: PathBuf,
    modules: Option<PathBuf>,
    #[serde(default)]
    built_in: bool,
}

impl KernelList {
    /// Reads a list. Relative paths in it start at the list's folder.
    ///
    /// # Errors
    /// [`KernelError::NoList`], [`KernelError::List`] with line and column.
    pub fn read(path: &Path) -> Result<Self, KernelError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KernelError::NoList { path: path.to_owned(), source })?;
        Self::parse(path, &text).map_err(KernelError::List)
    }

    /// The list that this binary was built with.
    ///
    /// # Panics
    /// Never: the tests read it.
    #[must_use]
    pub fn built_in() -> Self {
        let name = Path::new("vm/kernels.toml");
        Self::parse(name, include_str!("../../../../vm/kernels.toml")).expect("the list is tested")
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Complaint> {
        let file: File = toml::from_str(text).map_err(|error| hint::explain(path, text, &error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut kernels: Vec<Kernel> = Vec::with_capacity(file.kernel.len());
        for entry in file.kernel {
            let start = entry.span().start;
            let complain = |message| hint::place(path, text, start, message, String::new());
            let kernel = entry.into_inner().kernel(folder).map_err(complain)?;
            if kernels.iter().any(|other| other.name == kernel.name) {
                return Err(complain(format!("two kernels are called `{}`", kernel.name)));
            }
            kernels.push(kernel);
        }
        Ok(Self { kernels })
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`KernelError::Unknown`] with the nearest name.
    pub fn named(&self, name: &str) -> Result<&Kernel, KernelError> {
        self.kernels.iter().find(|kernel| kernel.name == name).ok_or_else(|| {
            let known = || self.kernels.iter().map(|kernel| kernel.name.as_str());
            KernelError::Unknown {
                name: name.to_owned(),
                hint: hint::closest(name, known()).map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
                known: known().collect::<Vec<_>>().join(", "),
            }
        })
    }
}

impl KernelList {
    /// The kernels of those names, each once and in the list's order; all of them if none are named.
    ///
    /// # Errors
    /// [`KernelError::Unknown`] for the first name that is none.
    pub fn select(&self, names: &[String]) -> Result<Vec<&Kernel>, KernelError> {
        names.iter().try_for_each(|name| self.named(name).map(drop))?;
        Ok(self.kernels.iter().filter(|kernel| names.is_empty() || names.contains(&kernel.name)).collect())
    }
}

impl Entry {
    fn kernel(self, folder: &Path) -> Result<Kernel, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !self.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !self.name.chars().all(fits) {
            return Err(format!("`{}` is not a name: letters, digits, `.`, `-`, `_`", self.name));
        }
        let running = match self.running {
            Some(false) => return Err("`running` is either `true` or left out".to_owned()),
            running => running.map(|_| Source::Running),
        };
        let debian = self.debian.map(Debian::source).transpose()?;
        let image = self.image.map(|image| image.source(folder)).transpose()?;
        let upstream = self.upstream.map(upstream).transpose()?;
        let mut sources = [debian, image, upstream, running].into_iter().flatten();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Ok(Kernel { name: self.name, source, lacks: check_lacks(self.lacks)? }),
            (found, _) => {
                let many = if found.is_some() { "several sources" } else { "no source" };
                Err(format!("`{}` has {many}: it needs one of `debian`, `image`, `upstream`, `running`", self.name))
            }
        }
    }
}

/// What a list says that a kernel lacks: a feature that a build can leave out, and why this one does.
fn check_lacks(lacks: Lacks) -> Result<Lacks, String> {
    for (name, why) in &lacks {
        let Some(feature) = Feature::named(name) else {
            let near = hint::closest(name, FEATURES.iter().map(|feature| feature.name));
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(format!("`lacks` names an unknown feature `{name}`{near}"));
        };
        if feature.since.is_none() || feature.config.is_none() {
            return Err(format!("`lacks` names `{name}`, which no build of a kernel decides about"));
        }
        if why.trim().is_empty() {
            return Err(format!("`lacks` gives no reason why `{name}` is left out"));
        }
    }
    Ok(lacks)
}

impl Debian {
    fn source(self) -> Result<Source, String> {
        let word = |text: &str, more: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits)
        };
        if self.suites.is_empty() {
            return Err("`suites` names no suite".to_owned());
        }
        if let Some(suite) = self.suites.iter().find(|suite| !word(suite, "-._")) {
            return Err(format!("`{suite}` is not a suite's name"));
        }
        let (name, version) = self.package.split_once('=').unwrap_or((&self.package, "0"));
        if !word(name, "-+.*?[]!~") || glob::Pattern::new(name).is_err() {
            return Err(format!("`{name}` is neither a package's name nor a pattern for one"));
        }
        if !word(version, "-+.:~") {
            return Err(format!("`{version}` is not a package's version"));
        }
        Ok(Source::Debian { suites: self.suites, package: self.package })
    }
}

impl Image {
    fn source(self, folder: &Path) -> Result<Source, String> {
        match (&self.modules, self.built_in) {
            (Some(_), true) => return Err("`modules` and `built_in` exclude each other".to_owned()),
            (None, false) => {
                return Err("an image needs `modules`, its lib/modules/RELEASE folder; or `built_in = true` if veth, \
                            netem and the file systems of a guest are built in"
                    .to_owned());
            }
            _ => {}
        }
        Ok(Source::Image { vmlinuz: folder.join(self.vmlinuz), modules: self.modules.map(|path| folder.join(path)) })
    }
}

/// A tag as virtme-ng takes it: `v6.14`, `v6.14.2`, `v6.15-rc3`.
fn upstream(version: String) -> Result<Source, String> {
    let (numbers, candidate) = version.split_once("-rc").unwrap_or((&version, "0"));
    let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let fits = numbers.strip_prefix('v').is_some_and(|rest| rest.split('.').all(number)) && number(candidate);
    if fits {
        Ok(Source::Upstream { version })
    } else {
        Err(format!("`{version}` is not a tag such as v6.14 or v6.15-rc3"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_this_binary_is_one() {
        assert!(KernelList::built_in().named("6.1").is_ok());
    }

    fn parse(text: &str) -> Result<KernelList, String> {
        KernelList::parse(Path::new("vm/kernels.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_source_is_read_and_paths_start_at_the_list() {
        let list = parse(
            r#"
            [[kernel]]
            name = "6.12"
            debian = { suites = ["trixie"], package = "linux-image-6.12.*-cloud-amd64" }
            [[kernel]]
            name = "mine"
            image = { vmlinuz = "bzImage", modules = "/m/lib/modules/6.19.0" }
            [[kernel]]
            name = "tiny"
            image = { vmlinuz = "/boot/tiny", built_in = true }
            [[kernel]]
            name = "up"
            upstream = "v6.15-rc3"
            [[kernel]]
            name = "here"
            running = true
            "#,
        )
        .unwrap();
        let sources: Vec<&Source> = list.kernels.iter().map(|kernel| &kernel.source).collect();
        assert!(matches!(sources[0], Source::Debian { suites, .. } if suites == &["trixie"]));
        assert!(
            matches!(sources[1], Source::Image { vmlinuz, modules: Some(_) } if vmlinuz == Path::new("vm/bzImage"))
        );
        assert!(matches!(sources[2], Source::Image { vmlinuz, modules: None } if vmlinuz == Path::new("/boot/tiny")));
        assert_eq!(sources[3], &Source::Upstream { version: "v6.15-rc3".to_owned() });
        assert_eq!(sources[4], &Source::Running);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
        let error = parse("[[kernel]]\nname = \"a\"\nupsteam = \"v6.14\"\n").unwrap_err();
        assert!(error.starts_with("vm/kernels.toml:3:1: unknown field `upsteam`"), "{error}");
        assert!(error.ends_with("did you mean `upstream`?"), "{error}");
    }

    #[rstest::rstest]
    #[case::no_source("name = \"a\"", "`a` has no source")]
    #[case::two_sources("name = \"a\"\nrunning = true\nupstream = \"v6.1\"", "`a` has several sources")]
    #[case::not_running("name = \"a\"\nrunning = false", "`running` is either")]
    #[case::bad_name("name = \"../a\"\nrunning = true", "`../a` is not a name")]
    #[case::no_modules("name = \"a\"\nimage = { vmlinuz = \"x\" }", "an image needs `modules`")]
    #[case::no_suite("name = \"a\"\ndebian = { suites = [], package = \"x\" }", "`suites` names no suite")]
    #[case::bad_suite("name = \"a\"\ndebian = { suites = [\"a b\"], package = \"x\" }", "`a b` is not a suite")]
    #[case::option("name = \"a\"\ndebian = { suites = [\"a\"], package = \"-o=x\" }", "`-o` is neither")]
    #[case::unknown_lack("name = \"a\"\nrunning = true\nlacks = { tcxx = \"x\" }", "`tcxx`; did you mean `tcx`?")]
    #[case::no_lack("name = \"a\"\nrunning = true\nlacks = { arena = \" \" }", "no reason why `arena`")]
    #[case::not_built("name = \"a\"\nrunning = true\nlacks = { drop-reasons = \"x\" }", "no build of a kernel")]
    #[case::not_the_kernels("name = \"a\"\nrunning = true\nlacks = { root = \"x\" }", "no build of a kernel")]
    #[case::bad_tag("name = \"a\"\nupstream = \"6.14\"", "`6.14` is not a tag")]
    fn what_does_not_fit_is_said_with_the_place(#[case] entry: &str, #[case] message: &str) {
        let error = parse(&format!("[[kernel]]\n{entry}\n")).unwrap_err();
        assert!(error.starts_with("vm/kernels.toml:1:1: "), "{error}");
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn names_are_unique_and_an_unknown_one_gets_the_nearest() {
        let error =
            parse("[[kernel]]\nname = \"a\"\nrunning = true\n[[kernel]]\nname = \"a\"\nrunning = true").unwrap_err();
        assert!(error.starts_with("vm/kernels.toml:4:1: two kernels are called `a`"), "{error}");
        let list = parse("[[kernel]]\nname = \"6.12\"\nrunning = true").unwrap();
        let error = list.named("6.21").unwrap_err().to_string();
        assert!(error.contains("did you mean `6.12`?"), "{error}");
    }
}

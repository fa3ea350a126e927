//! Which Debian mirror: the user's, or the one that this machine's own apt sources name. The lists of the security team
//! lie at another path, mostly beside the main one's.

use std::path::{Path, PathBuf};

use super::KernelError;

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Base URL of suites such as `trixie` and `trixie-backports`.
    pub main: String,
    /// Base URL of suites such as `trixie-security`.
    pub security: String,
    /// Keyrings that this machine's sources name for it.
    pub keyrings: Vec<PathBuf>,
}

/// One source of packages, as apt's configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Vec<PathBuf>,
}

impl Mirror {
    /// The mirror at `url`. Its security suites lie beside it: `.../debian` and `.../debian-security`.
    ///
    /// # Errors
    /// [`KernelError::BadMirror`].
    pub fn at(url: &str) -> Result<Self, KernelError> {
        let main = url.trim().trim_end_matches('/');
        let scheme = main.split_once(':').is_some_and(|(scheme, rest)| {
            !rest.trim_matches('/').is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        });
        if !scheme || main.contains(|c: char| c.is_whitespace() || c.is_control() || "[]\"".contains(c)) {
            return Err(KernelError::BadMirror { mirror: url.to_owned() });
        }
        Ok(Self { main: main.to_owned(), security: format!("{main}-security"), keyrings: Vec::new() })
    }

    /// The mirror that the sources below `etc` (`/etc/apt`) name for a system of release `codename`.
    ///
    /// # Errors
    /// [`KernelError::NoMirror`].
    pub fn of_host(etc: &Path, codename: &str) -> Result<Self, KernelError> {
        choose(&read(etc), codename).ok_or(KernelError::NoMirror)
    }

    /// Base URL of a suite.
    pub fn of_suite(&self, suite: &str) -> &str {
        if suite.ends_with("-security") { &self.security } else { &self.main }
    }
}

/// Release of a system by its `os-release` file: `bookworm`. `sid` if it names none, as unstable does.
pub fn codename(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    value.map_or("sid", |value| value.trim_matches(['"', '\'', ' '])).to_owned()
}

/// The distribution's own entry: others may serve the same suite, but not its updates, or not with Debian's key.
/// A wrong choice does no harm, since only Debian's keys are trusted.
fn choose(entries: &[Entry], codename: &str) -> Option<Mirror> {
    let names = [codename, "stable", "oldstable", "testing", "unstable", "sid"];
    let serves = |entry: &Entry, wanted: &dyn Fn(&str) -> bool| {
        entry.components.iter().any(|component| component == "main") && entry.suites.iter().any(|suite| wanted(suite))
    };
    let updates = format!("{codename}-updates");
    let score = |entry: &Entry| {
        let uri = entry.uris.first();
        let shares = |other: &Entry| other.uris.first() == uri && other.suites.contains(&updates);
        let signed = entry.signed_by.iter().any(|path| path.to_string_lossy().contains("debian-archive"));
        let path = uri.is_some_and(|uri| uri.trim_end_matches('/').ends_with("/debian"));
        4 * u8::from(entries.iter().any(shares)) + 2 * u8::from(signed) + u8::from(path)
    };
    // `max_by_key` takes the last of several; the first is meant.
    let main = entries
        .iter()
        .rev()
        .filter(|entry| serves(entry, &|suite| names.contains(&suite)))
        .max_by_key(|entry| score(entry))?;
    let mut mirror = Mirror::at(main.uris.first()?).ok()?;
    mirror.keyrings.clone_from(&main.signed_by);
    let security = |suite: &str| suite.ends_with("-security") || suite.ends_with("/updates");
    if let Some(entry) = entries.iter().find(|entry| serves(entry, &security)) {
        entry.uris.first()?.trim_end_matches('/').clone_into(&mut mirror.security);
        mirror.keyrings.extend(entry.signed_by.iter().cloned());
    }
    Some(mirror)
}

/// All entries below `etc`, in apt's order: `sources.list`, then the parts by name.
fn read(etc: &Path) -> Vec<Entry> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(etc.join("sources.list.d"))
        .map(|folder| folder.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, etc.join("sources.list"));
    let parse = |file: &PathBuf| {
        // What cannot be read, apt cannot read either.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line_style(&text),
            Some("sources") => deb822_style(&text),
            _ => Vec::new(),
        }
    };
    files.iter().flat_map(parse).collect()
}

/// `deb [signed-by=/k.gpg arch=amd64] URI SUITE COMPONENT...` (`sources.list(5)`).
fn one_line_style(text: &str) -> Vec<Entry> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim();
        let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace().map(str::to_owned);
        Some(Entry {
            uris: vec![words.next()?],
            suites: vec![words.next()?],
            components: words.collect(),
            signed_by: paths(signed_by.unwrap_or_default()),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Paragraphs of `Types`, `URIs`, `Suites`, `Components`, `Signed-By`, `Enabled`.
fn deb822_style(text: &str) -> Vec<Entry> {
    let parse = |paragraph: Vec<(String, String)>| {
        let field = |name: &str| {
            paragraph.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
        };
        let words = |name: &str| field(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let off = ["no", "false", "without", "off", "disable", "0"].contains(&field("Enabled").to_lowercase().as_str());
        (!off && words("Types").iter().any(|kind| kind == "deb")).then(|| Entry {
            uris: words("URIs"),
            suites: words("Suites"),
            components: words("Components"),
            signed_by: paths(field("Signed-By")),
        })
    };
    paragraphs(text).into_iter().filter_map(parse).collect()
}

/// The paths among the words: fingerprints and whole keys may stand there too.
fn paths(value: &str) -> Vec<PathBuf> {
    let words = value.split(|c: char| c == ',' || c.is_whitespace());
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Paragraphs of `Field: value` lines, with continued lines joined and comments left out (`deb822(5)`).
pub fn paragraphs(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if let Some(current) = all.last_mut() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = current.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((field, value)) = line.split_once(':') {
                current.push((field.to_owned(), value.trim().to_owned()));
            }
        }
    }
    all.retain(|paragraph| !paragraph.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: &str = "Types: deb deb-src\n# a comment\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
        Types: deb\nURIs: http://s.example/debian-security/\nSuites: bookworm-security\nComponents: main\n";

    fn host(files: &[(&str, &str)]) -> Result<Mirror, KernelError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Mirror::of_host(folder.path(), "bookworm")
    }

    #[test]
    fn both_styles_name_the_main_and_the_security_mirror() {
        let mirror = host(&[("sources.list.d/debian.sources", MODERN)]).unwrap();
        assert_eq!(mirror.of_suite("trixie-backports"), "http://m.example/debian");
        assert_eq!(mirror.of_suite("trixie-security"), "http://s.example/debian-security");
        assert_eq!(mirror.keyrings, [PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg")]);

        let old = "# deb http://no.example/debian bookworm main\n\
                   deb-src http://no.example/debian bookworm main\n\
                   deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib # here\n\
                   deb http://s.example/sec bookworm-security main\n";
        let mirror = host(&[("sources.list", old)]).unwrap();
        assert_eq!(
            (mirror.main.as_str(), mirror.security.as_str()),
            ("http://m.example/debian", "http://s.example/sec")
        );
    }

    #[test]
    fn other_peoples_packages_do_not_count() {
        let others = "deb http://a.example/apt bookworm main\ndeb http://b.example/x bookworm-pgdg main\n\
                      deb http://c.example/docker bookworm stable\n";
        let mirror = host(&[("sources.list", others), ("sources.list.d/debian.sources", MODERN)]).unwrap();
        assert_eq!(mirror.main, "http://m.example/debian");
        let off = MODERN.replace("Types: deb", "Enabled: no\nTypes: deb");
        let error =
            host(&[("sources.list.d/a.sources", &off), ("sources.list.d/a.list.disabled", others)]).unwrap_err();
        assert!(matches!(error, KernelError::NoMirror), "{error}");
    }

    #[test]
    fn without_a_security_source_its_path_lies_beside_the_main_one() {
        let mirror = host(&[("sources.list", "deb http://m.example/debian/ bookworm main")]).unwrap();
        assert_eq!(mirror.security, "http://m.example/debian-security");
        assert_eq!(Mirror::at("file:/srv/debian").unwrap().security, "file:/srv/debian-security");
        for bad in ["", "m.example/debian", "http://", "http://a b/debian", "http://a/\ndeb x"] {
            assert!(matches!(Mirror::at(bad), Err(KernelError::BadMirror { .. })), "{bad:?}");
        }
    }

    #[test]
    fn the_release_is_named_by_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(codename("ID=debian\n"), "sid");
    }
}

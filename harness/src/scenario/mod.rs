//! Scenarios: what is to be shown, by which traffic, through which programs, and what must be seen. Pure data, read
//! from a TOML file; nothing here knows a kernel.

pub mod expect;
pub mod hint;
pub mod judge;
pub mod spec;
pub mod tiers;
pub mod trial;
pub mod variant;

use std::path::{Path, PathBuf};

pub use expect::{Expectation, Failure};
pub use spec::{Frames, Mode, Scenario, Traffic};
pub use variant::Variant;

/// Name of the file in a scenario that has a folder of its own.
const FOLDER_FILE: &str = "scenario.toml";

/// Why scenarios could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The folder of the scenarios could not be read.
    #[error("cannot read the folder of the scenarios, {}: `--scenarios` names another", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The text is not a scenario.
    #[error(transparent)]
    Invalid(#[from] hint::Complaint),
    /// The parts of a scenario do not fit together.
    #[error("{}: {message}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
}

/// A scenario on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// `family/behaviour`, from the path below the scenarios folder.
    pub name: String,
    /// The TOML file.
    pub file: PathBuf,
    /// Folder of the snapshot: beside the file.
    pub folder: PathBuf,
    /// File stem of the snapshot.
    pub stem: String,
    /// What the file says.
    pub scenario: Scenario,
}

impl Found {
    /// The capture's path: beside the scenario, else in the `pcaps` folder beside the scenarios.
    #[must_use]
    pub fn capture(&self, root: &Path) -> Option<PathBuf> {
        let name = self.scenario.traffic.capture.as_ref()?;
        let beside = self.folder.join(name);
        Some(if beside.exists() { beside } else { root.join("../pcaps").join(name) })
    }

    /// The file stem of the snapshot that `mode` is held against: one for all modes, unless the scenario declares that
    /// the wire differs, but live mode, whose packets the kernel makes itself, has its own beside that of others; one for
    /// all kernels, unless it declares a `variant`.
    #[must_use]
    pub fn snapshot(&self, mode: Mode, variant: Option<&Variant>) -> String {
        let mut name = self.stem.clone();
        if mode == Mode::Wire && self.scenario.snapshot.wire_differs.is_some() {
            name.push_str("@wire");
        }
        if mode == Mode::Live && self.scenario.modes.len() > 1 {
            name.push_str("@live");
        }
        if let Some(variant) = variant {
            name.push('@');
            name.push_str(&variant.name);
        }
        name
    }
}

/// Finds every scenario below `root`, sorted by name.
///
/// # Errors
/// The first file that cannot be read or is not a scenario.
pub fn discover(root: &Path) -> Result<Vec<Found>, ScenarioError> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    files.iter().map(|file| read(root, file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ScenarioError> {
    let failed = |source| ScenarioError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads the scenario `name` below `root`, and no other; nothing if there is none.
///
/// # Errors
/// See [`ScenarioError`].
pub fn find(root: &Path, name: &str) -> Result<Option<Found>, ScenarioError> {
    let mut file = root.join(name).into_os_string();
    file.push(".toml");
    let places = [root.join(name).join(FOLDER_FILE), PathBuf::from(file)];
    places.iter().find(|file| file.is_file()).map(|file| read(root, file)).transpose()
}

/// Reads one scenario file.
///
/// # Errors
/// See [`ScenarioError`].
pub fn read(root: &Path, file: &Path) -> Result<Found, ScenarioError> {
    let text = std::fs::read_to_string(file).map_err(|source| ScenarioError::Read { path: file.to_owned(), source })?;
    let scenario = spec::parse(file, &text)?;
    let folder = file.parent().unwrap_or(root).to_owned();
    let in_folder = file.file_name().is_some_and(|name| name == FOLDER_FILE);
    let named = if in_folder { folder.clone() } else { file.with_extension("") };
    let name = named.strip_prefix(root).unwrap_or(&named).to_string_lossy().into_owned();
    let stem = named.file_name().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    Ok(Found { name, file: file.to_owned(), folder, stem, scenario })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_path_and_snapshots_stand_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("dns/alone")).unwrap();
        let text = "purpose = \"p\"\n[traffic]\ncapture = \"a.pcap\"\n";
        std::fs::write(root.join("dns/answers.toml"), text).unwrap();
        std::fs::write(root.join("dns/alone/scenario.toml"), text).unwrap();
        let found = discover(root).unwrap();
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["dns/alone", "dns/answers"]);
        assert_eq!(found[0].folder, root.join("dns/alone"));
        assert_eq!(found[0].stem, "alone");
        assert_eq!(found[1].folder, root.join("dns"));
        for one in &found {
            assert_eq!(find(root, &one.name).unwrap().unwrap().file, one.file);
        }
        assert!(find(root, "dns/nowhere").unwrap().is_none());
    }
}

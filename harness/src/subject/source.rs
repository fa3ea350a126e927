//! Objects from their C source: an object file that a scenario names is compiled when the source beside it is newer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernel::probe::{Requirement, tools};

/// Why a source could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The compiler could not be run, or its output not be put in place.
    #[error("cannot compile {} ({} installs the compiler)", path.display(), tools::how_to_get(COMPILER))]
    Run {
        /// The source.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The compiler refused it.
    #[error("cannot compile {}:\n{said}", path.display())]
    Refused {
        /// The source.
        path: PathBuf,
        /// What it said.
        said: String,
    },
}

const COMPILER: &str = "clang";

/// The source of an object file: the same name with `.c`.
fn source_of(object: &Path) -> PathBuf {
    object.with_extension("c")
}

/// Whether an object file is made from a source beside it, so that it is no input itself.
#[must_use]
pub fn is_compiled(object: &Path) -> bool {
    object.extension().is_some_and(|ending| ending == "o") && source_of(object).is_file()
}

/// Whether there is a source, and the object file is missing, or older than the source or a header beside it.
#[must_use]
pub fn must_compile(object: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let source = source_of(object);
    let Some(written) = modified(&source) else { return false };
    let Some(made) = modified(object) else { return true };
    let beside = std::fs::read_dir(folder_of(&source)).into_iter().flatten().flatten().map(|entry| entry.path());
    let headers = beside.filter(|path| path.extension().is_some_and(|ending| ending == "h"));
    headers.filter_map(|header| modified(&header)).chain([written]).any(|written| made < written)
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What compiling needs.
#[must_use]
pub fn needs() -> Vec<Requirement> {
    vec![Requirement::Tool { name: COMPILER.to_owned(), package: tools::package(COMPILER).to_owned() }]
}

/// Compiles an object file if [`must_compile`] says so.
///
/// # Errors
/// [`SourceError`], with what the compiler says.
pub fn bring_up_to_date(object: &Path) -> Result<(), crate::subject::SubjectError> {
    if must_compile(object) { Ok(compile(&source_of(object), object)?) } else { Ok(()) }
}

/// Compiles a C source to an object file, with types and lines. Include files are looked for beside it and in the
/// system's folders.
///
/// # Errors
/// [`SourceError`].
pub fn compile(source: &Path, object: &Path) -> Result<(), SourceError> {
    let failed = |error| SourceError::Run { path: source.to_owned(), source: error };
    let folder = folder_of(source);
    // Several tests may compile the same source: each puts a whole file in place.
    let made =
        tempfile::Builder::new().prefix(".compiling").suffix(".o").tempfile_in(folder_of(object)).map_err(failed)?;
    let compiler = tools::find(COMPILER).unwrap_or_else(|| COMPILER.into());
    let (arch, multiarch) = match std::env::consts::ARCH {
        "x86_64" => ("x86", "x86_64-linux-gnu".to_owned()),
        "aarch64" => ("arm64", "aarch64-linux-gnu".to_owned()),
        other => (other, format!("{other}-linux-gnu")),
    };
    let output = Command::new(compiler)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        .arg("-I")
        .arg(folder)
        // Debian has the headers of the machine (asm/types.h) in a folder that clang leaves out for this target.
        .arg("-idirafter")
        .arg(format!("/usr/include/{multiarch}"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(made.path())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(SourceError::Refused { path: source.to_owned(), said });
    }
    let file = made.persist(object).map_err(|error| failed(error.error))?;
    // Objects are for everybody to read, as a compiler leaves them.
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn an_object_is_made_again_when_its_source_or_a_header_beside_it_is_newer() {
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, seconds: u64| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let object = folder.path().join("fw.bpf.o");
        written("fw.bpf.o", 100);
        assert!(!must_compile(&object) && !is_compiled(&object), "an object without a source is what it is");
        written("fw.bpf.c", 90);
        written("common.h", 80);
        assert!(!must_compile(&object) && is_compiled(&object));
        written("common.h", 110);
        assert!(must_compile(&object));
        written("common.h", 80);
        written("fw.bpf.c", 101);
        assert!(must_compile(&object));
    }
}

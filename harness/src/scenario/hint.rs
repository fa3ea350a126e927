//! From a parser's complaint to the place in the file and the key that was probably meant.

use std::path::{Path, PathBuf};

/// What is wrong with a TOML file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}{hint}", path.display())]
pub struct Complaint {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The nearest valid key, or empty.
    pub hint: String,
}

/// Names line, column and the nearest valid key for what the TOML parser found in `text`.
pub fn explain(path: &Path, text: &str, error: &toml::de::Error) -> Complaint {
    let offset = error.span().map_or(0, |span| span.start);
    let message = error.message().trim().to_owned();
    let hint = nearest(&message).map_or_else(String::new, |key| format!("; did you mean `{key}`?"));
    place(path, text, offset, message, hint)
}

/// A complaint about what stands at `offset` bytes into `text`.
pub fn place(path: &Path, text: &str, offset: usize, message: String, hint: String) -> Complaint {
    let before = text.get(..offset.min(text.len())).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Complaint { path: path.to_owned(), line, column, message, hint }
}

/// The valid key or value that looks most like the unknown one: serde quotes both with backticks.
fn nearest(message: &str) -> Option<String> {
    if !message.starts_with("unknown") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    closest(unknown, quoted).map(str::to_owned)
}

/// The one of `valid` that was probably meant by `unknown`; none if all are far off.
pub fn closest<'a>(unknown: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    valid
        .into_iter()
        .map(|valid| (strsim::damerau_levenshtein(unknown, valid), valid))
        .min()
        .filter(|(distance, valid)| *distance <= valid.len().div_ceil(2))
        .map(|(_, valid)| valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_offered_and_a_far_one_is_not() {
        let message = "unknown field `topolgy`, expected one of `purpose`, `topology`, `traffic`";
        assert_eq!(nearest(message).as_deref(), Some("topology"));
        assert_eq!(nearest("unknown field `xyzzyq`, expected `purpose`"), None);
        assert_eq!(nearest("invalid type: integer `3`, expected a string"), None);
    }
}

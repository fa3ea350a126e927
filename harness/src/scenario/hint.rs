//! From a parser's complaint to the place in the file and the key that was probably meant.

use std::path::Path;

use super::ScenarioError;

/// Names line, column and the nearest valid key for what the TOML parser found in `text`.
pub fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ScenarioError {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = error.message().trim().to_owned();
    let hint = nearest(&message).map_or_else(String::new, |key| format!("; did you mean `{key}`?"));
    ScenarioError::Invalid { path: path.to_owned(), line, column, message, hint }
}

/// The valid key or value that looks most like the unknown one: serde quotes both with backticks.
fn nearest(message: &str) -> Option<String> {
    if !message.starts_with("unknown") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|valid| (strsim::damerau_levenshtein(unknown, valid), valid))
        .min()
        .filter(|(distance, valid)| *distance <= valid.len().div_ceil(2))
        .map(|(_, valid)| valid.to_owned())
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

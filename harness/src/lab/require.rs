//! What a test needs of the machine.

use super::LabError;
use crate::kernel::probe;

/// What a test returns: nothing, or a `Result` for `?`.
pub trait TestEnd {
    /// The end of a test that passes.
    fn passed() -> Self;
}

impl TestEnd for () {
    fn passed() {}
}

impl<E> TestEnd for Result<(), E> {
    fn passed() -> Self {
        Ok(())
    }
}

/// Ends a test as unsupported: `return unsupported("why")`. It passes and writes the line by which
/// `bpflab matrix --test-binary` counts it apart.
#[must_use]
pub fn unsupported<T: TestEnd>(reason: &str) -> T {
    println!("{}", line(reason));
    T::passed()
}

fn line(reason: &str) -> String {
    // The line must stay one: what stands behind its end would be lost.
    format!("bpflab: unsupported: {}", reason.replace(['\n', '\r'], " "))
}

/// Asks whether this machine has what a test needs, each written as in the `requires` of a scenario: a feature (`"tcx"`,
/// `bpflab doctor` lists them), `"kernel >=6.1"`, `"tracepoint:skb/kfree_skb"`, `"tool:nginx"`, `"mode:wire"`. The answer is
/// what is missing, for [`unsupported`]; nothing if all is there. [`bpflab::require!`](crate::require) does both.
///
/// # Errors
/// [`LabError::Unmet`] where that could not be found out, as without root, or where a kernel of this release should have
/// it: neither is a reason to pass. [`LabError::Requirement`].
pub fn missing(requirements: &[&str]) -> Result<Option<String>, LabError> {
    let parsed = requirements
        .iter()
        .map(|text| text.parse().map_err(|reason| LabError::Requirement { text: (*text).to_owned(), reason }));
    let unmet = probe::unmet(&parsed.collect::<Result<Vec<_>, _>>()?);
    if unmet.is_empty() {
        return Ok(None);
    }
    if unmet.iter().any(|one| !one.certain || one.contradiction.is_some()) {
        return Err(LabError::Unmet(unmet));
    }
    Ok(Some(super::error::unmet(&unmet)))
}

/// Ends the test as unsupported where this machine lacks what it needs; see [`lab::missing`](crate::lab::missing) and
/// [`lab::unsupported`](crate::lab::unsupported). The test fails where that cannot be told, as without root.
///
/// ```
/// fn a_test() {
///     bpflab::require!("kernel >=99.0");
///     unreachable!("this kernel is older");
/// }
/// # a_test();
/// ```
#[macro_export]
macro_rules! require {
    ($($requirement:expr),+ $(,)?) => {
        match $crate::lab::missing(&[$($requirement),+]) {
            Ok(None) => {}
            Ok(Some(missing)) => return $crate::lab::unsupported(&missing),
            Err(error) => panic!("{error}"),
        }
    };
}

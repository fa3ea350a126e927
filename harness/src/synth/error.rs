//! What can be wrong with a declaration of traffic.

/// Traffic that cannot be made as declared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// The catalogue has no such entry.
    #[error("there is no traffic `{name}` in the catalogue{}", hint_or(.nearest, "`bpflab synth --list` names what there is"))]
    Name {
        /// As given.
        name: String,
        /// The entry that was probably meant.
        nearest: Option<String>,
    },
    /// The entry has no such parameter.
    #[error("`{entry}` has no parameter `{name}`{}; it has {known}", hint(.nearest))]
    Parameter {
        /// The entry.
        entry: String,
        /// As given.
        name: String,
        /// The parameter that was probably meant.
        nearest: Option<String>,
        /// All its parameters.
        known: String,
    },
    /// A parameter's value is of the wrong kind or out of range.
    #[error("parameter `{name}` of `{entry}` is {expected}, not {found}")]
    Value {
        /// The entry.
        entry: String,
        /// The parameter.
        name: String,
        /// What it may be, with its unit.
        expected: String,
        /// As given.
        found: String,
    },
    /// Parameters that exclude each other.
    #[error("`{entry}`: {problem}")]
    Contradiction {
        /// The entry.
        entry: String,
        /// What does not fit.
        problem: String,
    },
    /// The protocol exists for one version of IP only.
    #[error("`{entry}` is of IPv{has} alone: {why}")]
    Version {
        /// The entry.
        entry: String,
        /// The version that it is of.
        has: u8,
        /// Why, and what there is instead.
        why: String,
    },
    /// A rate that is no rate.
    #[error("a rate of {rate} a second is out of range: above 0, and finite")]
    Rate {
        /// As given.
        rate: f64,
    },
    /// A duration that is no duration.
    #[error("a duration of {seconds} s is out of range: above 0, and finite")]
    Duration {
        /// As given.
        seconds: f64,
    },
    /// Bursts that last longer than the mean rate gives them.
    #[error(
        "bursts of {size} at gaps of {gap_ns} ns do not fit a mean rate of {rate} a second: lower the gap, the size or the rate"
    )]
    Burst {
        /// Units of a burst.
        size: u32,
        /// Gap, ns.
        gap_ns: u64,
        /// Units a second.
        rate: f64,
    },
    /// Options of the declaration that exclude each other, or a number out of range.
    #[error("{problem}")]
    Declaration {
        /// What does not fit.
        problem: String,
    },
    /// A source or target that cannot be used.
    #[error("`{place}` {problem}")]
    Place {
        /// As given.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

fn hint_or(nearest: &Option<String>, otherwise: &str) -> String {
    if nearest.is_some() { hint(nearest) } else { format!("; {otherwise}") }
}

/// The one of `known` that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let measured = known.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known));
    let nearest = measured.min().filter(|(distance, known)| *distance <= known.len().div_ceil(2));
    nearest.map(|(_, known)| known.to_owned())
}

//! Declared differences between kernels: one snapshot serves all kernels, unless the scenario says which ones answer
//! otherwise, and why.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Expectation, Mode};
use crate::kernel::probe::{Version, VersionRange};
use crate::record::DeclaredVariant;

/// One declared difference, with a snapshot of its own beside the scenario's: `STEM@NAME.snap`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Part of the snapshot's file name, in lower case, digits, dots and dashes: `before-5.17`.
    pub name: String,
    /// The kernels it is for: `<5.17`.
    #[serde(deserialize_with = "range")]
    pub kernel: VersionRange,
    /// Why those kernels answer otherwise: the commit or the change log.
    pub reason: String,
    /// Modes it is for; all of the scenario's if left out.
    #[serde(default)]
    pub modes: Vec<Mode>,
    /// Expectations that replace the scenario's own of the same path.
    #[serde(default)]
    pub expect: BTreeMap<String, Expectation>,
}

fn range<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<VersionRange, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Variant {
    /// What a record says of it.
    #[must_use]
    pub fn declared(&self) -> DeclaredVariant {
        DeclaredVariant { name: self.name.clone(), kernel: self.kernel.to_string(), reason: self.reason.clone() }
    }

    /// Whether it is for `mode` on `kernel`.
    #[must_use]
    pub fn is_for(&self, mode: Mode, kernel: &Version) -> bool {
        (self.modes.is_empty() || self.modes.contains(&mode)) && self.kernel.contains(kernel)
    }
}

/// What is wrong with a scenario's variants, whatever the kernel.
///
/// # Errors
/// A sentence.
pub fn validate(variants: &[Variant], modes: &[Mode]) -> Result<(), String> {
    for (position, variant) in variants.iter().enumerate() {
        let name = &variant.name;
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.is_empty() || !name.chars().all(valid) || name == "wire" {
            return Err(format!(
                "the variant name `{name}` must be lower case, digits, dots and dashes, and not `wire`"
            ));
        }
        if variants[..position].iter().any(|other| other.name == *name) {
            return Err(format!("two variants have the name `{name}`"));
        }
        if variant.reason.trim().is_empty() {
            return Err(format!("variant `{name}` has no `reason`: name the kernel commit or the change log"));
        }
        if let Some(mode) = variant.modes.iter().find(|mode| !modes.contains(mode)) {
            return Err(format!("variant `{name}` is for {mode} mode, in which the scenario does not run"));
        }
    }
    Ok(())
}

/// The variant for `mode` on `kernel`.
///
/// # Errors
/// Two variants for the same kernel, as a sentence: one difference has one declaration.
pub fn select<'a>(variants: &'a [Variant], mode: Mode, kernel: &Version) -> Result<Option<&'a Variant>, String> {
    let mut matching = variants.iter().filter(|variant| variant.is_for(mode, kernel));
    let first = matching.next();
    match (first, matching.next()) {
        (Some(one), Some(other)) => {
            Err(format!("variants `{}` and `{}` are both for kernel {kernel} in {mode} mode", one.name, other.name))
        }
        _ => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(name: &str, kernel: &str, modes: &[Mode]) -> Variant {
        Variant {
            name: name.to_owned(),
            kernel: kernel.parse().unwrap(),
            reason: "c504e5c2f964".to_owned(),
            modes: modes.to_vec(),
            expect: BTreeMap::new(),
        }
    }

    #[test]
    fn a_variant_is_for_its_kernels_and_modes() {
        let variants = [variant("before-5.17", "<5.17", &[Mode::Wire]), variant("7", ">=7.0", &[])];
        let select = |mode, kernel: &str| select(&variants, mode, &kernel.parse().unwrap()).unwrap();
        assert_eq!(select(Mode::Wire, "5.10.0").unwrap().name, "before-5.17");
        assert!(select(Mode::Lockstep, "5.10.0").is_none());
        assert!(select(Mode::Wire, "6.1").is_none());
        assert_eq!(select(Mode::Lockstep, "7.3.4").unwrap().name, "7");
    }

    #[test]
    fn one_difference_has_one_declaration() {
        let variants = [variant("a", "<5.17", &[]), variant("b", ">=5.10", &[])];
        let error = select(&variants, Mode::Wire, &"5.15".parse().unwrap()).unwrap_err();
        assert_eq!(error, "variants `a` and `b` are both for kernel 5.15 in wire mode");
    }

    #[test]
    fn names_and_reasons_are_checked() {
        let both = [Mode::Lockstep, Mode::Wire];
        assert!(validate(&[variant("Old", "<5.17", &[])], &both).unwrap_err().contains("lower case"));
        assert!(validate(&[variant("wire", "<5.17", &[])], &both).unwrap_err().contains("not `wire`"));
        let twice = [variant("a", "<5.17", &[]), variant("a", ">=7.0", &[])];
        assert!(validate(&twice, &both).unwrap_err().contains("two variants"));
        let silent = Variant { reason: " ".to_owned(), ..variant("a", "<5.17", &[]) };
        assert!(validate(&[silent], &both).unwrap_err().contains("no `reason`"));
        assert!(validate(&[variant("a", "<5", &[Mode::Wire])], &both[..1]).unwrap_err().contains("does not run"));
    }
}

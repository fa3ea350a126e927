//! What the running kernel and this machine can do, found out by doing it.
//!
//! A feature is tried, never inferred from the kernel's release: distributions backport, and builds leave things out.
//! There are three answers: yes, no, and could not tell (no rights to try, no memory). The first two are kept for the
//! life of the process. A scenario whose requirements are not met is unsupported, which is a claim: if the kernel is
//! newer than the release that brought the feature, and the feature cannot have been left out of its build, the claim
//! is wrong and [`Unmet::contradiction`] says so. What a build may leave out is known of the kernels of the list alone
//! ([`Build::Listed`]): they have everything but what the list says they lack, and lack that.

mod doctor;
mod feature;
mod machine;
mod net;
mod requirement;
mod run;
pub mod tools;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

pub use doctor::{Check, Found, doctor};
pub use feature::{FEATURES, Feature, Since};
pub use requirement::{Requirement, RunMode};
pub use version::{Version, VersionRange};

/// Whether something is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is, and what was seen of it.
    Yes(String),
    /// It is not, and why.
    No(String),
    /// That could not be found out, and why.
    CouldNotTell(String),
}

/// A requirement that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// What is required.
    pub requirement: Requirement,
    /// Whether the answer was `no` rather than `could not tell`.
    pub certain: bool,
    /// Why it is not met.
    pub reason: String,
    /// How to get it.
    pub get: String,
    /// Why this is a failure rather than a reason to skip: the feature is declared for this kernel, and missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradiction: Option<String>,
}

impl fmt::Display for Unmet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unclear = if self.certain { "" } else { "could not tell: " };
        write!(out, "{}: {unclear}{}", self.requirement, self.reason)?;
        match &self.contradiction {
            Some(contradiction) => write!(out, " ({contradiction})"),
            None if self.get.is_empty() => Ok(()),
            None => write!(out, " ({})", self.get),
        }
    }
}

/// Features that a kernel was built without: their names, each with the reason.
pub type Lacks = BTreeMap<String, String>;

/// What is known of how the running kernel was built.
#[derive(Clone, Copy, Debug, Default)]
pub enum Build<'a> {
    /// Nothing: it may lack whatever a build can leave out.
    #[default]
    Unknown,
    /// It is a kernel of the list, which names everything that it lacks.
    Listed(&'a Lacks),
}

impl Build<'_> {
    /// Why the list says that the kernel lacks a feature, if it does.
    fn lack(&self, feature: &Feature) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Listed(lacks) => lacks.get(feature.name).map(String::as_str),
        }
    }
}

/// The running kernel's release as numbers, if it has any.
fn running() -> Option<Version> {
    Version::of_release(&super::release())
}

/// Which of `requirements` this machine does not meet, in their order and without repetition.
#[must_use]
pub fn unmet(requirements: &[Requirement]) -> Vec<Unmet> {
    unmet_on(requirements, Build::Unknown)
}

/// As [`unmet`], on a kernel of whose build something may be known. A feature that the list says is lacking and that
/// is there is a contradiction too.
#[must_use]
pub fn unmet_on(requirements: &[Requirement], build: Build<'_>) -> Vec<Unmet> {
    let mut all: Vec<Requirement> = Vec::new();
    for requirement in requirements {
        let parts = match requirement {
            Requirement::Mode(mode) => Requirement::of_mode(*mode),
            single => vec![single.clone()],
        };
        for part in parts {
            if !all.contains(&part) {
                all.push(part);
            }
        }
    }
    all.into_iter().filter_map(|requirement| check(requirement, build)).collect()
}

fn check(requirement: Requirement, build: Build<'_>) -> Option<Unmet> {
    let (certain, reason) = match answer_of(&requirement) {
        Answer::Yes(found) => return stale(requirement, found, build),
        Answer::No(reason) => (true, reason),
        Answer::CouldNotTell(reason) => (false, reason),
    };
    let (get, contradiction) = match &requirement {
        Requirement::Feature(feature) => {
            let kernel = running().filter(|_| certain);
            let get = match build.lack(feature) {
                Some(why) => format!("the list of kernels says so: {why}"),
                None => feature.get.to_owned(),
            };
            (get, kernel.and_then(|kernel| feature.contradiction(&kernel, build)))
        }
        Requirement::Tool { package, .. } => (format!("`apt install {package}`"), None),
        Requirement::Tracepoint { .. } => ("another kernel".to_owned(), None),
        Requirement::Kernel(_) | Requirement::Mode(_) => (String::new(), None),
    };
    Some(Unmet { requirement, certain, reason, get, contradiction })
}

/// A feature that is there against what the list of kernels says: nothing may hide behind an entry that is not true.
fn stale(requirement: Requirement, found: String, build: Build<'_>) -> Option<Unmet> {
    let Requirement::Feature(feature) = &requirement else { return None };
    let why = build.lack(feature)?;
    let contradiction = format!("the list of kernels says that this one `lacks` it: {why}");
    Some(Unmet {
        reason: format!("it is there: {found}"),
        certain: true,
        get: String::new(),
        contradiction: Some(contradiction),
        requirement,
    })
}

/// Whether a requirement is met; conclusive answers about the kernel are kept.
fn answer_of(requirement: &Requirement) -> Answer {
    static KNOWN: Mutex<BTreeMap<String, Answer>> = Mutex::new(BTreeMap::new());
    let probe = || match requirement {
        Requirement::Feature(feature) => (feature.probe)(),
        Requirement::Tracepoint { name, .. } => run::tracepoint(name),
        Requirement::Tool { name, .. } => tools::tool(name),
        Requirement::Kernel(range) => kernel(range),
        Requirement::Mode(mode) => match unmet(&Requirement::of_mode(*mode)).first() {
            None => Answer::Yes("all that it needs is there".to_owned()),
            Some(unmet) => Answer::No(unmet.to_string()),
        },
    };
    if !matches!(requirement, Requirement::Feature(_) | Requirement::Tracepoint { .. }) {
        // Cheap, or a program that may be installed at any time.
        return probe();
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = requirement.to_string();
    if let Some(answer) = known.get(&key) {
        return answer.clone();
    }
    let answer = probe();
    if !matches!(answer, Answer::CouldNotTell(_)) {
        known.insert(key, answer.clone());
    }
    answer
}

fn kernel(range: &VersionRange) -> Answer {
    let release = super::release();
    match Version::of_release(&release) {
        Some(version) if range.contains(&version) => Answer::Yes(release),
        Some(_) => Answer::No(format!("this is {release}")),
        None => Answer::CouldNotTell(format!("`{release}` is not a release")),
    }
}

/// Features that the running kernel should have by its release and does not: each is a wrong declaration in
/// [`FEATURES`] or a kernel that lost something.
#[must_use]
pub fn contradictions() -> Vec<Unmet> {
    let all: Vec<Requirement> = FEATURES.iter().map(Requirement::Feature).collect();
    unmet(&all).into_iter().filter(|unmet| unmet.contradiction.is_some()).collect()
}

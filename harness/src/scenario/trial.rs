//! One scenario in one mode: from its file to what was seen, ready to be held against its snapshot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::variant::Variant;
use super::{Expectation, Failure, Found, Mode, expect, judge};
use crate::apps::AppSpec;
use crate::capture::{self, SidesPolicy, Writer};
use crate::coverage::{self, ProgramCoverage};
use crate::kernel::probe::{self, Build, Requirement, Unmet};
use crate::object::Clock;
use crate::pool::Pool;
use crate::record::with_mode;
use crate::report::Document;
use crate::run::{self, AppsPlan, Plan, RunError, Step};
use crate::scenario::spec::Programs;
use crate::snapshot;
use crate::subject::{SubjectError, source};
use crate::synth;

/// What a trial saw.
#[derive(Debug)]
pub struct Seen {
    /// The whole answer.
    pub document: Document,
    /// The canonical text, to be held against the snapshot.
    pub text: String,
    /// Expectations that do not hold.
    pub failures: Vec<Failure>,
}

/// One scenario in one mode, or one test of a test binary, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrialName {
    /// `family/behaviour`; of a test `BINARY/NAME`.
    pub scenario: String,
    /// The mode; a test has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

impl TrialName {
    /// A test of a test binary.
    #[must_use]
    pub const fn test(name: String) -> Self {
        Self { scenario: name, mode: None }
    }
}

impl std::fmt::Display for TrialName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&with_mode(&self.scenario, self.mode))
    }
}

/// One scenario in one mode.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The scenario.
    pub found: Found,
    /// Folder of all scenarios.
    pub root: PathBuf,
    /// The mode.
    pub mode: Mode,
    /// Whether it is counted which code of objects under test is reached.
    pub coverage: bool,
    /// Where the traffic is recorded.
    pub record: Option<PathBuf>,
}

/// File of what was reached, below the folder of artefacts.
pub const COVERAGE: &str = "coverage.json";

impl Trial {
    /// One scenario in one mode.
    #[must_use]
    pub fn new(found: Found, root: &Path, mode: Mode) -> Self {
        Self { found, root: root.to_owned(), mode, coverage: false, record: None }
    }

    /// All trials below `root`: one per scenario and mode, in order.
    ///
    /// # Errors
    /// A scenario that cannot be read.
    pub fn all(root: &Path) -> Result<Vec<Self>, super::ScenarioError> {
        let found = super::discover(root)?;
        Ok(found
            .into_iter()
            .flat_map(|found| {
                let modes = found.scenario.modes.clone();
                modes.into_iter().map(move |mode| Self::new(found.clone(), root, mode))
            })
            .collect())
    }

    /// The trial of that name below `root`, without a look at any other; nothing if there is none.
    ///
    /// # Errors
    /// A scenario that cannot be read.
    pub fn named(root: &Path, name: &TrialName) -> Result<Option<Self>, super::ScenarioError> {
        let Some(mode) = name.mode else { return Ok(None) };
        let found = super::find(root, &name.scenario)?.filter(|found| found.scenario.modes.contains(&mode));
        Ok(found.map(|found| Self::new(found, root, mode)))
    }

    /// `family/behaviour [mode]`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} [{}]", self.found.name, self.mode)
    }

    /// The command that repeats this trial alone.
    #[must_use]
    pub fn repeat(&self) -> String {
        format!("bpflab run '{}' --mode {}", self.found.name, self.mode)
    }

    /// What the trial needs and this machine lacks.
    #[must_use]
    pub fn unmet(&self) -> Vec<Unmet> {
        self.unmet_on(Build::Unknown)
    }

    /// As [`Trial::unmet`], on a kernel of whose build something may be known.
    #[must_use]
    pub fn unmet_on(&self, build: Build<'_>) -> Vec<Unmet> {
        let mut needs = Requirement::of_mode(self.mode);
        needs.extend(self.found.scenario.requires.iter().cloned());
        if self.objects().any(|object| source::must_compile(&object)) {
            needs.extend(source::needs());
        }
        if self.mode != Mode::Lockstep {
            needs.extend(Requirement::of_features(self.found.scenario.topology.features()));
        }
        needs.extend(self.found.scenario.traffic.apps.iter().flat_map(AppSpec::tools).map(Requirement::of_tool));
        probe::unmet_on(&needs, build)
    }

    /// What the scenario executes, one line for each application; nothing for most scenarios.
    #[must_use]
    pub fn executes(&self) -> Vec<String> {
        self.found.scenario.traffic.apps.iter().map(AppSpec::summary).collect()
    }

    /// The objects under test, as files.
    pub fn objects(&self) -> impl Iterator<Item = PathBuf> {
        self.found.scenario.programs.objects.iter().map(|setup| self.found.folder.join(&setup.object))
    }

    /// Compiles those objects under test whose source is newer: for guests, which have no compiler.
    ///
    /// # Errors
    /// A source that cannot be compiled, or no compiler.
    pub fn compile(&self) -> Result<(), SubjectError> {
        self.objects().try_for_each(|object| source::bring_up_to_date(&object))
    }

    /// Path of the snapshot file: that of `variant`, or the one that all other kernels share.
    #[must_use]
    pub fn snapshot_file(&self, variant: Option<&Variant>) -> PathBuf {
        self.found.folder.join(format!("{}.snap", self.found.snapshot(self.mode, variant)))
    }

    /// Runs the trial; what was offered, received and recorded is kept in `artefacts`.
    ///
    /// # Errors
    /// The lab's or the input's.
    pub fn observe(
        &self,
        artefacts: &Path,
        stop: &AtomicBool,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Seen, RunError> {
        let has_apps = self.found.scenario.traffic.is_of_applications();
        let mut document =
            if has_apps { self.play_apps(artefacts, stop, step)? } else { self.replay(artefacts, stop, step)? };
        self.keep_coverage(std::mem::take(&mut document.coverage), artefacts)?;
        let rules = snapshot::Rules { real_stacks: self.mode == Mode::Live, ..self.found.scenario.snapshot.rules() };
        let text = snapshot::render(&document.observation, &rules);
        // The document is made of strings, numbers and string-keyed maps.
        let value = serde_json::to_value(&document).unwrap_or_default();
        let mut failures: Vec<Failure> = self
            .expectations()
            .into_iter()
            .filter_map(|(path, expectation)| expect::check(&value, path, expectation).err())
            .collect();
        let broken = self.found.scenario.holds.iter().filter(|condition| !condition.holds(&value));
        failures.extend(broken.map(|condition| Failure {
            path: "holds".to_owned(),
            expected: condition.text().to_owned(),
            found: "that it does not hold".to_owned(),
        }));
        failures.extend(self.provenance(&document.capture.sha256));
        failures.extend(document.apps.iter().filter_map(|app| {
            let (path, expected) = (format!("apps.{}", app.name), "its own end, as declared".to_owned());
            Some(Failure { path, expected, found: app.problem.clone()? })
        }));
        if document.observation.ledger.unaccounted > 0 {
            failures.push(Failure {
                path: "ledger.unaccounted".to_owned(),
                expected: "0 (the lab's own rule)".to_owned(),
                found: document.observation.ledger.unaccounted.to_string(),
            });
        }
        Ok(Seen { document, text, failures })
    }

    fn replay(
        &self,
        artefacts: &Path,
        stop: &AtomicBool,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Document, RunError> {
        let plan = self.plan(artefacts)?;
        let mut document = run::run_with(Pool::shared(), &plan, stop, step)?;
        // Where the repository lies says nothing about the run.
        document.capture.file =
            plan.capture.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(document)
    }

    fn play_apps(
        &self,
        artefacts: &Path,
        stop: &AtomicBool,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Document, RunError> {
        let scenario = &self.found.scenario;
        let plan = AppsPlan {
            apps: scenario.traffic.apps.clone(),
            programs: self.programs()?,
            topology: scenario.topology.clone(),
            artefacts: artefacts.to_owned(),
            record: self.record.clone(),
        };
        run::run_apps(Pool::shared(), &plan, stop, step)
    }

    fn keep_coverage(&self, programs: Vec<ProgramCoverage>, artefacts: &Path) -> Result<(), RunError> {
        if programs.is_empty() {
            return Ok(());
        }
        let path = artefacts.join(COVERAGE);
        let text = coverage::render::json(&coverage::Report { programs });
        std::fs::create_dir_all(artefacts)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|source| RunError::Artefact { path, source })
    }

    /// What must hold on the running kernel: a declared difference may replace single expectations.
    fn expectations(&self) -> BTreeMap<&String, &Expectation> {
        let mut all: BTreeMap<&String, &Expectation> = self.found.scenario.expect.iter().collect();
        if let Ok(Some(variant)) = judge::variant(self) {
            all.extend(&variant.expect);
        }
        all
    }

    fn plan(&self, artefacts: &Path) -> Result<Plan, RunError> {
        let scenario = &self.found.scenario;
        let traffic = &scenario.traffic;
        let capture = match self.found.capture(&self.root) {
            capture if !traffic.synth.is_empty() => self.write_synth(artefacts, capture.as_deref())?,
            Some(capture) => capture,
            None => self.write_frames(artefacts)?,
        };
        let default = capture::Options::default();
        Ok(Plan {
            capture,
            options: capture::Options {
                filter: traffic.filter.clone(),
                limit: traffic.limit,
                sides: self.sides(),
                oversize: traffic.oversize,
                truncated: traffic.truncated,
                checksums: traffic.checksums,
                mtu: traffic.mtu.unwrap_or(default.mtu),
            },
            mode: Some(self.mode),
            programs: self.programs()?,
            topology: scenario.topology.clone(),
            engine: crate::wire::EngineChoice::Auto,
            speed: traffic.speed,
            clock: traffic.clock.unwrap_or(Clock::Capture),
            live: traffic.live.clone(),
            apps: traffic.apps.clone(),
            artefacts: Some(artefacts.to_owned()),
            record: self.record.clone(),
        })
    }

    /// Made-up senders may be anyone's: which end their packets enter, MAC addresses say, unless a capture has its own.
    fn sides(&self) -> SidesPolicy {
        let traffic = &self.found.scenario.traffic;
        match traffic.sides {
            SidesPolicy::Auto if !traffic.synth.is_empty() && traffic.capture.is_none() => SidesPolicy::Mac,
            ref sides => sides.clone(),
        }
    }

    /// The programs, objects under test by their paths: beside the scenario, compiled if their source is newer.
    fn programs(&self) -> Result<Programs, RunError> {
        let mut programs = self.found.scenario.programs.clone();
        for setup in &mut programs.objects {
            setup.object = self.found.folder.join(&setup.object);
            setup.coverage = self.coverage;
            source::bring_up_to_date(&setup.object)?;
        }
        Ok(programs)
    }

    /// What is missing or wrong about the origin of a capture that stands beside the scenario.
    fn provenance(&self, sha256: &str) -> Vec<Failure> {
        let own = self.found.scenario.traffic.capture.as_ref().map(|name| self.found.folder.join(name));
        let Some(own) = own.filter(|path| path.exists()) else { return Vec::new() };
        // With made-up traffic over it, another file is played.
        let sha256 = if self.found.scenario.traffic.synth.is_empty() {
            sha256.to_owned()
        } else {
            std::fs::read(&own).map_or_else(|_| String::new(), |bytes| hex(&Sha256::digest(bytes)))
        };
        let provenance = self.found.scenario.provenance.clone().unwrap_or_default();
        let failure = |field: &str, expected: &str, found: &str| Failure {
            path: format!("provenance.{field}"),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let unfilled = provenance.unfilled();
        let mut failures: Vec<Failure> = unfilled
            .into_iter()
            .map(|field| failure(field, "a text: where a capture comes from is part of it", "nothing"))
            .collect();
        if provenance.sha256 != sha256 {
            failures.push(failure("sha256", &sha256, &provenance.sha256));
        }
        failures
    }

    /// Traffic of the catalogue becomes a capture like any other, with the scenario's own capture underneath.
    fn write_synth(&self, folder: &Path, capture: Option<&Path>) -> Result<PathBuf, RunError> {
        let path = folder.join("synth.pcapng");
        let failed = |source| RunError::Artefact { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let scenario = &self.found.scenario;
        synth::write(&scenario.traffic.synth, &scenario.hosts(), capture, &path, &mut |_| true)?;
        Ok(path)
    }

    /// Frames written out in the scenario become a capture like any other.
    fn write_frames(&self, folder: &Path) -> Result<PathBuf, RunError> {
        let path = folder.join("frames.pcap");
        let failed = |source| RunError::Artefact { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut writer = Writer::create(&path)?;
        let mut time_ns = synth::START_NS;
        for frame in &self.found.scenario.traffic.frames {
            // Validated when the scenario was read.
            let bytes = frame.bytes().unwrap_or_default();
            for _ in 0..frame.repeat {
                writer.write(time_ns, &bytes, u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
                time_ns += frame.after_us * 1_000;
            }
        }
        writer.finish()?;
        Ok(path)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

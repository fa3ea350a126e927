//! Why a run failed, and how that is told.

use std::path::{Path, PathBuf};

use crate::apps::AppsError;
use crate::capture::CaptureError;
use crate::kernel::probe;
use crate::live::LiveError;
use crate::lockstep::LockstepError;
use crate::object::{ObjectError, Refusal};
use crate::recorder::RecorderError;
use crate::subject::{LoadError, SubjectError};
use crate::suite::protocols::ProtocolsError;
use crate::synth;
use crate::topology::TopologyError;
use crate::wire::WireError;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The capture is not usable.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// This machine cannot do it.
    #[error("{}", missing(.0))]
    Unmet(Vec<probe::Unmet>),
    /// An object is not usable.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object under test is not usable.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The object `protocols` cannot be set as asked.
    #[error(transparent)]
    Protocols(#[from] ProtocolsError),
    /// The topology could not be built.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Lockstep mode failed.
    #[error(transparent)]
    Lockstep(#[from] LockstepError),
    /// Wire mode failed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Live mode failed.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// Applications could not be played.
    #[error(transparent)]
    Apps(#[from] AppsError),
    /// The traffic could not be recorded.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// Traffic could not be made.
    #[error(transparent)]
    Synth(#[from] synth::WriteError),
    /// An artefact could not be written.
    #[error("cannot write artefact {}", path.display())]
    Artefact {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl RunError {
    /// Whether the input is at fault, rather than this machine.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Lockstep(LockstepError::Capture(_)))
            || matches!(self, Self::Topology(TopologyError::Invalid(_)) | Self::Wire(WireError::Topology { .. }))
            || matches!(self, Self::Wire(WireError::Frames(_) | WireError::Engine { .. }) | Self::Synth(_))
            || matches!(self, Self::Live(LiveError::Topology { .. } | LiveError::Nothing { .. }))
            || matches!(
                self,
                Self::Apps(AppsError::Invalid { .. } | AppsError::Early { .. } | AppsError::NeverReady { .. })
            )
            || matches!(self, Self::Recorder(RecorderError::Write { .. } | RecorderError::Input(_)))
            || matches!(self, Self::Subject(_) | Self::Object(ObjectError::Subject(_)))
            || matches!(
                self,
                Self::Lockstep(LockstepError::Object(ObjectError::Subject(_) | ObjectError::Missing { .. }))
            )
            || matches!(self, Self::Wire(WireError::Object(ObjectError::Subject(_)) | WireError::Kind { .. }))
            || matches!(
                self,
                Self::Wire(WireError::NoPlace { .. } | WireError::Placeless { .. } | WireError::SecondXdp { .. })
            )
            // A tracepoint, function or file that there is not.
            || matches!(self, Self::Wire(WireError::Attach { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
            || matches!(self, Self::Protocols(ProtocolsError::TooManyPorts(_) | ProtocolsError::PortZero))
    }

    /// The error with its causes; a verifier's whole log goes to the folder `artefacts`.
    #[must_use]
    pub fn explain(&self, artefacts: Option<&Path>) -> String {
        let mut message = crate::error::chain(self);
        let Some((program, log)) = verifier_log(self) else { return message };
        match artefacts {
            Some(folder) => {
                let path = folder.join(format!("verifier-{program}.log"));
                if std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, log)).is_ok() {
                    message.push_str(&format!("\nthe whole log is in {}", path.display()));
                }
            }
            None => message.push_str("\n--artefacts FOLDER keeps the whole log"),
        }
        message
    }
}

/// The verifier's whole log, if it is the cause of `error`, with the program's name.
fn verifier_log(error: &RunError) -> Option<(&str, &str)> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some((&refusal.program, &refusal.log));
        }
        // A source in a box is shown as the box.
        if let Some(LoadError::Refused { program, log, .. }) =
            error.downcast_ref::<Box<LoadError>>().map(|inner| &**inner)
        {
            return Some((program, log));
        }
        cause = error.source();
    }
    None
}

fn missing(unmet: &[probe::Unmet]) -> String {
    // Without root nothing else can be told: what is known to be missing is the reason for the rest.
    let is_known = unmet.iter().any(|unmet| unmet.certain);
    let told = unmet.iter().filter(|unmet| unmet.certain || !is_known);
    let lines: Vec<String> = told.map(probe::Unmet::to_string).collect();
    format!("this machine cannot run it: {}", lines.join("; "))
}

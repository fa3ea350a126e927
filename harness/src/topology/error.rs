//! Why a topology could not be built, looked at or taken down.

use std::io;

use super::validate::InvalidTopology;

/// Why a topology could not be built, looked at or taken down.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The description is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidTopology),
    /// The kernel refused.
    #[error("cannot {operation} on host {host}{}{}", interface_of(.interface), hint(.source))]
    Kernel {
        /// What was tried, with its object.
        operation: String,
        /// The host where.
        host: String,
        /// The interface, where it is about one.
        interface: Option<String>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The network has no such host.
    #[error("there is no host {0} in the network")]
    NoHost(String),
    /// Some of a network could not be taken down.
    #[error("{} of the network's parts could not be removed", .failures.len())]
    Close {
        /// Every failure, in the order in which they happened: at least one.
        failures: Vec<TopologyError>,
        /// The first one's cause.
        #[source]
        source: io::Error,
    },
    /// What other runs left cannot be looked for.
    #[error("cannot look for leftovers in {directory}")]
    Leftovers {
        /// Where.
        directory: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TopologyError {
    /// Whether the reason is missing privilege.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.kernel_error().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether the running kernel lacks what was asked of it: an interface type, an address family, a parameter.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.kernel_error().is_some_and(is_unsupported)
    }

    /// Whether the object is not there: a parameter of that name, an interface.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.kernel_error()
            .is_some_and(|error| error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV))
    }

    fn kernel_error(&self) -> Option<&io::Error> {
        match self {
            Self::Kernel { source, .. } | Self::Close { source, .. } | Self::Leftovers { source, .. } => Some(source),
            Self::Invalid(_) | Self::NoHost(_) => None,
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    // An interface type that the kernel does not have is EOPNOTSUPP, an address family EAFNOSUPPORT.
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn interface_of(interface: &Option<String>) -> String {
    interface.as_ref().map_or_else(String::new, |name| format!(", interface {name}"))
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (root is needed: CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    } else if is_unsupported(error) {
        " (the running kernel does not support it)"
    } else {
        ""
    }
}

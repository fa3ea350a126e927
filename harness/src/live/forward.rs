//! Real applications behind the live end: where recorded servers' conversations are handed on to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use serde::Deserialize;

use super::LiveError;
use crate::topology::{Host, Network};

/// An application that answers in the place of a recorded server.
///
/// Written `HOST:PORT`, for every conversation, or `RECORDED=HOST:PORT`, for those with the recorded port. `HOST` is a host
/// of the topology, on whose loopback address 127.0.0.1 the application listens, or an address or a name that is reached
/// from where the lab runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Forward {
    /// The recorded server's port; any if left out.
    pub recorded: Option<u16>,
    /// A host of the topology, an address (of IPv6 without brackets) or a name.
    pub host: String,
    /// The application's port.
    pub port: u16,
}

/// A text that names no application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not where an application listens; expected HOST:PORT or RECORDED-PORT=HOST:PORT")]
pub struct ForwardError(String);

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let wrong = || ForwardError(text.to_owned());
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
        let (recorded, to) = match text.split_once('=') {
            Some((recorded, to)) => (Some(port(recorded)?), to),
            None => (None, text),
        };
        let (host, to) = to.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An address of IPv6 without brackets could not be told from its port.
        let is_sound = !host.is_empty() && bare.map_or(!host.contains(':'), |host| host.parse::<IpAddr>().is_ok());
        if !is_sound || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self { recorded, host: bare.unwrap_or(host).to_owned(), port: port(to)? })
    }
}

impl TryFrom<String> for Forward {
    type Error = ForwardError;

    fn try_from(text: String) -> Result<Self, ForwardError> {
        text.parse()
    }
}

impl std::fmt::Display for Forward {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(port) = self.recorded {
            write!(out, "{port}=")?;
        }
        let brackets = if self.host.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(out, "{}{}{}:{}", brackets[0], self.host, brackets[1], self.port)
    }
}

/// Where connections to an application are made from, and to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Nothing: where the lab runs.
    pub(super) host: Option<&'a Host>,
    pub(super) address: SocketAddr,
}

impl Target<'_> {
    /// Opens a socket to it.
    pub(super) fn reach<T: Send + 'static>(&self, open: fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
        let address = self.address;
        match self.host {
            Some(host) => host.run(move || open(address)),
            None => open(address),
        }
    }
}

/// The applications of a run, those for one port first.
#[derive(Debug)]
pub(super) struct Targets<'a>(Vec<(Forward, Target<'a>)>);

impl<'a> Targets<'a> {
    /// Looks up every host and name.
    pub(super) fn of(network: &'a Network, forwards: &[Forward]) -> Result<Self, LiveError> {
        let mut targets = Vec::new();
        for forward in forwards {
            let host = network.hosts().iter().find(|host| host.name() == forward.host);
            let address = match host {
                Some(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), forward.port),
                None => resolve(network, forward)?,
            };
            targets.push((forward.clone(), Target { host, address }));
        }
        targets.sort_by_key(|(forward, _)| forward.recorded.is_none());
        Ok(Self(targets))
    }

    /// The application for a recorded server's port, and where it was said to be.
    pub(super) fn find(&self, port: u16) -> Option<(&Forward, Target<'a>)> {
        let fits = |forward: &Forward| forward.recorded.is_none_or(|recorded| recorded == port);
        self.0.iter().find(|(forward, _)| fits(forward)).map(|(forward, target)| (forward, *target))
    }
}

fn resolve(network: &Network, forward: &Forward) -> Result<SocketAddr, LiveError> {
    let failed = |source| LiveError::Forward {
        to: forward.to_string(),
        topology: network.topology().name.clone(),
        host: forward.host.clone(),
        source,
    };
    if let Ok(address) = forward.host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, forward.port));
    }
    let mut found = (forward.host.as_str(), forward.port).to_socket_addrs().map_err(failed)?;
    found.next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_read_and_written_as_on_the_command_line() {
        for (text, recorded, host, port) in [
            ("127.0.0.1:8080", None, "127.0.0.1", 8080),
            ("80=web:8080", Some(80), "web", 8080),
            ("443=[2001:db8::1]:8443", Some(443), "2001:db8::1", 8443),
            ("localhost:1", None, "localhost", 1),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward, Forward { recorded, host: host.to_owned(), port });
            assert_eq!(forward.to_string(), text);
        }
        for text in
            ["", ":80", "web", "web:", "web:0", "web:65536", "0=web:80", "x=web:80", "::1:80", "[web]:80", "a b:1"]
        {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}

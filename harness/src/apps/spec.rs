//! An application as a scenario writes it. Pure data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::topology::Topology;

/// One process of real software on a host of the topology.
///
/// In the command, in files and in the environment `{dir}` stands for the application's private folder, `{dir.NAME}` for
/// another application's, `{host.NAME}` for a host's first IPv4 address and `{host6.NAME}` for its first IPv6 address.
/// Other braces stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Unique in the scenario: lower-case letters, digits and dashes.
    pub name: String,
    /// The host that it runs on.
    pub host: String,
    /// What it is for.
    #[serde(default)]
    pub role: AppRole,
    /// Program and arguments. No shell has a part in it, unless it is the program.
    pub command: Vec<String>,
    /// Other programs that must be installed.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Files of its private folder: paths below it, and their text.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What it reads from its standard input; nothing if left out.
    pub input: Option<String>,
    /// Its environment, beside `PATH`, `HOME` (its private folder), `LANG=C.UTF-8` and `TZ=UTC`; nothing else is handed
    /// on.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The user that it runs as; this one, root, if left out. Its private folder is this user's.
    pub user: Option<String>,
    /// When a server is ready. Servers are started one after the other, each when the one before is ready.
    #[serde(default)]
    pub ready: Ready,
    /// Seconds that a server may take to be ready, or a client to end.
    #[serde(default = "thirty")]
    pub timeout_s: u32,
    /// Of a client: it starts together with the client before it, instead of after that one's end.
    #[serde(default)]
    pub together: bool,
    /// Signal that ends a server.
    #[serde(default)]
    pub stop: StopSignal,
    /// The exit code that a client, or a server that is ready by its exit, must have.
    #[serde(default)]
    pub exit_code: i32,
}

const fn thirty() -> u32 {
    30
}

/// What an application is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppRole {
    /// It runs until all clients have ended.
    Server,
    /// It starts when all servers are ready, and ends by itself.
    #[default]
    Client,
}

/// When a server is ready: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// It listens on this port of its host.
    pub port: Option<u16>,
    /// The port's protocol.
    #[serde(default)]
    pub proto: Proto,
    /// It has written this text, to either output.
    pub output: Option<String>,
    /// It has ended: what it does prepares others.
    #[serde(default)]
    pub exit: bool,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP: a socket that listens.
    #[default]
    Tcp,
    /// UDP: a socket that is bound.
    Udp,
}

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// `SIGTERM`.
    #[default]
    Term,
    /// `SIGINT`.
    Int,
    /// `SIGQUIT`.
    Quit,
    /// `SIGHUP`.
    Hup,
}

impl StopSignal {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Int => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Hup => libc::SIGHUP,
        }
    }
}

impl AppSpec {
    /// The programs that must be installed, by name or path; one of its own files is none.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        let program = self.command.first().map(String::as_str).filter(|program| !program.starts_with('{'));
        program.into_iter().chain(self.needs.iter().map(String::as_str))
    }

    /// `name on host: command`, as a person is told what is executed.
    #[must_use]
    pub fn summary(&self) -> String {
        let user = self.user.as_ref().map_or_else(String::new, |user| format!(" as {user}"));
        format!("{} on {}{user}: {}", self.name, self.host, self.command.join(" "))
    }

    fn problems(&self, topology: &Topology, all: &[Self]) -> Vec<String> {
        let mut problems = Vec::new();
        let letters = self.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if self.name.is_empty() || self.name.len() > 32 || !letters {
            problems.push("a name is 1 to 32 lower-case letters, digits and dashes".to_owned());
        }
        if topology.host(&self.host).is_none() {
            let hosts: Vec<&str> = topology.hosts.iter().map(|host| host.name.as_str()).collect();
            problems.push(format!("there is no host '{}'; there are {}", self.host, hosts.join(", ")));
        }
        if self.command.first().is_none_or(String::is_empty) {
            problems.push("`command` names no program".to_owned());
        }
        for path in self.files.keys().filter(|path| !is_below(path)) {
            problems.push(format!("file `{path}` is not a path below the private folder"));
        }
        if self.timeout_s == 0 || self.timeout_s > 3600 {
            problems.push(format!("a timeout of {} s is not in 1 to 3600 s", self.timeout_s));
        }
        let ways = [self.ready.port.is_some(), self.ready.output.is_some(), self.ready.exit];
        match (self.role, ways.iter().filter(|given| **given).count()) {
            (AppRole::Server, 0) => problems.push("a server needs `ready`: a port, an output, or its exit".to_owned()),
            (AppRole::Server, 2..) => problems.push("`ready` has more than one of port, output and exit".to_owned()),
            (AppRole::Client, 1..) => problems.push("a client is not waited for to be ready: it ends".to_owned()),
            _ => {}
        }
        if self.together && self.role == AppRole::Server {
            problems.push("`together` is for clients".to_owned());
        }
        for text in self.texts() {
            problems.extend(fill(text, &|word| self.known(word, topology, all)).err());
        }
        problems
    }

    /// Every text in which words are filled in.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.command.iter().chain(self.files.values()).chain(self.env.values()).chain(&self.input);
        texts.map(String::as_str)
    }

    /// Whether a word will have a value; only its folder is not known yet.
    fn known(&self, word: &str, topology: &Topology, all: &[Self]) -> Result<Option<String>, String> {
        let dir = |name: &str| all.iter().any(|app| app.name == name).then(String::new);
        value(word, topology, &self.name, &dir)
    }
}

/// Everything that is wrong with the applications of a scenario, without touching the machine.
#[must_use]
pub fn problems(all: &[AppSpec], topology: &Topology) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut problems: Vec<String> = Vec::new();
    for app in all {
        let place = format!("application '{}'", app.name);
        if !names.insert(&app.name) {
            problems.push(format!("{place}: two have this name"));
        }
        problems.extend(app.problems(topology, all).into_iter().map(|problem| format!("{place}: {problem}")));
    }
    problems
}

/// What is wrong with applications that are all the traffic that there is.
#[must_use]
pub fn problem_alone(all: &[AppSpec]) -> Option<String> {
    let is_quiet = !all.is_empty() && all.iter().all(|app| app.role == AppRole::Server);
    is_quiet.then(|| "applications: all are servers, and nobody talks to them".to_owned())
}

/// What is wrong with applications that recorded conversations are handed on to.
#[must_use]
pub fn problem_beside(all: &[AppSpec]) -> Option<String> {
    let client = all.iter().find(|app| app.role == AppRole::Client)?;
    Some(format!("application '{}': beside a capture that is played there are servers alone", client.name))
}

fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The value of a word in braces; nothing for what is not one of ours.
///
/// # Errors
/// A host, an address or an application that there is not, as a sentence.
pub(super) fn value(
    word: &str,
    topology: &Topology,
    own: &str,
    dir: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    let (kind, name) = word.split_once('.').unwrap_or((word, ""));
    match (kind, name) {
        ("dir", "") => Ok(dir(own)),
        ("dir", name) => dir(name).map(Some).ok_or_else(|| format!("{{{word}}}: there is no application '{name}'")),
        ("host" | "host6", name) if !name.is_empty() => {
            let found = address(topology, name, kind == "host6");
            found.map(|address| Some(address.to_string())).ok_or_else(|| {
                let family = if kind == "host6" { "IPv6" } else { "IPv4" };
                format!("{{{word}}}: the topology has no host '{name}' with an {family} address")
            })
        }
        _ => Ok(None),
    }
}

/// The first address of a host in an address family: of its links' ends, then of its bridges and VLAN interfaces.
#[must_use]
pub fn address(topology: &Topology, host: &str, ipv6: bool) -> Option<IpAddr> {
    let ends = topology.links.iter().flat_map(|link| &link.ends).filter(|end| end.host == host);
    let spec = topology.host(host)?;
    let upper =
        spec.bridges.iter().flat_map(|one| &one.addresses).chain(spec.vlans.iter().flat_map(|one| &one.addresses));
    ends.flat_map(|end| &end.addresses).chain(upper).map(|prefix| prefix.address).find(|one| one.is_ipv6() == ipv6)
}

/// Fills in the words in braces for which there is a value.
///
/// # Errors
/// That of `value`.
pub(super) fn fill(text: &str, value: &dyn Fn(&str) -> Result<Option<String>, String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        let word = after.split_once('}').map(|(word, _)| word).filter(|word| word.chars().all(is_part));
        match word.map(value).transpose()?.flatten() {
            Some(value) => {
                out.push_str(&value);
                rest = after.split_once('}').map_or("", |(_, rest)| rest);
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::presets;

    #[derive(Deserialize)]
    struct File {
        apps: Vec<AppSpec>,
    }

    fn read(text: &str) -> Vec<AppSpec> {
        toml::from_str::<File>(text).unwrap().apps
    }

    const SOUND: &str = r#"
        [[apps]]
        name = "nginx"
        host = "server"
        role = "server"
        command = ["nginx", "-c", "{dir}/nginx.conf"]
        files."nginx.conf" = "http { server { listen [{host6.server}]:80; } }"
        ready = { port = 80 }
        stop = "QUIT"
        [[apps]]
        name = "curl"
        host = "client"
        command = ["curl", "http://{host.server}/", "--cacert", "{dir.nginx}/ca.pem"]
    "#;

    #[test]
    fn applications_are_read_and_their_words_known() {
        let apps = read(SOUND);
        assert_eq!(problems(&apps, &presets::router()), [""; 0]);
        assert_eq!((apps[0].role, apps[1].role), (AppRole::Server, AppRole::Client));
        assert_eq!(apps[1].summary(), "curl on client: curl http://{host.server}/ --cacert {dir.nginx}/ca.pem");
    }

    #[test]
    fn words_are_filled_in_and_other_braces_stay() {
        let topology = presets::router();
        let dir = |name: &str| (name == "nginx").then(|| "/d".to_owned());
        let fill = |text: &str| fill(text, &|word| value(word, &topology, "nginx", &dir));
        assert_eq!(
            fill("a {dir}/x {host.server} [{host6.client}] { b {c} {} }").unwrap(),
            "a /d/x 10.71.2.2 [fd71:1::1] { b {c} {} }"
        );
        assert_eq!(fill("http { root {dir}; }").unwrap(), "http { root /d; }");
        assert_eq!(fill("{{dir}} {dir").unwrap(), "{/d} {dir");
        assert!(fill("{host.nobody}").unwrap_err().contains("no host 'nobody' with an IPv4 address"));
        assert!(fill("{dir.curl}").unwrap_err().contains("no application 'curl'"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let topology = presets::router();
        for (from, to, problem) in [
            ("name = \"curl\"", "name = \"nginx\"", "two have this name"),
            ("name = \"curl\"", "name = \"Curl\"", "application 'Curl': a name is 1 to 32"),
            ("host = \"client\"", "host = \"nobody\"", "there is no host 'nobody'; there are client, dut, server"),
            ("ready = { port = 80 }", "", "application 'nginx': a server needs `ready`"),
            ("ready = { port = 80 }", "ready = { port = 80, exit = true }", "more than one of"),
            ("host = \"client\"", "host = \"client\"\nready = { port = 1 }", "a client is not waited for"),
            ("files.\"nginx.conf\"", "files.\"../x\"", "file `../x` is not a path below"),
            ("files.\"nginx.conf\"", "files.\"/x\"", "file `/x` is not a path below"),
            ("[\"curl\", ", "[\"\", ", "names no program"),
            ("{host.server}", "{host.nobody}", "no host 'nobody'"),
            ("stop = \"QUIT\"", "timeout_s = 0", "a timeout of 0 s"),
        ] {
            let found = problems(&read(&SOUND.replace(from, to)), &topology);
            assert!(found.iter().any(|found| found.contains(problem)), "{problem}: {found:?}");
        }
        let servers: Vec<AppSpec> = read(SOUND).into_iter().take(1).collect();
        assert!(problem_alone(&servers).unwrap().contains("nobody talks to them"));
        assert_eq!((problem_alone(&read(SOUND)), problem_beside(&servers)), (None, None));
        assert!(problem_beside(&read(SOUND)).unwrap().contains("'curl': beside a capture"));
    }
}

//! What a scenario may require, as it is written in its file.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::feature::{FEATURES, Feature};
use super::{VersionRange, tools};

/// A way of running scenarios, for what it requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Packet by packet through `BPF_PROG_TEST_RUN`.
    Lockstep,
    /// Across veth links.
    Wire,
    /// Across veth links, against the kernel's own sockets.
    Live,
}

/// Something that a scenario needs.
///
/// In a scenario it is a string: a feature (`"netem"`), a range of kernels (`"kernel >=5.18, <7"`), a tracepoint
/// (`"tracepoint:skb/kfree_skb"`), a program (`"tool:nginx"`), or all that a mode needs (`"mode:wire"`). Kernels,
/// tracepoints, programs and modes may also be a table: `{ kernel = ">=5.18" }`, `{ tool = "x", package = "y" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A feature of the table.
    Feature(&'static Feature),
    /// A range of kernel releases.
    Kernel(VersionRange),
    /// A tracepoint to which BTF-typed programs can be attached.
    Tracepoint {
        /// Its group, which BTF does not know: for the reader.
        group: String,
        /// Its name.
        name: String,
    },
    /// A program.
    Tool {
        /// Its name.
        name: String,
        /// The Debian package that has it.
        package: String,
    },
    /// All that a mode needs.
    Mode(RunMode),
}

/// Keys and prefixes that take a value.
const KEYS: [&str; 4] = ["kernel", "tracepoint", "tool", "mode"];

impl Requirement {
    /// The program that it takes, if any.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        match self {
            Self::Tool { name, .. } => Some(name),
            Self::Feature(feature) => feature.tool,
            _ => None,
        }
    }

    /// An installed program, by name or path.
    #[must_use]
    pub fn of_tool(program: &str) -> Self {
        let name = program.rsplit('/').next().unwrap_or(program);
        Self::Tool { name: program.to_owned(), package: tools::package(name).to_owned() }
    }

    /// Features by their names in the table.
    #[must_use]
    pub fn of_features<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        names.into_iter().filter_map(Feature::named).map(Self::Feature).collect()
    }

    /// All that a mode of running scenarios needs, one by one.
    #[must_use]
    pub fn of_mode(mode: impl Into<RunMode>) -> Vec<Self> {
        let (features, tracepoints): (&[&str], &[(&str, &str)]) = match mode.into() {
            RunMode::Lockstep => (&["root", "bpf", "xdp-test-run", "ring-buffer"], &[]),
            RunMode::Wire | RunMode::Live => (
                &["root", "bpf", "ring-buffer", "btf", "xdp-native-veth", "tc-clsact"],
                &[("skb", "kfree_skb"), ("skb", "consume_skb"), ("sock", "inet_sock_set_state")],
            ),
        };
        let features = features.iter().filter_map(|name| Feature::named(name)).map(Self::Feature);
        let tracepoints = tracepoints
            .iter()
            .map(|(group, name)| Self::Tracepoint { group: (*group).to_owned(), name: (*name).to_owned() });
        features.chain(tracepoints).collect()
    }

    fn with_value(key: &str, value: &str, package: Option<String>) -> Result<Self, String> {
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte))
        };
        if package.is_some() && key != "tool" {
            return Err(format!("`package` goes with `tool`, not with `{key}`"));
        }
        match key {
            "kernel" => value.parse().map(Self::Kernel),
            "tracepoint" => match value.split_once('/') {
                Some((group, name)) if is_name(group) && is_name(name) => {
                    Ok(Self::Tracepoint { group: group.to_owned(), name: name.to_owned() })
                }
                _ => Err(format!("`{value}` is not a tracepoint such as skb/kfree_skb")),
            },
            "tool" if is_name(value) => {
                let package = package.unwrap_or_else(|| tools::package(value).to_owned());
                Ok(Self::Tool { name: value.to_owned(), package })
            }
            "tool" => Err(format!("`{value}` is not the name of a program")),
            _ => match value {
                "lockstep" => Ok(Self::Mode(RunMode::Lockstep)),
                "wire" => Ok(Self::Mode(RunMode::Wire)),
                "live" => Ok(Self::Mode(RunMode::Live)),
                _ => Err(format!("unknown mode `{value}`, expected `lockstep`, `wire` or `live`")),
            },
        }
    }
}

/// The message of serde's own unknown variants, from which the nearest valid name is found.
fn unknown(text: &str) -> String {
    let names: Vec<String> = FEATURES
        .iter()
        .map(|feature| format!("`{}`", feature.name))
        .chain(["`kernel >=5.18`", "`tracepoint:skb/kfree_skb`", "`tool:nginx`", "`mode:wire`"].map(str::to_owned))
        .collect();
    format!("unknown requirement `{text}`, expected one of {}", names.join(", "))
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(feature) = Feature::named(text) {
            return Ok(Self::Feature(feature));
        }
        if let Some(range) = text.strip_prefix("kernel").filter(|range| range.trim_start().starts_with(['<', '>', '=']))
        {
            return Self::with_value("kernel", range, None);
        }
        match text.split_once(':') {
            Some((key, value)) if KEYS.contains(&key) => Self::with_value(key, value.trim(), None),
            _ => Err(unknown(text)),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(feature) => out.write_str(feature.name),
            Self::Kernel(range) => write!(out, "kernel {range}"),
            Self::Tracepoint { group, name } => write!(out, "tracepoint:{group}/{name}"),
            Self::Tool { name, .. } => write!(out, "tool:{name}"),
            Self::Mode(RunMode::Lockstep) => out.write_str("mode:lockstep"),
            Self::Mode(RunMode::Wire) => out.write_str("mode:wire"),
            Self::Mode(RunMode::Live) => out.write_str("mode:live"),
        }
    }
}

impl Serialize for Requirement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Requirement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// Reads either form.
struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Requirement;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a requirement such as \"netem\", \"kernel >=5.18\" or { tool = \"nginx\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Requirement, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Requirement, A::Error> {
        let (mut key_value, mut package) = (None, None);
        while let Some(key) = table.next_key::<String>()? {
            if key == "package" {
                package = Some(table.next_value::<String>()?);
            } else if let Some(known) = KEYS.into_iter().find(|known| *known == key) {
                if let Some((other, _)) = key_value.replace((known, table.next_value::<String>()?)) {
                    return Err(de::Error::custom(format!("`{other}` and `{known}` are two requirements, write two")));
                }
            } else {
                return Err(de::Error::unknown_field(&key, &["kernel", "tracepoint", "tool", "mode", "package"]));
            }
        }
        let (key, value) = key_value
            .ok_or_else(|| de::Error::custom("a requirement without `kernel`, `tracepoint`, `tool` or `mode`"))?;
        Requirement::with_value(key, &value, package).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[derive(Debug, Deserialize)]
    struct File {
        requires: Vec<Requirement>,
    }

    fn read(requires: &str) -> Result<Vec<Requirement>, String> {
        let file: Result<File, _> = toml::from_str(&format!("requires = [{requires}]"));
        file.map(|file| file.requires).map_err(|error| error.message().to_owned())
    }

    #[rstest]
    #[case(r#""netem""#, "netem")]
    #[case(r#""kernel>=5.18""#, "kernel >=5.18")]
    #[case(r#""kernel >= 5.18, <7""#, "kernel >=5.18, <7")]
    #[case(r#"{ kernel = ">=5.18" }"#, "kernel >=5.18")]
    #[case(r#""tracepoint:skb/kfree_skb""#, "tracepoint:skb/kfree_skb")]
    #[case(r#""tool:nginx""#, "tool:nginx")]
    #[case(r#"{ tool = "nginx", package = "nginx-light" }"#, "tool:nginx")]
    #[case(r#""mode:wire""#, "mode:wire")]
    fn a_requirement_is_read_and_written(#[case] written: &str, #[case] canonical: &str) {
        let read = read(written).unwrap();
        assert_eq!(read[0].to_string(), canonical);
        assert_eq!(canonical.parse::<Requirement>().map(|again| again.to_string()), Ok(canonical.to_owned()));
        assert_eq!(serde_json::to_string(&read[0]).unwrap(), format!("{canonical:?}"));
    }

    #[rstest]
    #[case(r#""netm""#, "unknown requirement `netm`, expected one of `root`, `bpf`")]
    #[case(r#""kernel""#, "unknown requirement `kernel`")]
    #[case(r#""kernel 5.18""#, "unknown requirement `kernel 5.18`")]
    #[case(r#""kernel >=five""#, "`five` is not a kernel version")]
    #[case(r#""tracepoint:kfree_skb""#, "not a tracepoint such as")]
    #[case(r#""tool:../x""#, "not the name of a program")]
    #[case(r#""mode:alive""#, "unknown mode `alive`")]
    #[case(r#"{ kernl = ">=5.18" }"#, "unknown field `kernl`")]
    #[case(r#"{ kernel = ">=5.18", tool = "x" }"#, "two requirements")]
    #[case(r#"{ kernel = ">=5.18", package = "x" }"#, "`package` goes with `tool`")]
    #[case("{ }", "a requirement without")]
    #[case("7", "expected a requirement such as")]
    fn what_is_wrong_is_named(#[case] written: &str, #[case] message: &str) {
        let said = read(written).unwrap_err();
        assert!(said.contains(message), "{said}");
    }

    #[test]
    fn packages_are_known_or_given() {
        let package = |written: &str| match &read(written).unwrap()[0] {
            Requirement::Tool { package, .. } => package.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(package(r#""tool:dig""#), "bind9-dnsutils");
        assert_eq!(package(r#"{ tool = "dig", package = "knot-dnsutils" }"#), "knot-dnsutils");
    }

    #[test]
    fn every_mode_is_made_of_known_features() {
        let names = |mode: RunMode| Requirement::of_mode(mode).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(RunMode::Lockstep), ["root", "bpf", "xdp-test-run", "ring-buffer"]);
        let wire = names(RunMode::Wire);
        assert_eq!(wire.len(), 9);
        assert_eq!(wire[8], "tracepoint:sock/inet_sock_set_state");
    }
}

//! The kernel's own counters of a network namespace, as nstat(8) shows them.

use std::collections::BTreeMap;

use crate::topology::Host;

/// Files of two lines per group, names and values.
const FILES: [&str; 2] = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"];
/// A name and a value per line.
const FILE_V6: &str = "/proc/thread-self/net/snmp6";

/// What the counters say now. What cannot be read is left out.
pub(super) fn read(host: &Host) -> BTreeMap<String, u64> {
    host.run(|| {
        let mut counters = BTreeMap::new();
        for file in FILES {
            parse(&std::fs::read_to_string(file).unwrap_or_default(), &mut counters);
        }
        let text = std::fs::read_to_string(FILE_V6).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        counters.extend(lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))));
        counters
    })
}

fn parse(text: &str, counters: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { continue };
        let Some((_, values)) = values.split_once(':') else { continue };
        for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
            // Some are settings, and one of those is negative.
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}{name}"), value);
            }
        }
    }
}

/// By how much each counter rose.
pub(super) fn risen(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rise = |(name, value): (&String, &u64)| {
        let rise = value.saturating_sub(before.get(name).copied().unwrap_or_default());
        (rise > 0).then(|| (name.clone(), rise))
    };
    after.iter().filter_map(rise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_lines_are_names_and_values() {
        let mut counters = BTreeMap::new();
        parse("Tcp: MaxConn InSegs\nTcp: -1 7\nUdp: InErrors\nUdp: 2\nodd\n", &mut counters);
        assert_eq!(counters, [("TcpInSegs".to_owned(), 7), ("UdpInErrors".to_owned(), 2)].into());
        let after = [("TcpInSegs".to_owned(), 9), ("UdpInErrors".to_owned(), 2), ("New".to_owned(), 1)].into();
        assert_eq!(risen(&counters, &after), [("New".to_owned(), 1), ("TcpInSegs".to_owned(), 2)].into());
    }
}

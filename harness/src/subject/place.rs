//! Places of the topology in entries of maps, for programs that look at one interface or one network namespace alone:
//! `@HOST` is the inode number of a host's network namespace, `@HOST.INTERFACE` the index of an interface.
//!
//! Both differ from run to run and are known only once the network stands, so the entries are written then.

use serde_json::{Map, Value};

use crate::suite::WatchedHost;

/// Whether a key or value names a place.
pub(super) fn is_in(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with('@'),
        Value::Array(list) => list.iter().any(is_in),
        Value::Object(members) => members.values().any(is_in),
        _ => false,
    }
}

/// The same with the number of each place, or which place there is not.
pub(super) fn resolve(value: &Value, hosts: &[WatchedHost]) -> Result<Value, String> {
    match value {
        Value::String(text) => match text.strip_prefix('@') {
            Some(place) => number(place, hosts).map(Value::from),
            None => Ok(value.clone()),
        },
        Value::Array(list) => list.iter().map(|part| resolve(part, hosts)).collect::<Result<_, _>>().map(Value::Array),
        Value::Object(members) => {
            let members = members.iter().map(|(name, part)| Ok((name.clone(), resolve(part, hosts)?)));
            members.collect::<Result<Map<_, _>, String>>().map(Value::Object)
        }
        other => Ok(other.clone()),
    }
}

/// The number of `HOST` or `HOST.INTERFACE`.
pub(super) fn number(place: &str, hosts: &[WatchedHost]) -> Result<u32, String> {
    let (host, interface) = place.split_once('.').map_or((place, None), |(host, rest)| (host, Some(rest)));
    let found = hosts.iter().find(|known| known.name == host).and_then(|host| match interface {
        None => Some(host.netns),
        Some(interface) => host.interfaces.iter().find(|(name, _)| name == interface).map(|(_, index)| *index),
    });
    found.ok_or_else(|| {
        let of = |host: &WatchedHost| {
            let interfaces = host.interfaces.iter().map(|(name, _)| format!("{}.{name}", host.name));
            std::iter::once(host.name.clone()).chain(interfaces).collect::<Vec<_>>().join(", ")
        };
        let known: Vec<String> = hosts.iter().map(of).collect();
        format!("there is no {place} under test in the topology; it has {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_become_numbers_wherever_they_stand() {
        let host = WatchedHost {
            name: "dut".to_owned(),
            netns: 4_026_532_000,
            silent: 0,
            interfaces: vec![("eth0".to_owned(), 2), ("eth1".to_owned(), 3)],
        };
        let hosts = [host];
        let entry = json!({ "to": ["@dut.eth1", 7], "netns": "@dut", "name": "dut" });
        assert!(is_in(&entry) && !is_in(&json!({ "name": "dut.eth0" })));
        let expected = json!({ "to": [3, 7], "netns": 4_026_532_000_u32, "name": "dut" });
        assert_eq!(resolve(&entry, &hosts).unwrap(), expected);
        let said = "there is no dut.eth2 under test in the topology; it has dut, dut.eth0, dut.eth1";
        assert_eq!(resolve(&json!("@dut.eth2"), &hosts).unwrap_err(), said);
    }
}

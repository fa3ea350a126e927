//! Reader of the `flows` object: conversations, what each hook saw, and malformed packets.

use aya::Pod;
use aya::maps::{HashMap, MapError, PerCpuArray};
use bpflab_programs::flows::{Flow, HOOK_TC_EGRESS, HOOK_TC_INGRESS, HOOK_XDP, HookCount, MAX_FLOWS};
use bpflab_programs::packet::{BAD_NAMES, FlowKey};

use super::{Analyzer, Hook, format};
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::{self, Observation, PerDirection};
use crate::sys::bytes_of;

const OBJECT: &str = "flows";

/// Each program with its hook, its index in `HOOKS` and the hook's name in an observation, in the order they run.
const HOOKS: [(&str, Hook, u32, &str); 3] = [
    ("flows_xdp", Hook::Xdp, HOOK_XDP, "xdp"),
    ("flows_ingress", Hook::TcIngress, HOOK_TC_INGRESS, "tc_ingress"),
    ("flows_egress", Hook::TcEgress, HOOK_TC_EGRESS, "tc_egress"),
];
const PROGRAMS: &[(&str, Hook)] = &[(HOOKS[0].0, HOOKS[0].1), (HOOKS[1].0, HOOKS[1].1), (HOOKS[2].0, HOOKS[2].1)];
const PROGRAMS_WITHOUT_XDP: &[(&str, Hook)] = &[(HOOKS[1].0, HOOKS[1].1), (HOOKS[2].0, HOOKS[2].1)];

/// How the object behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowsSettings {
    /// Malformed packets are dropped by the hook that accounts, not just counted.
    pub drop_malformed: bool,
    /// tc ingress accounts and no XDP program runs.
    pub account_at_tc: bool,
}

/// The loaded object.
#[derive(Debug)]
pub struct Flows {
    object: Object,
    settings: FlowsSettings,
}

impl Flows {
    /// Creates the maps; the programs are loaded one by one by whoever attaches them.
    ///
    /// # Errors
    /// [`ObjectError::Object`].
    pub fn load(clock: Clock, settings: &FlowsSettings) -> Result<Self, ObjectError> {
        Self::load_sized(clock, settings, MAX_FLOWS)
    }

    /// As [`Flows::load`], with room for `max_flows` flows.
    fn load_sized(clock: Clock, settings: &FlowsSettings, max_flows: usize) -> Result<Self, ObjectError> {
        let (drop, at_tc) = (u32::from(settings.drop_malformed), u32::from(settings.account_at_tc));
        let options = LoadOptions {
            clock,
            globals: vec![("DROP_MALFORMED", bytes_of(&drop), true), ("ACCOUNT_AT_TC", bytes_of(&at_tc), true)],
            max_entries: vec![("FLOWS", u32::try_from(max_flows).unwrap_or(u32::MAX))],
        };
        Ok(Self { object: Object::load(OBJECT, suite::FLOWS, &options)?, settings: *settings })
    }

    fn flows(&self, start_ns: u64) -> Result<Vec<observation::Flow>, ObjectError> {
        let map: HashMap<_, FlowKey, Flow> = self.object.typed_map("FLOWS")?;
        let entries: Result<Vec<_>, MapError> = map.iter().collect();
        let mut entries = entries.map_err(|source| self.object.map_error("FLOWS", source))?;
        // By first packet. The hash's own order differs from run to run.
        entries.sort_unstable_by_key(|(key, flow)| (flow.first_ns, *key));
        Ok(entries.iter().map(|(key, flow)| render(key, flow, start_ns)).collect())
    }

    /// What the hooks saw whose programs are loaded.
    fn hooks(&self) -> Result<Vec<observation::Hook>, ObjectError> {
        let mut hooks = Vec::new();
        for (program, _, index, name) in HOOKS {
            if self.object.program_fd(program).is_ok() {
                let seen: Vec<HookCount> = self.per_cpu("HOOKS", index)?;
                hooks.push(observation::Hook {
                    hook: name.to_owned(),
                    packets: seen.iter().map(|count| count.packets).sum(),
                    bytes: seen.iter().map(|count| count.bytes).sum(),
                });
            }
        }
        Ok(hooks)
    }

    /// One element of a per-CPU array on every possible CPU.
    fn per_cpu<T: Pod>(&self, name: &str, index: u32) -> Result<Vec<T>, ObjectError> {
        let map: PerCpuArray<_, T> = self.object.typed_map(name)?;
        let values = map.get(&index, 0).map_err(|source| self.object.map_error(name, source))?;
        Ok(values.iter().copied().collect())
    }

    fn counter(&self, name: &str, index: u32) -> Result<u64, ObjectError> {
        Ok(self.per_cpu::<u64>(name, index)?.iter().sum())
    }
}

impl Analyzer for Flows {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    fn programs(&self) -> &'static [(&'static str, Hook)] {
        if self.settings.account_at_tc { PROGRAMS_WITHOUT_XDP } else { PROGRAMS }
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        self.object.clear_maps()
    }

    fn finish(&mut self, start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        observation.flows = self.flows(start_ns)?;
        observation.hooks = self.hooks()?;
        for (bit, name) in (0..).zip(BAD_NAMES) {
            let count = self.counter("MALFORMED", bit)?;
            if count > 0 {
                observation.malformed.insert(name.to_owned(), count);
            }
        }
        let lost = self.counter("LOST", 0)?;
        if lost > 0 {
            observation.losses.insert(format!("{OBJECT}.FLOWS"), lost);
        }
        Ok(())
    }
}

/// A flow from the point of view of the endpoint that sent first.
fn render(key: &FlowKey, flow: &Flow, start_ns: u64) -> observation::Flow {
    // Fragments whose first one was not seen have no ports: their flow is one of addresses.
    let ports = format::has_ports(key.family, key.proto) && (key.a_port, key.b_port) != (0, 0);
    let name = |address, port| format::endpoint(key.family, address, ports.then_some(port));
    let (lower, higher) = (name(&key.a, key.a_port), name(&key.b, key.b_port));
    let (a, b, first) = if flow.first_direction == 0 { (lower, higher, 0) } else { (higher, lower, 1) };
    let directions = |counts: [u64; 2]| PerDirection { a_to_b: counts[first], b_to_a: counts[1 - first] };
    observation::Flow {
        proto: format::proto_name(key.family, key.proto, key.ethertype),
        a,
        b,
        vlans: format::vlans(key.vlan, key.inner_vlan),
        packets: directions(flow.packets),
        bytes: directions(flow.bytes),
        fragments: flow.fragments.into(),
        encapsulation: format::encapsulation(flow.encap).map(str::to_owned),
        start_us: microseconds(start_ns, flow.first_ns),
        duration_us: microseconds(flow.first_ns, flow.last_ns),
    }
}

/// From one time to another. Negative where a capture's times go backwards.
#[allow(clippy::cast_precision_loss, reason = "exact below 2^53 ns, 104 days")]
fn microseconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.wrapping_sub(from_ns).cast_signed() as f64 / 1000.0
}

#[cfg(test)]
mod tests;

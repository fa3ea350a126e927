//! Reader of the `tcp_state` object: connections as an observer on the path sees them, and the state changes of the
//! kernel's own sockets.
//!
//! The programs decide (see [`bpflab_programs::tcp_state`] for the rules); this side only collects, names and orders.

mod connections;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use bpflab_programs::packet::FlowKey;
use bpflab_programs::tcp_state::{
    Connection, Entry, KIND_CONNECTION, KIND_TRANSITION, LOST_CONNECTIONS, LOST_EVENTS, LOST_HOLES, MAX_CONNECTIONS,
    MAX_HOSTS, Totals, Transition,
};
use serde::{Deserialize, Serialize};

pub(super) use sockets::{socket_name, state_name};

use super::{Analyzer, Hook, WatchedHost};
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::Observation;
use crate::sys::{bytes_of, read_pod};

const NAME: &str = "tcp_state";
const INGRESS: (&str, Hook) = ("tcp_state_ingress", Hook::TcIngress);
const SOCK_STATE: (&str, Hook) = ("sock_state", Hook::Tracepoint("inet_sock_set_state"));

/// What can be set in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpStateSettings {
    /// Connections that are kept; the segments of further ones are counted as losses.
    pub max_connections: u32,
}

impl Default for TcpStateSettings {
    fn default() -> Self {
        Self { max_connections: u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX) }
    }
}

/// The object and what was taken from its ring so far.
pub struct TcpState {
    object: Object,
    events: RingBuf<MapData>,
    finished: Vec<Connection>,
    transitions: Vec<Transition>,
    hosts: BTreeMap<u32, String>,
}

impl TcpState {
    /// Loads the object; its programs are loaded and attached by the runner.
    ///
    /// With the virtual clock no packet meets a socket, so the kernel's types are not looked up.
    ///
    /// # Errors
    /// [`ObjectError::Object`]; [`ObjectError::Map`] where the running kernel does not describe its sockets in BTF.
    pub fn load(clock: Clock, settings: &TcpStateSettings) -> Result<Self, ObjectError> {
        let offsets = match clock {
            Clock::Virtual => Ok(Default::default()),
            Clock::Kernel | Clock::Capture => sockets::offsets(),
        };
        let offsets = offsets.map_err(|source| ObjectError::Map {
            object: NAME.to_owned(),
            map: "SOCK".to_owned(),
            source: Box::new(source),
        })?;
        let options = LoadOptions {
            clock,
            globals: vec![("SOCK", bytes_of(&offsets), true)],
            max_entries: vec![("CONNECTIONS", settings.max_connections.max(1))],
        };
        let mut object = Object::load(NAME, suite::TCP_STATE, &options)?;
        let events = object.ebpf.take_map("EVENTS").ok_or_else(|| object.missing("map EVENTS".to_owned()))?;
        let events = RingBuf::try_from(events).map_err(|source| object.map_error("EVENTS", source))?;
        Ok(Self { object, events, finished: Vec::new(), transitions: Vec::new(), hosts: BTreeMap::new() })
    }

    /// Every connection seen, finished or not.
    fn connections(&self) -> Result<Vec<Connection>, ObjectError> {
        let mut connections = self.finished.clone();
        let map: HashMap<_, FlowKey, Entry> = self.object.typed_map("CONNECTIONS")?;
        for entry in map.iter() {
            let (_, entry) = entry.map_err(|source| self.object.map_error("CONNECTIONS", source))?;
            // An entry without kind was made, but its first segment has not been taken into account.
            if entry.connection.kind == KIND_CONNECTION {
                connections.push(entry.connection);
            }
        }
        connections.sort_by_key(|connection| (connection.progress.first_ns, connection.key));
        Ok(connections)
    }

    fn totals(&self) -> Result<Totals, ObjectError> {
        let map: PerCpuArray<_, Totals> = self.object.typed_map("TOTALS")?;
        let values = map.get(&0, 0).map_err(|source| self.object.map_error("TOTALS", source))?;
        Ok(values.iter().fold(Totals::default(), |sum, cpu| Totals {
            syn: sum.syn + cpu.syn,
            syn_ack: sum.syn_ack + cpu.syn_ack,
            rst: sum.rst + cpu.rst,
            fin: sum.fin + cpu.fin,
        }))
    }

    fn losses(&self, observation: &mut Observation) -> Result<(), ObjectError> {
        let map: PerCpuArray<_, u64> = self.object.typed_map("LOST")?;
        for (index, name) in [(LOST_CONNECTIONS, "CONNECTIONS"), (LOST_EVENTS, "EVENTS"), (LOST_HOLES, "holes")] {
            let values = map.get(&index, 0).map_err(|source| self.object.map_error("LOST", source))?;
            let lost: u64 = values.iter().sum();
            if lost != 0 {
                *observation.losses.entry(format!("{NAME}.{name}")).or_default() += lost;
            }
        }
        Ok(())
    }
}

impl Analyzer for TcpState {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    fn programs(&self) -> &'static [(&'static str, Hook)] {
        &[INGRESS, SOCK_STATE]
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        let Self { object, hosts: watched, .. } = self;
        let missing = object.missing("map NETNS".to_owned());
        let map = object.ebpf.map_mut("NETNS").ok_or(missing)?;
        let failed = |source: MapError| ObjectError::Map {
            object: NAME.to_owned(),
            map: format!("NETNS (room for {MAX_HOSTS} hosts)"),
            source: Box::new(source),
        };
        let mut map: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(failed)?;
        for host in hosts {
            map.insert(host.netns, 0, 0).map_err(failed)?;
            watched.insert(host.netns, host.name.clone());
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        while self.events.next().is_some() {}
        let Self { object, events: _, finished, transitions, hosts } = self;
        finished.clear();
        transitions.clear();
        hosts.clear();
        object.clear_maps()
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        while let Some(event) = self.events.next() {
            match read_pod::<u32>(&event) {
                Some(KIND_CONNECTION) => self.finished.extend(read_pod::<Connection>(&event)),
                Some(KIND_TRANSITION) => self.transitions.extend(read_pod::<Transition>(&event)),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        self.drain()?;
        let mut tcp = connections::report(&self.totals()?, &self.connections()?);
        tcp.kernel_transitions = sockets::report(&self.transitions, &self.hosts);
        observation.tcp = Some(tcp);
        self.losses(observation)
    }
}

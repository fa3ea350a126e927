//! Reader of the `latency` object: how long packets take from one stage of the kernel's receive path to the next, by
//! kind and by flow, and how full the sockets' receive queues get.
//!
//! The stages are `driver` (the driver hands the packet over, after XDP), `receive` (`__netif_receive_skb_core`), `ip`,
//! `transport` (TCP or UDP), `queued` (on the socket's receive queue, in order) and `read` (by the application, to its
//! last byte). Kernels differ in the functions that they have and in the probes that they allow, so a stage has several
//! candidates; `probes` takes the first that is seen to fire. What a kernel cannot measure is left out and said:
//! times then count from the stage before, which each row names.
//!
//! All packets are in the histograms, which the kernel keeps. Percentiles are exact and made from single times, which
//! come through a ring; what it could not hold is counted among the losses.

mod maps;
mod places;
mod probes;
mod report;
mod smoke;

use std::collections::{BTreeMap, HashMap as Times};
use std::num::NonZeroU32;

use aya::maps::{Array, HashMap, MapData, PerCpuHashMap, RingBuf};
use bpflab_programs::latency::{
    Event, Histogram, LOST_EVENTS, LOST_MERGED, LOST_QUEUED, LOST_SOCKETS, LOST_STEPS, LOST_UNFOLLOWED, Layout,
    MAX_FLOWS, Queue, QueueKey, StepKey,
};
use serde::{Deserialize, Serialize};

use super::{Analyzer, Hook, WatchedHost};
use crate::kernel::btf::{Btf, BtfError};
use crate::object::cost::Targets;
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::{self, Observation, StageProbe};
use crate::sys::{bytes_of, read_pod};

/// The object's name, and the prefix of its losses.
const NAME: &str = "latency";
/// Single times that are kept; 16 MB.
const MAX_SAMPLES: usize = 1 << 21;
/// Loss: single times beyond those that are kept.
const UNKEPT: &str = "latency.samples";

/// A stage of the receive path, in the order of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The driver hands the packet to the stack.
    Driver,
    /// The stack looks for its protocol.
    Receive,
    /// IPv4 or IPv6 has it.
    Ip,
    /// TCP or UDP has it.
    Transport,
    /// It is on the socket's queue.
    Queued,
    /// The application has read it.
    Read,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Driver, Self::Receive, Self::Ip, Self::Transport, Self::Queued, Self::Read];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Receive => "receive",
            Self::Ip => "ip",
            Self::Transport => "transport",
            Self::Queued => "queued",
            Self::Read => "read",
        }
    }
}

/// A kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// BTF-typed programs at tracepoints.
    Tracepoint,
    /// BTF-typed programs at the entry and exit of functions.
    Fentry,
    /// Programs at the entry of functions.
    Kprobe,
}

/// What can be set in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencySettings {
    /// Stages to measure, as far as the kernel lets them be. A scenario that is to see the same on every kernel names
    /// those that every kernel has: `driver` and `receive`.
    pub stages: Vec<Stage>,
    /// Kinds of probes that may be used, as far as the kernel has them.
    pub kinds: Vec<ProbeKind>,
    /// Steps of flows that are told apart; what is beyond is in the sums over all flows alone, and counted as lost.
    pub max_flow_steps: NonZeroU32,
}

impl Default for LatencySettings {
    fn default() -> Self {
        let max = u32::try_from(MAX_FLOWS).ok().and_then(NonZeroU32::new);
        let kinds = vec![ProbeKind::Tracepoint, ProbeKind::Fentry, ProbeKind::Kprobe];
        Self { stages: Stage::ALL.to_vec(), kinds, max_flow_steps: max.unwrap_or(NonZeroU32::MAX) }
    }
}

/// The loaded object, its programs attached.
pub struct Latency {
    object: Object,
    events: RingBuf<MapData>,
    probes: Vec<StageProbe>,
    hosts: BTreeMap<u32, String>,
    times: Times<StepKey, Vec<u64>>,
    kept: usize,
    unkept: u64,
}

impl Latency {
    /// Loads the object, fitted to the running kernel, and attaches what proves to fire when packets are sent through a
    /// throw-away pair of namespaces. That takes some tens of ms, and a few times as long in an emulated machine.
    ///
    /// The times are the kernel's, whatever the clock of the run.
    ///
    /// # Errors
    /// [`ObjectError::Types`] without BTF, [`ObjectError::Object`], [`ObjectError::Map`]. A probe that the kernel
    /// refuses is no error: [`Latency::probes`] says so.
    pub fn load(settings: &LatencySettings) -> Result<Self, ObjectError> {
        let mut object = Self::bare(settings)?;
        let events = object.ebpf.take_map("EVENTS").ok_or_else(|| object.missing("map EVENTS".to_owned()))?;
        let mut events = RingBuf::try_from(events).map_err(|source| object.map_error("EVENTS", source))?;
        let probes = probes::attach(&mut object, settings)?;
        // What proved the probes is no part of the answer.
        while events.next().is_some() {}
        Ok(Self { object, events, probes, hosts: BTreeMap::new(), times: Times::new(), kept: 0, unkept: 0 })
    }

    /// The object, fitted to the running kernel, without any of its programs.
    pub(super) fn bare(settings: &LatencySettings) -> Result<Object, ObjectError> {
        let types = |source| ObjectError::Types { object: NAME.to_owned(), source: Box::new(source) };
        let layout = Btf::kernel().and_then(layout).map_err(types)?;
        let stages: u32 = settings.stages.iter().fold(0, |mask, stage| mask | 1 << *stage as u32);
        let options = LoadOptions {
            clock: Clock::Kernel,
            globals: vec![("LAYOUT", bytes_of(&layout), true), ("STAGE_MASK", bytes_of(&stages), true)],
            max_entries: vec![("FLOWS", settings.max_flow_steps.get())],
        };
        Object::load(NAME, suite::LATENCY, &options)
    }

    /// Programs with the tracepoints and functions that they are for, the best first.
    pub(super) fn targets() -> Targets {
        let ways = places::PLACES.iter().flat_map(|place| place.ways);
        let ways = ways.filter(|way| way.how != places::How::Inferred).map(|way| (way.program, way.target));
        ways.chain(places::HELPERS).collect()
    }

    /// What measures each stage, and why not, in the order of a packet's way.
    #[must_use]
    pub fn probes(&self) -> &[StageProbe] {
        &self.probes
    }

    /// Whether packets like these are measured at a stage: `("queued", "udp")`.
    #[must_use]
    pub fn measures(&self, stage: &str, packets: &str) -> bool {
        self.probes.iter().any(|probe| probe.stage == stage && probe.packets == packets && probe.by.is_some())
    }

    fn totals(&self) -> Result<BTreeMap<StepKey, Histogram>, ObjectError> {
        let map: PerCpuHashMap<&MapData, StepKey, Histogram> = self.object.typed_map("TOTALS")?;
        let mut totals = BTreeMap::new();
        for entry in map.iter() {
            let (key, cpus) = entry.map_err(|error| self.object.map_error("TOTALS", error))?;
            totals.insert(key, cpus.iter().copied().reduce(report::sum).unwrap_or(report::NOTHING));
        }
        Ok(totals)
    }

    fn flows(&self) -> Result<BTreeMap<StepKey, Histogram>, ObjectError> {
        let map: HashMap<&MapData, StepKey, Histogram> = self.object.typed_map("FLOWS")?;
        map.iter().collect::<Result<_, _>>().map_err(|error| self.object.map_error("FLOWS", error))
    }

    fn queues(&self) -> Result<BTreeMap<QueueKey, Queue>, ObjectError> {
        let map: HashMap<&MapData, QueueKey, Queue> = self.object.typed_map("QUEUES")?;
        map.iter().collect::<Result<_, _>>().map_err(|error| self.object.map_error("QUEUES", error))
    }

    /// What was not counted, by cause; causes without any are left out.
    fn losses(&self) -> Result<Vec<(&'static str, u64)>, ObjectError> {
        let lost: Array<&MapData, u64> = self.object.typed_map("LOST")?;
        let get = |index| lost.get(&index, 0).map_err(|error| self.object.map_error("LOST", error));
        let losses = [
            ("latency.FLOWS", get(LOST_STEPS)?),
            ("latency.EVENTS", get(LOST_EVENTS)?),
            ("latency.QUEUED", get(LOST_QUEUED)?),
            ("latency.SOCKETS", get(LOST_SOCKETS)?),
            ("latency.unfollowed", get(LOST_UNFOLLOWED)?),
            ("latency.merged", get(LOST_MERGED)?),
            (UNKEPT, self.unkept),
        ];
        Ok(losses.into_iter().filter(|(_, count)| *count > 0).collect())
    }
}

impl Analyzer for Latency {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    /// None: they are attached already, to see which of them fire.
    fn programs(&self) -> &'static [(&'static str, Hook)] {
        &[]
    }

    /// Always an error: its probes stay attached, and which of them measure is found out anew by each load.
    fn reset(&mut self) -> Result<(), ObjectError> {
        Err(self.object.missing("way to be used twice".to_owned()))
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        for host in hosts {
            maps::watch(&mut self.object, host.netns)?;
            self.hosts.insert(host.netns, host.name.clone());
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        while let Some(event) = self.events.next() {
            let Some(event) = read_pod::<Event>(&event) else { continue };
            if self.kept < MAX_SAMPLES {
                self.times.entry(event.step).or_default().push(event.ns);
                self.kept += 1;
            } else {
                self.unkept += 1;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        self.drain()?;
        let seen = report::Seen {
            totals: self.totals()?,
            flows: self.flows()?,
            queues: self.queues()?,
            times: &self.times,
            hosts: &self.hosts,
        };
        observation.latency = Some(observation::Latency {
            probes: self.probes.clone(),
            stages: seen.stages(),
            flows: seen.flows(),
            queues: seen.queues(),
        });
        for (place, count) in self.losses()? {
            *observation.losses.entry(place.to_owned()).or_default() += count;
        }
        Ok(())
    }
}

/// Where the fields that the object reads are in this kernel.
fn layout(btf: &Btf) -> Result<Layout, BtfError> {
    let (skb_vlan_present, vlan_present_mask) = super::drops::vlan_present(btf)?;
    // Without CONFIG_IPV6 the kernel has neither this member nor sockets that would need it.
    let address6 = "sock.__sk_common.skc_v6_rcv_saddr";
    Ok(Layout {
        skb_head: btf.offset("sk_buff.head")?,
        skb_data: btf.offset("sk_buff.data")?,
        skb_tail: btf.offset("sk_buff.tail")?,
        skb_len: btf.offset("sk_buff.len")?,
        skb_dev: btf.offset("sk_buff.dev")?,
        skb_protocol: btf.offset("sk_buff.protocol")?,
        skb_vlan_tci: btf.offset("sk_buff.vlan_tci")?,
        skb_vlan_present,
        vlan_present_mask,
        dev_net: btf.offset("net_device.nd_net.net")?,
        net_inum: btf.offset("net.ns.inum")?,
        sock_net: btf.offset("sock.__sk_common.skc_net.net")?,
        sock_family: btf.offset("sock.__sk_common.skc_family")?,
        sock_num: btf.offset("sock.__sk_common.skc_num")?,
        sock_dport: btf.offset("sock.__sk_common.skc_dport")?,
        sock_saddr: btf.offset("sock.__sk_common.skc_rcv_saddr")?,
        sock_saddr6: if btf.has_field(address6) { btf.offset(address6)? } else { 0 },
        sock_protocol: btf.offset("sock.sk_protocol")?,
        sock_rmem: btf.offset("sock.sk_backlog.rmem_alloc")?,
        sock_rcvbuf: btf.offset("sock.sk_rcvbuf")?,
        sock_newest: btf.offset("sock.sk_receive_queue.prev")?,
        tcp_rcv_nxt: btf.offset("tcp_sock.rcv_nxt")?,
        tcp_copied_seq: btf.offset("tcp_sock.copied_seq")?,
        skb_mac_header: btf.offset("sk_buff.mac_header")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        assert_eq!(toml::from_str::<LatencySettings>("").unwrap(), LatencySettings::default());
        let two = toml::from_str::<LatencySettings>("stages = [\"driver\", \"receive\"]").unwrap();
        assert_eq!(two.stages, [Stage::Driver, Stage::Receive]);
        assert!(toml::from_str::<LatencySettings>("stages = [\"nic\"]").is_err());
        assert!(toml::from_str::<LatencySettings>("max_flow_steps = 0").is_err());
    }

    #[test]
    fn the_layout_fits_the_objects_limits() {
        let layout = layout(Btf::kernel().unwrap()).unwrap();
        // The object masks these with 0xfff.
        for offset in [layout.skb_vlan_present, layout.sock_rcvbuf, layout.tcp_rcv_nxt, layout.tcp_copied_seq] {
            assert!(offset < 4096, "{layout:?}");
        }
    }
}

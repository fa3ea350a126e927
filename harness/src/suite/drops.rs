//! Reader of the `drops` object: packets that the kernel gave up on, with its reason, the function that did it, the
//! host and the flow; and the ICMP errors that the device under test sent for them.
//!
//! On a kernel without reasons (before 5.17) the function tells what happened. Drops of the packet filter, of queueing
//! disciplines and of full sockets are told apart on every kernel.
//!
//! Counted are the packets that pass the tracepoint `skb:kfree_skb` in the namespaces of the run, apart from those
//! whose reason says that they were not dropped (`SKB_CONSUMED`, `SKB_NOT_DROPPED_YET`) and from buffers that are no
//! packets of a network (UNIX and netlink sockets). A packet that is dropped twice, as a clone, counts twice: that is
//! what the kernel did. Packets that a native XDP program drops have no buffer yet and do not pass here.

mod answers;
mod class;
mod layout;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use aya::maps::{Array, HashMap, MapData};
use aya::programs::ProgramError;
use bpflab_programs::drops::{AnswerKey, DropCount, DropKey, LOST_ANSWERS, LOST_FULL, LOST_UNATTRIBUTED, MAX_DROPS};
use bpflab_programs::packet::{FAMILY_OTHER, NO_VLAN};
use serde::{Deserialize, Serialize};

use super::{Analyzer, Hook, WatchedHost, format};
use crate::kernel::btf::Btf;
use crate::kernel::reasons::DropReasons;
use crate::kernel::symbols;
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::{Drop, DropClass, Observation};
use crate::sys::bytes_of;

pub(crate) use class::is_queue;
pub(super) use layout::vlan_present;

/// The object's name, and the prefix of its losses.
const NAME: &str = "drops";
/// The tracepoint and the program at it.
const KFREE_SKB: &str = "kfree_skb";

const ANSWERS: (&str, Hook) = ("answers", Hook::TcEgress);
/// What is attached where the kernel gives reasons.
const WITH_REASONS: &[(&str, Hook)] = &[(KFREE_SKB, Hook::Tracepoint(KFREE_SKB)), ANSWERS];
/// Where it gives none, two tracepoints tell of sockets without room.
const WITHOUT_REASONS: &[(&str, Hook)] = &[
    (KFREE_SKB, Hook::Tracepoint(KFREE_SKB)),
    ("queue_full", Hook::Tracepoint("sock_rcvqueue_full")),
    ("udp_no_room", Hook::Tracepoint("udp_fail_queue_rcv_skb")),
    ANSWERS,
];

/// Loss: calls of the tracepoint that the kernel skipped, because the program would have interrupted itself. Whose
/// packets those were, it does not say.
pub const SKIPPED: &str = "drops.kfree_skb";
/// Loss: dropped IP packets of no known namespace, which may be anybody's.
pub const UNATTRIBUTED: &str = "drops.unattributed";
/// A place whose function is not known: symbols are hidden, or the code is gone.
const NO_PLACE: &str = "unknown";
/// Lowest ethertype; numbers below are lengths or the kernel's own marks for frames without one (IEEE 802.3).
const LOWEST_ETHERTYPE: u16 = 0x0600;

/// Settings of `drops` in a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DropsSettings {
    /// Different drops (by reason, place, host and flow) that are told apart; what is beyond is counted as lost.
    pub max_drops: NonZeroU32,
}

impl Default for DropsSettings {
    fn default() -> Self {
        let max = u32::try_from(MAX_DROPS).ok().and_then(NonZeroU32::new);
        Self { max_drops: max.unwrap_or(NonZeroU32::MAX) }
    }
}

/// The loaded object.
#[derive(Debug)]
pub struct Drops {
    object: Object,
    reasons: DropReasons,
    /// Names of the watched hosts by the inode number of their namespace.
    hosts: BTreeMap<u32, String>,
    /// Skipped calls that belong to earlier runs: the kernel counts from the program's loading on.
    missed_before: u64,
}

impl Drops {
    /// Loads the object, fitted to the running kernel.
    ///
    /// `clock` is without effect: a drop happens when the kernel says so, and its time is not reported.
    ///
    /// # Errors
    /// [`ObjectError::Types`] without BTF, [`ObjectError::Object`].
    pub fn load(clock: Clock, settings: &DropsSettings) -> Result<Self, ObjectError> {
        let types = |source| ObjectError::Types { object: NAME.to_owned(), source: Box::new(source) };
        let btf = Btf::kernel().map_err(types)?;
        let layout = layout::layout(btf).map_err(types)?;
        let reasons = DropReasons::new(btf);
        let args = btf.tracepoint_args(KFREE_SKB).unwrap_or_default();
        let (has_reason, has_rx_sk) = (u32::from(args > 2), u32::from(args > 3));
        let no_drops = no_drops(&reasons);
        let options = LoadOptions {
            clock,
            globals: vec![
                ("LAYOUT", bytes_of(&layout), true),
                ("HAS_REASON", bytes_of(&has_reason), true),
                ("HAS_RX_SK", bytes_of(&has_rx_sk), true),
                ("NO_DROPS", bytes_of(&no_drops), true),
            ],
            max_entries: vec![("DROPS", settings.max_drops.get())],
        };
        Ok(Self {
            object: Object::load(NAME, suite::DROPS, &options)?,
            reasons,
            hosts: BTreeMap::new(),
            missed_before: 0,
        })
    }

    /// Everything counted so far, by key.
    ///
    /// # Errors
    /// [`ObjectError::Map`].
    pub fn counts(&self) -> Result<BTreeMap<DropKey, DropCount>, ObjectError> {
        let map: HashMap<&MapData, DropKey, DropCount> = self.object.typed_map("DROPS")?;
        map.iter().collect::<Result<_, _>>().map_err(|error| self.object.map_error("DROPS", error))
    }

    /// ICMP errors that were sent, by what they say.
    fn answers(&self) -> Result<BTreeMap<AnswerKey, u64>, ObjectError> {
        let map: HashMap<&MapData, AnswerKey, u64> = self.object.typed_map("ANSWERS")?;
        map.iter().collect::<Result<_, _>>().map_err(|error| self.object.map_error("ANSWERS", error))
    }

    /// What was not counted, by cause; causes without any are left out.
    fn losses(&self) -> Result<Vec<(&'static str, u64)>, ObjectError> {
        let lost: Array<&MapData, u64> = self.object.typed_map("LOST")?;
        let get = |index| lost.get(&index, 0).map_err(|error| self.object.map_error("LOST", error));
        let losses = [
            ("drops.DROPS", get(LOST_FULL)?),
            ("drops.ANSWERS", get(LOST_ANSWERS)?),
            (UNATTRIBUTED, get(LOST_UNATTRIBUTED)?),
            (SKIPPED, self.missed()?.saturating_sub(self.missed_before)),
        ];
        Ok(losses.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Calls of the program that the kernel left out because it was running already on that CPU (a drop within an
    /// interrupt, in the middle of another's account), since it was loaded. Kernels before 5.12 do not say; then 0.
    fn missed(&self) -> Result<u64, ObjectError> {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let Ok(program) = self.object.program_fd(KFREE_SKB) else { return Ok(0) };
        let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
        let info = std::fs::read_to_string(&path).map_err(|source| {
            self.object.program_error("read counters of", KFREE_SKB, ProgramError::IOError(source))
        })?;
        let count = info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok());
        Ok(count.unwrap_or_default())
    }
}

impl Analyzer for Drops {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    fn programs(&self) -> &'static [(&'static str, Hook)] {
        if self.reasons.known() { WITH_REASONS } else { WITHOUT_REASONS }
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        let Some(map) = self.object.ebpf.map_mut("NETNS") else {
            return Err(self.object.missing("map NETNS".to_owned()));
        };
        let mut written = Ok(());
        match HashMap::<_, u32, u32>::try_from(map) {
            Err(error) => written = Err(error),
            Ok(mut map) => {
                for host in hosts {
                    written = written.and_then(|()| map.insert(host.netns, host.silent, 0));
                    self.hosts.insert(host.netns, host.name.clone());
                }
            }
        }
        written.map_err(|error| self.object.map_error("NETNS", error))
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        self.missed_before = self.missed()?;
        self.hosts.clear();
        self.object.clear_maps()
    }

    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        let counts = self.counts()?;
        // Hidden symbols cost the places, not the drops.
        let places = symbols::functions(counts.keys().map(|key| key.location)).unwrap_or_default();
        // Two addresses of one function are one place.
        let mut drops: BTreeMap<([String; 4], DropClass), u64> = BTreeMap::new();
        // A drop whose cause was told after it was counted has left a count of 0 behind.
        for (key, count) in counts.into_iter().filter(|(_, count)| count.packets > 0) {
            let place = places.get(&key.location).map_or(NO_PLACE, String::as_str).to_owned();
            let host = self.hosts.get(&key.netns).cloned().unwrap_or_default();
            let reason = self.reasons.name(key.reason);
            let class = class::of(&reason, &place, key.cause);
            *drops.entry(([reason, place, host, flow(&key)], class)).or_default() += count.packets;
        }
        let mut drops: Vec<Drop> = drops
            .into_iter()
            .map(|(([reason, place, host, flow], class), packets)| Drop {
                by: "kernel".to_owned(),
                reason,
                class,
                place,
                host,
                flow,
                packets,
            })
            .collect();
        // Stable, so that equal counts stay in the order of their texts.
        drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        observation.icmp_errors = answers::report(&self.answers()?, &drops);
        observation.drops.append(&mut drops);
        for (place, count) in self.losses()? {
            *observation.losses.entry(place.to_owned()).or_default() += count;
        }
        Ok(())
    }
}

/// `tcp 10.0.0.1:1 > 10.0.0.2:2`, `icmp 10.0.0.1 > 10.0.0.2`, `eth-0x88cc 02:.. > 01:..`, with ` vlan N` if tagged.
fn flow(key: &DropKey) -> String {
    let ethertype = if key.ethertype < LOWEST_ETHERTYPE { 0 } else { key.ethertype };
    let mut flow = format::proto_name(key.family, key.proto, ethertype);
    let ports = format::has_ports(key.family, key.proto);
    let no_address = key.family == FAMILY_OTHER && key.src == key.dst;
    if !no_address {
        let end = |address, port| format::endpoint(key.family, address, ports.then_some(port));
        flow = format!("{flow} {} > {}", end(&key.src, key.src_port), end(&key.dst, key.dst_port));
    }
    if key.vlan != NO_VLAN {
        flow = format!("{flow} vlan {}", key.vlan);
    }
    flow
}

/// Numbers of the reasons that mean no drop. A kernel may know neither, or `SKB_NOT_DROPPED_YET` alone.
fn no_drops(reasons: &DropReasons) -> [u32; 2] {
    match reasons.no_drops() {
        [first, second, ..] => [*first, *second],
        [only] => [*only, *only],
        // No packet has this reason: subsystem 65535 does not exist.
        [] => [u32::MAX; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpflab_programs::packet::{FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6};

    fn address(start: &[u8]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..start.len()].copy_from_slice(start);
        bytes
    }

    #[test]
    fn flows_are_written_as_elsewhere() {
        let v4 = DropKey {
            src: address(&[10, 0, 0, 1]),
            dst: address(&[10, 0, 0, 2]),
            family: FAMILY_IPV4,
            ethertype: 0x0800,
            vlan: NO_VLAN,
            ..DropKey::default()
        };
        assert_eq!(flow(&DropKey { proto: 6, src_port: 1, dst_port: 2, ..v4 }), "tcp 10.0.0.1:1 > 10.0.0.2:2");
        assert_eq!(flow(&DropKey { proto: 1, vlan: 7, ..v4 }), "icmp 10.0.0.1 > 10.0.0.2 vlan 7");
        assert_eq!(flow(&DropKey { family: FAMILY_ARP, ..v4 }), "arp 10.0.0.1 > 10.0.0.2");
        let v6 = DropKey { src: address(&[0xfd]), family: FAMILY_IPV6, proto: 17, src_port: 5, ..v4 };
        assert_eq!(flow(&v6), "udp [fd00::]:5 > [a00:2::]:0");
        let lldp = DropKey { src: address(&[2, 0, 0, 0, 0, 1]), dst: address(&[1, 0x80]), ethertype: 0x88cc, ..v4 };
        let lldp = DropKey { family: FAMILY_OTHER, ..lldp };
        assert_eq!(flow(&lldp), "eth-0x88cc 02:00:00:00:00:01 > 01:80:00:00:00:00");
        // The kernel's ETH_P_802_2 for a frame with a length field; and a packet without known addresses.
        assert_eq!(flow(&DropKey { ethertype: 4, ..lldp }), "llc 02:00:00:00:00:01 > 01:80:00:00:00:00");
        assert_eq!(flow(&DropKey { ethertype: 0x88cc, vlan: NO_VLAN, ..DropKey::default() }), "eth-0x88cc");
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(toml::from_str::<DropsSettings>("").unwrap(), DropsSettings::default());
        assert_eq!(toml::from_str::<DropsSettings>("max_drops = 9").unwrap().max_drops.get(), 9);
        assert!(toml::from_str::<DropsSettings>("max_drops = 0").is_err());
        assert!(toml::from_str::<DropsSettings>("max_drop = 9").is_err());
    }
}

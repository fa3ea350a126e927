//! Which probe measures which stage on the running kernel.
//!
//! Attaching proves nothing: a function that the compiler has inlined may attach and stay silent. So each place has a
//! list of candidates, the best first; the first that attaches is tried with real packets, and one that no packet
//! passes gives way to the next.
//!
//! fentry comes before kprobe: it costs less, and a kprobe's program is skipped while another one runs on its CPU.
//! Which functions exist on which kernel was found out on 5.10, 6.1, 6.12, 6.18 and 7.3.

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use bpflab_programs::latency::{
    CONTROL_QUEUED_BY_READY, CONTROL_READ_BY_SOCKET, Histogram, Journey, LOST_KINDS, Queue, QueueKey, QueuedKey,
    Socket, StepKey, point,
};

use super::smoke::Smoke;
use super::{LatencySettings, ProbeKind, Stage, unwatch, watch};
use crate::kernel::probe::{self, Requirement};
use crate::object::{Object, ObjectError};
use crate::observation::StageProbe;

/// A kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Tracepoint,
    Fentry,
    Fexit,
    Kprobe,
    /// No probe of its own: what another place sees tells it.
    Inferred,
}

impl How {
    const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Inferred => "seen by",
        }
    }
}

/// One candidate: a program, and the function or tracepoint that it is attached to.
#[derive(Clone, Copy, Debug)]
struct Way {
    program: &'static str,
    how: How,
    target: &'static str,
    /// Value of `CONTROL` that goes with it.
    control: Option<u32>,
}

const fn way(program: &'static str, how: How, target: &'static str) -> Way {
    Way { program, how, target, control: None }
}

/// A place on packets' way.
struct Place {
    point: u32,
    stage: Stage,
    packets: &'static str,
    /// Stages that cannot be measured without it.
    serves: &'static [Stage],
    /// The best first; or, where `all` is set, what is attached side by side.
    ways: &'static [Way],
    all: bool,
}

/// fentry, then kprobe, at each of some functions.
macro_rules! functions {
    ($fentry:literal, $kprobe:literal: $($function:literal),+) => {
        &[$(way($fentry, How::Fentry, $function), way($kprobe, How::Kprobe, $function)),+]
    };
}

use Stage::{Driver, Ip, Queued, Read, Receive, Transport};

/// In the order of packets' way, so that a place comes after those that it depends on.
static PLACES: [Place; 14] = [
    Place {
        point: point::DRIVER,
        stage: Driver,
        packets: "all",
        // Here a packet is known as a new one.
        serves: &Stage::ALL,
        // Drivers use one or the other.
        ways: &[
            way("napi_gro_receive", How::Tracepoint, "napi_gro_receive_entry"),
            way("napi_gro_frags", How::Tracepoint, "napi_gro_frags_entry"),
            way("netif_receive", How::Tracepoint, "netif_receive_skb_entry"),
            way("netif_receive_list", How::Tracepoint, "netif_receive_skb_list_entry"),
            way("netif_rx", How::Tracepoint, "netif_rx_entry"),
        ],
        all: true,
    },
    Place {
        point: point::RECEIVE,
        stage: Receive,
        packets: "all",
        serves: &[Receive],
        ways: &[way("receive", How::Tracepoint, "netif_receive_skb")],
        all: false,
    },
    Place {
        point: point::IP4,
        stage: Ip,
        packets: "ipv4",
        serves: &[Ip],
        // ip_rcv is not on the way of packets that come in lists, and ip_rcv_finish lives in inlined copies only.
        ways: functions!("ip4_fentry", "ip4_kprobe": "ip_rcv_core", "ip_rcv"),
        all: false,
    },
    Place {
        point: point::IP6,
        stage: Ip,
        packets: "ipv6",
        serves: &[Ip],
        ways: functions!("ip6_fentry", "ip6_kprobe": "ip6_rcv_core", "ipv6_rcv"),
        all: false,
    },
    Place {
        point: point::TCP4,
        stage: Transport,
        packets: "tcp over ipv4",
        serves: &[Transport],
        ways: functions!("tcp4_fentry", "tcp4_kprobe": "tcp_v4_rcv"),
        all: false,
    },
    Place {
        point: point::TCP6,
        stage: Transport,
        packets: "tcp over ipv6",
        serves: &[Transport],
        ways: functions!("tcp6_fentry", "tcp6_kprobe": "tcp_v6_rcv"),
        all: false,
    },
    Place {
        point: point::UDP4,
        stage: Transport,
        packets: "udp over ipv4",
        serves: &[Transport],
        ways: functions!("udp4_fentry", "udp4_kprobe": "udp_rcv", "__udp4_lib_rcv", "udp_queue_rcv_skb"),
        all: false,
    },
    Place {
        point: point::UDP6,
        stage: Transport,
        packets: "udp over ipv6",
        serves: &[Transport],
        ways: functions!("udp6_fentry", "udp6_kprobe": "udpv6_rcv", "__udp6_lib_rcv", "udpv6_queue_rcv_skb"),
        all: false,
    },
    Place {
        point: point::SEGMENT,
        stage: Transport,
        packets: "tcp at established sockets",
        serves: &[Transport, Queued, Read],
        ways: &[way("segment", How::Tracepoint, "tcp_probe")],
        all: false,
    },
    Place {
        point: point::SEGMENT_STATE,
        stage: Transport,
        packets: "tcp at other sockets",
        serves: &[Transport, Queued, Read],
        ways: functions!("segment_fentry", "segment_kprobe": "tcp_rcv_state_process"),
        all: false,
    },
    Place {
        point: point::READY,
        stage: Queued,
        packets: "tcp",
        serves: &[Queued, Read],
        // The tracepoint is there from 6.3 on (40e0b0908142).
        ways: &[
            way("ready", How::Tracepoint, "sk_data_ready"),
            way("ready_fentry", How::Fentry, "sock_def_readable"),
            way("ready_kprobe", How::Kprobe, "sock_def_readable"),
        ],
        all: false,
    },
    Place {
        point: point::UDP_QUEUED,
        stage: Queued,
        packets: "udp",
        serves: &[Queued, Read],
        ways: &[
            way("udp_queued", How::Fexit, "__udp_enqueue_schedule_skb"),
            Way {
                program: "ready",
                how: How::Inferred,
                target: "the queue's newest packet when the socket has data",
                control: Some(CONTROL_QUEUED_BY_READY),
            },
        ],
        all: false,
    },
    Place {
        point: point::UDP_READ,
        stage: Read,
        packets: "udp",
        serves: &[Read],
        // Since 6.18 a buffer that has been read is freed without consume_skb (6471658dc66c).
        ways: &[
            way("udp_read_fentry", How::Fentry, "skb_consume_udp"),
            way("udp_read_kprobe", How::Kprobe, "skb_consume_udp"),
            Way {
                program: "udp_read_length",
                how: How::Tracepoint,
                target: "sock_recv_length",
                control: Some(CONTROL_READ_BY_SOCKET),
            },
            way("udp_read_consumed", How::Tracepoint, "consume_skb"),
        ],
        all: false,
    },
    Place {
        point: point::TCP_READ,
        stage: Read,
        packets: "tcp",
        serves: &[Read],
        ways: &[way("tcp_read", How::Tracepoint, "tcp_rcv_space_adjust")],
        all: false,
    },
];

/// Tracepoints that help where there are sockets, and prove nothing: a packet is given up, a TCP socket closes, a
/// datagram finds a full queue.
const HELPERS: [(&str, &str); 3] =
    [("freed", "kfree_skb"), ("state", "inet_sock_set_state"), ("udp_refused", "udp_fail_queue_rcv_skb")];

/// An error with its causes in one line; of a verifier's log, only that it refused.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let mut text = first(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = first(error.to_string());
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A place in the course of being tried.
struct Trial {
    place: &'static Place,
    /// The ways that are attached.
    attached: Vec<&'static Way>,
    /// The next way to try.
    next: usize,
    /// Why ways were left.
    left: Vec<String>,
}

/// Attaches programs for the stages and says what measures each place.
pub(super) fn attach(object: &mut Object, settings: &LatencySettings) -> Result<Vec<StageProbe>, ObjectError> {
    let stages = &settings.stages;
    let needed = PLACES.iter().filter(|place| place.serves.iter().any(|stage| stages.contains(stage)));
    let kinds = Kinds::new(&settings.kinds);
    let mut trials: Vec<Trial> =
        needed.map(|place| Trial { place, attached: Vec::new(), next: 0, left: Vec::new() }).collect();
    for trial in &mut trials {
        trial.advance(object, &kinds)?;
    }
    let mut helpers = Vec::new();
    if stages.iter().any(|stage| matches!(stage, Queued | Read)) {
        for (program, tracepoint) in HELPERS {
            if let Err(error) = object.attach_tracepoint(program, tracepoint) {
                helpers.push(format!("tracepoint {tracepoint}: {}", describe(&error)));
            }
        }
    }
    let proven = match Smoke::new() {
        Err(error) => Err(error),
        Ok(smoke) => {
            let proven = prove(object, &mut trials, &smoke, &kinds);
            smoke.close().and(proven)
        }
    };
    let unproven = proven.err();
    let mut rows: Vec<StageProbe> = trials.into_iter().map(|trial| trial.row(unproven.as_deref())).collect();
    rows.extend(helpers.into_iter().map(|reason| StageProbe {
        stage: Queued.name().to_owned(),
        packets: "given up".to_owned(),
        by: None,
        reason: Some(reason),
    }));
    // In the order of packets' way, whatever the places depend on.
    rows.sort_by_key(|row| Stage::ALL.iter().position(|stage| stage.name() == row.stage));
    Ok(rows)
}

/// Sends packets until every place has a way that has seen some, or no way left.
fn prove(object: &mut Object, trials: &mut [Trial], smoke: &Smoke, kinds: &Kinds) -> Result<(), String> {
    let told = |error: ObjectError| describe(&error);
    let netns = smoke.netns()?;
    watch(object, netns).map_err(told)?;
    let mut silent = true;
    while silent {
        reset(object).map_err(told)?;
        smoke.round().map_err(|error| format!("the packets that prove probes did not arrive: {error}"))?;
        let hits = hits(object).map_err(told)?;
        silent = false;
        for trial in trials.iter_mut().filter(|trial| !trial.attached.is_empty()) {
            if hits[trial.place.point as usize] == 0 {
                trial.leave(object, "attached, and no packet passed it");
                trial.advance(object, kinds).map_err(told)?;
                silent = true;
            }
        }
    }
    unwatch(object, netns).and_then(|()| reset(object)).map_err(told)
}

impl Trial {
    /// Attaches the next way that the kernel takes, or all where the place has them side by side.
    fn advance(&mut self, object: &mut Object, kinds: &Kinds) -> Result<(), ObjectError> {
        while let Some(way) = self.place.ways.get(self.next) {
            self.next += 1;
            if let Some(lack) = kinds.lack(way.how) {
                // The same for all candidates of its kind: said once.
                if !self.left.iter().any(|left| left == lack) {
                    self.left.push(lack.to_owned());
                }
                continue;
            }
            let attached = match way.how {
                How::Inferred => Ok(()),
                How::Tracepoint => object.attach_tracepoint(way.program, way.target),
                How::Fentry | How::Fexit | How::Kprobe => object.attach_function(way.program, way.target),
            };
            match attached {
                Err(error) => self.left.push(format!("{} {}: {}", way.how.name(), way.target, describe(&error))),
                Ok(()) => {
                    self.attached.push(way);
                    if let Some(control) = way.control {
                        set_control(object, control, 1)?;
                    }
                    if !self.place.all {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives up what is attached.
    fn leave(&mut self, object: &mut Object, reason: &str) {
        for way in self.attached.drain(..) {
            if let Some(control) = way.control {
                // The element exists: nothing can be wrong with it.
                let _ = set_control(object, control, 0);
            }
            if way.how != How::Inferred {
                object.detach(way.program);
            }
            self.left.push(format!("{} {}: {reason}", way.how.name(), way.target));
        }
    }

    fn row(self, unproven: Option<&str>) -> StageProbe {
        let targets: Vec<&str> = self.attached.iter().map(|way| way.target).collect();
        let name = self.attached.first().map(|way| format!("{} {}", way.how.name(), targets.join(", ")));
        let mut reasons = self.left;
        if let (Some(name), Some(unproven)) = (&name, unproven) {
            reasons.push(format!("{name}: {unproven}"));
        }
        let by = name.filter(|_| unproven.is_none());
        StageProbe {
            stage: self.place.stage.name().to_owned(),
            packets: self.place.packets.to_owned(),
            by,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        }
    }
}

/// Kinds of probes that are not to be had at all, and why, so that each candidate need not find out.
struct Kinds(Vec<(ProbeKind, String)>);

impl Kinds {
    fn new(wanted: &[ProbeKind]) -> Self {
        let all = [(ProbeKind::Tracepoint, "btf"), (ProbeKind::Fentry, "fentry"), (ProbeKind::Kprobe, "kprobes")];
        let lack = |(kind, feature): (ProbeKind, &str)| {
            if !wanted.contains(&kind) {
                return Some((kind, format!("no {feature}: not asked for")));
            }
            let requirement: Requirement = feature.parse().ok()?;
            let unmet = probe::unmet(&[requirement]).into_iter().next().filter(|unmet| unmet.certain)?;
            Some((kind, format!("no {feature}: {}", unmet.reason)))
        };
        Self(all.into_iter().filter_map(lack).collect())
    }

    fn lack(&self, how: How) -> Option<&str> {
        let kind = match how {
            How::Fentry | How::Fexit => ProbeKind::Fentry,
            How::Kprobe => ProbeKind::Kprobe,
            How::Tracepoint => ProbeKind::Tracepoint,
            How::Inferred => return None,
        };
        self.0.iter().find(|(lacking, _)| *lacking == kind).map(|(_, reason)| reason.as_str())
    }
}

fn set_control(object: &mut Object, index: u32, value: u32) -> Result<(), ObjectError> {
    let Some(map) = object.ebpf.map_mut("CONTROL") else { return Err(object.missing("map CONTROL".to_owned())) };
    let set = Array::<&mut MapData, u32>::try_from(map).and_then(|mut map| map.set(index, value, 0));
    set.map_err(|error| object.map_error("CONTROL", error))
}

/// Packets seen at each place.
fn hits(object: &Object) -> Result<[u64; point::COUNT], ObjectError> {
    let map: PerCpuArray<&MapData, u64> = object.typed_map("HITS")?;
    let mut hits = [0; point::COUNT];
    for (index, sum) in (0..).zip(hits.iter_mut()) {
        let cpus = map.get(&index, 0).map_err(|error| object.map_error("HITS", error))?;
        *sum = cpus.iter().sum();
    }
    Ok(hits)
}

/// Forgets all that was seen.
fn reset(object: &mut Object) -> Result<(), ObjectError> {
    let cpus = nr_cpus().map_err(|(_, error)| object.map_error("HITS", error))?;
    change(object, "HITS", |map| {
        let mut map = PerCpuArray::<_, u64>::try_from(map)?;
        (0..).take(point::COUNT).try_for_each(|index| map.set(index, PerCpuValues::try_from(vec![0; cpus])?, 0))
    })?;
    change(object, "LOST", |map| {
        let mut map = Array::<_, u64>::try_from(map)?;
        (0..).take(LOST_KINDS).try_for_each(|index| map.set(index, 0, 0))
    })?;
    change(object, "TOTALS", |map| {
        let mut map = PerCpuHashMap::<_, StepKey, Histogram>::try_from(map)?;
        let keys: Vec<StepKey> = map.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| gone(map.remove(key)))
    })?;
    clear::<StepKey, Histogram>(object, "FLOWS")?;
    clear::<QueuedKey, Journey>(object, "QUEUED")?;
    clear::<QueueKey, Queue>(object, "QUEUES")?;
    clear::<u64, Socket>(object, "SOCKETS")?;
    clear::<u64, Journey>(object, "PACKETS")
}

fn clear<K: aya::Pod, V: aya::Pod>(object: &mut Object, name: &str) -> Result<(), ObjectError> {
    change(object, name, |map| {
        let mut map = HashMap::<_, K, V>::try_from(map)?;
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| gone(map.remove(key)))
    })
}

/// Whether an entry is gone, by this removal or by one that was quicker: the programs are at work.
fn gone(removed: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match removed {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

fn change(
    object: &mut Object,
    name: &str,
    change: impl FnOnce(&mut aya::maps::Map) -> Result<(), aya::maps::MapError>,
) -> Result<(), ObjectError> {
    let Some(map) = object.ebpf.map_mut(name) else { return Err(object.missing(format!("map {name}"))) };
    change(map).map_err(|error| object.map_error(name, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_by_point_and_every_stage_has_one() {
        for (index, place) in PLACES.iter().enumerate() {
            assert_eq!(place.point as usize, index, "{}", place.packets);
        }
        for stage in Stage::ALL {
            assert!(PLACES.iter().any(|place| place.stage == stage), "{stage:?}");
        }
    }
}

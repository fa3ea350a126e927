//! From maps and single times to rows.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use bpflab_programs::latency::{
    BUCKETS, Histogram, KIND_TCP, KIND_TCP_CONTROL, KIND_UDP, Queue, QueueKey, STAGE_TOTAL, StepKey,
};
use bpflab_programs::packet::{A_TO_B, FlowKey, NO_VLAN};

use super::Stage;
use crate::observation::{ReceiveQueue, StageTimes};
use crate::suite::format;

/// A histogram without packets.
pub(super) const NOTHING: Histogram = Histogram { count: 0, sum_ns: 0, max_ns: 0, buckets: [0; BUCKETS] };

/// Two CPUs' histograms as one.
pub(super) fn sum(mut one: Histogram, other: Histogram) -> Histogram {
    one.count += other.count;
    one.sum_ns += other.sum_ns;
    one.max_ns = one.max_ns.max(other.max_ns);
    for (bucket, more) in one.buckets.iter_mut().zip(other.buckets) {
        *bucket += more;
    }
    one
}

/// Everything that the object has seen.
pub(super) struct Seen<'a, S> {
    pub(super) totals: BTreeMap<StepKey, Histogram>,
    pub(super) flows: BTreeMap<StepKey, Histogram>,
    pub(super) queues: BTreeMap<QueueKey, Queue>,
    pub(super) times: &'a HashMap<StepKey, Vec<u64>, S>,
    pub(super) hosts: &'a BTreeMap<u32, String>,
}

impl<S: BuildHasher> Seen<'_, S> {
    /// The sums over all flows: by host, then kind, then stage.
    pub(super) fn stages(&self) -> Vec<StageTimes> {
        let mut all: BTreeMap<StepKey, Vec<u64>> = BTreeMap::new();
        for (step, times) in self.times {
            let step = StepKey { flow: FlowKey::default(), direction: 0, ..*step };
            all.entry(step).or_default().extend(times);
        }
        let rows = self.watched(&self.totals).map(|(step, histogram)| {
            let times = all.remove(step).unwrap_or_default();
            self.row(step, None, histogram, times)
        });
        in_order(rows.collect())
    }

    /// The same by flow.
    pub(super) fn flows(&self) -> Vec<StageTimes> {
        let rows = self.watched(&self.flows).map(|(step, histogram)| {
            let times = self.times.get(step).cloned().unwrap_or_default();
            self.row(step, Some(flow(step)), histogram, times)
        });
        in_order(rows.collect())
    }

    /// Receive queues, by host and endpoint.
    pub(super) fn queues(&self) -> Vec<ReceiveQueue> {
        let mut rows: Vec<ReceiveQueue> = self
            .queues
            .iter()
            .filter_map(|(key, queue)| {
                Some(ReceiveQueue {
                    host: self.hosts.get(&key.netns)?.clone(),
                    proto: format::proto_name(key.family, key.proto, 0),
                    local: format::endpoint(key.family, &key.address, Some(key.port)),
                    queued: queue.queued,
                    read: queue.read,
                    refused: queue.refused,
                    max_payload: queue.max_payload,
                    max_memory: queue.max_memory,
                    limit: queue.limit,
                })
            })
            .collect();
        rows.sort_by(|one, other| (&one.host, &one.proto, &one.local).cmp(&(&other.host, &other.proto, &other.local)));
        rows
    }

    /// Without what is left of packets that proved the probes: their namespace has no name.
    fn watched<'b>(
        &'b self,
        steps: &'b BTreeMap<StepKey, Histogram>,
    ) -> impl Iterator<Item = (&'b StepKey, &'b Histogram)> {
        steps.iter().filter(|(step, _)| self.hosts.contains_key(&step.netns))
    }

    fn row(&self, step: &StepKey, flow: Option<String>, histogram: &Histogram, mut times: Vec<u64>) -> StageTimes {
        times.sort_unstable();
        let timed = step.from != step.stage;
        let used = histogram.buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        StageTimes {
            host: self.hosts.get(&step.netns).cloned().unwrap_or_default(),
            flow,
            packets: kind_name(step.kind).to_owned(),
            stage: stage_name(step.stage).to_owned(),
            since: timed.then(|| stage_name(step.from).to_owned()),
            count: histogram.count,
            mean_ns: histogram.sum_ns.checked_div(histogram.count).unwrap_or(0),
            min_ns: times.first().copied(),
            p50_ns: percentile(&times, 50),
            p90_ns: percentile(&times, 90),
            p99_ns: percentile(&times, 99),
            max_ns: times.last().copied().unwrap_or(0).max(histogram.max_ns),
            samples: times.len() as u64,
            log2: if timed { histogram.buckets[..used].to_vec() } else { Vec::new() },
        }
    }
}

/// By host and flow, then kind, then the order of a packet's way.
fn in_order(mut rows: Vec<StageTimes>) -> Vec<StageTimes> {
    fn place(name: Option<&str>) -> usize {
        let known = |name| Stage::ALL.iter().position(|stage| stage.name() == name);
        name.map_or(0, |name| known(name).map_or(Stage::ALL.len() + 1, |place| place + 1))
    }
    let key = |row: &StageTimes| {
        let (stage, since) = (place(Some(&row.stage)), place(row.since.as_deref()));
        (row.host.clone(), row.flow.clone(), row.packets.clone(), stage, since)
    };
    rows.sort_by_cached_key(key);
    rows
}

/// The smallest time that at least `percent` % of all are not above (nearest rank); `times` are sorted.
fn percentile(times: &[u64], percent: usize) -> Option<u64> {
    let rank = (times.len() * percent).div_ceil(100);
    times.get(rank.max(1) - 1).copied()
}

/// `udp 10.0.0.1:1 > 10.0.0.2:2`, in the direction of the packets, with ` vlan N` if tagged.
fn flow(step: &StepKey) -> String {
    let key = &step.flow;
    let proto = format::proto_name(key.family, key.proto, key.ethertype);
    let ports = format::has_ports(key.family, key.proto);
    let end = |address, port| format::endpoint(key.family, address, ports.then_some(port));
    let (a, b) = (end(&key.a, key.a_port), end(&key.b, key.b_port));
    let (from, to) = if usize::from(step.direction) == A_TO_B { (a, b) } else { (b, a) };
    let tags: String = [key.vlan, key.inner_vlan]
        .iter()
        .filter(|vlan| **vlan != NO_VLAN)
        .map(|vlan| format!(" vlan {vlan}"))
        .collect();
    // A packet too short for any address has none.
    if key.a == key.b && !ports { format!("{proto}{tags}") } else { format!("{proto} {from} > {to}{tags}") }
}

const fn kind_name(kind: u8) -> &'static str {
    match kind {
        KIND_UDP => "udp",
        KIND_TCP => "tcp",
        KIND_TCP_CONTROL => "tcp-control",
        _ => "other",
    }
}

fn stage_name(stage: u8) -> &'static str {
    if stage == STAGE_TOTAL {
        return "total";
    }
    Stage::ALL.get(usize::from(stage)).map_or("unknown", |stage| stage.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpflab_programs::packet::{B_TO_A, FAMILY_IPV4, FAMILY_OTHER};

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<u64> = (1..=200).collect();
        assert_eq!(
            (percentile(&times, 50), percentile(&times, 90), percentile(&times, 99)),
            (Some(100), Some(180), Some(198))
        );
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99), percentile(&[], 50)), (Some(7), Some(7), None));
    }

    #[test]
    fn a_flow_is_written_in_the_direction_of_its_packets() {
        let mut a = [0; 16];
        a[..4].copy_from_slice(&[10, 0, 0, 1]);
        let mut b = a;
        b[3] = 2;
        let key = FlowKey {
            a,
            b,
            a_port: 1,
            b_port: 2,
            vlan: 7,
            inner_vlan: NO_VLAN,
            family: FAMILY_IPV4,
            proto: 17,
            ..FlowKey::default()
        };
        let step = StepKey { flow: key, direction: B_TO_A as u8, ..StepKey::default() };
        assert_eq!(flow(&step), "udp 10.0.0.2:2 > 10.0.0.1:1 vlan 7");
        let other = FlowKey {
            family: FAMILY_OTHER,
            ethertype: 0x88cc,
            vlan: NO_VLAN,
            inner_vlan: NO_VLAN,
            ..FlowKey::default()
        };
        assert_eq!(flow(&StepKey { flow: other, ..StepKey::default() }), "eth-0x88cc");
    }

    #[test]
    fn rows_are_in_the_order_of_a_packets_way() {
        let row = |stage: &str, since: Option<&str>| StageTimes {
            stage: stage.to_owned(),
            since: since.map(str::to_owned),
            ..StageTimes::default()
        };
        let rows = in_order(vec![
            row("total", Some("driver")),
            row("read", Some("queued")),
            row("ip", Some("receive")),
            row("driver", None),
        ]);
        assert_eq!(rows.iter().map(|row| row.stage.as_str()).collect::<Vec<_>>(), ["driver", "ip", "read", "total"]);
    }

    #[test]
    fn what_proved_the_probes_is_left_out() {
        let hosts = BTreeMap::from([(1, "dut".to_owned())]);
        let step = |netns| StepKey { netns, kind: KIND_UDP, ..StepKey::default() };
        let one = Histogram { count: 1, ..NOTHING };
        let seen = Seen {
            totals: BTreeMap::from([(step(1), one), (step(2), sum(one, one))]),
            flows: BTreeMap::new(),
            queues: BTreeMap::new(),
            times: &HashMap::new(),
            hosts: &hosts,
        };
        let stages = seen.stages();
        assert_eq!((stages.len(), stages[0].host.as_str(), stages[0].count, &stages[0].since), (1, "dut", 1, &None));
    }
}

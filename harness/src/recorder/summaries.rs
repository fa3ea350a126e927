//! What was seen of flows, objects and the machine as a whole: on a flow's first packet where there is a flow, else as a
//! line.

use super::events::Notes;
use crate::observation::{Observation, StageTimes};

impl Notes<'_> {
    pub(super) fn live(&mut self, observation: &Observation) {
        for flow in observation.live.iter().flat_map(|live| &live.flows) {
            let why = if flow.reasons.is_empty() { String::new() } else { format!(": {}", flow.reasons.join("; ")) };
            let ends = format!("recorded as {}, ends as {}", flow.recorded_end, flow.live_end);
            let text = format!("live: {}{why} ({ends})", flow.fate.text());
            self.place_either(&flow.proto, &flow.client, &flow.server, text);
        }
    }

    pub(super) fn latency(&mut self, observation: &Observation) {
        let Some(latency) = &observation.latency else { return };
        for StageTimes { host, flow, stage, since, count, p50_ns, p99_ns, max_ns, .. } in &latency.flows {
            let (Some(flow), Some(since)) = (flow, since) else { continue };
            let us = |ns: u64| format!("{}.{:03} us", ns / 1000, ns % 1000);
            let part = |ns: &Option<u64>| ns.map_or_else(|| "-".to_owned(), us);
            let (half, most) = (part(p50_ns), part(p99_ns));
            let text = format!(
                "latency on {host}: {since} to {stage} of {count} packets: median {half}, 99 % {most}, longest {}",
                us(*max_ns)
            );
            self.place_nth(flow, 0, |_| true, text);
        }
        for queue in latency.queues.iter().filter(|queue| queue.refused > 0) {
            let (proto, local, host) = (&queue.proto, &queue.local, &queue.host);
            self.unplaced(format!("{} datagrams found the queue of {proto} {local} on {host} full", queue.refused));
        }
    }

    /// Events and changes of objects under test, where they are not on their packets already: on a link, which packet an
    /// event is about only the event itself can say.
    pub(super) fn objects(&mut self, observation: &Observation) {
        for object in &observation.objects {
            for ring in &object.events {
                let count = ring.events.len() as u64 + ring.more;
                if count == 0 || (self.recording.told && ring.more == 0) {
                    continue;
                }
                let name = format!("{}.{}", object.object, ring.map);
                if self.recording.told {
                    self.unplaced(format!("{name}: {} events were not kept", ring.more));
                    continue;
                }
                self.unplaced(format!("{name}: {count} events, which do not say their packet"));
                for event in &ring.events {
                    self.unplaced(format!("  {event}"));
                }
            }
            if !self.recording.told {
                for line in &object.printed {
                    self.unplaced(format!("{} printed: {line}", object.object));
                }
            }
            for note in &object.notes {
                self.unplaced(format!("{}: {note}", object.object));
            }
        }
    }

    /// What has neither flow nor packet.
    pub(super) fn counts(&mut self, observation: &Observation) {
        for (what, count) in &observation.malformed {
            self.unplaced(format!("malformed: {count} x {what}"));
        }
        for (what, count) in &observation.losses {
            self.unplaced(format!("not seen: {count} of {what}"));
        }
    }
}

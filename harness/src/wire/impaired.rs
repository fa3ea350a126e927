//! Impairment on the way out of the device under test, as the account of a replay has to know it. By the time the ledger
//! says that a packet has left, it may be lost on purpose, wait, or become two.

use super::WireError;
use super::place::{Place, Port};
use crate::topology::{Impairment, Network, QueueCounters, Role, Topology};

/// Whether frames can be followed on a topology, as far as its impairment goes; without a kernel.
///
/// # Errors
/// [`WireError::Topology`] where a host that injects frames is impaired on their way out.
pub fn check(topology: &Topology) -> Result<(), WireError> {
    match problem(topology) {
        Some(problem) => Err(WireError::Topology { topology: topology.name.clone(), problem }),
        None => Ok(()),
    }
}

/// What keeps wire mode from running on a topology with impairment: the injecting hosts cannot be impaired on their way
/// out.
fn problem(topology: &Topology) -> Option<String> {
    let is_dut = |name: &str| topology.host(name).is_some_and(|host| host.role == Role::Dut);
    for link in &topology.links {
        let [one, two] = &link.ends;
        for (end, other) in [(one, two), (two, one)] {
            if end.impair.is_some() && is_dut(&other.host) && !is_dut(&end.host) {
                return Some(format!(
                    "{} {} is impaired, but the frames that the lab sends there bypass its queue, and are recognised by \
                     their order: impair what comes back ({} {}), or use live mode",
                    end.host, end.interface, other.host, other.interface
                ));
            }
        }
    }
    None
}

/// The device under test's impaired interfaces, by side.
pub(super) struct Impaired<'a>([Option<Queue<'a>>; 2]);

/// An impaired interface.
struct Queue<'a> {
    network: &'a Network,
    port: &'a Port,
    impairment: Impairment,
    /// What it had done when the replay began.
    before: QueueCounters,
}

impl<'a> Impaired<'a> {
    pub(super) fn of(network: &'a Network, place: &'a Place) -> Result<Self, WireError> {
        let mut queues = [None, None];
        for (side, link) in place.links() {
            let end = network.topology().end(&link.dut.host, &link.dut.name);
            let Some(impairment) = end.and_then(|end| end.impair.clone()) else { continue };
            let before = network.host(&link.dut.host)?.queue_counters(&link.dut.name)?;
            queues[side] = Some(Queue { network, port: &link.dut, impairment, before });
        }
        Ok(Self(queues))
    }

    /// What has happened on a side since the replay began; nothing where it is not impaired.
    pub(super) fn counters(&self, side: usize) -> Result<Option<QueueCounters>, WireError> {
        let Some(queue) = &self.0[side] else { return Ok(None) };
        let now = queue.network.host(&queue.port.host)?.queue_counters(&queue.port.name)?;
        // The kernel's counters have 32 bits.
        let since = |now: u64, before: u64| now.wrapping_sub(before) & u64::from(u32::MAX);
        Ok(Some(QueueCounters {
            packets: since(now.packets, queue.before.packets),
            dropped: since(now.dropped, queue.before.dropped),
            waiting: now.waiting,
        }))
    }

    /// How much longer than usual a packet may take on a side without a sign of life, ns.
    pub(super) fn delay_ns(&self, side: usize) -> u64 {
        self.0[side].as_ref().map_or(0, |queue| queue.impairment.longest_delay_ns())
    }

    /// Whether packets may become two on a side.
    pub(super) fn duplicates(&self, side: usize) -> bool {
        self.0[side].as_ref().is_some_and(|queue| queue.impairment.duplicate.is_some())
    }

    /// The interfaces whose seed the kernel does not take, as a reader must know.
    pub(super) fn unseeded(&self) -> Result<Vec<String>, WireError> {
        let mut names = Vec::new();
        for queue in self.0.iter().flatten().filter(|queue| queue.impairment.seed.is_some()) {
            let takes = queue.network.host(&queue.port.host)?.takes_seeds(&queue.port.name)?;
            if takes == Some(false) {
                names.push(format!("{} {}", queue.port.host, queue.port.name));
            }
        }
        Ok(names)
    }
}

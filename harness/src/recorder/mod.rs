//! Recording what passes a host's links, and what was seen of it, in one file for Wireshark.
//!
//! A packet socket at the device under test does not see all that is on a link: frames that come in show only once XDP
//! has let them pass (`veth_xdp_rcv`, drivers/net/veth.c, runs before `__netif_receive_skb_core` hands them to taps), and
//! those that XDP sends back or redirects never show on their way out. So a [`Recorder`] listens at both ends of each link:
//! what the sending end has put there and what the receiving end took from it are put together when it stops. Both ends
//! see a frame after the queueing discipline: what an impaired link loses is not there, its copies are, and what it
//! delays is there when it leaves.
//!
//! In the file each link is one interface `HOST.INTERFACE` with every frame that was on the link, once, from the side of
//! the hook that the wire is on. What XDP let pass as it was is not there a second time: Wireshark would take each copy for
//! a retransmission, and spoil every statistic. Where XDP did anything else, it says so:
//!
//! - A frame that did not come out behind XDP has a comment: the program's verdict where the run knows it (wire mode), or
//!   `not seen behind XDP`.
//! - A frame that XDP changed has a comment with the changed fields, and stands a second time, as XDP left it, on an
//!   interface of its own, `HOST.INTERFACE behind XDP`.
//! - A frame that XDP sent has a comment, since the stack knows nothing of it.
//!
//! Frames are as the packet sockets see them: with segmentation offload they may be larger than the link's MTU, and those
//! that receive offload joined are there as they were on the link. VLAN tags stand in the frames.
//!
//! In lockstep mode there are no links: a [`PacketLog`] takes each packet that is offered, with each verdict.
//!
//! [`Recording::write`] makes a pcapng file of it, with the events of an observation as comments on their packets, and
//! those that belong to no packet in the comment of the section, which Wireshark shows as a property of the file.

mod connections;
mod drops;
mod events;
mod file;
mod join;
mod lockstep;
mod packet;
mod summaries;
mod taps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::observation::Observation;
use crate::sys::PacketRing;
use crate::topology::{EndSpec, Network, Role, TopologyError};

pub use file::Target;
pub use lockstep::PacketLog;
pub use taps::MOST_BYTES;

use join::{Link, Sighting};
use taps::{Taken, Tap};

/// Why something could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The interfaces could not be listed.
    #[error(transparent)]
    Network(#[from] TopologyError),
    /// An interface could not be recorded.
    #[error("cannot record interface {interface} of host {host}")]
    Open {
        /// The host.
        host: String,
        /// The interface.
        interface: String,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is the one that is read.
    #[error("cannot write recording {}: it is the capture that is replayed", .0.display())]
    Input(PathBuf),
    /// The file could not be written.
    #[error("cannot write recording {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// What ended a frame's way, in the words of [`crate::observation::Drop`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// `xdp`, `tc` or `kernel`.
    pub by: String,
    /// The verdict, or the kernel's reason.
    pub reason: String,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Kernel time, ns since the UNIX epoch; in lockstep mode the capture's.
    pub time_ns: u64,
    /// Position of the interface in the recording.
    pub interface: usize,
    /// Whether the device under test sent it.
    pub outgoing: bool,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Its bytes, VLAN tags included.
    pub data: Arc<[u8]>,
    /// What is known of this very frame.
    pub comments: Vec<String>,
    /// What ended its way, where that is known.
    pub ended: Option<Ended>,
}

/// An interface and what it counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedInterface {
    /// `HOST.INTERFACE`; in lockstep mode the side that packets come from.
    pub name: String,
    /// The host that is recorded.
    pub host: String,
    /// What its frames are.
    pub description: String,
    /// Whether its frames are those of another interface as programs left them.
    pub behind: bool,
    /// Frames that passed, lost ones included.
    pub passed: u64,
    /// Frames that may be missing in the recording, at most: so many found no room at the one end and at the other.
    pub lost: u64,
}

/// What passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The interfaces.
    pub interfaces: Vec<RecordedInterface>,
    /// The frames, by time.
    pub frames: Vec<Recorded>,
    /// Whether events and changes of objects under test are on their packets already.
    pub told: bool,
}

/// A frame that the lab put on a link past the taps of the sending end, or took from it before those of the receiving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The link, `HOST.INTERFACE` of the device under test's end.
    pub link: String,
    /// When, ns since the UNIX epoch; of one that the lab sent, some time before that.
    pub time_ns: u64,
    /// Whether the device under test sent it: then the lab has taken it at the other end.
    pub outgoing: bool,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Its bytes, or the first 4096 of them.
    pub data: Vec<u8>,
    /// What became of it, as comments.
    pub comments: Vec<String>,
    /// What ended its way.
    pub ended: Option<Ended>,
}

/// What a run knows beside what passed the taps.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// XDP programs by interface, `HOST.INTERFACE`.
    pub xdp: BTreeMap<String, String>,
    /// Frames that no tap saw at one end, in the order in which they were sent or taken.
    pub frames: Vec<Known>,
    /// Frames of those that the lab had no room for, by link.
    pub lost: BTreeMap<String, u64>,
}

impl Recording {
    /// Frames that may be missing, at most.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.interfaces.iter().map(|interface| interface.lost).sum()
    }

    /// Writes the recording as pcapng: an interface for each, nanoseconds, direction flags, counters; the events of
    /// `observation` are comments on the packet that each is about, and what is about no packet stands in the section's
    /// comment, below the lines of `about`. Returns how many comments packets have.
    ///
    /// # Errors
    /// [`RecorderError::Write`].
    pub fn write(&self, target: Target, about: &[String], observation: &Observation) -> Result<usize, RecorderError> {
        let placed = events::place(self, observation);
        let own: usize = self.frames.iter().map(|frame| frame.comments.len()).sum();
        target.write(self, about, &placed)?;
        Ok(own + placed.comments.values().map(Vec::len).sum::<usize>())
    }
}

/// A recording that goes on. Dropping it ends it.
#[derive(Debug)]
pub struct Recorder {
    links: Vec<(Link, String)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Taken>>,
}

impl Recorder {
    /// Records the links of the devices under test from now on; all links where there is none.
    ///
    /// # Errors
    /// See [`RecorderError`].
    pub fn start(network: &Network) -> Result<Self, RecorderError> {
        let (mut links, mut taps) = (Vec::new(), Vec::new());
        for [near, far] in recorded_links(network) {
            let name = |end: &EndSpec| format!("{}.{}", end.host, end.interface);
            // The receiving end first, so that nothing seems to be lost that was sent in between.
            for (end, is_far) in [(near, false), (far, true)] {
                taps.push(Tap::new(open(network, end)?, links.len(), is_far));
            }
            let link = Link { near: name(near), far: name(far), ..Link::default() };
            links.push((link, near.host.clone()));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let failed = |source| RecorderError::Open { host: "(all)".to_owned(), interface: "(all)".to_owned(), source };
        let listen = move || taps::listen(taps, &told);
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(listen).map_err(failed)?;
        Ok(Self { links, stop, thread: Some(thread) })
    }

    /// Ends the recording once every packet that has passed is in it, and hands it over.
    #[must_use]
    pub fn stop(mut self, knowledge: Knowledge) -> Recording {
        let mut taken = self.end().unwrap_or_default();
        let mut interfaces = Vec::new();
        for (link, host) in &mut self.links {
            link.xdp = knowledge.xdp.get(&link.near).cloned();
            let description = format!("the link between {} and {}", link.near, link.far);
            let (name, host) = (link.near.clone(), host.clone());
            interfaces.push(RecordedInterface { name, host, description, ..RecordedInterface::default() });
        }
        for tap in &taken.taps {
            self.links[tap.link].0.lost[usize::from(tap.far)] += tap.lost();
        }
        let names = self.links.iter().enumerate().map(|(at, (link, _))| (link.near.clone(), at));
        let names: BTreeMap<String, usize> = names.collect();
        for (at, lost) in knowledge.lost.iter().filter_map(|(link, lost)| Some((*names.get(link)?, *lost))) {
            self.links[at].0.lost[1] += lost;
        }
        for known in knowledge.frames {
            let Some(&at) = names.get(&known.link) else { continue };
            match taken.store.keep(&known.data) {
                Some(data) => taken.sightings.push(sighting(at, known, data)),
                None => self.links[at].0.lost[1] += 1,
            }
        }
        for (interface, (link, _)) in interfaces.iter_mut().zip(&self.links) {
            // What one end has lost, the other may have seen.
            interface.lost = link.lost[0].min(link.lost[1]);
        }
        assemble(&self.links, interfaces, taken.sightings)
    }

    fn end(&mut self) -> Option<Taken> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        _ = self.end();
    }
}

/// The ends of the links to record, that of the device under test first.
fn recorded_links(network: &Network) -> Vec<[&EndSpec; 2]> {
    let topology = network.topology();
    let is_dut = |end: &EndSpec| topology.host(&end.host).is_some_and(|host| host.role == Role::Dut);
    let has_dut = topology.hosts.iter().any(|host| host.role == Role::Dut);
    let ordered = topology.links.iter().map(|link| {
        let [one, two] = &link.ends;
        if is_dut(two) && !is_dut(one) { [two, one] } else { [one, two] }
    });
    ordered.filter(|[near, _]| is_dut(near) || !has_dut).collect()
}

fn open(network: &Network, end: &EndSpec) -> Result<PacketRing, RecorderError> {
    let host = network.host(&end.host)?;
    let index = host.ifindex(&end.interface)?;
    host.run(move || PacketRing::open(index)).map_err(|source| {
        let (host, interface) = (end.host.clone(), end.interface.clone());
        RecorderError::Open { host, interface, source }
    })
}

fn sighting(link: usize, known: Known, data: Arc<[u8]>) -> Sighting {
    let Known { time_ns, outgoing, wire_len, comments, ended, .. } = known;
    // What the lab takes from the link, it takes as the receiving end.
    let (first, exact) = (!outgoing, outgoing);
    Sighting { outgoing, first, exact, comments, ended, ..Sighting::new(link, time_ns, wire_len, data) }
}

/// All links' frames by time; the interfaces for frames as XDP left them come last, those that have some.
fn assemble(links: &[(Link, String)], mut interfaces: Vec<RecordedInterface>, sightings: Vec<Sighting>) -> Recording {
    let mut by_link: Vec<Vec<Sighting>> = vec![Vec::new(); links.len()];
    for sighting in sightings {
        by_link[sighting.link].push(sighting);
    }
    let mut frames = Vec::new();
    for (at, ((link, host), sightings)) in links.iter().zip(by_link).enumerate() {
        let behind = interfaces.len();
        let joined = join::join(link, [at, behind], sightings);
        interfaces[at].passed =
            joined.iter().filter(|frame| frame.interface == at).count() as u64 + interfaces[at].lost;
        let changed = joined.iter().filter(|frame| frame.interface == behind).count() as u64;
        frames.extend(joined);
        if changed > 0 {
            let program = link.xdp.as_deref().unwrap_or("XDP");
            interfaces.push(RecordedInterface {
                name: format!("{} behind XDP", link.near),
                host: host.clone(),
                description: format!("frames of {} that {program} changed, as it left them", link.near),
                behind: true,
                passed: changed,
                lost: 0,
            });
        }
    }
    // Stable: a frame as XDP left it follows the one that was on the link, should their times be the same.
    frames.sort_by_key(|frame: &Recorded| (frame.time_ns, interfaces[frame.interface].behind));
    Recording { interfaces, frames, told: false }
}

#[cfg(test)]
mod tests;

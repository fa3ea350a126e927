//! Recording what passes a host's links, and what was seen of it, in one file for Wireshark.
//!
//! A [`Recorder`] sees every frame that XDP lets into an interface of the host, before tc, and every frame that leaves
//! it, after tc and the queueing discipline: what an impaired link loses on its way out is not there, its copies are.
//! [`Recording::write`] makes a pcapng file of it, with the events of an observation as comments on their packets.

mod events;
mod file;

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::observation::Observation;
use crate::sys::{self, PacketRing, RingPacket};
use crate::topology::{Host, TopologyError};

/// Bytes of frames that are kept in memory; what is beyond is counted as lost.
pub const MOST_BYTES: usize = 512 << 20;
/// Longest wait for packets before the reader looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for the last packets, whose number is known.
const LAST_LIMIT: Duration = Duration::from_secs(2);

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

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Kernel time, ns since the UNIX epoch.
    pub time_ns: u64,
    /// Position of the interface in the recording.
    pub interface: usize,
    /// Whether it left by the interface.
    pub outgoing: bool,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Its bytes, VLAN tags included.
    pub data: Vec<u8>,
}

/// An interface and what it counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedInterface {
    /// `HOST.INTERFACE`.
    pub name: String,
    /// Frames that passed, lost ones included.
    pub passed: u64,
    /// Frames that are not in the recording: there was no room.
    pub lost: u64,
}

/// What passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The interfaces.
    pub interfaces: Vec<RecordedInterface>,
    /// The frames, by time.
    pub frames: Vec<Recorded>,
}

impl Recording {
    /// Frames that are missing.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.interfaces.iter().map(|interface| interface.lost).sum()
    }

    /// Writes the recording as pcapng, an interface for each, nanoseconds, direction flags, counters; the events of
    /// `observation` are comments on the first packet that each is about. Returns how many comments there are.
    ///
    /// # Errors
    /// [`RecorderError::Write`].
    pub fn write(&self, path: &std::path::Path, observation: &Observation) -> Result<usize, RecorderError> {
        let comments = events::comments(self, observation);
        file::write(self, &comments, path).map_err(|source| RecorderError::Write { path: path.to_owned(), source })?;
        Ok(comments.values().map(Vec::len).sum())
    }
}

/// A recording that goes on. Dropping it ends it.
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Recording>>,
}

impl Recorder {
    /// Records the links of `hosts` from now on.
    ///
    /// # Errors
    /// See [`RecorderError`].
    pub fn start(hosts: &[&Host]) -> Result<Self, RecorderError> {
        let mut rings = Vec::new();
        for host in hosts {
            for link in host.links()?.into_iter().filter(|link| link.name != "lo") {
                let failed = |source| {
                    let (host, interface) = (host.name().to_owned(), link.name.clone());
                    RecorderError::Open { host, interface, source }
                };
                let index = link.index;
                let ring = host.run(move || PacketRing::open(index)).map_err(failed)?;
                let name = format!("{}.{}", host.name(), link.name);
                rings.push((ring, RecordedInterface { name, ..RecordedInterface::default() }));
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let failed = |source| RecorderError::Open { host: "(all)".to_owned(), interface: "(all)".to_owned(), source };
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(move || keep(rings, &told));
        Ok(Self { stop, thread: Some(thread.map_err(failed)?) })
    }

    /// Ends the recording once every packet that has passed is in it, and hands it over.
    #[must_use]
    pub fn stop(mut self) -> Recording {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        _ = self.end();
    }
}

/// Reads the rings until it is told to stop and all that was counted has been read.
fn keep(mut rings: Vec<(PacketRing, RecordedInterface)>, stop: &AtomicBool) -> Recording {
    let mut frames = Vec::new();
    let mut bytes = 0;
    let mut read = vec![0_u64; rings.len()];
    let mut deadline = None;
    loop {
        // Asked before reading, so that what passes in between is read once more.
        let stopping = stop.load(Ordering::Relaxed);
        for (index, (ring, interface)) in rings.iter_mut().enumerate() {
            // The kernel forgets what it has told.
            if let Ok((passed, lost)) = ring.statistics() {
                interface.passed += passed;
                interface.lost += lost;
            }
            ring.read(&mut |packet| {
                read[index] += 1;
                if bytes + packet.data.len() <= MOST_BYTES {
                    bytes += packet.data.len();
                    frames.push(recorded(index, &packet));
                } else {
                    interface.lost += 1;
                    // Counted as lost here, and as read all the same.
                }
            });
        }
        if stopping {
            let is_last = *deadline.get_or_insert_with(|| Instant::now() + LAST_LIMIT) <= Instant::now();
            let in_memory = |interface: &RecordedInterface, read: u64| interface.passed <= interface.lost + read;
            if is_last || rings.iter().zip(&read).all(|((_, interface), read)| in_memory(interface, *read)) {
                break;
            }
        }
        let sockets: Vec<_> = rings.iter().map(|(ring, _)| ring.as_fd()).collect();
        // An error here is no reason to lose what has come: the next look says more.
        if sys::wait_readable(&sockets, LOOK_EVERY).is_err() {
            std::thread::yield_now();
        }
    }
    frames.sort_by_key(|frame: &Recorded| frame.time_ns);
    Recording { interfaces: rings.into_iter().map(|(_, interface)| interface).collect(), frames }
}

/// The frame, with the tag that the kernel took out put back behind the addresses (IEEE 802.1Q section 9.5).
fn recorded(interface: usize, packet: &RingPacket<'_>) -> Recorded {
    let mut data = packet.data.to_vec();
    let mut wire_len = packet.wire_len;
    if let Some(tag) = packet.vlan.filter(|_| data.len() >= 12) {
        data.splice(12..12, tag);
        wire_len += 4;
    }
    Recorded { time_ns: packet.time_ns, interface, outgoing: packet.outgoing, wire_len, data }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::topology::{Network, presets};

    #[test]
    fn every_frame_of_both_links_is_there_with_its_direction() {
        const DATAGRAMS: usize = 5000;
        let network = Network::build(&presets::router()).unwrap();
        let recorder = Recorder::start(&[network.host("dut").unwrap()]).unwrap();
        let server = network.host("server").unwrap().run(|| UdpSocket::bind("10.71.2.2:9").unwrap());
        network.host("client").unwrap().run(|| {
            let socket = UdpSocket::bind("10.71.1.1:5000").unwrap();
            for number in 0..DATAGRAMS {
                socket.send_to(&number.to_be_bytes(), "10.71.2.2:9").unwrap();
            }
        });
        drop(server);
        let recording = recorder.stop();
        network.close().unwrap();
        let names: Vec<&str> = recording.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!((names, recording.lost()), (vec!["dut.eth0", "dut.eth1"], 0));
        let of = |interface, outgoing| {
            let here = recording.frames.iter().filter(move |frame| frame.interface == interface);
            here.filter(move |frame| frame.outgoing == outgoing && frame.data.len() == 14 + 20 + 8 + 8)
        };
        // In by one link, out by the other, all of them and in order.
        assert_eq!((of(0, false).count(), of(1, true).count()), (DATAGRAMS, DATAGRAMS));
        let numbers = of(1, true).map(|frame| u64::from_be_bytes(frame.data[42..50].try_into().unwrap()));
        assert!(numbers.eq(0..DATAGRAMS as u64));
        assert!(recording.frames.is_sorted_by_key(|frame| frame.time_ns));
    }
}

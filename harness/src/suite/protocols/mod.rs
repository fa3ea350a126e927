//! The reader of the `protocols` object: DNS transactions, HTTP/1.x exchanges and TLS handshakes.
//!
//! The program hands over the bytes of connections that may hold such messages; here they are put in order
//! ([`stream`]) and read ([`dns`], [`http`], [`tls`]). What is missing or cut is said in the entry that it concerns.

pub mod assembler;
mod ciphers;
pub mod connection;
pub mod dns;
pub mod http;
mod http_head;
mod report;
pub mod stream;
pub mod tls;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod http_tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use bpflab_programs::packet::FlowKey;
use bpflab_programs::protocols::{ENDED, Event, LOST_EVENTS, LOST_STREAMS, MAX_DNS_PORTS, Stream};
use serde::{Deserialize, Serialize};

use self::assembler::Assembler;
use self::connection::Wanted;
use super::{Analyzer, Hook};
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::Observation;
use crate::sys;

/// Only an entry that exists is to be changed (`include/uapi/linux/bpf.h`).
const BPF_EXIST: u64 = 2;
/// Events that wait for earlier ones of the other processor, where packets come in on two interfaces at once.
const REORDER: usize = 256;

/// What a scenario may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProtocolsSettings {
    /// UDP and TCP ports on which DNS is spoken, at most 8. Multicast DNS (5353) is not among the defaults: its answers
    /// have no query.
    pub dns_ports: Vec<u16>,
    /// Bytes of the ring between the program and this reader, a power of two of at least a page; 0 for the program's
    /// own choice.
    pub ring_bytes: u32,
    /// TCP connections that may be followed at the same time; 0 for the program's own choice (65 536).
    pub max_streams: u32,
}

impl Default for ProtocolsSettings {
    fn default() -> Self {
        Self { dns_ports: vec![53], ring_bytes: 0, max_streams: 0 }
    }
}

/// Why the object could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolsError {
    /// More ports than the program has room for.
    #[error("cannot load object protocols: {0} DNS ports are set, at most {MAX_DNS_PORTS} are possible")]
    TooManyPorts(usize),
    /// Port 0 does not exist.
    #[error("cannot load object protocols: 0 is no DNS port")]
    PortZero,
    /// The object itself.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The object with its reader.
pub struct Protocols {
    object: Object,
    ring: RingBuf<MapData>,
    intake: Intake,
}

/// What events go through.
struct Intake {
    streams: HashMap<MapData, FlowKey, Stream>,
    assembler: Assembler,
    /// Where two processors run the program: events to be sorted by time, earliest first.
    reorder: Option<BinaryHeap<Reverse<Waiting>>>,
    taken: u64,
}

/// An event that waits, ordered by time and then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    time_ns: u64,
    number: u64,
    record: Vec<u8>,
}

impl Protocols {
    /// Loads the object; its program is loaded by [`Object::load_program`].
    ///
    /// # Errors
    /// Settings that are impossible, or what [`Object::load`] says.
    pub fn load(clock: Clock, settings: &ProtocolsSettings) -> Result<Self, ProtocolsError> {
        let mut ports = [0_u16; MAX_DNS_PORTS];
        let set = &settings.dns_ports;
        ports.get_mut(..set.len()).ok_or(ProtocolsError::TooManyPorts(set.len()))?.copy_from_slice(set);
        if set.contains(&0) {
            return Err(ProtocolsError::PortZero);
        }
        let mut options =
            LoadOptions { clock, globals: vec![("DNS_PORTS", sys::bytes_of(&ports), true)], ..LoadOptions::default() };
        let sizes = [("EVENTS", settings.ring_bytes), ("STREAMS", settings.max_streams)];
        options.max_entries.extend(sizes.into_iter().filter(|(_, size)| *size > 0));
        let mut object = Object::load("protocols", suite::PROTOCOLS, &options)?;
        let ring = take(&mut object, "EVENTS", RingBuf::try_from)?;
        let streams = take(&mut object, "STREAMS", HashMap::try_from)?;
        // In wire mode the two interfaces may be served by different processors; the capture's own time orders them.
        let reorder = (clock == Clock::Capture).then(BinaryHeap::new);
        let intake = Intake { streams, assembler: Assembler::default(), reorder, taken: 0 };
        Ok(Self { object, ring, intake })
    }

    fn lost(&self, index: u32) -> Result<u64, ObjectError> {
        let map = self.object.ebpf.map("LOST").ok_or_else(|| self.object.missing("map LOST".to_owned()))?;
        let read = PerCpuArray::<_, u64>::try_from(map).and_then(|counters| counters.get(&index, 0));
        read.map(|values| values.iter().sum()).map_err(|error| self.object.map_error("LOST", error))
    }
}

impl Intake {
    /// Takes in a record of the ring, at once or after those that may still come before it.
    fn take(&mut self, object: &Object, record: &[u8]) -> Result<(), ObjectError> {
        self.taken += 1;
        let Some(heap) = &mut self.reorder else { return self.record(object, record) };
        let time_ns = sys::read_pod::<Event>(record).map_or(0, |event| event.time_ns);
        heap.push(Reverse(Waiting { time_ns, number: self.taken, record: record.to_vec() }));
        self.settle(object, REORDER)
    }

    /// Takes in events that wait until at most `keep` are left.
    fn settle(&mut self, object: &Object, keep: usize) -> Result<(), ObjectError> {
        while let Some(waiting) = self.reorder.as_mut().filter(|heap| heap.len() > keep).and_then(BinaryHeap::pop) {
            self.record(object, &waiting.0.record)?;
        }
        Ok(())
    }

    fn record(&mut self, object: &Object, record: &[u8]) -> Result<(), ObjectError> {
        let Some(event) = sys::read_pod::<Event>(record) else { return Ok(()) };
        let bytes = record.get(size_of::<Event>()..).unwrap_or_default();
        let captured = usize::try_from(event.captured_len).unwrap_or(usize::MAX).min(bytes.len());
        match self.assembler.event(&event, &bytes[..captured]) {
            Some(wanted) => self.rule(&event.key, wanted).map_err(|error| object.map_error("STREAMS", error)),
            None => Ok(()),
        }
    }

    /// Tells the program what is wanted of a connection, unless it has forgotten it already.
    fn rule(&mut self, key: &FlowKey, wanted: Wanted) -> Result<(), MapError> {
        let ruled = match wanted {
            Wanted::More => Ok(()),
            Wanted::NextMessage => self.streams.remove(key),
            Wanted::Nothing => self
                .streams
                .get(key, 0)
                .and_then(|stream| self.streams.insert(key, Stream { protocol: ENDED, ..stream }, BPF_EXIST)),
        };
        match ruled {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            ruled => ruled,
        }
    }
}

/// Takes a map out of an object, in the form that `convert` gives it.
fn take<M>(
    object: &mut Object,
    name: &str,
    convert: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, ObjectError> {
    let map = object.ebpf.take_map(name).ok_or_else(|| object.missing(format!("map {name}")))?;
    convert(map).map_err(|error| object.map_error(name, error))
}

impl Analyzer for Protocols {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    fn programs(&self) -> &'static [(&'static str, Hook)] {
        &[("protocols_ingress", Hook::TcIngress)]
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        while self.ring.next().is_some() {}
        let Intake { streams: _, assembler, reorder, taken } = &mut self.intake;
        *assembler = Assembler::default();
        reorder.iter_mut().for_each(BinaryHeap::clear);
        *taken = 0;
        self.object.clear_maps()
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        while let Some(record) = self.ring.next() {
            self.intake.take(&self.object, &record)?;
        }
        Ok(())
    }

    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        self.drain()?;
        self.intake.settle(&self.object, 0)?;
        let Intake { streams, assembler, .. } = &mut self.intake;
        let messages = assembler.finish(|key| streams.get(key, 0).map_or(0, |stream| stream.lost));
        let given_up = assembler.given_up;
        let [dns, http, tls] = messages.lost;
        let losses = [
            ("protocols.EVENTS", self.lost(LOST_EVENTS)?),
            ("protocols.STREAMS", self.lost(LOST_STREAMS)?),
            ("protocols.memory", given_up),
            ("protocols.dns", dns),
            ("protocols.http", http),
            ("protocols.tls", tls),
        ];
        for (name, count) in losses.into_iter().filter(|(_, count)| *count > 0) {
            *observation.losses.entry(name.to_owned()).or_default() += count;
        }
        observation.dns.extend(messages.dns);
        observation.http.extend(messages.http);
        observation.tls.extend(messages.tls);
        Ok(())
    }
}

/// Bytes of a message as text that is safe to print: control characters and bytes that are not UTF-8 are escaped.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

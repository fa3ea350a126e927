//! A link with nothing but a counter at its far end: how fast frames can be sent at all. For benchmarks, which let
//! other senders into the same link.

use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::WireError;
use super::attach::{Named, Stack, XdpMode, attach_xdp};
use super::inject::{Injector, Outgoing, Receiver, Went};
use super::kit::Kit;
use super::ledger;
use super::place::{Place, disable_gro};
use crate::suite::Programs;
use crate::sys::{self, Pinned, SEND_BATCH};
use crate::topology::Network;

/// The link between the client and the device under test, where an XDP program counts and swallows what arrives.
pub struct BareLink {
    // Detached before the maps go.
    _attached: Stack,
    place: Place,
    kit: Kit,
}

impl Receiver for BareLink {
    fn announce(&self, _side: usize, _number: u64, _frame: &Outgoing<'_>) {}

    fn withdraw(&self, _side: usize, _number: u64) {}

    fn seen(&self, _side: usize) -> u64 {
        self.arrived()
    }
}

impl BareLink {
    /// Attaches the counter to the device under test's interface towards the client.
    ///
    /// # Errors
    /// [`WireError::Topology`], [`WireError::Object`], [`WireError::Network`].
    pub fn new(network: &Network) -> Result<Self, WireError> {
        let place = Place::of(network)?;
        let mut kit = Kit::load("ledger_xdp", false)?;
        kit.point_at(&place);
        let mut attached = Stack::default();
        let sink = "sink_client";
        let loaded = Programs::load(&mut kit.object, sink, None)?;
        let named = Named { object: kit.object.name(), program: sink, fd: loaded.fd.as_fd() };
        attached.push(attach_xdp(named, &place.client.dut, XdpMode::Driver)?);
        disable_gro(network, &place)?;
        Ok(Self { _attached: attached, place, kit })
    }

    /// Frames that have arrived, whoever sent them.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        ledger::arrived(&self.kit.counters, 0)
    }

    /// Sends `frames` from the client as fast as they can be sent without losing one, and returns how long it took
    /// until the last had arrived. Frames from others are not expected meanwhile.
    ///
    /// # Errors
    /// [`WireError::Refused`]; [`WireError::System`] if frames are lost.
    pub fn send(&self, frames: &[Vec<u8>]) -> Result<Duration, WireError> {
        let stop = AtomicBool::new(false);
        let mut injector = Injector::open(&self.place, Duration::from_secs(2), &stop)?;
        let system = |operation: &str| {
            let operation = operation.to_owned();
            move |source| WireError::System { operation, source }
        };
        let _pinned = Pinned::here().map_err(system("keep the sending thread on one CPU"))?;
        injector.start_at(0, self.arrived());
        let start = sys::monotonic_ns();
        for batch in frames.chunks(SEND_BATCH) {
            let mut outgoing = [Outgoing { number: 0, time_ns: 0, slot: 0, data: &[] }; SEND_BATCH];
            for ((number, to), data) in (0..).zip(&mut outgoing).zip(batch) {
                *to = Outgoing { number, data, ..*to };
            }
            let went = injector.send(self, 0, &outgoing[..batch.len()]).went?;
            self.arrive(went).map_err(system("send frames without losing one"))?;
        }
        self.arrive(injector.wait_seen(self, 0, 0, None)).map_err(system("receive every frame"))?;
        Ok(Duration::from_nanos(sys::monotonic_ns() - start))
    }

    fn arrive(&self, went: Went) -> std::io::Result<()> {
        if went == Went::Well { Ok(()) } else { Err(std::io::ErrorKind::TimedOut.into()) }
    }
}

//! The programs that count, around those under test.

use std::os::fd::{AsFd as _, AsRawFd as _};

use crate::suite::Programs;
use crate::sys::MapHandle;
use crate::wire::WireError;
use crate::wire::attach::{Attachments, Named, Stack, XdpMode, attach_xdp};
use crate::wire::place::Place;
use crate::wire::replayer::Replayer;

/// How the XDP program of a side runs.
pub(super) fn mode(attachments: &Attachments, side: usize) -> XdpMode {
    attachments.xdp[side].as_ref().map_or(XdpMode::Driver, |under_test| under_test.mode)
}

/// Puts the meters at both ends of every link, with the programs under test behind those of the device under test.
pub(super) fn attach(replayer: &mut Replayer, place: &Place, attachments: &Attachments) -> Result<Stack, WireError> {
    // As for the ledger: a program for frames of several pages is called only by one of its kind.
    match attach_kind(replayer, place, attachments, ["gate_client", "gate_server"]) {
        Err(refused @ WireError::Chain { .. }) => {
            let frags = ["gate_client_frags", "gate_server_frags"];
            attach_kind(replayer, place, attachments, frags).map_err(|_| refused)
        }
        result => result,
    }
}

fn attach_kind(
    replayer: &mut Replayer,
    place: &Place,
    attachments: &Attachments,
    gates: [&str; 2],
) -> Result<Stack, WireError> {
    let object = &mut replayer.object;
    // Before the map that they call through is written: the kernel then knows which kind of program may be in there.
    for gate in gates {
        object.load_program(gate, None)?;
    }
    let chain = MapHandle::new(object.map_fd("CHAIN")?).map_err(|source| object.map_error("CHAIN", source))?;
    let mut attached = Stack::default();
    for (side, link) in place.links() {
        if let Some(under_test) = &attachments.xdp[side] {
            let key = u32::try_from(side).unwrap_or_default().to_ne_bytes();
            let fd = under_test.fd.as_raw_fd().to_ne_bytes();
            chain.update(Some(&key), &fd, 0).map_err(|source| WireError::Chain {
                object: under_test.object.clone(),
                program: under_test.program.clone(),
                source,
            })?;
        }
        let sink = ["sink_client", "sink_server"][side];
        let points = [(sink, &link.far, XdpMode::Driver), (gates[side], &link.dut, mode(attachments, side))];
        for (program, port, mode) in points {
            let loaded = Programs::load(object, program, None)?;
            let named = Named { object: object.name(), program, fd: loaded.fd.as_fd() };
            attached.push(attach_xdp(named, port, mode)?);
        }
    }
    Ok(attached)
}

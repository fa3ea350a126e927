//! Programs without the lab's own around them: for traffic of real stacks, which no replay accounts for.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use super::{Attachments, Named, Stack, UnderTest, XdpMode, add_hooks, attach_tc, attach_xdp, load, program_priority};
use crate::hook::{Hook, HookKind};
use crate::suite::{Loaded, Programs};
use crate::sys::TcDirection;
use crate::topology::Network;
use crate::wire::WireError;
use crate::wire::place::{Link, disable_gro};

/// XDP programs under test without the lab's own around them.
#[derive(Debug)]
#[allow(dead_code, reason = "held to be dropped")]
pub struct XdpAlone(Stack);

impl Attachments {
    /// Attaches the XDP programs under test by themselves, for traffic outside of a replay. They must be gone before the
    /// next replay.
    ///
    /// # Errors
    /// [`WireError::Attach`].
    pub fn attach_xdp_alone(&self) -> Result<XdpAlone, WireError> {
        let mut alone = Stack::default();
        for (side, link) in self.place.links() {
            if let Some(UnderTest { object, program, fd, mode }) = &self.xdp[side] {
                alone.push(attach_xdp(Named { object, program, fd: fd.as_fd() }, &link.dut, *mode)?);
            }
        }
        Ok(XdpAlone(alone))
    }

    /// The interfaces of the device under test by side (0 faces the client, 1 the server), `HOST.INTERFACE`, each with
    /// its XDP program.
    #[must_use]
    pub fn interfaces(&self) -> BTreeMap<usize, (String, Option<String>)> {
        let interface = |(side, link): (usize, &Link)| {
            let program = self.xdp[side].as_ref().map(|under_test| under_test.program.clone());
            (side, (format!("{}.{}", link.dut.host, link.dut.name), program))
        };
        self.place.links().map(interface).collect()
    }

    /// Whether the device under test is an end of the network. What it sends itself passes none of its ingress hooks.
    #[must_use]
    pub fn at_the_end(&self) -> bool {
        self.place.server.is_none()
    }

    /// Attaches a program of an ingress hook once more, at the client's end of the link: there it sees what the device
    /// under test sends.
    ///
    /// # Errors
    /// As [`Attachments::attach`]; a hook that is not at ingress has nothing to see there and is left out.
    pub fn attach_for_answers(
        &mut self,
        object: &mut dyn Programs,
        program: &str,
        hook: &Hook,
    ) -> Result<(), WireError> {
        if !matches!(hook.kind, HookKind::Xdp | HookKind::TcIngress) {
            return Ok(());
        }
        let far = self.place.client.far.clone();
        let Loaded { fd, .. } = load(object, program, hook, None)?;
        let named = Named { object: object.object_name(), program, fd: fd.as_fd() };
        let attached = if hook.kind == HookKind::Xdp {
            attach_xdp(named, &far, XdpMode::Driver)?
        } else {
            add_hooks(&far)?;
            let priority = program_priority(self.answers);
            self.answers += 1;
            attach_tc(named, &far, TcDirection::Ingress, priority)?
        };
        self.attached.push(attached);
        Ok(())
    }

    /// Sees to it that packets keep their sizes on the way: attaching native XDP turns generic receive offload on.
    ///
    /// # Errors
    /// [`WireError::Network`].
    pub fn keep_segments(&self, network: &Network) -> Result<(), WireError> {
        Ok(disable_gro(network, &self.place)?)
    }
}

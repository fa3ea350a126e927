//! Where frames enter, pass and arrive: the interfaces of a topology as wire mode uses them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::WireError;
use crate::sys;
use crate::topology::{Host, Network, Offload, Role, TopologyError};

/// A network namespace, kept alive.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    pub(crate) fn of(host: &Host) -> io::Result<Self> {
        Ok(Self(Arc::new(host.namespace_fd()?.try_clone_to_owned()?)))
    }

    /// Runs `work` in the namespace: on a thread of its own that ends with it, so that no other code ever finds itself
    /// elsewhere. Unlike what is handed to a host's own thread, `work` may borrow.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                sys::enter_netns(self.0.as_fd())?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// An interface in its network namespace.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) netns: Namespace,
    pub(super) host: String,
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    /// Whether it is a bridge's port.
    pub(super) bridged: bool,
}

impl Port {
    pub(super) fn of(host: &Host, interface: &str) -> Result<Self, WireError> {
        let state = host.link(interface)?;
        let netns = Namespace::of(host).map_err(|source| WireError::System {
            operation: format!("keep the network namespace of host {}", host.name()),
            source,
        })?;
        Ok(Self {
            netns,
            host: host.name().to_owned(),
            name: interface.to_owned(),
            ifindex: state.index,
            mac: state.mac.0,
            mtu: state.mtu,
            bridged: state.bridge.is_some(),
        })
    }

    /// Largest frame that the interface takes, bytes. One VLAN tag is not counted (`packet_extra_vlan_len_allowed`,
    /// net/packet/af_packet.c).
    pub(super) fn largest_frame(&self, frame: &[u8]) -> usize {
        const ETHERNET: usize = 14;
        let tag = if frame.get(12..14) == Some(&[0x81, 0x00]) { 4 } else { 0 };
        self.mtu as usize + ETHERNET + tag
    }
}

/// The interfaces of one side: the far end, where frames enter and arrive, and the device under test's.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) far: Port,
    pub(super) dut: Port,
}

/// All interfaces that wire mode uses.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Name of the device under test.
    pub(super) host: String,
    /// Inode number of its network namespace.
    pub(super) netns: u32,
    /// The link to the client.
    pub(super) client: Link,
    /// The link to the server, if there is one.
    pub(super) server: Option<Link>,
}

impl Place {
    /// The first host of each role, and the links between them.
    pub(super) fn of(network: &Network) -> Result<Self, WireError> {
        let lacks = |problem: &str| WireError::Topology {
            topology: network.topology().name.clone(),
            problem: problem.to_owned(),
        };
        let dut = network.with_role(Role::Dut).ok_or_else(|| lacks("no host is the device under test"))?;
        let client = network.with_role(Role::Client).ok_or_else(|| lacks("no host is the client"))?;
        let link_to = |host: &Host| -> Result<Option<Link>, WireError> {
            let Some((far, near)) = ends(network, host.name(), dut.name()) else { return Ok(None) };
            Ok(Some(Link { far: Port::of(host, far)?, dut: Port::of(dut, near)? }))
        };
        let server = network.with_role(Role::Server).map(link_to).transpose()?.flatten();
        let client = link_to(client)?.ok_or_else(|| lacks("no link joins the client and the device under test"))?;
        Ok(Self { host: dut.name().to_owned(), netns: dut.netns_inode(), client, server })
    }

    /// The links that exist, by side.
    pub(super) fn links(&self) -> impl Iterator<Item = (usize, &Link)> {
        [(0, Some(&self.client)), (1, self.server.as_ref())].into_iter().filter_map(|(side, link)| Some((side, link?)))
    }
}

/// The interfaces of the first link between two hosts, by name.
fn ends<'a>(network: &'a Network, far: &str, near: &str) -> Option<(&'a str, &'a str)> {
    network.topology().links.iter().find_map(|link| {
        let [one, two] = &link.ends;
        if one.host == far && two.host == near {
            Some((one.interface.as_str(), two.interface.as_str()))
        } else if two.host == far && one.host == near {
            Some((two.interface.as_str(), one.interface.as_str()))
        } else {
            None
        }
    })
}

/// Turns generic receive offload off at every interface: it holds packets back and so lets others overtake them. Some
/// kernels turn it on when a native XDP program is attached to a veth (`veth_enable_xdp`, drivers/net/veth.c).
pub(super) fn disable_gro(network: &Network, place: &Place) -> Result<(), TopologyError> {
    for (_, link) in place.links() {
        for port in [&link.dut, &link.far] {
            let host = network.host(&port.host)?;
            if host.offloads(&port.name)?.contains(&Offload::Gro) {
                host.set_offload(&port.name, Offload::Gro, false)?;
            }
        }
    }
    Ok(())
}

/// Gives a frame the Ethernet addresses that it has on a link to a device that does not bridge: from the far end's
/// interface to the device's. Group addresses stay.
pub(super) fn readdress(frame: &mut [u8], link: &Link) {
    if let Some(destination) = frame.get_mut(..6)
        && destination[0] & 1 == 0
    {
        destination.copy_from_slice(&link.dut.mac);
    }
    if let Some(source) = frame.get_mut(6..12) {
        source.copy_from_slice(&link.far.mac);
    }
}

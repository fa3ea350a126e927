//! Links, addresses, neighbours and routes of one network namespace, by rtnetlink.
//!
//! A value belongs to the thread that made it: its socket is of the namespace that this thread was in.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State, VlanProtocol as Tag,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption, TcStats2};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::address::{Mac, Prefix};
use super::impaired::QueueCounters;
use super::netem::{Discipline, Parent};
use super::spec::{NeighbourSpec, RouteKind, VlanProtocol, VlanSpec};

/// Longest wait for an answer: the kernel answers at once, and only an answer that could not be read is missing.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Reserved group addresses 01:80:c2:00:00:0x that a bridge may forward by its own mask: all but the first three
/// (net/bridge/br_private.h, `BR_GROUPFWD_RESTRICTED`).
const BRIDGE_FORWARDED: u16 = !0b111;
/// The same for a port: all but pause frames (net/bridge/br_netlink.c, `BR_GROUPFWD_MACPAUSE`).
const PORT_FORWARDED: u16 = !0b10;

/// Counters of an interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received, without the frame check sequence.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Packets dropped instead of being sent.
    pub tx_dropped: u64,
    /// Received packets with errors.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// The state of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its number in the host.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Whether it is operational (RFC 2863 `ifOperStatus`): packets pass.
    pub is_up: bool,
    /// Whether it is set up and has a carrier.
    pub has_carrier: bool,
    /// Whether it takes part in ARP and neighbour discovery.
    pub arp: bool,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
    /// As a bridge's port: whether it forwards.
    pub forwarding: Option<bool>,
    /// As a bridge's port: whether the bridge learns addresses from it.
    pub learning: Option<bool>,
    /// What passed.
    pub counters: LinkCounters,
}

/// When an interface is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// When it is operational.
    Operational,
    /// When it has a carrier. Of a bridge without addresses that is enough: it forwards from then on, while its own
    /// operational state, which only its own traffic needs, may follow as much as a second later (net/core/link_watch.c,
    /// `linkwatch_urgent_event`).
    Carrier,
}

/// One end of a link that is to be made.
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) namespace: BorrowedFd<'a>,
}

/// A queueing discipline that an interface has.
#[derive(Clone, Debug)]
pub(crate) struct FoundDiscipline {
    pub(crate) kind: String,
    /// Whether it is the interface's own, not one within another.
    pub(crate) is_root: bool,
    /// Value of `TCA_OPTIONS`; empty for the kinds whose options the library takes apart.
    pub(crate) options: Vec<u8>,
    pub(crate) counters: QueueCounters,
}

/// A connection to the kernel and what drives it.
#[derive(Debug)]
pub(crate) struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

impl Netlink {
    /// Connects in the calling thread's network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// Drives a request to its end.
    fn wait<T>(&self, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_LIMIT, request).await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(to_io)
        })
    }

    /// Sends a request whose answer is an acknowledgement.
    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle.clone();
        self.wait(async move {
            let mut answers = handle.request(request)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        })
    }

    /// Gives an interface a queue with room for so many bytes, in place of what it has.
    pub(crate) fn set_queue(&self, index: u32, bytes: u32) -> io::Result<()> {
        /// `TCA_OPTIONS`, here a plain `struct tc_fifo_qopt`: the limit.
        const TCA_OPTIONS: u16 = 2;
        let header = TcHeader { index: index.cast_signed(), parent: TcHandle::ROOT, ..TcHeader::default() };
        let options = DefaultNla::new(TCA_OPTIONS, bytes.to_ne_bytes().to_vec());
        let attributes = vec![TcAttribute::Kind("bfifo".to_owned()), TcAttribute::Other(options)];
        let message = TcMessage::from_parts(header, attributes);
        self.send(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Gives an interface a queueing discipline.
    pub(crate) fn add_discipline(&self, index: u32, discipline: &Discipline) -> io::Result<()> {
        /// `TCA_OPTIONS`, which the kernel takes as it is written for the kind.
        const TCA_OPTIONS: u16 = 2;
        let parent = match discipline.parent {
            Parent::Root => TcHandle::ROOT,
            Parent::Within(major) => TcHandle { major, minor: 1 },
        };
        let handle = TcHandle { major: discipline.major, minor: 0 };
        let header = TcHeader { index: index.cast_signed(), handle, parent, ..TcHeader::default() };
        let options = DefaultNla::new(TCA_OPTIONS, discipline.options.clone());
        let attributes = vec![TcAttribute::Kind(discipline.kind.to_owned()), TcAttribute::Other(options)];
        let message = TcMessage::from_parts(header, attributes);
        self.send(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The queueing disciplines of an interface.
    pub(crate) fn disciplines(&self, index: u32) -> io::Result<Vec<FoundDiscipline>> {
        let request = self.handle.qdisc().get().index(index.cast_signed()).execute();
        let messages: Vec<TcMessage> = self.wait(request.try_collect())?;
        // Kernels before 4.16 list those of all interfaces.
        let here = messages.iter().filter(|message| message.header.index == index.cast_signed());
        Ok(here.map(found).collect())
    }

    /// Makes a pair of interfaces, each at once in its own namespace.
    pub(crate) fn create_veth(&self, ends: [VethEnd<'_>; 2], mtu: u32, arp: bool) -> io::Result<()> {
        let [mut one, two] = ends.map(|end| {
            let mut message = new_link(end.name, arp);
            message.attributes.extend([
                LinkAttribute::Mtu(mtu),
                LinkAttribute::Address(end.mac.0.to_vec()),
                LinkAttribute::NetNsFd(end.namespace.as_raw_fd()),
            ]);
            message
        });
        one.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(two))),
        ]));
        self.send(RouteNetlinkMessage::NewLink(one), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a bridge that does nothing by itself.
    pub(crate) fn create_bridge(&self, name: &str, mac: Mac, arp: bool) -> io::Result<()> {
        let mut message = new_link(name, arp);
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
                InfoBridge::GroupFwdMask(BRIDGE_FORWARDED),
            ])),
        ]));
        self.send(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an interface a port of a bridge.
    pub(crate) fn add_port(&self, port: u32, bridge: u32, learning: bool) -> io::Result<()> {
        let mut message = existing(port);
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.send(RouteNetlinkMessage::SetLink(message), 0)?;
        // A second request: the kernel looks for the port's bridge before it changes anything.
        let mut message = existing(port);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(learning),
                InfoBridgePort::UnicastFlood(true),
                InfoBridgePort::MulticastFlood(true),
                InfoBridgePort::BroadcastFlood(true),
                InfoBridgePort::GroupFwdMask(PORT_FORWARDED),
            ])),
        ]));
        self.send(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Makes a VLAN interface.
    pub(crate) fn create_vlan(&self, vlan: &VlanSpec, parent: u32, arp: bool) -> io::Result<()> {
        let protocol = match vlan.protocol {
            VlanProtocol::Customer => Tag::Ieee8021Q,
            VlanProtocol::Service => Tag::Ieee8021Ad,
        };
        let mut message = new_link(&vlan.name, arp);
        message.attributes.push(LinkAttribute::Link(parent));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(vlan.id), InfoVlan::Protocol(protocol)])),
        ]));
        self.send(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets an interface up.
    pub(crate) fn set_up(&self, index: u32) -> io::Result<()> {
        let mut message = existing(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.send(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Adds an address that is usable at once.
    pub(crate) fn add_address(&self, index: u32, prefix: Prefix) -> io::Result<()> {
        let mut request = self.handle.address().add(index, prefix.address, prefix.length);
        if prefix.address.is_ipv6() {
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        self.wait(request.execute())
    }

    /// Adds a permanent neighbour.
    pub(crate) fn add_neighbour(&self, index: u32, neighbour: &NeighbourSpec) -> io::Result<()> {
        let request = self.handle.neighbours().add(index, neighbour.address).link_layer_address(&neighbour.mac.0);
        self.wait(request.execute())
    }

    /// Adds a route.
    pub(crate) fn add_route(
        &self,
        to: Prefix,
        via: Option<IpAddr>,
        interface: Option<u32>,
        kind: RouteKind,
    ) -> io::Result<()> {
        let (kind, table, scope) = match kind {
            RouteKind::Unicast if via.is_none() => (RouteType::Unicast, MAIN_TABLE, RouteScope::Link),
            RouteKind::Unicast => (RouteType::Unicast, MAIN_TABLE, RouteScope::Universe),
            RouteKind::Local => (RouteType::Local, LOCAL_TABLE, RouteScope::Host),
            RouteKind::Blackhole => (RouteType::BlackHole, MAIN_TABLE, RouteScope::Universe),
            RouteKind::Unreachable => (RouteType::Unreachable, MAIN_TABLE, RouteScope::Universe),
            RouteKind::Prohibit => (RouteType::Prohibit, MAIN_TABLE, RouteScope::Universe),
        };
        // IPv6 has no scopes, and refuses routes of some kinds that name no interface's index but zero.
        let scope = if to.address.is_ipv4() { scope } else { RouteScope::Universe };
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.address, to.length)
            .map_err(io::Error::other)?
            .kind(kind)
            .table_id(table)
            .scope(scope);
        if let Some(via) = via {
            route = route.gateway(via).map_err(io::Error::other)?;
        }
        if let Some(interface) = interface {
            route = route.output_interface(interface);
        }
        self.wait(self.handle.route().add(route.build()).execute())
    }

    /// The state of an interface; `ENODEV` if there is none of that name.
    pub(crate) fn link(&self, name: &str) -> io::Result<LinkState> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        let message = self.wait(async { pin!(request).try_next().await })?;
        Ok(state(&message.ok_or(io::ErrorKind::NotFound)?))
    }

    /// The state of every interface.
    pub(crate) fn links(&self) -> io::Result<Vec<LinkState>> {
        let request = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> = self.wait(request.try_collect())?;
        Ok(messages.iter().map(state).collect())
    }

    /// The addresses of an interface, in the kernel's order.
    pub(crate) fn addresses(&self, index: u32) -> io::Result<Vec<Prefix>> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> = self.wait(request.try_collect())?;
        let prefix = |message: &rtnetlink::packet_route::address::AddressMessage| {
            // Of IPv4 the local address counts, which differs from the other only on point-to-point links.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            local.or(any).map(|address| Prefix { address, length: message.header.prefix_len })
        };
        Ok(messages.iter().filter_map(prefix).collect())
    }

    /// Waits until all of these interfaces carry packets.
    ///
    /// They are asked for one by one: unlike a list of all, that makes the kernel (since 6.8) work off pending changes
    /// of the link's state instead of reporting an old one.
    pub(crate) fn wait_ready(&self, wanted: &[(String, Ready)], limit: Duration) -> io::Result<()> {
        let missing = || {
            for (name, ready) in wanted {
                let link = self.link(name)?;
                if !(link.is_up || (*ready == Ready::Carrier && link.has_carrier)) {
                    return Ok(Some(name.clone()));
                }
            }
            Ok(None)
        };
        self.wait_for(MulticastGroup::Link, limit, missing)
    }

    /// Waits until these IPv6 addresses receive. Their local routes are what counts, which the kernel makes in a
    /// deferred work even for addresses without duplicate address detection (net/ipv6/addrconf.c,
    /// `addrconf_dad_start`); until then packets to them are dropped although the address is listed.
    pub(crate) fn wait_local(&self, addresses: &BTreeSet<Ipv6Addr>, limit: Duration) -> io::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.wait_for(MulticastGroup::Ipv6Route, limit, || {
            let mut query = RouteMessageBuilder::<Ipv6Addr>::new().build();
            query.header.table = RouteHeader::RT_TABLE_UNSPEC;
            let routes: Vec<_> = self.wait(self.handle.route().get(query).execute().try_collect())?;
            let local: BTreeSet<Ipv6Addr> = routes.iter().filter_map(local_address).collect();
            Ok(addresses.difference(&local).next().map(Ipv6Addr::to_string))
        })
    }

    /// Waits until nothing is missing. What happens between a question and the next event of the group is an event, so
    /// that nothing is missed and nothing is polled.
    fn wait_for(
        &self,
        group: MulticastGroup,
        limit: Duration,
        missing: impl Fn() -> io::Result<Option<String>>,
    ) -> io::Result<()> {
        if missing()?.is_none() {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        let (listener, mut events) = {
            let _entered = self.runtime.enter();
            let (connection, _, events) = rtnetlink::new_multicast_connection(&[group])?;
            (self.runtime.spawn(connection), events)
        };
        let waited = loop {
            let Some(name) = missing()? else { break Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.runtime.block_on(async { tokio::time::timeout(left, events.next()).await });
            if event.is_err() {
                break Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} is not ready")));
            }
            // One question answers for all events that are there.
            while events.next().now_or_never().flatten().is_some() {}
        };
        listener.abort();
        waited
    }
}

/// The address that a local route receives for.
fn local_address(route: &RouteMessage) -> Option<Ipv6Addr> {
    if route.header.kind != RouteType::Local || route.header.destination_prefix_length != 128 {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    })
}

const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
const LOCAL_TABLE: u32 = libc::RT_TABLE_LOCAL as u32;

/// A request for a new interface. Without ARP it has no flag to take part in groups either: an interface with neither
/// joins nothing when it gets an address or begins to route (net/ipv6/addrconf.c, `addrconf_join_solict`,
/// `dev_forward_change`), so it has no membership to report.
fn new_link(name: &str, arp: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    if !arp {
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp | LinkFlags::Multicast;
    }
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

fn existing(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn found(message: &TcMessage) -> FoundDiscipline {
    let is_root = message.header.parent == TcHandle::ROOT;
    let mut found = FoundDiscipline { kind: String::new(), is_root, options: Vec::new(), counters: <_>::default() };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => found.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                let raw = options.iter().find_map(|option| match option {
                    TcOption::Other(raw) => Some(raw),
                    _ => None,
                });
                if let Some(raw) = raw {
                    found.options = vec![0; raw.value_len()];
                    raw.emit_value(&mut found.options);
                }
            }
            TcAttribute::Stats2(all) => {
                for one in all {
                    match one {
                        TcStats2::Basic(basic) => found.counters.packets = basic.packets.into(),
                        TcStats2::Queue(queue) => {
                            found.counters.dropped = queue.drops.into();
                            found.counters.waiting = queue.qlen.into();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn state(message: &LinkMessage) -> LinkState {
    let mut link = LinkState {
        index: message.header.index,
        name: String::new(),
        mac: Mac([0; 6]),
        mtu: 0,
        is_up: false,
        has_carrier: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        arp: !message.header.flags.contains(LinkFlags::Noarp),
        bridge: None,
        forwarding: None,
        learning: None,
        counters: LinkCounters::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().map_or(link.mac, Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::OperState(state) => link.is_up = *state == State::Up,
            LinkAttribute::Controller(bridge) => link.bridge = Some(*bridge),
            LinkAttribute::Stats64(stats) => {
                link.counters = LinkCounters {
                    rx_packets: stats.rx_packets,
                    tx_packets: stats.tx_packets,
                    rx_bytes: stats.rx_bytes,
                    tx_bytes: stats.tx_bytes,
                    rx_dropped: stats.rx_dropped,
                    tx_dropped: stats.tx_dropped,
                    rx_errors: stats.rx_errors,
                    tx_errors: stats.tx_errors,
                };
            }
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| port_state(info, &mut link)),
            _ => {}
        }
    }
    link
}

fn port_state(info: &LinkInfo, link: &mut LinkState) {
    let LinkInfo::PortData(InfoPortData::BridgePort(attributes)) = info else { return };
    for attribute in attributes {
        match attribute {
            InfoBridgePort::State(state) => link.forwarding = Some(*state == BridgePortState::Forwarding),
            InfoBridgePort::Learning(learning) => link.learning = Some(*learning),
            _ => {}
        }
    }
}

//! What stands before anything is played: sockets at both ends, settings, and the plan.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use super::super::follow::Follow;
use super::super::forward::Targets;
use super::super::peer::{Patience, Peer};
use super::super::responder;
use super::super::script::Script;
use super::super::{Dut, LiveError, LiveOptions};
use super::{DATAGRAMS, LISTENER, OTHER_FILES, RECEIVE_ROOM, Run, SETTINGS, State, WIRE, dut, lacks};
use crate::sys::{self, Epoll};
use crate::topology::{EndSpec, Impairment, Network, Role};

/// `net.ipv4.tcp_fastopen` (Documentation/networking/ip-sysctl.rst): clients send data in the SYN without a cookie (1, 4),
/// every listener takes it, whatever the cookie (2, 0x200, 0x400). The recorded one was made with a key that nobody has.
const FAST_OPEN: &str = "1543";

impl<'a> Run<'a> {
    pub(super) fn new(network: &'a Network, script: &'a Script, options: &'a LiveOptions) -> Result<Self, LiveError> {
        if script.flows.is_empty() {
            return Err(LiveError::Nothing { packets: script.packets });
        }
        let dut = dut(network)?;
        let far = network.with_role(Role::Client).ok_or_else(|| lacks(network, "no host is the client"))?;
        let topology = network.topology();
        let link = topology.links.iter().find_map(|link| {
            let [one, two] = &link.ends;
            if one.host == far.name() && two.host == dut.name() {
                Some((one, two))
            } else if two.host == far.name() && one.host == dut.name() {
                Some((two, one))
            } else {
                None
            }
        });
        let (played, live) =
            link.ok_or_else(|| lacks(network, "no link joins the client, which is played, and the device under test"))?;
        let own: BTreeSet<_> = dut
            .links()?
            .iter()
            .map(|link| dut.addresses(&link.name))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .map(|prefix| prefix.address)
            .collect();
        let addresses = script.addresses();
        if let Some(address) = addresses.live.iter().find(|address| !own.contains(address)) {
            return Err(lacks(
                network,
                format!("the device under test has no address {address}, which the live end has"),
            ));
        }
        if addresses.played.iter().any(IpAddr::is_ipv6) {
            // What is sent to the played addresses is for the player, and the kernel has nothing to say to it.
            far.swallow_unrouted()?;
        }
        let index = far.ifindex(&played.interface)?;
        // Through the queue, which may be impaired, and past whoever records what leaves.
        let open = far.run(move || Ok((sys::packet_receiver(index, RECEIVE_ROOM)?, sys::queued_packet_sender(index)?)));
        let (wire, sender) = open.map_err(LiveError::system("open packet sockets at the played end"))?;
        let delay = |end: &EndSpec| end.impair.as_ref().map_or(0, Impairment::longest_delay_ns);
        let patience = Patience::new(options.patience_ns(), delay(live) + delay(played));
        let epoll = Epoll::new().map_err(LiveError::system("wait for sockets"))?;
        epoll.add(wire.as_fd(), WIRE).map_err(LiveError::system("wait for packets"))?;
        let mut known: HashMap<_, VecDeque<usize>> = HashMap::new();
        for (index, flow) in script.flows.iter().enumerate().filter(|(_, flow)| flow.refused.is_none()) {
            known.entry((flow.tcp, flow.live(options.dut), flow.played(options.dut))).or_default().push_back(index);
        }
        let targets = Targets::of(network, &options.forward)?;
        let states = script.flows.iter().map(|flow| {
            let is_answered = if flow.tcp { flow.end.was_answered() } else { !flow.is_closed };
            let forward = targets.find(flow.server.port()).filter(|_| is_answered);
            let forwarded_to = forward.filter(|_| options.dut == Dut::Server).map(|(forward, _)| forward.to_string());
            let follow = forwarded_to.as_ref().map(|_| Follow::default());
            State { peer: Peer::following(follow), forwarded_to, ..State::default() }
        });
        Ok(Self {
            network,
            script,
            options,
            patience,
            start_ns: 0,
            states: states.collect(),
            targets,
            known,
            times: BinaryHeap::new(),
            epoll,
            wire,
            sender,
            macs: [dut.mac(&live.interface)?.0, far.mac(&played.interface)?.0],
            listeners: Vec::new(),
            datagrams: Vec::new(),
            datagram_of: HashMap::new(),
            outgoing: Vec::new(),
            over: 0,
            ready: Vec::new(),
        })
    }

    /// Opens the live end's sockets, and puts every conversation on the plan.
    pub(super) fn open(&mut self) -> Result<(), LiveError> {
        let dut = dut(self.network)?;
        let playable = self.script.flows.iter().filter(|flow| flow.refused.is_none());
        let forwarded = self.states.iter().filter(|state| state.forwarded_to.is_some()).count();
        let files = (playable.clone().count() + forwarded) as u64 + OTHER_FILES;
        sys::allow_open_files(files).map_err(LiveError::system(format!("have {files} open files")))?;
        for (name, value) in SETTINGS {
            // Kernels lack one or the other.
            _ = dut.set_sysctl(name, value);
        }
        if playable.clone().any(|flow| flow.asks_for_ecn) && self.options.dut == Dut::Client {
            dut.set_sysctl("net.ipv4.tcp_ecn", "1")?;
        }
        if playable.clone().any(|flow| flow.fast_open) {
            dut.set_sysctl("net.ipv4.tcp_fastopen", FAST_OPEN)?;
        }
        if self.known.values().any(|flows| flows.len() > 1) {
            // Ends that connect again would find the connection before in TIME-WAIT for a minute: it has none, then.
            dut.set_sysctl("net.ipv4.tcp_max_tw_buckets", "0")?;
        }
        if self.options.dut == Dut::Server {
            let both = self.script.flows.iter().zip(&self.states).filter(|(flow, _)| flow.refused.is_none());
            let mut wanted: BTreeMap<SocketAddr, Option<u32>> = BTreeMap::new();
            for (flow, state) in both.filter(|(flow, _)| flow.tcp && flow.end.was_answered()) {
                let room = wanted.entry(flow.server).or_default();
                // A real application reads when it wants to.
                *room = flow.receive_buffer.filter(|_| state.forwarded_to.is_none()).or(*room);
            }
            for (address, room) in wanted {
                let listener = dut.run(move || responder::listen(address, room));
                let listener = listener.map_err(LiveError::system(format!("listen at {address}")))?;
                let token = LISTENER + self.listeners.len() as u64;
                self.epoll.add(listener.as_fd(), token).map_err(LiveError::system("wait for connections"))?;
                self.listeners.push(listener);
            }
        }
        let udp: BTreeSet<SocketAddr> =
            playable.filter(|flow| !flow.tcp && !flow.is_closed).map(|flow| flow.live(self.options.dut)).collect();
        for address in udp {
            let socket = dut.run(move || responder::datagrams(address));
            let socket = socket.map_err(LiveError::system(format!("open a UDP socket at {address}")))?;
            let token = DATAGRAMS + self.datagrams.len() as u64;
            self.epoll.add(socket.as_fd(), token).map_err(LiveError::system("wait for datagrams"))?;
            self.datagram_of.insert(address, self.datagrams.len());
            self.datagrams.push(socket);
        }
        self.start_ns = sys::monotonic_ns();
        for index in 0..self.script.flows.len() {
            if self.script.flows[index].refused.is_some() {
                self.states[index].over = true;
                self.over += 1;
            } else if self.is_first(index) {
                self.begin(index);
            }
        }
        Ok(())
    }
}

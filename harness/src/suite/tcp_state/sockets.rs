//! The kernel's own sockets: where their fields are, and how their changes of state are written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bpflab_programs::packet::{FAMILY_IPV4, FAMILY_IPV6};
use bpflab_programs::tcp_state::{SockOffsets, Transition};

use crate::kernel::btf::{Btf, BtfError};
use crate::observation;
use crate::suite::format::ip;

/// `AF_INET6`.
const AF_INET6: u16 = 10;

/// Names of `BPF_TCP_*` by number (`include/uapi/linux/bpf.h`, where they are part of the interface; the kernel asserts
/// that its own `TCP_*` are the same).
const STATES: [&str; 14] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
];

/// Looks up in the running kernel's BTF what `sock_state` reads.
pub(super) fn offsets() -> Result<SockOffsets, BtfError> {
    let btf = Btf::kernel()?;
    // Without CONFIG_IPV6 the kernel has neither these members nor sockets that would need them.
    let ipv6 = |path: &str| if btf.has_field(path) { btf.offset(path) } else { Ok(0) };
    Ok(SockOffsets {
        net: btf.offset("sock.__sk_common.skc_net")?,
        inum: btf.offset("net.ns.inum")?,
        family: btf.offset("sock.__sk_common.skc_family")?,
        num: btf.offset("sock.__sk_common.skc_num")?,
        sport: btf.offset("inet_sock.inet_sport")?,
        dport: btf.offset("sock.__sk_common.skc_dport")?,
        rcv_saddr: btf.offset("sock.__sk_common.skc_rcv_saddr")?,
        daddr: btf.offset("sock.__sk_common.skc_daddr")?,
        v6_rcv_saddr: ipv6("sock.__sk_common.skc_v6_rcv_saddr")?,
        v6_daddr: ipv6("sock.__sk_common.skc_v6_daddr")?,
        protocol: btf.offset("sock.sk_protocol")?,
    })
}

/// The transitions in the order of their events, hosts by name.
pub(super) fn report(transitions: &[Transition], hosts: &BTreeMap<u32, String>) -> Vec<observation::Transition> {
    transitions
        .iter()
        .map(|transition| observation::Transition {
            host: hosts.get(&transition.netns).map_or_else(|| format!("netns-{}", transition.netns), Clone::clone),
            local: socket_name(transition.family, &transition.local, transition.local_port),
            remote: socket_name(transition.family, &transition.remote, transition.remote_port),
            from: state_name(transition.old),
            to: state_name(transition.new),
        })
        .collect()
}

/// An IPv4 connection of an IPv6 socket is written as what it is on the wire.
pub(in crate::suite) fn socket_name(family: u16, address: &[u8; 16], port: u16) -> String {
    let family = if family == AF_INET6 { FAMILY_IPV6 } else { FAMILY_IPV4 };
    ip(family, address)
        .as_ref()
        .map(IpAddr::to_canonical)
        .map_or_else(String::new, |ip| SocketAddr::new(ip, port).to_string())
}

pub(in crate::suite) fn state_name(state: u16) -> String {
    match STATES.get(usize::from(state)) {
        Some(name) if !name.is_empty() => (*name).to_owned(),
        _ => format!("STATE_{state}"),
    }
}

//! Reader of the `sockets` object: what the kernel says of its TCP sockets in the namespaces of a run, held against what
//! `tcp_state` saw of the same connections on the path.
//!
//! The values are those of the last time that a socket took a segment in, sent one, or changed its state. The object
//! runs where it is asked for: a replayed capture ends at no socket, and a program at `net_dev_queue` costs each packet
//! that the machine sends some nanoseconds.

mod compare;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use aya::maps::{Array, HashMap, MapData};
use bpflab_programs::sockets::{Layout, MAX_SOCKETS, Socket, SocketKey};
use serde::{Deserialize, Serialize};

use super::tcp_state::{socket_name, state_name};
use super::{Analyzer, Hook, WatchedHost};
use crate::kernel::btf::{Btf, BtfError};
use crate::object::{Clock, LoadOptions, Object, ObjectError, suite};
use crate::observation::{KernelSocket, Observation};
use crate::sys::bytes_of;

/// The object's name, and the prefix of its losses.
const NAME: &str = "sockets";

/// The programs and their tracepoints, which every kernel has since 5.10.
const PROGRAMS: &[(&str, Hook)] = &[
    ("socket_state", Hook::Tracepoint("inet_sock_set_state")),
    ("socket_receives", Hook::Tracepoint("tcp_probe")),
    ("socket_sends", Hook::Tracepoint("net_dev_queue")),
    ("socket_retransmits", Hook::Tracepoint("tcp_retransmit_skb")),
    ("socket_reset_in", Hook::Tracepoint("tcp_receive_reset")),
    ("socket_reset_out", Hook::Tracepoint("tcp_send_reset")),
];

/// What can be set in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketsSettings {
    /// Sockets that are kept; events of further ones are counted as losses.
    pub max_sockets: NonZeroU32,
}

impl Default for SocketsSettings {
    fn default() -> Self {
        let max = u32::try_from(MAX_SOCKETS).ok().and_then(NonZeroU32::new);
        Self { max_sockets: max.unwrap_or(NonZeroU32::MAX) }
    }
}

/// The loaded object.
#[derive(Debug)]
pub struct Sockets {
    object: Object,
    /// Names of the watched hosts by the inode number of their namespace.
    hosts: BTreeMap<u32, String>,
    /// Whether the times of `tcp_state` are the kernel's, and so comparable with a socket's.
    real_time: bool,
}

impl Sockets {
    /// Loads the object and all its programs, fitted to the running kernel.
    ///
    /// # Errors
    /// [`ObjectError::Types`] without BTF or with a kernel that lacks a field, [`ObjectError::Object`], and what the
    /// verifier refuses. Nothing but this object is lost then.
    pub fn load(clock: Clock, settings: &SocketsSettings) -> Result<Self, ObjectError> {
        let types = |source| ObjectError::Types { object: NAME.to_owned(), source: Box::new(source) };
        let layout = Btf::kernel().and_then(layout).map_err(types)?;
        let options = LoadOptions {
            clock,
            globals: vec![("LAYOUT", bytes_of(&layout), true)],
            max_entries: vec![("SOCKETS", settings.max_sockets.get())],
        };
        let mut object = Object::load(NAME, suite::SOCKETS, &options)?;
        let btf = crate::kernel::aya_btf().map_err(types)?;
        for (program, hook) in PROGRAMS {
            if let Hook::Tracepoint(target) = hook {
                object.load_program(program, Some((target, btf)))?;
            }
        }
        Ok(Self { object, hosts: BTreeMap::new(), real_time: clock == Clock::Kernel })
    }

    /// The sockets in the order of their first event.
    fn sockets(&self) -> Result<Vec<KernelSocket>, ObjectError> {
        let map: HashMap<&MapData, SocketKey, Socket> = self.object.typed_map("SOCKETS")?;
        let sockets: Result<Vec<(SocketKey, Socket)>, _> = map.iter().collect();
        let mut sockets = sockets.map_err(|error| self.object.map_error("SOCKETS", error))?;
        sockets.sort_by_key(|(key, socket)| (socket.first_ns, *key));
        Ok(sockets.iter().map(|(key, socket)| self.describe(key, socket)).collect())
    }

    fn describe(&self, key: &SocketKey, socket: &Socket) -> KernelSocket {
        KernelSocket {
            host: self.hosts.get(&key.netns).cloned().unwrap_or_default(),
            local: socket_name(key.family, &key.local, key.local_port),
            remote: socket_name(key.family, &key.remote, key.remote_port),
            state: state_name(socket.state.into()),
            srtt_us: (socket.srtt_us8 != 0).then(|| f64::from(socket.srtt_us8) / 8.0),
            cwnd: socket.cwnd.into(),
            cwnd_max: socket.cwnd_max.into(),
            receive_window: (socket.has_window != 0).then(|| socket.rcv_wnd.into()),
            window_scale: socket.rcv_wscale,
            retransmissions: socket.total_retrans.into(),
            retransmit_events: socket.retransmit_events.into(),
            resets_received: socket.resets_received.into(),
            resets_sent: socket.resets_sent.into(),
        }
    }
}

impl Analyzer for Sockets {
    fn object(&self) -> &Object {
        &self.object
    }

    fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    fn programs(&self) -> &'static [(&'static str, Hook)] {
        PROGRAMS
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        let Some(map) = self.object.ebpf.map_mut("NETNS") else {
            return Err(self.object.missing("map NETNS".to_owned()));
        };
        let mut written = Ok(());
        match HashMap::<_, u32, u32>::try_from(map) {
            Err(error) => written = Err(error),
            Ok(mut map) => {
                for host in hosts {
                    written = written.and_then(|()| map.insert(host.netns, 0, 0));
                    self.hosts.insert(host.netns, host.name.clone());
                }
            }
        }
        written.map_err(|error| self.object.map_error("NETNS", error))
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        self.hosts.clear();
        self.object.clear_maps()
    }

    /// Compares with the connections that are in `observation` already: `tcp_state` comes first.
    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        let sockets = self.sockets()?;
        let lost: Array<&MapData, u64> = self.object.typed_map("LOST")?;
        let lost = lost.get(&0, 0).map_err(|error| self.object.map_error("LOST", error))?;
        if lost > 0 {
            *observation.losses.entry(format!("{NAME}.SOCKETS")).or_default() += lost;
        }
        let tcp = observation.tcp.get_or_insert_default();
        tcp.disagreements = compare::disagreements(tcp, &sockets, self.real_time);
        tcp.kernel_sockets = sockets;
        Ok(())
    }
}

/// Where the fields that the object reads are in this kernel.
fn layout(btf: &Btf) -> Result<Layout, BtfError> {
    // Without CONFIG_IPV6 the kernel has neither these members nor sockets that would need them.
    let ipv6 = |path: &str| if btf.has_field(path) { btf.offset(path) } else { Ok(0) };
    // Four bits of a byte; counted from the lowest, as on every little-endian machine.
    let scale = btf.field("tcp_sock.rx_opt.rcv_wscale")?;
    Ok(Layout {
        net: btf.offset("sock.__sk_common.skc_net.net")?,
        net_inum: btf.offset("net.ns.inum")?,
        family: btf.offset("sock.__sk_common.skc_family")?,
        state: btf.offset("sock.__sk_common.skc_state")?,
        sport: btf.offset("inet_sock.inet_sport")?,
        dport: btf.offset("sock.__sk_common.skc_dport")?,
        saddr: btf.offset("sock.__sk_common.skc_rcv_saddr")?,
        daddr: btf.offset("sock.__sk_common.skc_daddr")?,
        saddr6: ipv6("sock.__sk_common.skc_v6_rcv_saddr")?,
        daddr6: ipv6("sock.__sk_common.skc_v6_daddr")?,
        protocol: btf.offset("sock.sk_protocol")?,
        skb_sk: btf.offset("sk_buff.sk")?,
        srtt_us: btf.offset("tcp_sock.srtt_us")?,
        snd_cwnd: btf.offset("tcp_sock.snd_cwnd")?,
        rcv_wnd: btf.offset("tcp_sock.rcv_wnd")?,
        total_retrans: btf.offset("tcp_sock.total_retrans")?,
        rcv_wscale: scale.bit_offset / 8,
        rcv_wscale_shift: scale.bit_offset % 8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        assert_eq!(toml::from_str::<SocketsSettings>("").unwrap(), SocketsSettings::default());
        assert!(toml::from_str::<SocketsSettings>("max_sockets = 0").is_err());
        assert!(toml::from_str::<SocketsSettings>("sockets = 1").is_err());
    }

    #[test]
    fn the_layout_fits_the_objects_limits() {
        let layout = layout(Btf::kernel().unwrap()).unwrap();
        // The object masks these with 0xfff.
        for offset in [layout.srtt_us, layout.snd_cwnd, layout.rcv_wnd, layout.total_retrans, layout.rcv_wscale] {
            assert!(offset < 4096, "{layout:?}");
        }
        assert!(layout.rcv_wscale_shift == 0 || layout.rcv_wscale_shift == 4, "{layout:?}");
    }

    #[test]
    fn the_verifier_takes_all_programs() {
        Sockets::load(Clock::Kernel, &SocketsSettings::default()).unwrap();
    }
}

//! Where on packets' way programs can be attached, and the candidates for each place, the best first.
//!
//! fentry comes before kprobe: it costs less, and a kprobe's program is skipped while another one runs on its CPU.
//! Which functions exist on which kernel was found out on 5.10, 6.1, 6.12, 6.18 and 7.3.

use bpflab_programs::latency::{CONTROL_QUEUED_BY_READY, CONTROL_READ_BY_SOCKET, point};

use super::Stage;

/// A kind of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Tracepoint,
    Fentry,
    Fexit,
    Kprobe,
    /// No probe of its own: what another place sees tells it.
    Inferred,
}

impl How {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Inferred => "seen by",
        }
    }
}

/// One candidate: a program, and the function or tracepoint that it is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) program: &'static str,
    pub(super) how: How,
    pub(super) target: &'static str,
    /// Value of `CONTROL` that goes with it.
    pub(super) control: Option<u32>,
}

const fn way(program: &'static str, how: How, target: &'static str) -> Way {
    Way { program, how, target, control: None }
}

/// A place on packets' way.
pub(super) struct Place {
    pub(super) point: u32,
    pub(super) stage: Stage,
    pub(super) packets: &'static str,
    /// Stages that cannot be measured without it.
    pub(super) serves: &'static [Stage],
    /// The best first; or, where `all` is set, what is attached side by side.
    pub(super) ways: &'static [Way],
    pub(super) all: bool,
}

/// fentry, then kprobe, at each of some functions.
macro_rules! functions {
    ($fentry:literal, $kprobe:literal: $($function:literal),+) => {
        &[$(way($fentry, How::Fentry, $function), way($kprobe, How::Kprobe, $function)),+]
    };
}

use Stage::{Driver, Ip, Queued, Read, Receive, Transport};

/// In the order of packets' way, so that a place comes after those that it depends on.
pub(super) static PLACES: [Place; 14] = [
    Place {
        point: point::DRIVER,
        stage: Driver,
        packets: "all",
        // Here a packet is known as a new one.
        serves: &Stage::ALL,
        // Drivers use one or the other.
        ways: &[
            way("napi_gro_receive", How::Tracepoint, "napi_gro_receive_entry"),
            way("napi_gro_frags", How::Tracepoint, "napi_gro_frags_entry"),
            way("netif_receive", How::Tracepoint, "netif_receive_skb_entry"),
            way("netif_receive_list", How::Tracepoint, "netif_receive_skb_list_entry"),
            way("netif_rx", How::Tracepoint, "netif_rx_entry"),
        ],
        all: true,
    },
    Place {
        point: point::RECEIVE,
        stage: Receive,
        packets: "all",
        serves: &[Receive],
        ways: &[way("receive", How::Tracepoint, "netif_receive_skb")],
        all: false,
    },
    Place {
        point: point::IP4,
        stage: Ip,
        packets: "ipv4",
        serves: &[Ip],
        // ip_rcv is not on the way of packets that come in lists, and ip_rcv_finish lives in inlined copies only.
        ways: functions!("ip4_fentry", "ip4_kprobe": "ip_rcv_core", "ip_rcv"),
        all: false,
    },
    Place {
        point: point::IP6,
        stage: Ip,
        packets: "ipv6",
        serves: &[Ip],
        ways: functions!("ip6_fentry", "ip6_kprobe": "ip6_rcv_core", "ipv6_rcv"),
        all: false,
    },
    Place {
        point: point::TCP4,
        stage: Transport,
        packets: "tcp over ipv4",
        serves: &[Transport],
        ways: functions!("tcp4_fentry", "tcp4_kprobe": "tcp_v4_rcv"),
        all: false,
    },
    Place {
        point: point::TCP6,
        stage: Transport,
        packets: "tcp over ipv6",
        serves: &[Transport],
        ways: functions!("tcp6_fentry", "tcp6_kprobe": "tcp_v6_rcv"),
        all: false,
    },
    Place {
        point: point::UDP4,
        stage: Transport,
        packets: "udp over ipv4",
        serves: &[Transport],
        ways: functions!("udp4_fentry", "udp4_kprobe": "udp_rcv", "__udp4_lib_rcv", "udp_queue_rcv_skb"),
        all: false,
    },
    Place {
        point: point::UDP6,
        stage: Transport,
        packets: "udp over ipv6",
        serves: &[Transport],
        ways: functions!("udp6_fentry", "udp6_kprobe": "udpv6_rcv", "__udp6_lib_rcv", "udpv6_queue_rcv_skb"),
        all: false,
    },
    Place {
        point: point::SEGMENT,
        stage: Transport,
        packets: "tcp at established sockets",
        serves: &[Transport, Queued, Read],
        ways: &[way("segment", How::Tracepoint, "tcp_probe")],
        all: false,
    },
    Place {
        point: point::SEGMENT_STATE,
        stage: Transport,
        packets: "tcp at other sockets",
        serves: &[Transport, Queued, Read],
        ways: functions!("segment_fentry", "segment_kprobe": "tcp_rcv_state_process"),
        all: false,
    },
    Place {
        point: point::READY,
        stage: Queued,
        packets: "tcp",
        serves: &[Queued, Read],
        // 6.1 does not have the tracepoint, 6.12 has it.
        ways: &[
            way("ready", How::Tracepoint, "sk_data_ready"),
            way("ready_fentry", How::Fentry, "sock_def_readable"),
            way("ready_kprobe", How::Kprobe, "sock_def_readable"),
        ],
        all: false,
    },
    Place {
        point: point::UDP_QUEUED,
        stage: Queued,
        packets: "udp",
        serves: &[Queued, Read],
        ways: &[
            way("udp_queued", How::Fexit, "__udp_enqueue_schedule_skb"),
            Way {
                program: "ready",
                how: How::Inferred,
                target: "the queue's newest packet when the socket has data",
                control: Some(CONTROL_QUEUED_BY_READY),
            },
        ],
        all: false,
    },
    Place {
        point: point::UDP_READ,
        stage: Read,
        packets: "udp",
        serves: &[Read],
        // consume_skb last: a newer kernel may free the buffer later, and elsewhere (`skb_attempt_defer_free`).
        ways: &[
            way("udp_read_fentry", How::Fentry, "skb_consume_udp"),
            way("udp_read_kprobe", How::Kprobe, "skb_consume_udp"),
            Way {
                program: "udp_read_length",
                how: How::Tracepoint,
                target: "sock_recv_length",
                control: Some(CONTROL_READ_BY_SOCKET),
            },
            way("udp_read_consumed", How::Tracepoint, "consume_skb"),
        ],
        all: false,
    },
    Place {
        point: point::TCP_READ,
        stage: Read,
        packets: "tcp",
        serves: &[Read],
        ways: &[way("tcp_read", How::Tracepoint, "tcp_rcv_space_adjust")],
        all: false,
    },
];

/// Tracepoints that help where there are sockets, and prove nothing: a packet is given up, a TCP socket closes, a
/// datagram finds a full queue.
pub(super) const HELPERS: [(&str, &str); 3] =
    [("freed", "kfree_skb"), ("state", "inet_sock_set_state"), ("udp_refused", "udp_fail_queue_rcv_skb")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_by_point_and_every_stage_has_one() {
        for (index, place) in PLACES.iter().enumerate() {
            assert_eq!(place.point as usize, index, "{}", place.packets);
        }
        for stage in Stage::ALL {
            assert!(PLACES.iter().any(|place| place.stage == stage), "{stage:?}");
        }
    }
}

//! Which part of the kernel a drop belongs to: by the name of its reason where the kernel gives one, else by the
//! function that gave the packet up.

use bpflab_programs::drops::CAUSE_SOCKET_BUFFER;

use crate::kernel::reasons::UNKNOWN;
use crate::observation::DropClass;

/// A reason that says that there is none (include/net/dropreason-core.h).
const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

/// Reasons of the packet filter.
const NETFILTER_REASONS: [&str; 1] = ["NETFILTER_DROP"];
/// Beginnings of the reasons of queueing disciplines. Those of single disciplines bear the discipline's name, until they
/// move to an enum of their own (`qdisc_drop_reason`), whose names have `QDISC` in front.
const QDISC_REASONS: [&str; 4] = ["QDISC_", "CAKE_", "FQ_", "DUALPI2_"];
/// Reasons of sockets and protocols whose memory is full.
const SOCKET_REASONS: [&str; 5] =
    ["SOCKET_RCVBUFF", "SOCKET_BACKLOG", "PROTO_MEM", "TCP_OFO_QUEUE_PRUNE", "TCP_OFO_DROP"];

/// Where the packet filter's hooks free what a rule drops (net/netfilter/core.c).
const NETFILTER_PLACES: [&str; 2] = ["nf_hook_slow", "nf_hook_slow_list"];
/// What a discipline refuses or throws out is put on a list, which `__dev_xmit_skb` (net/core/dev.c) frees when it has
/// let go of the discipline's lock; a discipline that is reset frees it by itself.
const QDISC_PLACES: [&str; 4] = ["kfree_skb_list", "__dev_xmit_skb", "qdisc_reset", "rtnl_kfree_skbs"];
/// Where TCP gives up what waits out of order, for want of memory (net/ipv4/tcp_input.c).
const SOCKET_PLACES: [&str; 2] = ["tcp_prune_ofo_queue", "tcp_prune_queue"];

/// The class of a drop of the kernel's.
pub(super) fn of(reason: &str, place: &str, cause: u8) -> DropClass {
    match reason {
        UNKNOWN | NOT_SPECIFIED if cause == CAUSE_SOCKET_BUFFER => DropClass::SocketBuffer,
        UNKNOWN | NOT_SPECIFIED => of_place(place),
        reason => of_reason(reason),
    }
}

/// Whether a drop belongs to a queueing discipline. `place` is asked only where the reason does not say.
pub(crate) fn is_queue(reason: &str, place: impl FnOnce() -> Option<String>) -> bool {
    let class = match reason {
        UNKNOWN | NOT_SPECIFIED => place().map_or(DropClass::Other, |place| of_place(&place)),
        reason => of_reason(reason),
    };
    class == DropClass::Qdisc
}

fn of_reason(reason: &str) -> DropClass {
    if NETFILTER_REASONS.contains(&reason) {
        DropClass::Netfilter
    } else if QDISC_REASONS.iter().any(|start| reason.starts_with(start)) {
        DropClass::Qdisc
    } else if SOCKET_REASONS.contains(&reason) {
        DropClass::SocketBuffer
    } else {
        DropClass::Other
    }
}

fn of_place(place: &str) -> DropClass {
    if NETFILTER_PLACES.contains(&place) {
        DropClass::Netfilter
    } else if QDISC_PLACES.contains(&place) {
        DropClass::Qdisc
    } else if SOCKET_PLACES.contains(&place) {
        DropClass::SocketBuffer
    } else {
        DropClass::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_decides_where_there_is_one() {
        for (reason, class) in [
            ("NETFILTER_DROP", DropClass::Netfilter),
            ("QDISC_DROP", DropClass::Qdisc),
            ("FQ_FLOW_LIMIT", DropClass::Qdisc),
            ("SOCKET_RCVBUFF", DropClass::SocketBuffer),
            // A filter program that refuses a packet is no want of room.
            ("SOCKET_FILTER", DropClass::Other),
            ("NO_SOCKET", DropClass::Other),
        ] {
            // Whatever the function: `kfree_skb_list` frees for others, too.
            assert_eq!(of(reason, "kfree_skb_list", 0), class, "{reason}");
        }
    }

    #[test]
    fn without_a_reason_the_function_or_the_cause_decides() {
        for reason in [UNKNOWN, NOT_SPECIFIED] {
            assert_eq!(of(reason, "nf_hook_slow", 0), DropClass::Netfilter);
            assert_eq!(of(reason, "kfree_skb_list", 0), DropClass::Qdisc);
            assert_eq!(of(reason, "udp_queue_rcv_one_skb", 0), DropClass::Other);
            assert_eq!(of(reason, "udp_queue_rcv_one_skb", CAUSE_SOCKET_BUFFER), DropClass::SocketBuffer);
        }
    }

    #[test]
    fn queues_are_told_without_a_look_at_the_place_if_possible() {
        assert!(is_queue("QDISC_OVERLIMIT", || panic!("not needed")));
        assert!(!is_queue("NO_SOCKET", || panic!("not needed")));
        assert!(is_queue(UNKNOWN, || Some("kfree_skb_list".to_owned())));
        assert!(!is_queue(UNKNOWN, || None));
    }
}

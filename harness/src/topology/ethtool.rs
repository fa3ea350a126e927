//! Offloads and driver statistics of an interface, by the ethtool requests of the calling thread's network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::sys::{self, EthtoolStrings};

/// Work that an interface takes over from the stack, or pretends to: with it a program may see packets larger than
/// any frame, checksums not computed yet, and VLAN tags moved out of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// Checksums are not verified on receive.
    RxChecksum,
    /// Checksums are not computed on send.
    TxChecksum,
    /// Packets in several memory fragments are sent as they are.
    ScatterGather,
    /// TCP segmentation.
    Tso,
    /// UDP segmentation.
    Uso,
    /// Segmentation in software, late.
    Gso,
    /// Segmentation of tunnelled, SCTP and other packets.
    OtherSegmentation,
    /// Received packets are merged. On a virtual Ethernet interface it also turns NAPI on, without which frames that
    /// XDP redirects to it vanish unless it runs a native XDP program itself.
    Gro,
    /// Merging variants beyond [`Offload::Gro`].
    OtherGro,
    /// VLAN tags are taken out of received frames.
    RxVlan,
    /// VLAN tags are put into sent frames by the interface.
    TxVlan,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::RxChecksum,
        Self::TxChecksum,
        Self::ScatterGather,
        Self::Tso,
        Self::Uso,
        Self::Gso,
        Self::OtherSegmentation,
        Self::Gro,
        Self::OtherGro,
        Self::RxVlan,
        Self::TxVlan,
    ];

    /// Which offload a kernel feature belongs to (names: net/ethtool/common.c, `netdev_features_strings`).
    fn of(feature: &str) -> Option<Self> {
        Some(match feature {
            "rx-checksum" => Self::RxChecksum,
            "rx-gro" => Self::Gro,
            "rx-gro-hw" | "rx-gro-list" | "rx-udp-gro-forwarding" | "rx-lro" => Self::OtherGro,
            "rx-vlan-hw-parse" | "rx-vlan-stag-hw-parse" => Self::RxVlan,
            "tx-vlan-hw-insert" | "tx-vlan-stag-hw-insert" => Self::TxVlan,
            "tx-scatter-gather" | "tx-scatter-gather-fraglist" => Self::ScatterGather,
            "tx-generic-segmentation" => Self::Gso,
            "tx-udp-segmentation" => Self::Uso,
            "tx-gso-partial" | "tx-gso-list" => Self::OtherSegmentation,
            _ if feature.starts_with("tx-checksum-") => Self::TxChecksum,
            _ if feature.starts_with("tx-tcp") && feature.ends_with("-segmentation") => Self::Tso,
            _ if feature.starts_with("tx-") && feature.ends_with("-segmentation") => Self::OtherSegmentation,
            _ => return None,
        })
    }
}

/// The names of this kernel's features, in the order of their bits.
fn feature_names(socket: &UnixDatagram, interface: &str) -> io::Result<&'static [String]> {
    // They are compiled into the kernel, the same for every interface.
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(names) = NAMES.get() {
        return Ok(names);
    }
    let names = sys::ethtool_strings(socket.as_fd(), interface, EthtoolStrings::Features)?;
    Ok(NAMES.get_or_init(|| names))
}

/// Turns off every offload that is not in `keep` and turns those on, as far as the driver can.
pub(crate) fn set_all(socket: &UnixDatagram, interface: &str, keep: &[Offload]) -> io::Result<()> {
    set_each(socket, interface, |offload| Some(keep.contains(&offload)))
}

/// Turns one offload on or off and reads it back.
pub(crate) fn set(socket: &UnixDatagram, interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    set_each(socket, interface, |other| (other == offload).then_some(on))?;
    if get(socket, interface)?.contains(&offload) == on {
        return Ok(());
    }
    let state = if on { "off" } else { "on" };
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("the driver keeps {offload:?} {state}")))
}

fn set_each(socket: &UnixDatagram, interface: &str, wanted: impl Fn(Offload) -> Option<bool>) -> io::Result<()> {
    let names = feature_names(socket, interface)?;
    let state = sys::ethtool_features(socket.as_fd(), interface, names.len())?;
    let changes: Vec<(usize, bool)> = (names.iter().enumerate())
        .filter_map(|(bit, name)| Some((bit, Offload::of(name).and_then(&wanted)?)))
        .filter(|&(bit, on)| state.changeable(bit) && state.active(bit) != on)
        .collect();
    if changes.is_empty() {
        Ok(())
    } else {
        sys::set_ethtool_features(socket.as_fd(), interface, names.len(), &changes)
    }
}

/// The offloads of which at least one feature is active.
pub(crate) fn get(socket: &UnixDatagram, interface: &str) -> io::Result<BTreeSet<Offload>> {
    let names = feature_names(socket, interface)?;
    let state = sys::ethtool_features(socket.as_fd(), interface, names.len())?;
    let active = names.iter().enumerate().filter(|&(bit, _)| state.active(bit));
    Ok(active.filter_map(|(_, name)| Offload::of(name)).collect())
}

/// The driver's statistics, by the driver's names.
pub(crate) fn statistics(socket: &UnixDatagram, interface: &str) -> io::Result<BTreeMap<String, u64>> {
    let names = sys::ethtool_strings(socket.as_fd(), interface, EthtoolStrings::Statistics)?;
    let values = sys::ethtool_statistics(socket.as_fd(), interface)?;
    Ok(names.into_iter().zip(values).collect())
}

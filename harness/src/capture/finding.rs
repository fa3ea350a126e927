//! What is unusual about a capture, in numbers and in words.

use serde::Serialize;

use super::options::{Checksums, Options, Oversize, Truncated};
use super::reader::{End, MAX_PACKET, Tally};
use super::sides::SidesBasis;

/// What a [`Finding`] is about. The names in JSON do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The file has no packets.
    NoPackets,
    /// The file has packets, but none was selected by filter and limit.
    NothingSelected,
    /// The file ends inside a record.
    CutOff,
    /// The file cannot be understood from some point on.
    Damaged,
    /// Packets of interfaces that the file does not describe.
    NoInterface,
    /// Packets whose lengths contradict each other.
    BadRecord,
    /// Packets of interfaces whose link type cannot be turned into Ethernet.
    UnsupportedLink,
    /// Packets of a supported link type that Ethernet cannot carry.
    NotEthernet,
    /// Frames of a loopback interface, whose MAC addresses are zero.
    Loopback,
    /// Frames shorter than an Ethernet header.
    Runt,
    /// Frames of which only the beginning was captured.
    Truncated,
    /// TCP frames over the MTU that can be cut into segments.
    OversizeTcp,
    /// TCP frames over the MTU that cannot: fragments, truncated, broken headers.
    OversizeUncut,
    /// Other frames over the MTU.
    OversizeOther,
    /// Frames over the MTU only by bytes behind their IP packet.
    OversizeTrailer,
    /// IPv4 total length or IPv6 payload length of 0, as segmentation offload leaves it.
    NoLength,
    /// Wrong IPv4 header checksums.
    BadIpv4Checksum,
    /// TCP or UDP checksums that a host left to its network card.
    ChecksumOffload,
    /// Wrong TCP checksums.
    BadTcpChecksum,
    /// Wrong UDP checksums.
    BadUdpChecksum,
    /// Packets earlier than the one before them.
    TimeBackwards,
    /// Packets without a time of their own.
    Untimed,
    /// Times before 1970 or after 2554.
    TimeOutOfRange,
    /// Frames between two endpoints of the same side.
    SameSide,
    /// More endpoints than can be remembered.
    ManyEndpoints,
}

impl std::fmt::Display for Kind {
    /// The name in JSON.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(out)
    }
}

impl Kind {
    const COUNT: usize = Self::ManyEndpoints as usize + 1;

    /// All kinds, in the order in which findings are listed.
    const ALL: [Self; Self::COUNT] = [
        Self::NoPackets,
        Self::NothingSelected,
        Self::CutOff,
        Self::Damaged,
        Self::NoInterface,
        Self::BadRecord,
        Self::UnsupportedLink,
        Self::NotEthernet,
        Self::Loopback,
        Self::Runt,
        Self::Truncated,
        Self::OversizeTcp,
        Self::OversizeUncut,
        Self::OversizeOther,
        Self::OversizeTrailer,
        Self::NoLength,
        Self::BadIpv4Checksum,
        Self::ChecksumOffload,
        Self::BadTcpChecksum,
        Self::BadUdpChecksum,
        Self::TimeBackwards,
        Self::Untimed,
        Self::TimeOutOfRange,
        Self::SameSide,
        Self::ManyEndpoints,
    ];
}

/// Something unusual about a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Packets (frames, for sides) concerned; for a file as a whole 1.
    pub count: u64,
    /// Number of the first packet concerned; absent for a file as a whole.
    pub first: Option<u64>,
    /// Of `count`, how many do not reach the run because of this.
    pub refused: u64,
    /// One sentence: what, how often, and what will happen.
    pub text: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    tally: Tally,
    refused: u64,
    made: u64,
}

/// Counts per kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies([Entry; Kind::COUNT]);

impl Tallies {
    /// Counts a packet that is used all the same.
    pub(super) fn note(&mut self, kind: Kind, number: u64) {
        self.0[kind as usize].tally.add(number);
    }

    /// Counts a packet that is not used.
    pub(super) fn refuse(&mut self, kind: Kind, number: u64) {
        self.note(kind, number);
        self.0[kind as usize].refused += 1;
    }

    /// Counts the frames that a packet became.
    pub(super) fn made(&mut self, kind: Kind, frames: u64) {
        self.0[kind as usize].made += frames;
    }

    pub(super) fn set(&mut self, kind: Kind, tally: Tally, refused: bool) {
        self.0[kind as usize] = Entry { tally, refused: if refused { tally.count } else { 0 }, made: 0 };
    }

    /// All packets that are not used.
    pub(super) fn refused(&self) -> u64 {
        self.0.iter().map(|entry| entry.refused).sum()
    }

    /// The findings, in words.
    pub(super) fn findings(&self, context: &Context<'_>) -> Vec<Finding> {
        let found = Kind::ALL.into_iter().map(|kind| (kind, &self.0[kind as usize]));
        found
            .filter(|(_, entry)| entry.tally.count > 0)
            .map(|(kind, entry)| Finding {
                kind,
                count: entry.tally.count,
                first: (entry.tally.first > 0).then_some(entry.tally.first),
                refused: entry.refused,
                text: context.sentence(kind, entry),
            })
            .collect()
    }
}

/// What the sentences depend on.
pub(super) struct Context<'a> {
    pub options: &'a Options,
    pub basis: SidesBasis,
    pub end: &'a End,
    /// Packets read.
    pub packets: u64,
}

/// `1 packet`, `2 packets`.
fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

impl Context<'_> {
    fn sentence(&self, kind: Kind, entry: &Entry) -> String {
        let n = entry.tally.count;
        let packets = count(n, "packet");
        let frames = count(n, "frame");
        match kind {
            Kind::NoPackets => "the capture has no packets: nothing will be offered".to_owned(),
            Kind::NothingSelected => {
                let all = count(self.packets, "packet");
                format!("none of the capture's {all} passes filter and limit: nothing will be offered")
            }
            Kind::CutOff => format!(
                "the file ends in the middle of a record: the {} before the cut are used",
                count(self.packets, "packet")
            ),
            Kind::Damaged => {
                let reason = if let End::Damaged(reason) = self.end { reason } else { "unknown" };
                let before = count(self.packets, "packet");
                format!("the file cannot be read to its end ({reason}): the {before} before that are used")
            }
            Kind::NoInterface => format!("{packets} of an interface that the file does not describe: refused"),
            Kind::BadRecord => {
                format!("{packets} with contradictory lengths or over {MAX_PACKET} bytes in the file: refused")
            }
            Kind::UnsupportedLink => {
                format!("{packets} of interfaces whose link type cannot be turned into Ethernet: refused")
            }
            Kind::NotEthernet => format!("{packets} without a protocol that Ethernet can carry: refused"),
            Kind::Loopback => format!(
                "{frames} of a loopback interface, without MAC addresses: given some that stand for their IP addresses"
            ),
            Kind::Runt => format!("{frames} shorter than an Ethernet header (14 bytes): refused"),
            Kind::Truncated => self.truncated(entry, &frames),
            Kind::OversizeTcp | Kind::OversizeUncut | Kind::OversizeOther | Kind::OversizeTrailer => {
                self.oversize(kind, entry, &frames)
            }
            Kind::NoLength => {
                let fate = self.checksums("set to the packet's", "kept");
                format!("{frames} with an IP length of 0, left by segmentation offload: {fate} unless segmented")
            }
            Kind::BadIpv4Checksum | Kind::ChecksumOffload | Kind::BadTcpChecksum | Kind::BadUdpChecksum => {
                self.checksum(kind, &frames)
            }
            Kind::TimeBackwards => format!("{packets} earlier than the packet before: order and times kept"),
            Kind::Untimed => format!("{packets} without a time: given the time of the packet before"),
            Kind::TimeOutOfRange => format!("{packets} dated before 1970 or after 2554: set to that limit"),
            Kind::SameSide => format!(
                "{frames} between two endpoints of the same side ({}): each enters on its sender's side",
                match self.basis {
                    SidesBasis::Endpoint => "by who started each conversation",
                    SidesBasis::Mac => "by MAC address",
                    SidesBasis::ClientNets => "by the client networks given",
                }
            ),
            Kind::ManyEndpoints => {
                format!("{frames} of endpoints beyond those that can be remembered: sides by a hash of the addresses")
            }
        }
    }

    fn checksums(&self, repair: &'static str, keep: &'static str) -> &'static str {
        if self.options.checksums == Checksums::Repair { repair } else { keep }
    }

    fn checksum(&self, kind: Kind, frames: &str) -> String {
        let what = match kind {
            Kind::BadIpv4Checksum => "with a wrong IPv4 header checksum",
            Kind::ChecksumOffload => {
                "with a TCP or UDP checksum left to the network card (checksum offload on the capturing host)"
            }
            Kind::BadTcpChecksum => "with a wrong TCP checksum",
            _ => "with a wrong UDP checksum",
        };
        let fate = self.checksums("repaired", "kept as captured unless segmented");
        format!("{frames} {what}: {fate}")
    }

    fn truncated(&self, entry: &Entry, frames: &str) -> String {
        let kept = entry.tally.count - entry.refused;
        let fate = match self.options.truncated {
            Truncated::Keep => "offered as captured".to_owned(),
            Truncated::Refuse => "refused".to_owned(),
            Truncated::Pad if entry.refused == 0 => {
                "filled with zeros to the original length, checksums repaired".to_owned()
            }
            Truncated::Pad => format!(
                "{kept} filled with zeros to the original length and checksums repaired, {} refused for claiming more \
                 than {MAX_PACKET} bytes",
                entry.refused
            ),
        };
        format!("{frames} of which only the beginning was captured (snaplen): {fate}")
    }

    fn oversize(&self, kind: Kind, entry: &Entry, frames: &str) -> String {
        let mtu = self.options.mtu;
        let refused =
            if self.options.oversize == Oversize::Refuse { "refused" } else { "refused, only TCP can be cut" };
        match kind {
            Kind::OversizeTcp if entry.refused == 0 => format!(
                "{frames} of TCP over the MTU of {mtu}, from segmentation or receive offload (TSO, GRO): cut into {}",
                count(entry.made, "segment")
            ),
            Kind::OversizeTcp => {
                format!(
                    "{frames} of TCP over the MTU of {mtu}, from segmentation or receive offload (TSO, GRO): refused"
                )
            }
            Kind::OversizeUncut => {
                format!(
                    "{frames} of TCP over the MTU of {mtu} that cannot be cut (fragment, truncated or broken): refused"
                )
            }
            Kind::OversizeTrailer => {
                let fate = if entry.refused == 0 { "those bytes are cut off" } else { "refused" };
                format!("{frames} over the MTU of {mtu} only by bytes behind the IP packet: {fate}")
            }
            _ => format!("{frames} over the MTU of {mtu} that are not TCP: {refused}"),
        }
    }
}

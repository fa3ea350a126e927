//! Impairment in the kernel's words: the options of the queueing disciplines `netem` and `tbf`
//! (include/uapi/linux/pkt_sched.h), written and read. Numbers are in host byte order.

use super::distribution;
use super::impair::{Impairment, Rate};

/// Packets that wait in `netem` at most, if nothing is said.
const DEFAULT_LIMIT: u32 = 1000;
/// Bytes that wait in a `tbf` of its own: as many packets of an Ethernet's full size.
const TBF_LIMIT_BYTES: u32 = DEFAULT_LIMIT * 1514;
/// A tick of the packet scheduler is so many ns: 2^6 (include/net/pkt_sched.h, `PSCHED_SHIFT`).
const TICK_NS: u64 = 64;

/// Attributes of `netem` (`TCA_NETEM_*`).
mod kind {
    pub const CORR: u16 = 1;
    pub const DELAY_DIST: u16 = 2;
    pub const REORDER: u16 = 3;
    pub const CORRUPT: u16 = 4;
    pub const LOSS: u16 = 5;
    pub const RATE: u16 = 6;
    pub const RATE64: u16 = 8;
    pub const LATENCY64: u16 = 10;
    pub const JITTER64: u16 = 11;
    pub const PRNG_SEED: u16 = 14;
    /// In `LOSS`: the model of Gilbert and Elliott (`NETEM_LOSS_GE`).
    pub const LOSS_GE: u16 = 2;
}

/// Attributes of `tbf` (`TCA_TBF_*`).
mod tbf {
    pub const PARMS: u16 = 1;
    pub const RATE64: u16 = 4;
    pub const BURST: u16 = 6;
}

/// Where a queueing discipline goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// It is the interface's.
    Root,
    /// It is in the first class of the one with this major number.
    Within(u16),
}

/// A queueing discipline that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discipline {
    pub(crate) kind: &'static str,
    /// Its major number.
    pub(crate) major: u16,
    pub(crate) parent: Parent,
    /// Value of `TCA_OPTIONS`.
    pub(crate) options: Vec<u8>,
}

/// The queueing disciplines of an impairment, in the order in which they are made.
///
/// With both, `netem` stands inside `tbf`: whatever is dropped is dropped on the way in, before a packet counts as sent,
/// and never on the way out of the one into the other.
pub(super) fn disciplines(impairment: &Impairment) -> Vec<Discipline> {
    let mut all = Vec::new();
    if impairment.needs_tbf()
        && let Some(tbf) = impairment.rate.and_then(Tbf::of)
    {
        all.push(Discipline { kind: "tbf", major: 1, parent: Parent::Root, options: tbf.options() });
    }
    if impairment.needs_netem() {
        let parent = all.last().map_or(Parent::Root, |outer| Parent::Within(outer.major));
        let table = impairment.delay.and_then(|delay| distribution::table(delay.distribution));
        let options = Netem::of(impairment).options(table.as_deref());
        all.push(Discipline { kind: "netem", major: 2, parent, options });
    }
    all
}

/// A probability and how much it depends on the last decision, as the kernel has them: 2^32 - 1 is certain.
type Correlated = [u32; 2];

/// What a `netem` is told, without its table, which it does not tell again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Netem {
    latency_ns: u64,
    jitter_ns: u64,
    delay_correlation: u32,
    limit_packets: u32,
    loss: Correlated,
    /// `p`, `r`, `h`, `1-k`.
    gilbert_elliott: Option<[u32; 4]>,
    gap: u32,
    reorder: Correlated,
    duplicate: Correlated,
    corrupt: Correlated,
    /// Bytes a second; 0 for no limit.
    rate: u64,
    /// None where nothing was asked for, or from a kernel that knows none.
    pub(super) seed: Option<u64>,
}

impl Netem {
    /// What is asked for.
    pub(super) fn of(impairment: &Impairment) -> Self {
        let delay = impairment.delay.unwrap_or_default();
        let correlated =
            |chance: super::impair::Chance| [chance.percent, chance.correlation_percent].map(|p| p.to_kernel());
        let loss = impairment.loss.clone().unwrap_or_default();
        let by_netem = impairment.rate.filter(|rate| rate.burst_bytes.is_none());
        Self {
            latency_ns: delay.ms.ns(),
            jitter_ns: delay.jitter_ms.ns(),
            delay_correlation: delay.correlation_percent.to_kernel(),
            limit_packets: impairment.limit_packets.unwrap_or(DEFAULT_LIMIT),
            loss: [loss.percent.unwrap_or_default(), loss.correlation_percent].map(|p| p.to_kernel()),
            // The kernel wants the part that is not lost in the bad state, and the part that is in the good one
            // (`loss_gilb_ell`).
            gilbert_elliott: loss.gilbert_elliott.map(|model| {
                [model.p_percent, model.r_percent, model.lost_in_bad_percent.rest(), model.lost_in_good_percent]
                    .map(|p| p.to_kernel())
            }),
            gap: impairment.reorder.map_or(0, |reorder| reorder.gap),
            reorder: impairment
                .reorder
                .map_or([0; 2], |reorder| [reorder.percent, reorder.correlation_percent].map(|p| p.to_kernel())),
            duplicate: impairment.duplicate.map(correlated).unwrap_or_default(),
            corrupt: impairment.corrupt.map(correlated).unwrap_or_default(),
            rate: by_netem.map_or(0, bytes_per_second),
            seed: impairment.seed,
        }
    }

    /// Value of `TCA_OPTIONS`: `struct tc_netem_qopt`, then attributes.
    fn options(&self, table: Option<&[i16]>) -> Vec<u8> {
        let fixed = [
            ticks(self.latency_ns),
            self.limit_packets,
            self.loss[0],
            self.gap,
            self.duplicate[0],
            ticks(self.jitter_ns),
        ];
        let mut out = words(&fixed);
        attribute(&mut out, kind::LATENCY64, &self.latency_ns.to_ne_bytes());
        attribute(&mut out, kind::JITTER64, &self.jitter_ns.to_ne_bytes());
        attribute(&mut out, kind::CORR, &words(&[self.delay_correlation, self.loss[1], self.duplicate[1]]));
        attribute(&mut out, kind::REORDER, &words(&self.reorder));
        attribute(&mut out, kind::CORRUPT, &words(&self.corrupt));
        if let Some(model) = self.gilbert_elliott {
            let mut nested = Vec::new();
            attribute(&mut nested, kind::LOSS_GE, &words(&model));
            attribute(&mut out, kind::LOSS, &nested);
        }
        if self.rate > 0 {
            // `struct tc_netem_rate`: rate, overhead of each packet, size and overhead of cells.
            attribute(&mut out, kind::RATE, &words(&[low(self.rate), 0, 0, 0]));
            if self.rate > u64::from(u32::MAX) {
                attribute(&mut out, kind::RATE64, &self.rate.to_ne_bytes());
            }
        }
        if let Some(seed) = self.seed {
            attribute(&mut out, kind::PRNG_SEED, &seed.to_ne_bytes());
        }
        if let Some(table) = table {
            let entries: Vec<u8> = table.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
            attribute(&mut out, kind::DELAY_DIST, &entries);
        }
        out
    }

    /// What the kernel says; nothing if it is cut.
    pub(super) fn parse(options: &[u8]) -> Option<Self> {
        let word = |at: usize| number::<4>(options, at * 4).map(u32::from_ne_bytes);
        let mut read = Self {
            latency_ns: u64::from(word(0)?) * TICK_NS,
            limit_packets: word(1)?,
            loss: [word(2)?, 0],
            gap: word(3)?,
            duplicate: [word(4)?, 0],
            jitter_ns: u64::from(word(5)?) * TICK_NS,
            ..Self::default()
        };
        for (kind, value) in attributes(options.get(24..)?) {
            let word = |at: usize| number::<4>(value, at * 4).map_or(0, u32::from_ne_bytes);
            let long = || number::<8>(value, 0).map_or(0, u64::from_ne_bytes);
            match kind {
                kind::LATENCY64 => read.latency_ns = long(),
                kind::JITTER64 => read.jitter_ns = long(),
                kind::CORR => [read.delay_correlation, read.loss[1], read.duplicate[1]] = [word(0), word(1), word(2)],
                kind::REORDER => read.reorder = [word(0), word(1)],
                kind::CORRUPT => read.corrupt = [word(0), word(1)],
                // A rate of 64 bits follows, where there is one.
                kind::RATE => read.rate = read.rate.max(word(0).into()),
                kind::RATE64 => read.rate = long(),
                kind::PRNG_SEED => read.seed = Some(long()),
                kind::LOSS => {
                    let model = attributes(value).find(|(kind, _)| *kind == kind::LOSS_GE);
                    read.gilbert_elliott = model.map(|(_, value)| {
                        [0, 1, 2, 3].map(|at| number::<4>(value, at * 4).map_or(0, u32::from_ne_bytes))
                    });
                }
                _ => {}
            }
        }
        Some(read)
    }

    /// Each property with its value, as far as the kernel tells it: not the seed, which older kernels do not have.
    pub(super) fn properties(&self) -> [(&'static str, String); 9] {
        [
            ("delay, ns", self.latency_ns.to_string()),
            ("jitter, ns, and its correlation", format!("{}, {}", self.jitter_ns, self.delay_correlation)),
            ("loss and its correlation", format!("{:?}", self.loss)),
            ("loss by state", format!("{:?}", self.gilbert_elliott)),
            ("reordering, correlation and gap", format!("{:?}, {}", self.reorder, self.gap)),
            ("duplication and its correlation", format!("{:?}", self.duplicate)),
            ("corruption and its correlation", format!("{:?}", self.corrupt)),
            ("rate, bytes a second", self.rate.to_string()),
            ("limit, packets", self.limit_packets.to_string()),
        ]
    }
}

/// What a `tbf` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tbf {
    /// Bytes a second.
    rate: u64,
    burst_bytes: u32,
}

impl Tbf {
    /// What is asked for; nothing where there is no burst.
    pub(super) fn of(rate: Rate) -> Option<Self> {
        Some(Self { rate: bytes_per_second(rate), burst_bytes: rate.burst_bytes? })
    }

    fn options(&self) -> Vec<u8> {
        let mut out = Vec::new();
        attribute(&mut out, tbf::PARMS, &self.parameters());
        if self.rate > u64::from(u32::MAX) {
            attribute(&mut out, tbf::RATE64, &self.rate.to_ne_bytes());
        }
        attribute(&mut out, tbf::BURST, &self.burst_bytes.to_ne_bytes());
        out
    }

    /// `struct tc_tbf_qopt`: two `struct tc_ratespec`, limit in bytes, bucket in ticks, peak rate's bucket.
    fn parameters(&self) -> Vec<u8> {
        /// `TC_LINKLAYER_ETHERNET`: the kernel computes times by itself and needs no table of them.
        const ETHERNET: u8 = 1;
        let mut out = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        out.extend(low(self.rate).to_ne_bytes());
        out.extend([0; 12]);
        out.extend(words(&[TBF_LIMIT_BYTES, ticks(self.bucket_ns()), 0]));
        out
    }

    /// Time in which the bucket fills, ns.
    fn bucket_ns(&self) -> u64 {
        u64::from(self.burst_bytes).saturating_mul(1_000_000_000) / self.rate.max(1)
    }

    /// Where what the kernel says differs, property by property: expected and found.
    pub(super) fn deviations(&self, options: &[u8]) -> Vec<(&'static str, String, String)> {
        let of_kind = |wanted: u16| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let parameters = of_kind(tbf::PARMS).unwrap_or_default();
        let word = |at| number::<4>(parameters, at).map_or(0, u32::from_ne_bytes);
        let long = of_kind(tbf::RATE64).and_then(|value| number::<8>(value, 0)).map(u64::from_ne_bytes);
        let mut all = Vec::new();
        let rate = long.unwrap_or_else(|| word(8).into());
        if rate != self.rate {
            all.push(("rate, bytes a second", self.rate.to_string(), rate.to_string()));
        }
        // The kernel keeps the bucket as a time, rounded by a multiplication and a shift (`psched_l2t_ns`).
        let (expected, found) = (u64::from(ticks(self.bucket_ns())), u64::from(word(28)));
        if expected.abs_diff(found) > expected / 100 + 1 {
            all.push(("bucket, ticks of 64 ns", expected.to_string(), found.to_string()));
        }
        all
    }
}

fn bytes_per_second(rate: Rate) -> u64 {
    rate.bits_per_second / 8
}

fn ticks(ns: u64) -> u32 {
    low(ns / TICK_NS)
}

/// What fits; the attribute of 64 bits has the rest.
fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Appends an attribute (`struct nlattr`): its length with this head, its kind, its value, up to a multiple of 4.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // The largest value is a table of 8 KiB.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The attributes in a piece of a message: kind, without its flags, and value. Ends where one is cut.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        let kind = u16::from_ne_bytes(number(bytes, 2)?) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impairment(text: &str) -> Impairment {
        toml::from_str(text).unwrap()
    }

    const ALL: &str = r#"
        loss = { gilbert-elliott = { p-percent = 1, r-percent = 10, lost-in-bad-percent = 75, lost-in-good-percent = 5 } }
        delay = { ms = 20, jitter-ms = 5, correlation-percent = 25, distribution = "normal" }
        reorder = { percent = 25, gap = 5, correlation-percent = 50 }
        duplicate = { percent = 1, correlation-percent = 2 }
        corrupt = { percent = 3, correlation-percent = 4 }
        rate = { bits-per-second = 100000000000 }
        limit-packets = 100
        seed = 0x0123456789abcdef
    "#;

    #[test]
    fn what_is_written_is_read() {
        for text in [ALL, "loss = { percent = 1 }", "delay = { ms = 0.001 }", "rate = { bits-per-second = 8 }"] {
            let wanted = Netem::of(&impairment(text));
            assert_eq!(Netem::parse(&wanted.options(Some(&[1, 2, 3]))), Some(wanted), "{text}");
        }
    }

    #[test]
    fn netem_is_told_what_the_kernels_header_says() {
        let wanted = Netem::of(&impairment("loss = { percent = 50, correlation-percent = 100 }\ndelay = { ms = 64 }"));
        let expected: Vec<u8> = [
            // 64 ms are 10^6 ticks; limit 1000; half; no gap, no duplicates, no jitter.
            [1_000_000_u32, 1000, 0x8000_0000, 0, 0, 0].map(u32::to_ne_bytes).concat(),
            // Attributes 10 and 11 of 8 bytes.
            [12_u16, 10].map(u16::to_ne_bytes).concat(),
            64_000_000_u64.to_ne_bytes().to_vec(),
            [12_u16, 11].map(u16::to_ne_bytes).concat(),
            vec![0; 8],
            // Correlations of delay, loss, duplicates.
            [16_u16, 1].map(u16::to_ne_bytes).concat(),
            [0, u32::MAX, 0].map(u32::to_ne_bytes).concat(),
            // Reordering, corruption.
            [12_u16, 3].map(u16::to_ne_bytes).concat(),
            vec![0; 8],
            [12_u16, 4].map(u16::to_ne_bytes).concat(),
            vec![0; 8],
        ]
        .concat();
        assert_eq!(wanted.options(None), expected);
    }

    #[test]
    fn the_loss_of_states_is_the_kernels() {
        let Netem { gilbert_elliott: Some([p, r, h, lost_in_good]), .. } = Netem::of(&impairment(ALL)) else {
            panic!()
        };
        let percent = |kernel: u32| (f64::from(kernel) / f64::from(u32::MAX) * 100.0).round();
        assert_eq!([p, r, h, lost_in_good].map(percent), [1.0, 10.0, 25.0, 5.0]);
    }

    #[test]
    fn a_rate_with_bursts_is_tbf_with_netem_inside() {
        let text = "rate = { bits-per-second = 8000000, burst-bytes = 16000 }\nloss = { percent = 1 }";
        let all = disciplines(&impairment(text));
        let places: Vec<_> = all.iter().map(|one| (one.kind, one.major, one.parent)).collect();
        assert_eq!(places, [("tbf", 1, Parent::Root), ("netem", 2, Parent::Within(1))]);
        // A rate without is netem's own.
        let all = disciplines(&impairment("rate = { bits-per-second = 8000000 }"));
        assert_eq!((all.len(), all[0].kind, all[0].parent), (1, "netem", Parent::Root));
    }

    #[test]
    fn tbf_tells_its_rate_and_bucket() {
        let tbf = Tbf { rate: 1_000_000, burst_bytes: 16_000 };
        let options = tbf.options();
        // 36 bytes of parameters in an attribute, then the burst in another.
        assert_eq!(options.len(), 4 + 36 + 8);
        assert_eq!(tbf.deviations(&options), []);
        let faster = Tbf { rate: 10_000_000_000, burst_bytes: 16_000 };
        assert_eq!(faster.deviations(&faster.options()), []);
        // 16 ms are 250,000 ticks.
        let found = faster.deviations(&options);
        assert_eq!(found[0], ("rate, bytes a second", "10000000000".to_owned(), "1000000".to_owned()));
        assert_eq!(found[1].2, "250000");
        assert_eq!(tbf.deviations(&[]).len(), 2);
    }

    #[test]
    fn what_is_cut_is_no_panic() {
        let whole = Netem::of(&impairment(ALL)).options(None);
        for end in 0..whole.len() {
            assert_eq!(Netem::parse(&whole[..end]).is_some(), end >= 24);
            _ = Tbf { rate: 1, burst_bytes: 1 }.deviations(&whole[..end]);
        }
    }
}

//! Interfaces whose packets are impaired: made so, read back, counted.

use std::io;

use super::error::TopologyError;
use super::host::{Context, Host, kernel};
use super::impair::Impairment;
use super::netem::{self, Netem, Tbf};
use super::netlink::FoundDiscipline;

/// What an interface's queueing discipline has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Packets that it let go, copies counted. Modulo 2^32.
    pub packets: u64,
    /// Packets that it dropped: lost on purpose, or for want of room.
    pub dropped: u64,
    /// Packets that wait in it.
    pub waiting: u64,
}

/// Gives an interface the queueing disciplines of an impairment.
pub(super) fn impair(
    context: &Context,
    host: &str,
    interface: &str,
    impairment: &Impairment,
) -> Result<(), TopologyError> {
    let link = context.netlink.link(interface);
    let link = link.map_err(|source| kernel(host, Some(interface), "look at it", source))?;
    for discipline in netem::disciplines(impairment) {
        context.netlink.add_discipline(link.index, &discipline).map_err(|source| {
            let what = format!("impair it by the queueing discipline {}", discipline.kind);
            kernel(host, Some(interface), what, unknown_kind(source))
        })?;
    }
    Ok(())
}

/// A kind that the kernel does not know is `ENOENT`, as if a file were missing.
fn unknown_kind(source: io::Error) -> io::Error {
    if source.kind() == io::ErrorKind::NotFound {
        io::Error::new(io::ErrorKind::Unsupported, "it has no such queueing discipline")
    } else {
        source
    }
}

impl Host {
    /// What the queueing discipline of an interface has done; of two, one within the other, the outer one.
    ///
    /// # Errors
    /// `ENODEV` where the host has no interface of that name.
    pub fn queue_counters(&self, interface: &str) -> Result<QueueCounters, TopologyError> {
        let all = self.disciplines(interface)?;
        Ok(all.iter().find(|one| one.is_root).map(|one| one.counters).unwrap_or_default())
    }

    /// Whether the impairment of an interface decides by a seed that was given to it, and so alike in every run: not
    /// before Linux 6.6. Nothing where there is no `netem`.
    ///
    /// # Errors
    /// As [`Host::queue_counters`].
    pub fn takes_seeds(&self, interface: &str) -> Result<Option<bool>, TopologyError> {
        let all = self.disciplines(interface)?;
        let netem = all.iter().find(|one| one.kind == "netem").and_then(|one| Netem::parse(&one.options));
        Ok(netem.map(|netem| netem.seed.is_some()))
    }

    fn disciplines(&self, interface: &str) -> Result<Vec<FoundDiscipline>, TopologyError> {
        let name = interface.to_owned();
        self.with(move |context| context.netlink.disciplines(context.netlink.link(&name)?.index))
            .map_err(|source| self.error(Some(interface), "list queueing disciplines", source))
    }
}

/// Property, expected, found.
pub(super) type Difference = (&'static str, String, String);

/// Where the kernel took something else than was asked for. A seed that it does not know is none of it: see
/// [`Host::takes_seeds`]. Tables it does not tell.
pub(super) fn differences(
    host: &Host,
    interface: &str,
    impairment: &Impairment,
) -> Result<Vec<Difference>, TopologyError> {
    let found = host.disciplines(interface)?;
    let of_kind = |kind: &str| found.iter().find(|one| one.kind == kind);
    let missing = |kind: &str| vec![("queueing discipline", kind.to_owned(), "missing".to_owned())];
    let mut all = Vec::new();
    if impairment.needs_tbf()
        && let Some(tbf) = impairment.rate.and_then(Tbf::of)
    {
        all.extend(of_kind("tbf").map_or_else(|| missing("tbf"), |found| tbf.deviations(&found.options)));
    }
    if impairment.needs_netem() {
        let found = of_kind("netem").and_then(|found| Netem::parse(&found.options));
        all.extend(found.map_or_else(|| missing("netem"), |found| compare(&Netem::of(impairment), &found)));
    }
    Ok(all)
}

fn compare(wanted: &Netem, found: &Netem) -> Vec<Difference> {
    let pairs = wanted.properties().into_iter().zip(found.properties());
    let mut all: Vec<Difference> = (pairs.filter(|(one, other)| one.1 != other.1))
        .map(|((property, expected), (_, found))| (property, expected, found))
        .collect();
    // Without a seed of ours the kernel chooses one.
    if let (Some(wanted), Some(found)) = (wanted.seed, found.seed)
        && wanted != found
    {
        all.push(("seed", wanted.to_string(), found.to_string()));
    }
    all
}

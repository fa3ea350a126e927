//! The entries, a module per family.

mod application;
mod brute;
mod dns;
mod flood;
mod fragments;
mod hosts;
mod icmp;
mod link;
mod load;
mod malformed;
mod packets;
mod scan;
mod slow;

use super::SynthError;
use super::catalogue::{Entry, Family, Ip};
use super::conversation::Setting;
use super::packet::{Template, Transport};
use super::param::{Parameter, Params};
use super::spec::Context;
use super::stream::Generator;

/// All entries, in the order of the list.
pub(super) static ALL: [&[Entry]; 12] = [
    flood::ENTRIES,
    scan::ENTRIES,
    brute::ENTRIES,
    slow::ENTRIES,
    dns::ENTRIES,
    link::ENTRIES,
    malformed::ENTRIES,
    fragments::ENTRIES,
    icmp::ENTRIES,
    hosts::ENTRIES,
    load::ENTRIES,
    application::ENTRIES,
];

/// What the entries of a family have in common, but for those that say otherwise. As in [`Entry`].
#[derive(Clone, Copy)]
struct Common {
    family: Family,
    unit: &'static str,
    ip: Ip,
    spoofs: bool,
    two_sided: bool,
    rate: f64,
    count: fn(&Params) -> u64,
}

impl Common {
    /// An entry with its name, what it imitates, by which source, its parameters, and what makes it.
    const fn entry(
        self,
        name: &'static str,
        what: &'static str,
        source: &'static str,
        parameters: &'static [Parameter],
        make: fn(&Context<'_>) -> Result<Box<dyn Generator>, SynthError>,
    ) -> Entry {
        let Self { family, unit, ip, spoofs, two_sided, rate, count } = self;
        Entry { name, family, what, source, unit, ip, spoofs, two_sided, rate, parameters, count, make }
    }
}

/// Round trip time of conversations.
const RTT: Parameter = Parameter::count("rtt", "us", (0, 60_000_000), "200", "round trip time between the two ends");

/// A port that traffic goes to.
const fn port(default: &'static str) -> Parameter {
    Parameter::count("port", "", (1, 65_535), default, "port of the target")
}

/// Ends, addresses and sides of a conversation, as declared.
fn setting(context: &Context<'_>) -> Setting {
    Setting {
        sources: context.sources.clone(),
        targets: context.targets.clone(),
        macs: context.macs,
        one_sided: context.one_sided,
    }
}

/// A template for each version of IP that is made.
fn both<'a>(context: &Context<'_>, transport: impl Fn(bool) -> Transport<'a>, payload: &[u8]) -> [Template; 2] {
    let mut templates = [Template::default(), Template::default()];
    for v6 in context.versions() {
        templates[usize::from(v6)] = Template::new(context.macs, v6, &transport(v6), payload);
    }
    templates
}

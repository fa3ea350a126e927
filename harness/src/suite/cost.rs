//! What the suite's programs cost the verifier of the running kernel, as wire mode loads them: with the settings of a
//! scenario that sets none, at the capture's clock, and the globals of this kernel.

use super::drops::Drops;
use super::flows::Flows;
use super::latency::Latency;
use super::protocols::Protocols;
use super::sockets::Sockets;
use super::tcp_state::TcpState;
use super::{Analyzer, Hook};
use crate::error::chain;
use crate::object::cost::{Targets, measure, unavailable};
use crate::object::{Clock, Object, suite};
use crate::record::ProgramCost;
use crate::wire;

/// An object whose maps exist, and the tracepoints and functions of its tracing programs.
enum Loaded {
    Analyzer(Box<dyn Analyzer>),
    Bare(Object, Targets),
}

impl Loaded {
    fn object(&self) -> &Object {
        match self {
            Self::Analyzer(analyzer) => analyzer.object(),
            Self::Bare(object, _) => object,
        }
    }

    fn targets(&self) -> Targets {
        match self {
            Self::Bare(_, targets) => targets.clone(),
            Self::Analyzer(analyzer) => {
                let traced = analyzer.programs().iter().filter_map(|(program, hook)| match hook {
                    Hook::Tracepoint(target) => Some((*program, *target)),
                    _ => None,
                });
                traced.collect()
            }
        }
    }
}

/// An object that replays load.
struct Entry {
    name: &'static str,
    elf: &'static [u8],
    /// Makes its maps; or says why that cannot be.
    load: fn() -> Result<Loaded, String>,
    /// Programs that want maps of their own: a map of programs takes what is like the first that used it.
    apart: &'static [&'static str],
}

const fn entry(name: &'static str, elf: &'static [u8], load: fn() -> Result<Loaded, String>) -> Entry {
    Entry { name, elf, load, apart: &[] }
}

/// The objects by name.
static OBJECTS: [Entry; 8] = [
    entry("drops", suite::DROPS, || analyzer(Drops::load(CLOCK, &Default::default()))),
    entry("flows", suite::FLOWS, || analyzer(Flows::load(CLOCK, &Default::default()))),
    entry("latency", suite::LATENCY, || {
        bare(Latency::bare(&Default::default()).map(|object| (object, Latency::targets())))
    }),
    Entry { apart: &["ledger_xdp_frags"], ..entry("ledger", suite::LEDGER, || bare(wire::ledger_object())) },
    entry("protocols", suite::PROTOCOLS, || analyzer(Protocols::load(CLOCK, &Default::default()))),
    Entry {
        apart: &["gate_client_frags", "gate_server_frags", "replay_when_due"],
        ..entry("replayer", suite::REPLAYER, || bare(wire::replayer_object()))
    },
    entry("sockets", suite::SOCKETS, || analyzer(Sockets::load(CLOCK, &Default::default()))),
    entry("tcp_state", suite::TCP_STATE, || analyzer(TcpState::load(CLOCK, &Default::default()))),
];
const CLOCK: Clock = Clock::Capture;

fn analyzer<A: Analyzer + 'static, E: std::error::Error>(loaded: Result<A, E>) -> Result<Loaded, String> {
    loaded.map(|analyzer| Loaded::Analyzer(Box::new(analyzer))).map_err(|error| chain(&error))
}

fn bare<E: std::error::Error>(loaded: Result<(Object, Targets), E>) -> Result<Loaded, String> {
    loaded.map(|(object, targets)| Loaded::Bare(object, targets)).map_err(|error| chain(&error))
}

impl Entry {
    fn costs(&self) -> Result<Vec<ProgramCost>, String> {
        let mut costs = self.measure(&|program| !self.apart.contains(&program))?;
        for alone in self.apart {
            costs.extend(self.measure(&|program| program == *alone)?);
        }
        costs.sort_by(|one, other| one.program.cmp(&other.program));
        Ok(costs)
    }

    fn measure(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ProgramCost>, String> {
        let loaded = (self.load)()?;
        measure(loaded.object(), self.elf, &loaded.targets(), wanted).map_err(|error| chain(&error))
    }
}

/// An entry for each program of each object, by their names. What could not be loaded has a reason instead of numbers.
#[must_use]
pub fn costs() -> Vec<ProgramCost> {
    let of = |entry: &Entry| entry.costs().unwrap_or_else(|reason| unavailable(entry.name, entry.elf, &reason));
    OBJECTS.iter().flat_map(of).collect()
}

/// Takes an object's name, file, and maps with the targets of its programs.
#[cfg(test)]
pub(crate) type Visit<'a> = dyn FnMut(&'static str, &'static [u8], &Object, &Targets) + 'a;

/// Shows `visit` each object that could be loaded, with its name, its ELF, and the targets of its tracing programs.
#[cfg(test)]
pub(crate) fn each(visit: &mut Visit<'_>) {
    for Entry { name, elf, load, .. } in &OBJECTS {
        if let Ok(loaded) = load() {
            visit(name, elf, loaded.object(), &loaded.targets());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_program_of_every_object_has_an_entry() {
        let costs = costs();
        let names: BTreeSet<(&str, &str)> =
            costs.iter().map(|cost| (cost.object.as_str(), cost.program.as_str())).collect();
        assert_eq!(names.len(), costs.len(), "each once");
        for Entry { name, elf, .. } in &OBJECTS {
            for program in aya_obj::Object::parse(elf).unwrap().programs.keys() {
                assert!(names.contains(&(*name, program.as_str())), "{name}/{program}");
            }
        }
        assert!(costs.iter().all(|cost| (cost.instructions > 0) == cost.reason.is_none()), "{costs:#?}");
    }

    #[test]
    fn what_replays_cannot_do_without_loads() {
        // Frames in several buffers and live frames came to XDP in 5.18, loops in 5.17, and are done without where they are
        // not; two programs of `drops` stand in for reasons where there are none.
        let optional = [
            "gate_client_frags",
            "gate_server_frags",
            "ledger_xdp_frags",
            "replay",
            "replay_when_due",
            "queue_full",
            "udp_no_room",
        ];
        let needed = |cost: &&ProgramCost| cost.object != "latency" && !optional.contains(&cost.program.as_str());
        for cost in costs().iter().filter(needed) {
            assert_eq!(cost.reason, None, "{}/{}", cost.object, cost.program);
            assert!(cost.load_us > 0 && cost.stack_bytes <= 8 * 512, "{cost:?}");
        }
    }
}

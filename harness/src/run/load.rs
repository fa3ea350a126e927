//! The objects of a run.

use super::{RunError, Step};
use crate::object::Clock;
use crate::pool::{Key, Pool};
use crate::scenario::spec::Programs;
use crate::subject::{self, SubjectError, SubjectObserver};
use crate::suite::{self, Family, Observer};

/// The objects of a run in the order in which packets meet them, each with its key, and what could not be loaded.
pub(super) type Loaded = (Vec<Key>, Vec<Box<dyn Observer>>, Vec<String>);

pub(super) fn load(
    pool: &Pool,
    programs: &Programs,
    clock: Clock,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Loaded, RunError> {
    let (mut keys, mut analyzers, mut notes) = Loaded::default();
    let mut add = |key: Key, object, load: &dyn Fn() -> Result<Box<dyn Observer>, RunError>| {
        step(Step::Load { object });
        analyzers.push(pool.take(&key, load)?);
        keys.push(key);
        Ok::<_, RunError>(())
    };
    if let Some(settings) = &programs.flows {
        let key = Key::new(Family::Flows, clock, settings);
        add(key, "flows", &|| Ok(Box::new(suite::flows::Flows::load(clock, settings)?)))?;
    }
    if let Some(settings) = &programs.tcp_state {
        let key = Key::new(Family::TcpState, clock, settings);
        add(key, "tcp_state", &|| Ok(Box::new(suite::tcp_state::TcpState::load(clock, settings)?)))?;
    }
    if let Some(settings) = &programs.protocols {
        let key = Key::new(Family::Protocols, clock, settings);
        add(key, "protocols", &|| Ok(Box::new(suite::protocols::Protocols::load(clock, settings)?)))?;
    }
    // Its only hook is in the kernel's stack, which has no part in lockstep mode.
    if let Some(settings) = programs.drops.as_ref().filter(|_| clock != Clock::Virtual) {
        let key = Key::new(Family::Drops, clock, settings);
        add(key, "drops", &|| Ok(Box::new(suite::drops::Drops::load(clock, settings)?)))?;
    }
    // After `tcp_state`, with which it compares. A kernel on which it does not load loses nothing else.
    if let Some(settings) = programs.sockets.as_ref().filter(|_| clock != Clock::Virtual) {
        let key = Key::new(Family::Sockets, clock, settings);
        let load = || Ok(Box::new(suite::sockets::Sockets::load(clock, settings)?) as Box<dyn Observer>);
        if let Err(error) = add(key, "sockets", &load) {
            notes.push(format!("the kernel's sockets are not observed: {}", crate::error::chain(&error)));
        }
    }
    for setup in &programs.objects {
        let name = subject::name_of(&setup.object);
        step(Step::Load { object: &name });
        let read = |source| SubjectError::Read { object: setup.object.display().to_string(), source };
        let bytes = std::fs::read(&setup.object).map_err(read)?;
        analyzers.push(Box::new(SubjectObserver::new(setup, &bytes, &name, clock)?));
    }
    // As `drops`. Never pooled, so without a key and last: which probes measure is found out anew by each load.
    if let Some(settings) = programs.latency.as_ref().filter(|_| clock != Clock::Virtual) {
        step(Step::Load { object: "latency" });
        analyzers.push(Box::new(suite::latency::Latency::load(settings)?));
    }
    Ok((keys, analyzers, notes))
}

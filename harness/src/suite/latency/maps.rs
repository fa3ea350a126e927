//! The object's maps, as userspace changes them.

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use bpflab_programs::latency::{Histogram, Journey, LOST_KINDS, Queue, QueueKey, QueuedKey, Socket, StepKey, point};

use crate::object::{Object, ObjectError};

/// Lets the object look at a network namespace, by its inode number.
pub(super) fn watch(object: &mut Object, netns: u32) -> Result<(), ObjectError> {
    change(object, "NETNS", |map| HashMap::<_, u32, u32>::try_from(map)?.insert(netns, 0, 0))
}

/// Lets it look away again.
pub(super) fn unwatch(object: &mut Object, netns: u32) -> Result<(), ObjectError> {
    change(object, "NETNS", |map| gone(HashMap::<_, u32, u32>::try_from(map)?.remove(&netns)))
}

/// Sets how the programs work together: `CONTROL_*`.
pub(super) fn set_control(object: &mut Object, index: u32, value: u32) -> Result<(), ObjectError> {
    let Some(map) = object.ebpf.map_mut("CONTROL") else { return Err(object.missing("map CONTROL".to_owned())) };
    let set = Array::<&mut MapData, u32>::try_from(map).and_then(|mut map| map.set(index, value, 0));
    set.map_err(|error| object.map_error("CONTROL", error))
}

/// Packets seen at each place.
pub(super) fn hits(object: &Object) -> Result<[u64; point::COUNT], ObjectError> {
    let map: PerCpuArray<&MapData, u64> = object.typed_map("HITS")?;
    let mut hits = [0; point::COUNT];
    for (index, sum) in (0..).zip(hits.iter_mut()) {
        let cpus = map.get(&index, 0).map_err(|error| object.map_error("HITS", error))?;
        *sum = cpus.iter().sum();
    }
    Ok(hits)
}

/// Forgets all that was seen.
pub(super) fn reset(object: &mut Object) -> Result<(), ObjectError> {
    let cpus = nr_cpus().map_err(|(_, error)| object.map_error("HITS", error))?;
    change(object, "HITS", |map| {
        let mut map = PerCpuArray::<_, u64>::try_from(map)?;
        (0..).take(point::COUNT).try_for_each(|index| map.set(index, PerCpuValues::try_from(vec![0; cpus])?, 0))
    })?;
    change(object, "LOST", |map| {
        let mut map = Array::<_, u64>::try_from(map)?;
        (0..).take(LOST_KINDS).try_for_each(|index| map.set(index, 0, 0))
    })?;
    change(object, "TOTALS", |map| {
        let mut map = PerCpuHashMap::<_, StepKey, Histogram>::try_from(map)?;
        let keys: Vec<StepKey> = map.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| gone(map.remove(key)))
    })?;
    clear::<StepKey, Histogram>(object, "FLOWS")?;
    clear::<QueuedKey, Journey>(object, "QUEUED")?;
    clear::<QueueKey, Queue>(object, "QUEUES")?;
    clear::<u64, Socket>(object, "SOCKETS")?;
    clear::<u64, Journey>(object, "PACKETS")
}

fn clear<K: aya::Pod, V: aya::Pod>(object: &mut Object, name: &str) -> Result<(), ObjectError> {
    change(object, name, |map| {
        let mut map = HashMap::<_, K, V>::try_from(map)?;
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| gone(map.remove(key)))
    })
}

/// Whether an entry is gone, by this removal or by one that was quicker: the programs are at work.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn change(
    object: &mut Object,
    name: &str,
    change: impl FnOnce(&mut Map) -> Result<(), MapError>,
) -> Result<(), ObjectError> {
    let Some(map) = object.ebpf.map_mut(name) else { return Err(object.missing(format!("map {name}"))) };
    change(map).map_err(|error| object.map_error(name, error))
}

//! Events of rings and perf buffers, from a map's descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Map, MapData, PerfEventArray, RingBuf};
use serde_json::Value;

use super::arrange::{Aliases, arrange_events};
use super::compile::{PlanError, compile};
use super::decode::Decoder;
use super::definition::event_type;
use super::hints::Hints;
use super::map::Source;
use super::text;
use super::{EventRows, RowsError};
use crate::sys::{self, map_info, map_kind as kind};

/// Pages of each CPU's perf buffer where the caller does not say: 256 KiB.
pub const DEFAULT_PAGES: usize = 64;
/// Bytes behind an event in a perf buffer that are not its own: a sample's size word and its bytes together fill up
/// to a multiple of 8 (`kernel/events/core.c`, `perf_prepare_sample`).
const PERF_PADDING: usize = 7;

/// Reads the raw events of one map.
pub struct EventReader {
    map: String,
    source: Reader,
    lost: u64,
}

enum Reader {
    Ring(RingBuf<MapData>),
    Perf(Vec<PerfEventArrayBuffer<MapData>>),
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.source {
            Reader::Ring(_) => "ring",
            Reader::Perf(_) => "perf buffers",
        };
        formatter.debug_struct("EventReader").field("map", &self.map).field("source", &kind).finish_non_exhaustive()
    }
}

impl EventReader {
    /// Opens the ring buffer or perf event array behind `fd`. For perf events this makes a buffer of `pages` pages (a
    /// power of two, see [`DEFAULT_PAGES`]) for each CPU that is online: what programs send before is lost unseen.
    ///
    /// # Errors
    /// [`RowsError::Events`] if `fd` is another kind of map, or the kernel refuses.
    pub fn open(map: &str, fd: BorrowedFd<'_>, pages: usize) -> Result<Self, RowsError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RowsError::events(map, source);
        let kind = map_info(fd).map_err(|error| failed(error.into()))?.kind;
        let fd = fd.try_clone_to_owned().map_err(|error| failed(error.into()))?;
        let data = MapData::from_fd(fd).map_err(|error| failed(error.into()))?;
        let data = Map::from_map_data(data).map_err(|error| failed(error.into()))?;
        let source = match kind {
            kind::RINGBUF => Reader::Ring(RingBuf::try_from(data).map_err(|error| failed(error.into()))?),
            _ => {
                let mut array = PerfEventArray::try_from(data).map_err(|error| failed(error.into()))?;
                let cpus = aya::util::online_cpus().map_err(|(_, error)| failed(error.into()))?;
                let buffers = cpus.into_iter().map(|cpu| array.open(cpu, Some(pages)));
                Reader::Perf(buffers.collect::<Result<_, _>>().map_err(|error| failed(error.into()))?)
            }
        };
        Ok(Self { map: map.to_owned(), source, lost: 0 })
    }

    /// Hands all events that there are to `each`, without waiting for more: those of a ring in order, those of perf
    /// buffers CPU by CPU. No more are taken than the buffers hold, even if programs go on writing; the result is how
    /// many there were.
    pub fn drain(&mut self, each: &mut dyn FnMut(&[u8])) -> usize {
        /// Events of one drain of a ring: more than the largest in use holds of the smallest.
        const MOST: usize = 1 << 24;
        let mut count = 0;
        match &mut self.source {
            Reader::Ring(ring) => {
                while count < MOST
                    && let Some(event) = ring.next()
                {
                    each(&event);
                    count += 1;
                }
            }
            Reader::Perf(buffers) => {
                for buffer in buffers {
                    buffer.for_each(|event| match event {
                        PerfEvent::Sample { head, tail } => {
                            count += 1;
                            if tail.is_empty() { each(head) } else { each(&[head, tail].concat()) }
                        }
                        PerfEvent::Lost { count } => self.lost += count,
                    });
                }
            }
        }
        count
    }

    /// Events that found their buffer full so far; nothing for rings, of which the kernel does not count them: there
    /// the program learns it (`bpf_ringbuf_output` and `bpf_ringbuf_reserve` fail) and may count.
    #[must_use]
    pub fn lost(&self) -> Option<u64> {
        match self.source {
            Reader::Ring(_) => None,
            Reader::Perf(_) => Some(self.lost),
        }
    }

    /// Waits until there may be events, at most `limit`.
    pub(crate) fn wait(&self, limit: std::time::Duration) -> std::io::Result<()> {
        match &self.source {
            Reader::Ring(ring) => sys::wait_readable(&[ring.as_fd()], limit),
            Reader::Perf(buffers) => {
                let files: Vec<_> = buffers.iter().map(AsFd::as_fd).collect();
                sys::wait_readable(&files, limit)
            }
        }
    }

    /// Bytes behind an event that are not its own.
    fn padding(&self) -> usize {
        match self.source {
            Reader::Ring(_) => 0,
            Reader::Perf(_) => PERF_PADDING,
        }
    }
}

/// A ring or perf event array with the type of its events.
#[derive(Debug)]
pub struct TypedEvents {
    reader: EventReader,
    decoder: Option<Decoder>,
    hints: Hints,
    note: Option<String>,
    events: Vec<Value>,
    /// Events beyond those that are kept.
    beyond: u64,
    /// Events that were not of their type's size.
    short: u64,
}

/// Events that one [`TypedEvents`] keeps: the memory of the lab has an end.
const MAX_EVENTS: usize = 1 << 20;

impl TypedEvents {
    /// Opens the ring or perf event array behind `fd`; see [`EventReader::open`] for `pages`. The type of its events is
    /// that of the hints, else what the object says of it (see [`event_type`]); without one, events are bytes.
    ///
    /// # Errors
    /// [`RowsError::Events`]; [`RowsError::Plan`] if the type that the hints name does not exist, or a format does not
    /// fit; [`RowsError::Hint`].
    pub fn open(fd: BorrowedFd<'_>, source: Source<'_>, hints: &Hints, pages: usize) -> Result<Self, RowsError> {
        hints.check()?;
        let (decoder, note) = Self::decoder(source, hints)?;
        if let Some(decoder) = &decoder {
            hints.check_paths(source.name, &[("event", decoder.plan())])?;
        }
        let reader = EventReader::open(source.name, fd, pages)?;
        Ok(Self { reader, decoder, hints: hints.clone(), note, events: Vec::new(), beyond: 0, short: 0 })
    }

    fn decoder(source: Source<'_>, hints: &Hints) -> Result<(Option<Decoder>, Option<String>), RowsError> {
        let Some(btf) = source.object else {
            return match &hints.event {
                Some(named) => Err(PlanError::NoEvent { name: named.clone(), map: source.name.to_owned() }.into()),
                None => Ok((None, None)),
            };
        };
        let Some(id) = event_type(btf, source.name, hints.event.as_deref())? else {
            let note = "the object does not say what the events are: name their type by the hint event";
            return Ok((None, Some(note.to_owned())));
        };
        match compile(btf, id, "event", &hints.formats()) {
            Ok(plan) => Ok((Some(plan.into()), None)),
            Err(error @ PlanError::Format { .. }) => Err(error.into()),
            Err(error) if hints.event.is_some() => Err(error.into()),
            Err(error) => Ok((None, Some(error.to_string()))),
        }
    }

    /// Takes the events that there are, without waiting; the result is how many. Call it often enough that the buffer
    /// does not fill up.
    pub fn drain(&mut self) -> usize {
        let padding = self.reader.padding();
        let (decoder, events) = (&self.decoder, &mut self.events);
        let (beyond, short) = (&mut self.beyond, &mut self.short);
        self.reader.drain(&mut |bytes| {
            if events.len() == MAX_EVENTS {
                *beyond += 1;
                return;
            }
            events.push(match decoder {
                Some(decoder) => {
                    *short += u64::from(bytes.len() < decoder.size());
                    decoder.decode_prefix(bytes, padding)
                }
                None => Value::String(text::hex(bytes)),
            });
        })
    }

    /// See [`EventReader::wait`].
    pub(crate) fn wait(&self, limit: std::time::Duration) -> std::io::Result<()> {
        self.reader.wait(limit)
    }

    /// The map's name.
    pub(crate) fn map(&self) -> &str {
        &self.reader.map
    }

    /// Events that were drained and not taken yet.
    pub(crate) fn pending(&self) -> &[Value] {
        &self.events
    }

    /// All events taken so far, arranged as the hints say.
    #[must_use]
    pub fn finish(mut self, aliases: &mut Aliases) -> EventRows {
        self.take(aliases)
    }

    /// The events since the last call, arranged as the hints say; losses count from the beginning.
    #[must_use]
    pub fn take(&mut self, aliases: &mut Aliases) -> EventRows {
        let (events, more) = arrange_events(std::mem::take(&mut self.events), &self.hints, aliases);
        let short =
            (self.short != 0).then(|| format!("{} events are shorter than their type: shown as bytes", self.short));
        let notes: Vec<String> = self.note.clone().into_iter().chain(short).collect();
        EventRows {
            map: self.reader.map.clone(),
            typed: self.decoder.is_some(),
            note: (!notes.is_empty()).then(|| notes.join("\n")),
            lost: self.reader.lost(),
            events,
            more: more + std::mem::take(&mut self.beyond),
        }
    }
}

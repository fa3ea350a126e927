//! Captures made fit to share: what is asked for is cut out, turned into Ethernet, and anonymised.
//!
//! [`import`] reads the capture twice (TCP streams must be in order before their headers can be replaced) and writes one
//! pcapng file or several, complete or not at all, each with a table of provenance beside it. The [`Report`] says what was
//! replaced and what could still identify someone. How frames are rewritten is told in [`anonymise`].

pub mod anonymise;
mod output;
mod report;
mod select;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::{CaptureError, End, Filter, LinkType, Packet, Reader, ethernet_of};
use anonymise::{Anonymiser, Counts, Key, Policy, Tuple, tuples};
use output::{Distribution, Output};
use report::Seen;
use select::FlowSelector;

pub use output::{MAX_FILES, Split, Written};
pub use report::{Packets, Remark, Report, VERSION};
pub use select::{FlowSpec, Moment, Selection};

/// Packets between two reports of progress.
const PROGRESS_STEP: u64 = 4096;

/// Everything that decides an import.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The capture.
    pub input: PathBuf,
    /// The file to write; with a [`Split`], what the names of files are made of.
    pub output: PathBuf,
    /// Which packets.
    pub selection: Selection,
    /// How they are distributed to files.
    pub split: Split,
    /// What is replaced; nothing keeps everything.
    pub anonymise: Option<(Key, Policy)>,
    /// Replace files that exist.
    pub force: bool,
    /// Where and how the capture was taken, for its provenance.
    pub origin: String,
    /// Terms under which it may be shared, for its provenance.
    pub licence: String,
}

/// Why an import failed. No file is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The capture is not usable.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The output is the input.
    #[error("{} is the capture itself: an import never writes over its input", path.display())]
    OverInput {
        /// The output.
        path: PathBuf,
    },
    /// The output exists.
    #[error("{} exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Nothing can be written there.
    #[error("cannot write {}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A split into very many files.
    #[error("the split makes more than {MAX_FILES} files: select fewer packets, or larger parts")]
    TooManyFiles,
    /// The selection leaves nothing.
    #[error("no packet of {} is selected ({read} read)", path.display())]
    Nothing {
        /// The capture.
        path: PathBuf,
        /// Packets read.
        read: u64,
    },
    /// A signal ended it.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of [`Progress::readings`], from 1.
    pub reading: u32,
    /// How often the capture is read.
    pub readings: u32,
    /// Bytes of it read.
    pub done: u64,
    /// Its length, bytes.
    pub of: u64,
}

/// A packet that is to be written.
struct Selected<'a> {
    time_ns: u64,
    wire_len: u32,
    data: &'a [u8],
    tuples: &'a [Tuple],
}

/// Is given a packet, its Ethernet frame and the frame's length on the wire.
type Take<'a> = dyn FnMut(&Packet<'_>, &[u8], u32) -> Result<(), ImportError> + 'a;

/// Reads the packets of one plan, the same ones each time.
struct Pass<'a> {
    plan: &'a Plan,
    flows: FlowSelector,
    stop: &'a AtomicBool,
    readings: u32,
}

/// What a reading saw beside the packets selected.
#[derive(Default)]
struct Account {
    packets: Packets,
    end: Option<End>,
    unsupported: Option<LinkType>,
}

impl Pass<'_> {
    /// Learns which datagrams' later fragments belong to wanted flows.
    fn learn_fragments(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), ImportError> {
        let mut flows = FlowSelector::new(&self.plan.selection);
        self.each(1, progress, &mut |_, frame, _| {
            flows.learn(&tuples(frame));
            Ok(())
        })?;
        self.flows = flows;
        Ok(())
    }

    /// Gives every selected packet to `take`.
    fn run(
        &self,
        reading: u32,
        progress: &mut dyn FnMut(Progress),
        take: &mut dyn FnMut(Selected<'_>) -> Result<(), ImportError>,
    ) -> Result<Account, ImportError> {
        let selection = &self.plan.selection;
        let mut filter = selection.filter.as_deref().map(Filter::new).transpose()?;
        let (mut first_ns, mut taken, mut truncated) = (None, 0, 0);
        let (mut filtered, mut other_times, mut other_flows, mut beyond) = (0, 0, 0, 0);
        let mut account = self.each(reading, progress, &mut |packet, frame, wire_len| {
            let first = *first_ns.get_or_insert(packet.time_ns);
            let early = selection.from.is_some_and(|from| packet.time_ns < from.at(first));
            let late = selection.to.is_some_and(|to| packet.time_ns > to.at(first));
            if selection.limit.is_some_and(|limit| taken >= limit) {
                beyond += 1;
                return Ok(());
            }
            if early || late {
                other_times += 1;
                return Ok(());
            }
            if let Some(filter) = &mut filter
                && !filter.matches(packet)?
            {
                filtered += 1;
                return Ok(());
            }
            let tuples = tuples(frame);
            if !self.flows.wants(&tuples) {
                other_flows += 1;
                return Ok(());
            }
            taken += 1;
            truncated += u64::from(wire_len as usize > frame.len());
            take(Selected { time_ns: packet.time_ns, wire_len, data: frame, tuples: &tuples })?;
            Ok(())
        })?;
        if let Some(filter) = &mut filter {
            filter.check()?;
        }
        let packets = &mut account.packets;
        (packets.filtered_out, packets.other_times) = (filtered, other_times);
        (packets.other_flows, packets.beyond_limit) = (other_flows, beyond);
        (packets.written, packets.truncated) = (taken, truncated);
        Ok(account)
    }

    /// Gives every packet that can be an Ethernet frame to `take`.
    fn each(
        &self,
        reading: u32,
        progress: &mut dyn FnMut(Progress),
        take: &mut Take<'_>,
    ) -> Result<Account, ImportError> {
        let mut reader = Reader::open(&self.plan.input)?;
        let of = reader.file_len();
        let (mut account, mut frame, mut count) = (Account::default(), Vec::new(), 0_u64);
        while let Some(packet) = reader.next_packet()? {
            match ethernet_of(&packet, &mut frame) {
                Some(wire_len) => take(&packet, &frame, wire_len)?,
                None => {
                    account.packets.not_ethernet += 1;
                    if !packet.interface.link.is_supported() {
                        account.unsupported.get_or_insert(packet.interface.link);
                    }
                }
            }
            count += 1;
            if count.is_multiple_of(PROGRESS_STEP) {
                progress(Progress { reading, readings: self.readings, done: reader.position(), of });
                if self.stop.load(Ordering::Relaxed) {
                    return Err(ImportError::Interrupted);
                }
            }
        }
        account.packets.read = reader.packets();
        account.end = reader.end().cloned();
        Ok(account)
    }
}

/// Imports a capture. `stop` ends it early, with nothing written.
///
/// # Errors
/// See [`ImportError`].
pub fn import(plan: &Plan, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<Report, ImportError> {
    let mut output = Output::new(&plan.input, &plan.output, plan.split, plan.force)?;
    let flows = FlowSelector::new(&plan.selection);
    let with_fragments = flows.must_learn();
    let readings = 1 + u32::from(with_fragments) + u32::from(plan.anonymise.is_some());
    let mut pass = Pass { plan, flows, stop, readings };
    let mut reading = 1;
    if with_fragments {
        pass.learn_fragments(progress)?;
        reading += 1;
    }
    let mut anonymiser = plan.anonymise.as_ref().map(|(key, policy)| Anonymiser::new(key, policy));
    if let Some(anonymiser) = &mut anonymiser {
        pass.run(reading, progress, &mut |packet| {
            anonymiser.learn(packet.data);
            Ok(())
        })?;
        anonymiser.settle();
        reading += 1;
    }
    let mut distribution = Distribution::new(plan.split);
    let (mut frame, mut seen) = (Vec::new(), Seen::default());
    let account = pass.run(reading, progress, &mut |packet| {
        let file = distribution.file(packet.time_ns, packet.data.len(), packet.tuples);
        seen.tcp |= packet.tuples.iter().any(|tuple| tuple.protocol == 6);
        seen.vlan |= matches!(packet.data.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        let data = match &mut anonymiser {
            Some(anonymiser) => {
                anonymiser.rewrite(packet.data, &mut frame);
                &frame
            }
            None => packet.data,
        };
        output.write(file, packet.time_ns, data, packet.wire_len)
    })?;
    nothing(plan, &account)?;
    let policy = plan.anonymise.as_ref().map(|(_, policy)| policy);
    let table = |written: &Written| report::provenance(written, policy, &plan.origin, &plan.licence);
    let files = output.finish(&table)?;
    let counts = anonymiser.map_or_else(Counts::default, |anonymiser| anonymiser.counts());
    let mut dropped = report::dropped(&account.packets, &counts);
    if let Some(what) = ending(account.end.as_ref()) {
        dropped.push(Remark { what: "what follows in the capture".to_owned(), why: what });
    }
    Ok(Report {
        version: VERSION,
        files,
        remaining: report::remaining(policy, &counts, seen),
        dropped,
        packets: account.packets,
        policy: policy.cloned(),
        counts,
    })
}

/// An error if nothing was selected, or nothing could be.
fn nothing(plan: &Plan, account: &Account) -> Result<(), ImportError> {
    let packets = &account.packets;
    if packets.written > 0 {
        return Ok(());
    }
    if let Some(link) = account.unsupported.filter(|_| packets.not_ethernet == packets.read) {
        return Err(CaptureError::UnsupportedLink { path: plan.input.clone(), link }.into());
    }
    if let (0, Some(reason)) = (packets.read, ending(account.end.as_ref())) {
        return Err(CaptureError::NothingReadable { path: plan.input.clone(), reason }.into());
    }
    Err(ImportError::Nothing { path: plan.input.clone(), read: packets.read })
}

fn ending(end: Option<&End>) -> Option<String> {
    match end {
        Some(End::Cut) => Some("the file is cut off inside a record".to_owned()),
        Some(End::Damaged(reason)) => Some(format!("the file is damaged: {reason}")),
        Some(End::Complete) | None => None,
    }
}

//! Captures: reading them as a stream of Ethernet frames, and saying before a run what is wrong with them.
//!
//! A capture is read twice. [`Survey::of`] goes through all of it and tells what it is, everything unusual about it, and
//! what will be offered under the [`Options`] given. [`Frames`] then yields exactly those frames: filtered, converted to
//! Ethernet, segmented, repaired, each with the end of the wire that it enters. Both passes use the same code for every
//! decision, read in pieces and keep no packets, so that a capture may be larger than memory.
//!
//! ```no_run
//! # use std::path::Path;
//! # use bpflab::capture::{CaptureError, Frame, Frames, Options, Survey};
//! # fn main() -> Result<(), CaptureError> {
//! let (path, options) = (Path::new("incident.pcapng"), Options::default());
//! let survey = Survey::of(path, &options)?;
//! for finding in &survey.findings {
//!     eprintln!("{}", finding.text);
//! }
//! let mut frames = Frames::open(path, &options, &survey)?;
//! let mut frame = Frame::default();
//! while frames.next_into(&mut frame)? {
//!     println!("{} {} {:?}", frame.number, frame.data.len(), frame.side);
//! }
//! # Ok(())
//! # }
//! ```

mod checksum;
pub mod edit;
mod error;
mod filter;
mod finding;
mod frames;
mod identify;
mod link;
mod options;
mod parse;
mod pcapng;
mod pipeline;
mod reader;
mod segment;
mod sides;
mod source;
mod survey;
mod time;
mod writer;

pub use error::CaptureError;
pub(crate) use filter::Filter;
pub use finding::{Finding, Kind};
pub use frames::{Frame, Frames};
pub use link::{LinkType, mac_of_ipv4, mac_of_ipv6};
pub use options::{Checksums, Net, Options, Oversize, Side, SidesPolicy, Truncated};
pub use pcapng::MAX_LISTED;
pub(crate) use pipeline::ethernet_of;
pub use reader::{ByteOrder, End, Format, Interface, MAX_PACKET, Oddities, Packet, Reader, Tally};
pub use sides::{Endpoints, MAX_ENDPOINTS, SidesBasis};
pub use survey::Survey;
pub use time::Resolution;
pub use writer::Writer;

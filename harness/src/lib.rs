//! A test-and-replay lab for eBPF network programs.
//!
//! The modules follow the data. A [`scenario`] (or the command line) names a [`capture`] or traffic to [`synth`]esize, a
//! [`topology`] and programs; [`kernel`] says what this machine can do; [`run`] plays the frames through the programs of
//! the [`suite`] and of objects under test ([`subject`]), at their hooks ([`hook`]), in [`lockstep`], on the [`wire`], or
//! [`live`], against the kernel's own sockets or between real applications ([`apps`]); what they saw, maps and events decoded
//! as [`rows`] among it, is an [`observation`], rendered as a [`snapshot`] or a [`report`]. [`import`] makes captures fit to
//! share, [`minimize`] small, by a [`condition`] over what is seen. [`coverage`] tells which code of an object was reached. Dependencies point down this list, and the runner
//! never prints: the command consumes its steps. Tests in Rust use the same parts by [`lab`], which has examples.
#![deny(unsafe_code)]

pub mod apps;
pub mod capture;
pub mod cgroup;
mod checksum;
#[cfg(feature = "cli")]
pub mod cli;
pub mod condition;
pub mod cost;
pub mod coverage;
pub mod error;
pub mod flow_name;
pub mod hook;
pub mod import;
pub mod invoker;
pub mod kernel;
pub mod lab;
pub mod live;
pub mod lockstep;
pub mod minimize;
pub mod object;
pub mod observation;
pub mod pool;
pub mod record;
pub mod recorder;
pub mod report;
pub mod rows;
pub mod run;
pub mod scenario;
pub mod snapshot;
pub mod subject;
pub mod suite;
pub mod synth;
pub mod sys;
pub mod topology;
#[cfg(feature = "cli")]
pub mod vm;
pub mod wire;

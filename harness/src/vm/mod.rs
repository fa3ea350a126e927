//! The same scenarios on other kernels: where kernels come from, guests that run this very binary on them, and the
//! records that come back.
//!
//! [`kernels`] gets a kernel of the list from the cache or from its source. A [`runner`] starts a guest on it and hands
//! over two streams: what the guest's kernel prints on its console, and the messages of the [`protocol`]. [`supervise`]
//! reads both until the guest is done, dead or overdue, so that whatever happens in a guest has a name. [`matrix`] does
//! that for a list of kernels and always ends with one record per trial and kernel: a trial whose guest went away is a
//! lab failure, never a gap. The tests of any project's [`test_binary`] are trials like scenarios, and [`exec`] runs any
//! command in a guest.

pub mod child;
pub mod console;
pub mod coverage;
pub mod exec;
pub mod fast;
pub mod guest;
pub mod kernels;
pub mod kvm;
pub mod libtest;
pub mod matrix;
pub mod process;
pub mod protocol;
pub mod runner;
pub mod supervise;
pub mod test_binary;
pub mod vng;

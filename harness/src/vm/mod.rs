//! Other kernels than the running one: where they come from, and the guests that run on them.

pub mod kernels;

//! `parser`: the shared parser alone, for the test that compares it with another implementation.

pub use crate::packet::Packet;

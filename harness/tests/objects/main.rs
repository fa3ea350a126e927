//! Objects under test that are not as they should be, and programs that are not kind to packets: a clear answer each,
//! and an account that adds up.

mod damaged;
mod fates;
mod mistakes;
mod refused;
mod sources;
mod suite;
mod support;

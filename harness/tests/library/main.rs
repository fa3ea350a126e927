//! The library as tests of other projects use it. The first three modules are the examples of its documentation.

mod capture_on_the_wire;
mod errors;
mod kinds;
mod labs;
mod modes_and_sockets;
mod single_packets;

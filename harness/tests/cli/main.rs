//! The `bpflab` command from outside: arguments, standard streams, exit codes, files, and what is left behind.
//!
//! Every command runs in a working directory of its own, so the tests do not meet each other.

mod capture_input;
mod exec;
mod flood;
mod hostile;
mod import;
mod kernels;
mod machine;
mod matrix;
mod minimize;
mod processes;
mod record;
mod replay;
mod report;
mod scenarios;
mod support;
mod synth;

//! Code written by hand, code made at random, and code that kernels run.

mod code;
mod compiled;
mod interpreter;
mod loading;
mod property;
mod suite;
